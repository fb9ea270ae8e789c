"""Removes a thread and sweeps until it kills itself at a place.

It reads `URL PLACE` from its standard input. For each line it forks a child, and goes on to the next when that is dead.
"""

import os
import signal
from collections.abc import Sequence
from typing import Any, NoReturn

from obeying import obey, say

from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store, retention, sweeping
from trackside.harness import ObserverBinding, RunManager, RunSpec


def die(*_: Any, **__: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


async def agent(input: Any) -> Any:
    return {"said": input}


async def remove_one(store: Store) -> None:
    """Have runs on three threads, one of which ends with its run, and remove one of the others."""
    observer = ObserverBinding(StorageObserver(store), required=True)
    states = store.thread_states()
    own = store.coordinator()
    async with RunManager({"say": agent}, observers=[observer], coordinator=own, states=states) as runs:
        for thread_id, ends in [("deleted", False), ("kept", False), ("ended", True)]:
            for number in range(1 if ends else 3):
                handle = await runs.start(RunSpec("say", number, thread_id=thread_id, thread_ends=ends))
                await handle.result()
        await store.threads_of(None).change("deleted", metadata={"k": "v"})
        await store.threads_of(None).remove("deleted")


def die_within_the_log() -> None:
    write, removed = retention._write, []

    async def write_some(writer: Any, work: Any) -> Any:
        removed.append(work)
        if len(removed) == 3:
            die()
        return await write(writer, work)

    retention._write = write_some
    sweeping.BATCH = 1


async def sweep_and_die(line: str) -> None:
    url, place = line.split(" ", 1)

    async def forget(thread_ids: Sequence[str]) -> None:
        if place == "while forgetting":
            die()

    async with Store.open(url) as store:
        await remove_one(store)
        say("removed")
        if place == "before sweeping":
            die()
        if place == "before the log":
            sweeping.prune_threads = die
        if place == "within the log":
            die_within_the_log()
        await store.sweeper(forget=[forget]).sweep()
    say("swept")


if __name__ == "__main__":
    obey(sweep_and_die)
