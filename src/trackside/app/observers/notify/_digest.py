"""Reports events for which an hour had no room, in one message."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from trackside.app.observers.notify._messages import Message, fields_of
from trackside.app.observers.notify._receivers import NotSentError, Receiver
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType

_HOUR: Final = 3_600.0  # seconds
_GROUPS: Final = 20
_RUNS: Final = 5


class HourlyRoom:
    """How many more messages may be sent in any hour.

    Args:
        size: how many messages in all.
        hour: how many seconds an hour has.
    """

    def __init__(self, size: int, *, hour: float = _HOUR) -> None:
        self.size = size
        self._hour = hour
        self._taken: deque[float] = deque()

    def left(self, now: float) -> int:
        """How many more messages there is room for."""
        while self._taken and now - self._taken[0] >= self._hour:
            self._taken.popleft()
        return max(0, self.size - len(self._taken))

    def take(self, now: float) -> None:
        """Take room for one more message, which is being sent."""
        self._taken.append(now)

    def give_back(self, taken_at: float) -> None:
        """Give back the room of a message that nobody took."""
        if taken_at in self._taken:  # otherwise that was an hour ago
            self._taken.remove(taken_at)

    def seconds_until_one(self, now: float) -> float:
        """How many seconds it takes until there is room again."""
        return 0.0 if self.left(now) else self._hour - (now - self._taken[0])


@dataclass(slots=True)
class Subject:
    """What is known of an event to report: who was told of it, and whether together with other events."""

    told: set[Receiver] = field(default_factory=set[Receiver])
    together: bool = False
    on_its_way: int = 0
    """How many messages about it may still be taken."""

    @property
    def has_room(self) -> bool:
        """Whether room is already taken for it; it then needs no more, whoever else must be told."""
        return bool(self.told or self.on_its_way)


class Place:
    """Room for one message to each receiver, from the start of the try. Once the try is over for all, whether or not
    anybody still waits, it is given back if none took the message, or others had taken what it is about meanwhile.
    """

    def __init__(self, room: HourlyRoom, now: float) -> None:
        self._room = room
        self._taken_at = now
        self._on_their_way = 1  # the try itself
        self._is_used = False
        room.take(now)

    def begin(self) -> None:
        """Note that one more message is on its way."""
        self._on_their_way += 1

    def end(self, *, is_news: bool = False) -> None:
        """Note that one message is over, or the try itself; `is_news`: it told of something nobody had been told of."""
        self._on_their_way -= 1
        self._is_used = self._is_used or is_news
        if not (self._on_their_way or self._is_used):
            self._room.give_back(self._taken_at)


class Digest:
    """Events that wait to be reported together, and the callers that wait for that."""

    def __init__(self) -> None:
        self.events: dict[str, tuple[RunLifecycleEvent, Subject]] = {}
        self.has_news = False
        """Whether one of them has no room yet. Room will then be taken for all of them together."""
        self.failures: asyncio.Future[Mapping[Receiver, NotSentError]] = asyncio.get_running_loop().create_future()
        """Which receivers did not take their message, and why; set when each has taken it or failed to."""

    def add(self, event: RunLifecycleEvent, subject: Subject) -> None:
        """Add one more event."""
        subject.together = True
        self.has_news = self.has_news or not subject.has_room
        self.events[event.event_id] = event, subject

    def fail(self, failure: Exception) -> None:
        """Have all callers that wait raise this."""
        self.failures.set_exception(failure)
        self.failures.exception()  # perhaps nobody waits any more


def digest_of(events: Sequence[RunLifecycleEvent], at_most: int) -> Message:
    """One message about several events: how many of which kind, and the first runs of each.

    Args:
        events: the events, at least one.
        at_most: how many messages there may be in an hour.
    """
    groups: dict[str, list[str]] = {}
    for event in events:
        said = fields_of(event)
        kind = (
            f"{said['status']} ({said['error_type']})" if said["error_type"] else said["status"] or said["event_type"]
        )
        groups.setdefault(f"{said['agent']}: {kind}", []).append(said["run_id"])
    largest = sorted(groups.items(), key=lambda group: len(group[1]), reverse=True)
    first, last = (min(e.occurred_at for e in events), max(e.occurred_at for e in events))
    lines = [
        f"There was no room for these among {at_most} messages in an hour.",
        f"From {first:%Y-%m-%d %H:%M:%S} to {last:%H:%M:%S} UTC:",
        "",
        *(f"{len(runs)} × {name}\n    {_listed(runs)}" for name, runs in largest[:_GROUPS]),
    ]
    if others := largest[_GROUPS:]:
        lines.append(f"{sum(len(runs) for _, runs in others)} × {len(others)} other kinds")
    failed = any(event.event_type is LifecycleEventType.RUN_FAILED for event in events)
    title = f"{len(events)} more: {largest[0][0]}" + (" …" if len(largest) > 1 else "")
    return Message.of(title=title, body="\n".join(lines), kind="failure" if failed else "warning")


def _listed(runs: Sequence[str]) -> str:
    shown = ", ".join(runs[:_RUNS])
    return shown if len(runs) <= _RUNS else f"{shown} and {len(runs) - _RUNS} more"
