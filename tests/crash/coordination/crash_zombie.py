"""A process that is stopped in the middle of a run, until others take it for dead, and then goes on."""

import asyncio
import signal
from typing import Any

from crash_freezing import freeze, keep_transactions_whole
from crash_manager import Follower, Told, until_nothing_is_active
from crash_points import DeadlyPoint
from crash_steps import STEPS_OF_RUN, DeadlyStep
from crash_voice import Voice, digest_of

from trackside import ObserverBinding, RunContext, RunManager, RunSpec
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.harness import RunLifecycleEvent

ATTEMPTS = 3


async def haunt(
    number: int, url: str, *, starts: bool, waits: bool = False, stop_at: tuple[str, str] | None = None
) -> None:
    """Start a run whose thread remembers which attempt it was, or take over what others have left of it.

    With `waits` its first attempt never ends. At `stop_at` the process stops itself, or when SIGUSR1 tells it to.
    """
    voice = Voice(number)
    keep_transactions_whole()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, freeze)
    if stop_at is not None:
        kind = DeadlyStep if stop_at[1] in STEPS_OF_RUN else DeadlyPoint
        kind(*stop_at, 1, end=freeze).install()

    async def remembers(input: Any, run: RunContext) -> dict[str, Any]:
        voice.say(f"begun {run.run_id}")
        if waits and run.attempt == 1:
            try:
                await asyncio.Event().wait()
            finally:
                voice.say("stopped")
                run.message({"type": "human", "content": "of a zombie"})
        return {"attempt": run.attempt}

    async def acknowledge(event: RunLifecycleEvent) -> None:
        voice.say(f"event {event.event_id} {digest_of(event.payload)}")

    async with (
        Store.open(url) as store,
        RunManager(
            {"remembers": remembers},
            observers=[
                ObserverBinding(StorageObserver(store), required=True),
                ObserverBinding(Told(acknowledge), required=True),
            ],
            coordinator=store.coordinator(lease_seconds=0.5),
            states=store.thread_states(),
        ) as manager,
    ):
        voice.say("ready")
        if starts:
            run = await manager.start(RunSpec("remembers", run_id="first", thread_id="t", max_attempts=ATTEMPTS))
            result = await run.result()
            voice.say(f"ended {result.run_id} {result.status.value}")
            return
        follower = Follower(voice, store, 0)
        following = asyncio.create_task(follower.follow(), name="follower")
        await until_nothing_is_active(voice, store, follower)
        following.cancel()
        await asyncio.wait({following})
