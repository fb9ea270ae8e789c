"""Observers for tests: they record what they are given and misbehave where they are told to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType

type EventFilter = LifecycleEventType | Callable[[RunLifecycleEvent], bool] | None
"""Which events are meant: those of a type, those for which a function says so, or all (None)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Misbehaviour:
    """What an observer does instead of taking an event.

    `how` is an exception to raise (`CancelledError` and `SystemExit` too), "hang" to wait until it is cancelled, or
    "swallow" to wait on even then, until `RecordingObserver.release` is called.

    It hits the `nth` event, counted from 1, among those that `on` means; None: each of them. An event that is given
    again is still the same event; `times` is how often the observer fails on it before it takes it, None: for ever.
    """

    how: BaseException | Literal["hang", "swallow"]
    on: EventFilter = None
    nth: int | None = None
    times: int | None = None

    def means(self, event: RunLifecycleEvent) -> bool:
        """Whether `on` selects this event."""
        if self.on is None:
            return True
        return event.event_type == self.on if isinstance(self.on, LifecycleEventType) else self.on(event)


class RecordingObserver:
    """Keeps the events that it takes in `events`, and all that it is offered, also again, in `offered`.

    >>> lock = RecordingObserver(Misbehaviour(how=OSError("locked"), on=LifecycleEventType.RUN_STARTED, times=2))
    """

    def __init__(self, *plan: Misbehaviour) -> None:
        self.events: list[RunLifecycleEvent] = []
        self.offered: list[RunLifecycleEvent] = []
        self._plan = plan
        self._met: list[dict[str, int]] = [{} for _ in plan]
        self._failures: Counter[tuple[int, str]] = Counter()
        self._released = asyncio.Event()

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Take the event, or do what the plan says."""
        self.offered.append(event)
        await self._misbehave([event])
        self.events.append(event)

    def release(self) -> None:
        """End every call that hangs, now and later; each then takes its event."""
        self._released.set()

    async def _misbehave(self, events: Sequence[RunLifecycleEvent]) -> None:
        for misbehaviour in [m for event in events for m in self._due(event)]:
            if isinstance(misbehaviour.how, BaseException):
                raise misbehaviour.how
            await self._hang(swallow=misbehaviour.how == "swallow")

    def _due(self, event: RunLifecycleEvent) -> Iterable[Misbehaviour]:
        for i, misbehaviour in enumerate(self._plan):
            if not misbehaviour.means(event):
                continue
            met = self._met[i]
            number = met.setdefault(event.event_id, len(met) + 1)
            if misbehaviour.nth not in (None, number):
                continue
            if misbehaviour.times is None or self._failures[i, event.event_id] < misbehaviour.times:
                self._failures[i, event.event_id] += 1
                yield misbehaviour

    async def _hang(self, *, swallow: bool) -> None:
        while not self._released.is_set():
            try:
                await self._released.wait()
            except asyncio.CancelledError:
                if not swallow:
                    raise


class RecordingBatchObserver(RecordingObserver):
    """A `RecordingObserver` that takes batches, all or nothing, and keeps those that it took in `batches`."""

    def __init__(self, *plan: Misbehaviour) -> None:
        super().__init__(*plan)
        self.batches: list[list[RunLifecycleEvent]] = []

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        """Take the events, or do what the plan says about any of them."""
        self.offered.extend(events)
        await self._misbehave(events)
        self.batches.append(list(events))
        self.events.extend(events)
