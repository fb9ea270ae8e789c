"""The latest events of a run, of a thread or of everybody, kept once for all who follow them."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from enum import StrEnum
from typing import NamedTuple

import msgspec

from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.observing.weighing import weight_of
from trackside.harness.payload import canonical_payload

_EVENT_BYTES = 600
"""About how many bytes an event takes besides its payload."""

_SHORT = 2_048  # bytes; weighing a payload with a shorter text takes several times as long as writing that text
_SHORT_TAKES = 8  # bytes of memory for each byte of such a text, for the payload and the text together

_encode = msgspec.json.Encoder().encode


class FollowEnd(StrEnum):
    """Why a follower has ended."""

    finished = "finished"
    """The run is over, and the follower has all of it."""
    slow = "slow"
    """The follower wanted to end rather than miss events, and would have missed some."""
    forgotten = "forgotten"
    """The run is no longer kept here: read the rest from the log."""
    closed = "closed"
    """The observer was closed."""
    left = "left"
    """Its reader closed it."""


class LiveEvent(msgspec.Struct, eq=False, gc=False):
    """An event on its way to followers, shared by all of them."""

    # Thousands are kept, and no event leads back to them, so the garbage collector of cycles need not search them.

    event: RunLifecycleEvent
    position: int
    """1, 2, 3 … over all runs, in this process since its observer was made; not the position in a log."""
    size: int
    """About how many bytes of memory it takes."""
    _data: bytes | None = None

    @property
    def data(self) -> bytes:
        """The event as one line of JSON, made once however many read it."""
        if self._data is None:
            self._data = _json_of(self.event)
        return self._data


def size_of(event: RunLifecycleEvent) -> int:
    """About how many bytes of memory a kept event takes: its payload, and the text that this becomes."""
    try:
        text = len(_encode(event.payload))
    except (TypeError, ValueError, RecursionError):
        return 2 * weight_of(event) + _EVENT_BYTES
    return _EVENT_BYTES + (_SHORT_TAKES * text if text <= _SHORT else text + weight_of(event))


def _json_of(event: RunLifecycleEvent) -> bytes:
    says = {
        "event_id": event.event_id,
        "event_type": event.event_type.value,
        "run_id": event.run_id,
        "thread_id": event.thread_id,
        "sequence": event.sequence,
        "occurred_at": event.occurred_at.isoformat(),
    }
    try:
        return _encode({**says, "payload": event.payload})
    except (TypeError, ValueError, RecursionError):  # from an emitter that does not make its payloads plain
        return _encode(canonical_payload({**says, "payload": event.payload}, path="event"))


class Bounds(NamedTuple):
    """How much one channel keeps."""

    events: int
    bytes: int


class Channel:
    """The latest events of one kind, in order, and those who wait for the next.

    Each event has a mark that grows: its sequence in the channel of a run, else its position. A reader's place is an
    index into all events that were ever in the channel, so that a reader that lags costs nothing.
    """

    __slots__ = (
        "_by_sequence",
        "_most_bytes",
        "_most_events",
        "bytes",
        "end",
        "ended_at",
        "events",
        "gone",
        "gone_mark",
        "mark",
        "readers",
        "waiters",
    )

    def __init__(self, bounds: Bounds, *, by_sequence: bool = False, mark: int = 0) -> None:
        self._most_events, self._most_bytes = bounds
        self._by_sequence = by_sequence
        self.events: deque[LiveEvent] = deque()
        self.bytes = 0
        self.gone = 0
        """How many events are no longer kept."""
        self.gone_mark = mark
        """The mark of the last event that is no longer kept."""
        self.mark = mark
        """The mark of the last event."""
        self.end: FollowEnd | None = None
        self.ended_at = 0.0
        """When the run was over, by the event loop's clock."""
        self.readers = 0
        self.waiters: set[asyncio.Future[None]] | None = None

    def mark_of(self, item: LiveEvent) -> int:
        """Where an event stands in this channel."""
        return item.event.sequence if self._by_sequence else item.position

    def push(self, item: LiveEvent, mark: int) -> int:
        """Keep an event, and drop the oldest ones if there is no room; returns by how many bytes the channel grows."""
        events, before = self.events, self.bytes
        events.append(item)
        self.bytes += item.size
        self.mark = mark
        while len(events) > self._most_events or (self.bytes > self._most_bytes and len(events) > 1):
            self.let_go()
        return self.bytes - before

    def wait(self, waiter: asyncio.Future[None]) -> None:
        """Have this future set when there is more."""
        if self.waiters is None:
            self.waiters = set()
        self.waiters.add(waiter)

    def wait_no_more(self, waiter: asyncio.Future[None]) -> None:
        """Forget this future: it need not be set any more."""
        if self.waiters is not None:
            self.waiters.discard(waiter)

    def let_go(self) -> None:
        """Drop the oldest event."""
        item = self.events.popleft()
        self.bytes -= item.size
        self.gone += 1
        self.gone_mark = self.mark_of(item)

    def place_after(self, mark: int) -> int:
        """The place of the first kept event with a higher mark."""
        return self.gone + bisect_right(self.events, mark, key=self.mark_of)
