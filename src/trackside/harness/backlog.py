"""What waits in a buffer, in order, and what became of the rest: the accounting of `BufferedObserver`, without a task."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Mapping
from contextvars import Context, copy_context
from copy import copy
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from trackside.harness.lifecycle import is_terminal
from trackside.harness.observer import RunLifecycleEvent

type DropReason = Literal["overflow", "closed", "fork"]
"""Why an event was never given on: no room, the buffer was closed first, or it is the parent process's to give."""

type Pending = tuple[RunLifecycleEvent, Context]
"""An event and the context in which it was accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventGap:
    """Events that were dropped in one go, between the event before and the event after.

    Ids sort by age, so the two ids bound what is missing; within a run it shows as missing sequence numbers.
    """

    reason: DropReason
    count: int
    first_event_id: str
    last_event_id: str


class OpenGap:
    """Dropped events in the place where they would have waited; grows until an event waits behind it."""

    __slots__ = ("context", "count", "first", "last", "reason")

    def __init__(self, reason: DropReason, event: RunLifecycleEvent, context: Context) -> None:
        self.reason: DropReason = reason
        self.context = context
        self.first = self.last = event.event_id
        self.count = 0
        self.add(event)

    def add(self, event: RunLifecycleEvent) -> None:
        self.last = event.event_id
        self.count += 1

    def closed(self) -> EventGap:
        return EventGap(reason=self.reason, count=self.count, first_event_id=self.first, last_event_id=self.last)


class Backlog:
    """What waits, in order, and what became of the rest. An event waits until its outcome is known."""

    def __init__(self, capacity: int, terminal_reserve: int) -> None:
        self.items: deque[Pending | OpenGap] = deque()
        self.accepted = 0
        self.delivered = 0
        self.failed = 0
        self.dropped: Counter[DropReason] = Counter()
        self.passed = 0
        """How many items, events and gaps, have left `items`: what a flush waits for."""
        self.flushes: dict[asyncio.Future[None], int] = {}
        """Who waits for `passed` to reach which number."""
        self.followers: deque[tuple[int, asyncio.Future[None]]] = deque()
        """The same of those who wait for nothing but that, which are many: in the order of their numbers."""
        self._gaps = 0
        self._capacity = capacity
        self._limit = capacity + terminal_reserve

    @property
    def pending(self) -> int:
        return len(self.items) - self._gaps

    def pending_until(self, goal: int) -> int:
        """How many of the events wait that have to leave before `passed` is `goal`."""
        ahead = islice(self.items, max(0, goal - self.passed))
        return sum(not isinstance(item, OpenGap) for item in ahead)

    @property
    def room(self) -> int:
        """How many events more find room, terminal or not."""
        return self._capacity - self.pending

    @property
    def is_half_empty(self) -> bool:
        return 2 * self.pending <= self._capacity

    def has_room_for(self, event: RunLifecycleEvent) -> bool:
        pending = len(self.items) - self._gaps
        return pending < self._capacity or (pending < self._limit and is_terminal(event.event_type))

    def push(self, event: RunLifecycleEvent) -> None:
        self.accepted += 1
        if self.has_room_for(event):
            self.items.append((event, copy_context()))
        else:
            self._overflow(event)

    def _overflow(self, event: RunLifecycleEvent) -> None:
        self.dropped["overflow"] += 1
        newest = self.items[-1]  # there is one, and never one that is being told: a full backlog has events
        if isinstance(newest, OpenGap):
            newest.add(event)
        else:
            self.items.append(OpenGap("overflow", event, copy_context()))
            self._gaps += 1

    def batch(self, size: int) -> list[Pending]:
        """The next events, up to a gap between them. They stay here until they are settled."""
        batch: list[Pending] = []
        for item in islice(self.items, size):
            if isinstance(item, OpenGap):
                break
            batch.append(item)
        return batch

    def settle(self, count: int, *, delivered: bool) -> None:
        """The outcome of the `count` oldest events is known."""
        for _ in range(count):
            self.items.popleft()
        if delivered:
            self.delivered += count
        else:
            self.failed += count
        self._pass(count)

    def settle_gap(self) -> None:
        """The oldest item, a gap, has been told."""
        self.items.popleft()
        self._gaps -= 1
        self._pass(1)

    def drop_all(self, reason: DropReason) -> list[EventGap]:
        """Drop everything; returns the gaps that nobody was told of, the new one last."""
        gaps = [item for item in self.items if isinstance(item, OpenGap)]
        events = [item for item in self.items if not isinstance(item, OpenGap)]
        if events:
            new = OpenGap(reason, *events[0])
            for event, _ in events[1:]:
                new.add(event)
            gaps.append(new)
            self.dropped[reason] += new.count
        self._pass(len(self.items))
        self.items.clear()
        self._gaps = 0
        return [gap.closed() for gap in gaps]

    def copy(self) -> Backlog:
        """The same counts and items, for another process or event loop to go on with."""
        own = copy(self)
        own.items, own.dropped, own.flushes, own.followers = self.items.copy(), self.dropped.copy(), {}, deque()
        return own

    def release_followers(self) -> None:
        """Let everybody go who waits for events to be given on."""
        while self.followers:
            _, follower = self.followers.popleft()
            if not follower.done():
                follower.set_result(None)

    def _pass(self, count: int) -> None:
        self.passed += count
        while self.followers and self.followers[0][0] <= self.passed:
            _, follower = self.followers.popleft()
            if not follower.done():
                follower.set_result(None)
        for reached, goal in self.flushes.items():
            if self.passed >= goal and not reached.done():
                reached.set_result(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferStats:
    """What became of all events so far: `accepted == delivered + failed + sum(dropped.values()) + pending`.

    `left_behind` counts calls that still run past their limit; `consumer_deaths` how often somebody else ended the task
    that gives events on. It comes back with the next event, flush or close.
    """

    accepted: int
    delivered: int
    failed: int
    dropped: Mapping[DropReason, int]
    pending: int
    left_behind: int
    consumer_deaths: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushReport:
    """What a flush came to.

    `delivered`, `failed` and `dropped` count since it began; `pending` are the events accepted before it that still
    wait. `complete` says that nothing does, also no gap that is to be told; whether all of it arrived is what the other
    numbers say.
    """

    complete: bool
    delivered: int
    failed: int
    dropped: Mapping[DropReason, int]
    pending: int
