"""Observers for tests: they record what they are given and misbehave where they are told to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, Final, Literal

from trackside.harness.amounts import is_count
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType
from trackside.testing.errors import InvalidTestError

type EventFilter = LifecycleEventType | str | Callable[[RunLifecycleEvent], bool] | None
"""Which events are meant: those of a type, given as such or by its name, those for which a function says so, or all
(None).
"""

_HANGS: Final = ("hang", "swallow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Misbehaviour:
    """What an observer does instead of taking an event.

    `how` is an exception to raise (`CancelledError` and `SystemExit` too), "hang" to wait until it is cancelled, or
    "swallow" to wait on even then, until `RecordingObserver.release` is called.

    It hits the `nth` event, counted from 1, among those that `on` selects; None: each of them. An event that is given
    again is still the same event. `times` is how often the observer fails on it before it takes it; None: for ever.

    Raises:
        InvalidTestError: (a `ValueError`) it would never happen, or not as it says; the message names the argument.
    """

    how: BaseException | Literal["hang", "swallow"]
    on: EventFilter = None
    nth: int | None = None
    times: int | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.how, BaseException) or self.how in _HANGS):
            why = 'it is an exception, as OSError("locked"), or "hang" or "swallow"'
            raise InvalidTestError(argument="how", value=self.how, why=why)
        object.__setattr__(self, "on", _filter_of(self.on))
        for name, least in (("nth", 1), ("times", 0)):
            value = getattr(self, name)
            if value is not None and not is_count(value, least):
                why = f"it is a whole number from {least} up, or None"
                raise InvalidTestError(argument=name, value=value, why=why)

    def means(self, event: RunLifecycleEvent) -> bool:
        """Whether `on` selects this event."""
        if self.on is None:
            return True
        return self.on(event) if callable(self.on) else event.event_type == self.on


class RecordingObserver:
    """Keeps the events that it takes in `events`, and all that it is offered, repeats included, in `offered`.

    >>> lock = RecordingObserver(Misbehaviour(how=OSError("locked"), on=LifecycleEventType.RUN_STARTED, times=2))

    Raises:
        InvalidTestError: (a `ValueError`) something in the plan is not a `Misbehaviour`.
    """

    def __init__(self, *plan: Misbehaviour) -> None:
        for one in plan:
            _check_plan(one)
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


def _filter_of(on: Any) -> Any:
    if on is None or (callable(on) and not iscoroutinefunction(on)):
        return on
    try:
        return LifecycleEventType(on)
    except ValueError:
        why = f"it is one of {', '.join(LifecycleEventType)}, or a plain function of an event"
        raise InvalidTestError(argument="on", value=on, why=why) from None


def _check_plan(one: Any) -> None:
    if not isinstance(one, Misbehaviour):
        raise InvalidTestError(
            argument="plan", value=one, why='pass what to do, as Misbehaviour(how=OSError("locked"))'
        )
