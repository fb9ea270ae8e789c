"""What waits in a buffer, in order, and what became of the rest: the accounting of `BufferedObserver`, without a task."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextvars import Context, copy_context
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from trackside.harness.lifecycle import is_terminal
from trackside.harness.observer import RunLifecycleEvent, RunObserver
from trackside.harness.observing.weighing import weight_of
from trackside.harness.ports import EventSpan

type DropReason = Literal["overflow", "closed", "fork", "not_in_log"]
"""Why an event was never given on: no room, the buffer was closed first, it is for the parent process to give, or it
waited in a log that no longer has it.

There is no room when as many events wait as may, or as many bytes of events.
"""

UNWEIGHED = 16
"""How many events may wait whatever their size. An observer that keeps up costs nobody the time to weigh what it gets."""

CONTEXTS = 10_000
"""How many runs that wait in the log keep their context: it holds some kilobytes of its run, the rest 300 bytes."""


class Pending(NamedTuple):
    """An event, the context in which it was accepted, and about how many bytes its payload takes; 0 if not weighed."""

    event: RunLifecycleEvent
    context: Context
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventGap:
    """Events that were dropped in one go, between the event before them and the event after them.

    Ids sort by age, so the two ids bound what is missing; within a run, missing sequence numbers show it.
    """

    reason: DropReason
    count: int
    first_event_id: str
    last_event_id: str


@runtime_checkable
class GapObserver(RunObserver, Protocol):
    """An observer that wants to know which events it missed, for example to read them from a log instead.

    For observers without this method a gap is a warning in the log.
    """

    async def on_gap(self, gap: EventGap) -> None:
        """Take note of events that will not come. Called in their place in the order."""
        ...


class OpenGap:
    """Dropped events in the place where they would have waited; grows until an event waits behind it."""

    __slots__ = ("context", "count", "first", "last", "reason")

    def __init__(self, reason: DropReason, first_event_id: str, context: Context) -> None:
        self.reason: DropReason = reason
        self.context = context
        self.first = self.last = first_event_id
        self.count = 0

    def add(self, last_event_id: str, count: int = 1) -> None:
        self.last = last_event_id
        self.count += count

    def closed(self) -> EventGap:
        return EventGap(reason=self.reason, count=self.count, first_event_id=self.first, last_event_id=self.last)


class _DeferredRun:
    """What waits in the log of one run: from which sequence number to which; the context that the first came in."""

    __slots__ = ("context", "first", "last")

    def __init__(self, sequence: int, context: Context) -> None:
        self.first = self.last = sequence
        self.context = context


class Deferred:
    """Events that wait in the log, in the place where they would have waited here.

    They are given on run by run. It grows until something waits behind it, it is read, or somebody waits for what it has.
    """

    __slots__ = ("context", "count", "first", "grows", "last", "lost", "runs", "since")

    def __init__(self, first: RunLifecycleEvent, context: Context) -> None:
        self.runs: dict[str, _DeferredRun] = {}
        self.context = context
        self.since = first.occurred_at
        self.first = self.last = first.event_id
        self.count = 0
        self.lost: OpenGap | None = None
        """What the log did not have; the observer is told once all the other events here have been given on."""
        self.grows = True

    def goes_on_with(self, event: RunLifecycleEvent) -> bool:
        """Whether the event can wait here: what waits of a run must have no hole."""
        run = self.runs.get(event.run_id)
        return self.grows and (run is None or event.sequence == run.last + 1)

    def add(self, event: RunLifecycleEvent, context: Context) -> None:
        run = self.runs.get(event.run_id)
        if run is None:
            self.runs[event.run_id] = _DeferredRun(event.sequence, context)
        else:
            run.last = event.sequence
        self.last = event.event_id
        self.count += 1

    def front(self, count: int) -> list[EventSpan]:
        """Where the next `count` events are, or as many as there are."""
        spans: list[EventSpan] = []
        for run_id, run in self.runs.items():
            span = EventSpan(run_id, run.first, min(run.last, run.first + count - 1))
            spans.append(span)
            count -= len(span.sequences)
            if not count:
                break
        return spans

    def lose(self, count: int) -> None:
        """The log did not have some of these."""
        if self.lost is None:
            self.lost = OpenGap("not_in_log", self.first, self.context)
        self.lost.add(self.last, count)


type Found = Mapping[tuple[str, int], RunLifecycleEvent]
"""Events by run and sequence number."""


class Backlog:
    """What waits, in order, and what became of the rest. An event waits until its outcome is known.

    An event that finds no room waits in the log, as do those that come behind it until there is plenty of room; if
    there is no log (`max_deferred_runs` is 0), or events of that many runs already wait there, it is dropped.
    """

    def __init__(self, capacity: int, terminal_reserve: int, max_bytes: int, max_deferred_runs: int = 0) -> None:
        self.items: deque[Pending | OpenGap | Deferred] = deque()
        self.accepted = 0
        self.delivered = 0
        self.failed = 0
        self.dropped: Counter[DropReason] = Counter()
        self.passed = 0
        """How many events, gaps, and ends of what was deferred, have left `items`: what a flush waits for."""
        self.flushes: dict[asyncio.Future[None], int] = {}
        """The flushes that wait, each for `passed` to reach a number."""
        self.followers: deque[tuple[int, asyncio.Future[None]]] = deque()
        """The same for callers that wait for nothing but that, and are many: in the order of their numbers."""
        self.pending_bytes = 0
        """About how many bytes the payloads of what waits take, except those of the first few (`UNWEIGHED`)."""
        self.deferred = 0
        """How many of the events that wait do so in the log."""
        self.reread = 0
        """How many have been read again."""
        self._deferred_runs = 0
        self._max_deferred_runs = max_deferred_runs
        self._defers = False
        self._no_run = Context()
        self._marks = 0
        """How many of `items` are not events."""
        self._capacity = capacity
        self._limit = capacity + terminal_reserve
        self._max_bytes = max_bytes
        self._bytes_limit = 2 * max_bytes if terminal_reserve else max_bytes
        self._terminal_bytes = 0

    @property
    def pending(self) -> int:
        return self._held + self.deferred

    @property
    def _held(self) -> int:
        return len(self.items) - self._marks

    def seal(self) -> int:
        """What `passed` will be when all that waits now has left; whatever comes later leaves later."""
        if self.items and isinstance(newest := self.items[-1], Deferred):
            newest.grows = False
        return self.passed + len(self.items) + self.deferred

    @property
    def oldest_at(self) -> datetime | None:
        """When the event at the front happened; None if there is none. May be asked from any thread."""
        try:
            head = self.items[0]
        except IndexError:
            return None
        match head:
            case Pending():
                return head.event.occurred_at
            case Deferred():
                return head.since
            case OpenGap():
                return None

    def pending_until(self, goal: int) -> int:
        """How many of the waiting events have to leave before `passed` is `goal`."""
        left, pending = goal - self.passed, 0
        for item in self.items:
            if left <= 0:
                break
            events = item.count if isinstance(item, Deferred) else int(isinstance(item, Pending))
            pending += events
            left -= events + (not isinstance(item, Pending))
        return pending

    @property
    def room(self) -> int:
        """How many more events find room, terminal or not, if they have no size."""
        pending = self._held
        return self._capacity - pending if self._can_hold_more(pending) else 0

    @property
    def is_half_empty(self) -> bool:
        return 2 * self._held <= self._capacity and 2 * self.pending_bytes <= self._max_bytes

    def has_room_for(self, event: RunLifecycleEvent) -> bool:
        pending = len(self.items) - self._marks
        if pending < self._capacity and self._can_hold_more(pending):
            return True
        return pending < self._limit and is_terminal(event.event_type) and self._can_hold_more_ends(pending)

    def has_room_for_all(self, events: Sequence[RunLifecycleEvent]) -> bool:
        """Whether all of these find room, terminal or not."""
        pending = self._held + len(events)
        if pending > self._capacity:
            return False
        if pending <= UNWEIGHED:
            return True
        return self.pending_bytes + sum(map(weight_of, events[:-1])) < self._max_bytes

    def _can_hold_more(self, pending: int) -> bool:
        # The size of what comes does not matter: no payload is too large for an empty buffer.
        return pending < UNWEIGHED or self.pending_bytes < self._max_bytes

    def _can_hold_more_ends(self, pending: int) -> bool:
        # If the last of the others was larger than the room that was left, it takes nothing from what is reserved.
        others = min(self.pending_bytes - self._terminal_bytes, self._max_bytes)
        return pending < UNWEIGHED or others + self._terminal_bytes < self._bytes_limit

    def push(self, event: RunLifecycleEvent) -> None:
        has_room = self.has_room_for(event)
        if (self._defers or not has_room) and self._defer(event):
            return
        if not has_room:
            self.accepted += 1
            self._overflow(event)
            return
        if len(self.items) - self._marks < UNWEIGHED:
            pending = Pending(event, copy_context(), 0)
        else:
            pending = self._weighed(event, copy_context())
        self.accepted += 1  # not earlier: a payload of somebody's own type may raise when it is looked at
        self.items.append(pending)

    def _defer(self, event: RunLifecycleEvent) -> bool:
        """Let the event wait in the log, if it may."""
        newest = self.items[-1] if self.items else None
        place = newest if isinstance(newest, Deferred) and newest.goes_on_with(event) else None
        is_first = place is None or event.run_id not in place.runs
        if is_first and self._deferred_runs >= self._max_deferred_runs:
            return False
        context = copy_context() if is_first and self._deferred_runs < CONTEXTS else self._no_run
        if place is None:
            place = Deferred(event, context)
            self.items.append(place)
            self._marks += 1
        place.add(event, context)
        self._deferred_runs += is_first
        self._defers = True
        self.accepted += 1
        self.deferred += 1
        return True

    def fill(self, place: Deferred, spans: Sequence[EventSpan], found: Found) -> None:
        """Have what the log had of these spans wait before `place`, the oldest item, from now on; the rest is lost."""
        again: list[Pending] = []
        for span in spans:
            run = place.runs[span.run_id]
            there = [event for n in span.sequences if (event := found.get((span.run_id, n))) is not None]
            again.extend(self._weighed(event, run.context.copy()) for event in there)
            run.first = span.last + 1
            if run.first > run.last:
                del place.runs[span.run_id]
                self._deferred_runs -= 1
        self.items.extendleft(reversed(again))
        asked = sum(len(span.sequences) for span in spans)
        place.count -= asked
        self.deferred -= asked
        self.reread += len(again)
        if lost := asked - len(again):
            place.lose(lost)
            self.dropped["not_in_log"] += lost
            self._pass(lost)

    def _weighed(self, event: RunLifecycleEvent, context: Context) -> Pending:
        size = weight_of(event)
        self.pending_bytes += size
        if is_terminal(event.event_type):
            self._terminal_bytes += size
        return Pending(event, context, size)

    def leave_place(self, place: Deferred) -> None:
        """Remove the oldest item: all that waited there has been given on, except what is lost, which is told now."""
        self.items.popleft()
        if place.lost is not None:
            self.items.appendleft(place.lost)
        else:
            self._marks -= 1
            self._pass(1)

    def _overflow(self, event: RunLifecycleEvent) -> None:
        self.dropped["overflow"] += 1
        newest = self.items[-1]  # there is one, and never a gap that is being told: a full backlog has events
        if not isinstance(newest, OpenGap):
            newest = OpenGap("overflow", event.event_id, copy_context())
            self.items.append(newest)
            self._marks += 1
        newest.add(event.event_id)

    def batch(self, size: int) -> list[Pending]:
        """The next events, up to the first item that is not one. They stay here until they are settled."""
        batch: list[Pending] = []
        for item in islice(self.items, size):
            if not isinstance(item, Pending):
                break
            batch.append(item)
        return batch

    def settle(self, count: int, *, delivered: bool) -> None:
        """The outcome of the `count` oldest events is known."""
        for _ in range(count):
            item = self.items.popleft()
            if isinstance(item, Pending) and item.size:
                self.pending_bytes -= item.size
                if is_terminal(item.event.event_type):
                    self._terminal_bytes -= item.size
        if delivered:
            self.delivered += count
        else:
            self.failed += count
        if self._defers and self.is_half_empty:
            self._defers = False
        self._pass(count)

    def settle_gap(self) -> None:
        """The observer has been told of the oldest item, a gap."""
        self.items.popleft()
        self._marks -= 1
        self._pass(1)

    def drop_all(self, reason: DropReason) -> list[EventGap]:
        """Drop everything; returns the gaps that nobody was told of, the new one last."""
        gaps: list[OpenGap] = []
        new: OpenGap | None = None
        for item in self.items:
            if isinstance(item, OpenGap):
                gaps.append(item)
                continue
            if isinstance(item, Deferred):
                first, last, count = item.first, item.last, item.count
                if item.lost is not None:
                    gaps.append(item.lost)
            else:
                first, last, count = item.event.event_id, item.event.event_id, 1
            if count:
                new = new or OpenGap(reason, first, item.context)
                new.add(last, count)
        if new is not None:
            gaps.append(new)
            self.dropped[reason] += new.count
        self._pass(len(self.items) + self.deferred)
        self.items.clear()
        self._marks = self.pending_bytes = self._terminal_bytes = self.deferred = self._deferred_runs = 0
        self._defers = False
        return [gap.closed() for gap in gaps]

    def forget_log(self) -> None:
        """Let nothing wait in the log from now on."""
        self._max_deferred_runs = 0

    def copy(self) -> Backlog:
        """The same counts and items, for another process or event loop to go on with."""
        own = copy(self)
        own.items, own.dropped, own.flushes, own.followers = self.items.copy(), self.dropped.copy(), {}, deque()
        return own

    def release_followers(self) -> None:
        """Release everybody who waits for events to be given on."""
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

    * `pending_bytes` is about how much the payloads of pending events take, as far as they were weighed: an event is
      weighed where at least `backlog.UNWEIGHED` others wait.
    * `oldest_at` is when the first waiting event happened: how far the observer is behind.
    * `left_behind` counts calls that still run past their limit.
    * `consumer_deaths` counts how often the task that gives events on was ended by somebody else, after which it comes
      back with the next event, flush or close, or failed by a fault that is not the observer's, and went on after a
      pause.
    """

    accepted: int
    delivered: int
    failed: int
    dropped: Mapping[DropReason, int]
    pending: int
    pending_bytes: int
    oldest_at: datetime | None
    left_behind: int
    consumer_deaths: int
    deferred: int = 0
    """How many of the pending events wait in the log."""
    reread_total: int = 0
    """How many events have been read again from the log; this only grows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushReport:
    """The result of a flush.

    `delivered`, `failed` and `dropped` count since it began. `pending` counts the events accepted before it that still
    wait. `complete` says that none waits, nor a gap that the observer has to be told; the other numbers say whether
    everything arrived.
    """

    complete: bool
    delivered: int
    failed: int
    dropped: Mapping[DropReason, int]
    pending: int
