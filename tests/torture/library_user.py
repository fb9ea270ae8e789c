"""A user of the library itself: a `RunManager` on the same database as the servers, in a process that gets killed.

    python -m tests.torture.library_user DATABASE FOLDER NAME SEED

It starts runs of the servers' agents, which may go on for it when it is dead. What it is told goes to its own file; on
SIGTERM it starts nothing more, and ends with its last run.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import fleet_agents
from crash_voice import digest_of
from tests.torture.systems import LEASE
from told_words import Words

from trackside import ObserverBinding, RunManager, RunSpec
from trackside.app.observers.storage import StorageObserver
from trackside.app.spool import Spool
from trackside.app.storage import Store
from trackside.app.storage.errors import StorageError
from trackside.harness import RunLifecycleEvent
from trackside.harness.errors import NoResultHereError, ThreadBusyError

AGENTS: Final = {"talks": fleet_agents.talks, "fails": fleet_agents.fails, "asks": fleet_agents.asks}
CALLERS: Final = 2
NOT_KNOWN: Final = ("required observer", "could not be executed")
"""Words in the error of a result that tells nothing about how the run ended in the log."""
_PAUSE: Final = 0.5
"""Seconds at most between two runs of a caller."""


class Acknowledged:
    """An observer after the one that stores: what it hears is in the log (I11)."""

    def __init__(self, words: Words) -> None:
        self._words = words

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Note the event."""
        digest = digest_of(event.payload)
        self._words.tell("event", event_id=event.event_id, digest=digest, thread_id=event.thread_id)


class User:
    """Starts runs, cancels some, and awaits how they end."""

    def __init__(self, manager: RunManager, words: Words, seed: int) -> None:
        self._manager = manager
        self._words = words
        self._chance = random.Random(seed)
        self._threads = [str(uuid.uuid4()) for _ in range(CALLERS)]

    async def call(self, done: asyncio.Event) -> None:
        """Start one run after the other, until the end."""
        while not done.is_set():
            try:
                await self._run()
            except (StorageError, ThreadBusyError):
                await asyncio.sleep(_PAUSE)
            await asyncio.sleep(self._chance.random() * _PAUSE)

    async def _run(self) -> None:
        agent = self._chance.choice([*AGENTS, "talks"])
        thread_id = self._chance.choice([*self._threads, str(uuid.uuid4())])
        work = {"token": uuid.uuid4().hex, "parts": self._chance.randint(0, 5), "pause": 0.02}
        handle = await self._manager.start(RunSpec(agent, work, thread_id=thread_id))
        run_id = handle.run_id
        stops = self._chance.random() < 0.1
        facts = {"agent": agent, "may_fail": True, "may_be_cancelled": stops}
        self._words.tell("run", run_id=run_id, thread_id=thread_id, **facts)
        if stops:
            await self._manager.cancel(run_id)
        try:
            result = await handle.result()
        except NoResultHereError:  # another process has it now
            return
        if not any(words in (result.error or "") for words in NOT_KNOWN):
            self._words.tell("run", run_id=run_id, status=result.status.value)


async def use(database: str, folder: Path, name: str, seed: int) -> None:
    """Use the library until SIGTERM."""
    done = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, done.set)
    words = Words(folder / f"{name}.told")
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store.open(database))
        observer = StorageObserver(store, spool=Spool(folder / "user-spool"))
        stack.push_async_callback(observer.aclose)
        await observer.deliver_spooled()
        manager = await stack.enter_async_context(
            RunManager(
                AGENTS,
                observers=[
                    ObserverBinding(observer, required=True),
                    ObserverBinding(Acknowledged(words), required=True),
                ],
                coordinator=store.coordinator(lease_seconds=LEASE),
                states=store.thread_states(),
            )
        )
        user = User(manager, words, seed)
        print(json.dumps({"name": name}), flush=True)
        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(user.call(done))
    words.close()


def main(arguments: Sequence[str]) -> None:
    """Run the program."""
    database, folder, name, seed = arguments
    asyncio.run(use(database, Path(folder), name, int(seed)))


if __name__ == "__main__":
    main(sys.argv[1:])
