"""Stores that share their log with others, each broken in one way."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from tests.contract.memory_log import Disk, MemoryLog, Placed, Row

from trackside.harness import RunLifecycleEvent
from trackside.harness.lifecycle import RunFold


class HasTheRowsOfItsOwnRunsAlone(MemoryLog):
    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        self.own: set[str] = set()

    def write(self, events: Sequence[RunLifecycleEvent]) -> None:
        super().write(events)
        self.own |= {event.run_id for event in events}

    async def run(self, run_id: str) -> Row | None:
        return await super().run(run_id) if run_id in self.own else None


class _Sharing(MemoryLog):
    """A store that shares with others on its log what a plain disk does not have."""

    class disk_kind(Disk):
        def __init__(self) -> None:
            super().__init__()
            self.opened = 0
            self.uncommitted: set[int] = set()
            self.rows: dict[str, Row | None] = {}


class NumbersBeforeItCommitsBesideOthers(_Sharing):
    """One process alone shows no hole, as its writer takes turns; a process that opened later commits later."""

    def __init__(self, disk: Any) -> None:
        super().__init__(disk)
        self.writer = asyncio.Lock()
        self.turns = 10 * disk.opened
        disk.opened += 1

    async def append(self, events: Sequence[RunLifecycleEvent]) -> list[Placed]:
        async with self.writer:
            before = len(self.disk.log)
            placed = await super().append(events)
            mine = {p.position for p in placed if p.position > before}
            self.disk.uncommitted |= mine
            for _ in range(self.turns):
                await asyncio.sleep(0)
            self.disk.uncommitted -= mine
            self.disk.grown.set()
            self.disk.grown = asyncio.Event()
            return placed

    def visible(self) -> list[Placed]:
        return [p for p in super().visible() if p.position not in self.disk.uncommitted]


class KnowsEventsOfItsOwnOnly(MemoryLog):
    """Keeps its index of event ids in memory, as the log was when the store opened it."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        self.known = {placed.event.event_id: placed for placed in disk.log}

    def find(self, event: RunLifecycleEvent) -> Placed | None:
        return self.known.get(event.event_id)

    def write(self, events: Sequence[RunLifecycleEvent]) -> None:
        before = len(self.disk.log)
        super().write(events)
        self.known |= {placed.event.event_id: placed for placed in self.disk.log[before:]}


class KnowsARunAsItLeftIt(MemoryLog):
    """Keeps in memory how far its runs are, and does not look what other stores have appended to them since."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        self.known: dict[str, RunFold] = {}

    async def append(self, events: Sequence[RunLifecycleEvent]) -> list[Placed]:
        placed = await super().append(events)
        self.known |= {event.run_id: self.disk.folds[event.run_id] for event in events}
        return placed

    def follows(self, fold: RunFold, event: RunLifecycleEvent) -> RunFold:
        is_first = fold == self.disk.folds.get(event.run_id)
        return super().follows(self.known.get(event.run_id, fold) if is_first else fold, event)


class WritesRowsInASecondTransaction(_Sharing):
    async def append(self, events: Sequence[RunLifecycleEvent]) -> list[Placed]:
        before = len(self.disk.log)
        placed = await super().append(events)
        await asyncio.sleep(0)
        for new in placed:
            if new.position > before:
                self.disk.rows[new.event.run_id] = await super().run(new.event.run_id)
        return placed

    async def run(self, run_id: str) -> Row | None:
        return self.disk.rows.get(run_id)


class HearsOfItsOwnAppendsAlone(MemoryLog):
    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        self.appended = asyncio.Event()

    async def append(self, events: Sequence[RunLifecycleEvent]) -> list[Placed]:
        placed = await super().append(events)
        self.appended.set()
        self.appended = asyncio.Event()
        return placed

    async def follow(self, after: int = 0, **filters: Any) -> AsyncIterator[Placed]:
        while True:
            appended = self.appended
            for placed in await self.events(after, **filters):
                after = placed.position
                yield placed
            await appended.wait()


class NumbersItsOwnEventsAlone(MemoryLog):
    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        self.own: set[str] = set()

    def write(self, events: Sequence[RunLifecycleEvent]) -> None:
        super().write(events)
        self.own |= {event.event_id for event in events}

    def visible(self) -> list[Placed]:
        own = [placed for placed in super().visible() if placed.event.event_id in self.own]
        return [replace(placed, position=position) for position, placed in enumerate(own, 1)]
