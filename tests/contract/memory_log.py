"""A log in memory that keeps the store contract: a fast base for the mutants of stores.

Its storage engine is a list; the rules are the harness's own (`RunFold`, `canonical_payload`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from trackside.harness.errors import EventOrderError, TracksideError
from trackside.harness.lifecycle import RunFold, thread_status_of
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.payload import canonical_payload
from trackside.harness.types import LifecycleEventType, ThreadStatus


class RefusedError(TracksideError, ValueError):
    """{field}={value!r:.50} is refused: {why}."""


@dataclass(frozen=True, slots=True)
class Placed:
    position: int
    event: RunLifecycleEvent


@dataclass(frozen=True, slots=True)
class Row:
    status: Any
    thread_id: str
    last_sequence: int = 0


@dataclass
class Disk:
    """What remains when a log is closed, and what all logs opened on it share."""

    log: list[Placed] = field(default_factory=list)
    folds: dict[str, RunFold] = field(default_factory=dict)
    threads: dict[str, ThreadStatus] = field(default_factory=dict)
    thread_of: dict[str, str] = field(default_factory=dict)
    grown: asyncio.Event = field(default_factory=asyncio.Event)


class MemoryLog:
    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    async def append(self, events: Sequence[RunLifecycleEvent]) -> list[Placed]:
        await asyncio.sleep(0)  # where the log would wait for a database
        disk = self.disk
        answer: list[Placed | RunLifecycleEvent] = []
        folds: dict[str, RunFold] = {}
        new: dict[str, RunLifecycleEvent] = {}
        for event in map(self.encoded, events):
            known = self.find(event) or new.get(event.event_id)
            if known is not None:
                self.check_same(known.event if isinstance(known, Placed) else known, event)
                answer.append(known)
                continue
            fold = folds.get(event.run_id) or disk.folds.get(event.run_id) or RunFold(event.run_id)
            folds[event.run_id] = self.follows(fold, event)
            new[event.event_id] = event
            answer.append(event)
        self.write(list(new.values()))
        for event in new.values():
            disk.folds[event.run_id] = folds[event.run_id]
        disk.grown.set()
        disk.grown = asyncio.Event()
        places = {placed.event.event_id: placed for placed in disk.log}
        return [a if isinstance(a, Placed) else places[a.event_id] for a in answer]

    def encoded(self, event: RunLifecycleEvent) -> RunLifecycleEvent:
        if not isinstance(event, RunLifecycleEvent):
            raise RefusedError(field="event", value=event, why="it is none")
        for name in ("event_id", "run_id", "thread_id"):
            value = getattr(event, name)
            if not isinstance(value, str) or not 0 < len(value) < 256 or not value.isprintable():
                raise RefusedError(field=name, value=value, why="it is no id")
        if type(event.sequence) is not int or event.sequence < 1:
            raise RefusedError(field="sequence", value=event.sequence, why="it is no sequence number")
        if not isinstance(event.occurred_at, datetime) or event.occurred_at.tzinfo is None:
            raise RefusedError(field="occurred_at", value=event.occurred_at, why="it is no time")
        if event.event_type not in [*LifecycleEventType]:
            raise RefusedError(field="event_type", value=event.event_type, why="there is none like that")
        return RunLifecycleEvent(
            event.event_id,
            event.event_type,
            event.run_id,
            event.thread_id,
            event.sequence,
            event.occurred_at.astimezone(UTC),
            self.payload(event),
        )

    def payload(self, event: RunLifecycleEvent) -> dict[str, Any]:
        return canonical_payload(event.payload)

    def find(self, event: RunLifecycleEvent) -> Placed | None:
        return next((placed for placed in self.disk.log if placed.event.event_id == event.event_id), None)

    def check_same(self, known: RunLifecycleEvent, event: RunLifecycleEvent) -> None:
        if repr(known) != repr(event):
            raise RefusedError(field="event_id", value=event.event_id, why="it is another event's")

    def follows(self, fold: RunFold, event: RunLifecycleEvent) -> RunFold:
        self.check_thread(event)
        return fold.apply(event.event_type, event.sequence, event.payload)

    def check_thread(self, event: RunLifecycleEvent) -> None:
        if self.disk.thread_of.get(event.run_id, event.thread_id) != event.thread_id:
            raise EventOrderError(
                run_id=event.run_id, event_type=str(event.event_type), sequence=event.sequence, why="other thread"
            )

    def write(self, events: Sequence[RunLifecycleEvent]) -> None:
        disk = self.disk
        for event in events:
            disk.log.append(Placed(len(disk.log) + 1, event))
            disk.thread_of[event.run_id] = event.thread_id
            self.fold_thread(event)

    def fold_thread(self, event: RunLifecycleEvent) -> None:
        before = self.disk.threads.get(event.thread_id, ThreadStatus.idle)
        self.disk.threads[event.thread_id] = thread_status_of(event.event_type, event.payload) or before

    async def events(
        self,
        after: int = 0,
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        types: Sequence[LifecycleEventType] | None = None,
        limit: int = 1000,
    ) -> list[Placed]:
        if type(after) is not int or not 0 <= after < 2**63:
            raise RefusedError(field="after", value=after, why="it is no position")
        if limit < 1:
            raise RefusedError(field="limit", value=limit, why="it is no number of events")
        if not isinstance(run_id, str | None) or set(types or ()) - set(LifecycleEventType):
            raise RefusedError(field="filter", value=(run_id, types), why="nothing is like that")
        return [p for p in self.visible() if p.position > after and _fits(p.event, run_id, thread_id, types)][:limit]

    def visible(self) -> list[Placed]:
        return sorted(self.disk.log, key=lambda placed: placed.position)

    async def run(self, run_id: str) -> Row | None:
        fold = self.disk.folds.get(run_id)
        return None if fold is None else Row(fold.status, self.disk.thread_of[run_id], fold.sequence)

    async def thread(self, thread_id: str) -> Row | None:
        status = self.disk.threads.get(thread_id)
        return None if status is None else Row(status, thread_id)

    async def follow(
        self, after: int = 0, *, run_id: str | None = None, types: Sequence[LifecycleEventType] | None = None
    ) -> AsyncIterator[Placed]:
        while True:
            grown = self.disk.grown
            for placed in await self.events(after, run_id=run_id, types=types):
                after = placed.position
                yield placed
            await grown.wait()


def _fits(
    event: RunLifecycleEvent, run_id: str | None, thread_id: str | None, types: Sequence[LifecycleEventType] | None
) -> bool:
    wanted = (event.run_id if run_id is None else run_id, event.thread_id if thread_id is None else thread_id)
    return (event.run_id, event.thread_id) == wanted and (types is None or event.event_type in types)
