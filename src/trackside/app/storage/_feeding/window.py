"""What a feed has in hand: events that were read and are not delivered yet, and the position up to which all is done.

Events are in lanes. Within a lane one comes after the other; lanes go on side by side. The orders differ only in which
events share a lane: all of them, those of a run, or none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from trackside.app.delivery import Order
from trackside.app.storage._rows.records import StoredEvent
from trackside.app.storage._subscriptions.records import Batch, ParkedEvent
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.observing.weighing import weight_of

MOST_AHEAD: Final = 10_000
"""How many events, done or not, may follow the first that is not done: so many at most return if the process dies."""

_LANE_OF: Final[Mapping[Order, Callable[[RunLifecycleEvent], str]]] = {
    Order.log: lambda event: "",
    Order.run: lambda event: event.run_id,
    Order.none: lambda event: event.event_id,
}


@dataclass(frozen=True, slots=True)
class InHand:
    """An event to be delivered, of about `size` bytes; `is_retry` if it was parked, after so many `attempts`."""

    stored: StoredEvent
    size: int
    attempts: int = 0
    is_retry: bool = False

    @classmethod
    def of(cls, stored: StoredEvent, *, attempts: int = 0, is_retry: bool = False) -> Self:
        """An event that was read just now."""
        return cls(stored, weight_of(stored.event), attempts, is_retry)


@dataclass(slots=True, eq=False)
class EventLane:
    """Events that are delivered one after another."""

    key: str
    events: deque[InHand] = field(default_factory=deque)
    attempts: int = 0
    """How often the first of them has failed since it came in hand."""
    held_back: int = 0
    """How often its observer has held it back since."""
    singly: int = 0
    """How many of them are given to their observer one by one, because they failed together."""

    @property
    def tries(self) -> int:
        """How often it was given to its observer since, and not taken."""
        return self.attempts + self.held_back


class Window:
    """All lanes of a feed, and how far it is.

    Args:
        order: which events share a lane.
        room: how many events may be in hand.
        max_bytes: about how many bytes their payloads may take.
        passed: the position up to which everything was done before.
    """

    def __init__(self, order: Order, *, room: int, max_bytes: int, passed: int) -> None:
        self.low_water = passed
        """The position up to which everything that was read is done, and what was not read is not wanted."""
        self.in_hand = 0
        self.bytes_in_hand = 0
        self.oldest_at: datetime | None = None
        """When the first event that is not done occurred."""
        self._room = room
        self._max_bytes = max_bytes
        self._lane_of = _LANE_OF[order]
        self._lanes: dict[str, EventLane] = {}
        self._positions: deque[tuple[int, datetime]] = deque()  # read, from the first that is not done
        self._done: set[int] = set()  # of these
        self._through = passed
        self._retried: set[int] = set()

    @property
    def room(self) -> int:
        """How many more events may be read; what has not been read has no size."""
        if not self.room_bytes:
            return 0
        return max(0, min(self._room - self.in_hand, MOST_AHEAD - len(self._positions)))

    @property
    def room_bytes(self) -> int:
        """About how many bytes their payloads may have."""
        return max(0, self._max_bytes - self.bytes_in_hand)

    def add(self, batch: Batch) -> list[EventLane]:
        """Take in what was read next; returns the lanes that have something now and had nothing before."""
        self._positions.extend((stored.position, stored.event.occurred_at) for stored in batch.events)
        self._through = batch.through
        self._settle()
        return self._fill(InHand.of(stored) for stored in batch.events)

    def add_retries(self, parked: Iterable[ParkedEvent]) -> list[EventLane]:
        """Take in parked events to be tried again, unless they are in hand; returns the same as `add`."""
        new = [one for one in parked if one.stored.position not in self._retried]
        self._retried.update(one.stored.position for one in new)
        return self._fill(InHand.of(one.stored, attempts=one.attempts, is_retry=True) for one in new)

    def finish(self, lane: EventLane) -> None:
        """Note that the first event of a lane is done: handled, or parked."""
        first = lane.events.popleft()
        lane.attempts = lane.held_back = 0
        lane.singly = max(0, lane.singly - 1)
        self.in_hand -= 1
        self.bytes_in_hand -= first.size
        position = first.stored.position
        if first.is_retry:
            self._retried.discard(position)
        else:
            self._done.add(position)
            self._settle()

    def has_more(self, lane: EventLane) -> bool:
        """Whether a lane that was delivered goes on; if not, it is forgotten, and `add` gives another in its place."""
        if not lane.events:
            del self._lanes[lane.key]
        return bool(lane.events)

    def _fill(self, new: Iterable[InHand]) -> list[EventLane]:
        began: list[EventLane] = []
        for one in new:
            key = self._lane_of(one.stored.event)
            if (lane := self._lanes.get(key)) is None:
                lane = self._lanes[key] = EventLane(key)
                began.append(lane)
            lane.events.append(one)
            self.in_hand += 1
            self.bytes_in_hand += one.size
        return began

    def _settle(self) -> None:
        while self._positions and self._positions[0][0] in self._done:
            position, _ = self._positions.popleft()
            self._done.remove(position)
            self.low_water = position
        if not self._positions:
            self.low_water = self._through
        self.oldest_at = self._positions[0][1] if self._positions else None
