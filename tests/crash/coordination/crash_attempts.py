"""A process whose manager has an agent that never ends and one that is quick, for attempts that are lost."""

import asyncio
from typing import Any

from crash_voice import Voice

from trackside import ObserverBinding, RunContext, RunManager, RunSpec
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.app.storage._writing import attempts
from trackside.harness.admission import seconds_before
from trackside.harness.lifecycle import is_terminal

PATIENT = 3
"""How many times as long as otherwise an attempt waits: runs behind it have time to end, even on a slow machine."""


async def lose_attempts(
    number: int, url: str, *, starts: int = 0, max_attempts: int = 1, until: str | None = None
) -> None:
    """Start an endless run and this many quick ones behind it, if any; take over what others have left.

    Return once the run `until` has ended; with None, go on for ever.
    """
    voice = Voice(number)
    attempts.seconds_before = lambda attempt: PATIENT * seconds_before(attempt)

    async def endless(input: Any, run: RunContext) -> None:
        voice.say(f"begun {run.run_id}")
        voice.say(f"attempt {run.attempt}")
        await asyncio.Event().wait()

    async def quick(input: Any, run: RunContext) -> None:
        voice.say(f"begun {run.run_id}")

    async with Store.open(url) as store:
        storage = ObserverBinding(StorageObserver(store), required=True)
        agents = {"endless": endless, "quick": quick}
        coordinator = store.coordinator(lease_seconds=1.0)
        async with RunManager(agents, observers=[storage], coordinator=coordinator, shutdown_grace=0.0) as manager:
            if starts:
                await manager.start(RunSpec("endless", thread_id="t", max_attempts=max_attempts))
            for turn in range(starts):
                await manager.start(RunSpec("quick", turn, thread_id="t"))
            voice.say("ready")
            async for stored in store.follow(run_id=until or "nobody's"):
                if is_terminal(stored.event.event_type):
                    break
