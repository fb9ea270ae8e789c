"""Spools the rests of runs and delivers them until it is killed, by somebody else or by itself at a given moment.

It reads orders from its standard input. For each it forks a child that works, and goes on to the next when that child
is dead: the imports, which take longer than the child lives, are done once.
"""

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from typing import Any, NoReturn

from obeying import obey, say

from trackside.app.spool import Spool
from trackside.app.storage import Store
from trackside.harness import RunLifecycleEvent
from trackside.harness.ids import new_id
from trackside.testing import make_run


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class DeadlyLog:
    """A store whose process dies once it has taken the rests of this many runs."""

    def __init__(self, store: Store, takes: int) -> None:
        self._store = store
        self._takes = takes

    async def append(self, events: Sequence[RunLifecycleEvent]) -> None:
        await self._store.append(events)
        self._takes -= 1
        if self._takes == 0:
            die()


async def spool_one(store: Store, spool: Spool) -> None:
    """Begin a run in the store, and end it in the spool."""
    events = make_run(new_id(), thread_id=new_id())
    await store.append(events[:3])
    await spool.append(events[3:])
    say(f"spooled {events[0].run_id}")


async def spool_for_ever(store: Store, spool: Spool) -> None:
    while True:
        await spool_one(store, spool)


async def deliver_for_ever(store: Store, spool: Spool) -> None:
    while True:
        await spool.deliver(store)


async def work(url: str, folder: str, spools: int, dies_after: int) -> None:
    async with Store.open(url) as store:
        spool = Spool(folder)
        if spools or dies_after:
            for _ in range(spools):
                await spool_one(store, spool)
            if not dies_after:
                die()  # between the write and the delivery
            await spool.deliver(DeadlyLog(store, dies_after))
            raise AssertionError("there was not so much to deliver")
        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(spool_for_ever(store, spool))
            tasks.create_task(deliver_for_ever(store, spool))


async def work_as_ordered(line: str) -> None:
    order: dict[str, Any] = json.loads(line)
    await work(**order)


if __name__ == "__main__":
    obey(work_as_ordered)
