"""What waits in a buffer, in order, and what became of the rest: the accounting of `BufferedObserver`, without a task."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextvars import Context, copy_context
from copy import copy
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

from trackside.harness.lifecycle import is_terminal
from trackside.harness.observer import RunLifecycleEvent

type DropReason = Literal["overflow", "closed", "fork"]
"""Why an event was never given on: no room, the buffer was closed first, or it is the parent process's to give.

There is no room where as many events wait as may, or events of as many bytes.
"""

UNWEIGHED = 16
"""How many events may wait whatever their size. An observer that keeps up costs nobody the time to weigh what it gets."""

_ENTRY_BYTES = 64  # of a list or mapping, and of each thing in it besides its text
_HEAVIEST = 8 * 1_048_576  # bytes; a payload whose parts weigh so much has little text left, and a cycle ends here


class Pending(NamedTuple):
    """An event, the context in which it was accepted, and about how many bytes its payload takes; 0 if not weighed."""

    event: RunLifecycleEvent
    context: Context
    size: int


def size_of(payload: Mapping[str, Any]) -> int:
    """About how many bytes of memory a payload takes: its texts, and something for all else.

    It takes half a microsecond for a short message, and some tens of milliseconds at most.
    """
    size = 0
    containers: list[Any] = [payload]
    for container in containers:
        size += _ENTRY_BYTES * (len(container) + 1)
        if size > _HEAVIEST:
            return size
        if type(container) is list:
            values = container
        else:
            size += sum(len(name) for name in container if type(name) is str)
            values = container.values()
        for value in values:
            kind = type(value)
            if kind is str:
                size += value.__sizeof__()
            elif kind is dict or kind is list:
                containers.append(value)
    return size


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

    def __init__(self, capacity: int, terminal_reserve: int, max_bytes: int) -> None:
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
        self.pending_bytes = 0
        """About how many bytes the payloads of what waits take, except those of the first few (`UNWEIGHED`)."""
        self._gaps = 0
        self._capacity = capacity
        self._limit = capacity + terminal_reserve
        self._max_bytes = max_bytes
        self._bytes_limit = 2 * max_bytes if terminal_reserve else max_bytes
        self._terminal_bytes = 0

    @property
    def pending(self) -> int:
        return len(self.items) - self._gaps

    def pending_until(self, goal: int) -> int:
        """How many of the events wait that have to leave before `passed` is `goal`."""
        ahead = islice(self.items, max(0, goal - self.passed))
        return sum(not isinstance(item, OpenGap) for item in ahead)

    @property
    def room(self) -> int:
        """How many events more find room, terminal or not, if they have no size."""
        pending = self.pending
        return self._capacity - pending if self._can_hold_more(pending) else 0

    @property
    def is_half_empty(self) -> bool:
        return 2 * self.pending <= self._capacity and 2 * self.pending_bytes <= self._max_bytes

    def has_room_for(self, event: RunLifecycleEvent) -> bool:
        pending = len(self.items) - self._gaps
        if pending < self._capacity and self._can_hold_more(pending):
            return True
        return pending < self._limit and is_terminal(event.event_type) and self._can_hold_more_ends(pending)

    def has_room_for_all(self, events: Sequence[RunLifecycleEvent]) -> bool:
        """Whether all of these find room, terminal or not."""
        pending = self.pending + len(events)
        if pending > self._capacity:
            return False
        if pending <= UNWEIGHED:
            return True
        return self.pending_bytes + sum(size_of(event.payload) for event in events[:-1]) < self._max_bytes

    def _can_hold_more(self, pending: int) -> bool:
        # What comes is not asked for its size: no payload is too large for an empty buffer.
        return pending < UNWEIGHED or self.pending_bytes < self._max_bytes

    def _can_hold_more_ends(self, pending: int) -> bool:
        # Where the last of the others was larger than the room that was left, that takes nothing from what is reserved.
        others = min(self.pending_bytes - self._terminal_bytes, self._max_bytes)
        return pending < UNWEIGHED or others + self._terminal_bytes < self._bytes_limit

    def push(self, event: RunLifecycleEvent) -> None:
        if not self.has_room_for(event):
            self.accepted += 1
            self._overflow(event)
            return
        size = 0
        if len(self.items) - self._gaps >= UNWEIGHED:
            size = size_of(event.payload)
            self.pending_bytes += size
            if is_terminal(event.event_type):
                self._terminal_bytes += size
        self.accepted += 1  # not before: a payload of somebody's own kind may raise where it is looked at
        self.items.append(Pending(event, copy_context(), size))

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
            item = self.items.popleft()
            if not isinstance(item, OpenGap) and item.size:
                self.pending_bytes -= item.size
                if is_terminal(item.event.event_type):
                    self._terminal_bytes -= item.size
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
            new = OpenGap(reason, events[0].event, events[0].context)
            for pending in events[1:]:
                new.add(pending.event)
            gaps.append(new)
            self.dropped[reason] += new.count
        self._pass(len(self.items))
        self.items.clear()
        self._gaps = self.pending_bytes = self._terminal_bytes = 0
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

    `pending_bytes` is about what the payloads of those take that wait, as far as they were weighed: an event is where at
    least `backlog.UNWEIGHED` others wait. `left_behind` counts calls that still run past their limit; `consumer_deaths`
    how often somebody else ended the task that gives events on. It comes back with the next event, flush or close.
    """

    accepted: int
    delivered: int
    failed: int
    dropped: Mapping[DropReason, int]
    pending: int
    pending_bytes: int
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
