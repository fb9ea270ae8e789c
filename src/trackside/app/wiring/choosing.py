"""Gives a live observer only the events that it wants, as a subscription's filter does for a durable one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

from trackside.harness.foreign.signatures import takes
from trackside.harness.lifecycle import is_terminal
from trackside.harness.observer import (
    HearTaken,
    MissedEventsObserver,
    PartlyTaken,
    RunLifecycleEvent,
    RunObserver,
    batches_of,
    take_in_order,
)
from trackside.harness.observing.buffered import GapObserver
from trackside.harness.types import LifecycleEventType

_ENDS_KEPT: Final = 1_000
"""How many ended runs are remembered, because something may follow their ends."""
_RUNS_KEPT: Final = 100_000
"""How many runs are remembered in all. Those whose end was never announced must not stay for ever."""


class EventChoice:
    """Which events are wanted: of these types, of runs of this agent; None is all of them.

    A run's first event says whose it is, and so does its last. If neither has come, the rest of the run is not wanted.
    """

    def __init__(self, types: Collection[LifecycleEventType] | None, agent: str | None) -> None:
        self._types = None if types is None else frozenset(types)
        self._agent = agent
        self._is_wanted: dict[str, bool] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()

    def of(self, events: Sequence[RunLifecycleEvent]) -> list[RunLifecycleEvent]:
        """Those of the events that are wanted. Asking again is harmless."""
        return [event for event in events if self._is_of_agent(event) and self._is_of_types(event)]

    def _is_of_types(self, event: RunLifecycleEvent) -> bool:
        return self._types is None or event.event_type in self._types

    def _is_of_agent(self, event: RunLifecycleEvent) -> bool:
        if self._agent is None:
            return True
        if "agent" in event.payload:
            self._is_wanted[event.run_id] = event.payload["agent"] == self._agent
            if len(self._is_wanted) > _RUNS_KEPT:
                del self._is_wanted[next(iter(self._is_wanted))]
        if is_terminal(event.event_type):
            self._ended[event.run_id] = None
            if len(self._ended) > _ENDS_KEPT:
                longest_ago, _ = self._ended.popitem(last=False)
                self._is_wanted.pop(longest_ago, None)
        return self._is_wanted.get(event.run_id, False)


class ChosenEvents:
    """Passes on to an observer what it wants of the events that come."""

    def __init__(self, observer: RunObserver, choice: EventChoice) -> None:
        self.__wrapped__ = observer
        self._choice = choice
        self._give = batches_of(observer)
        # Callers look at what methods it has: it must not promise what the observer does not do.
        if self._give is not None:
            self.on_events = self._on_events
        if isinstance(observer, GapObserver):
            self.on_gap = observer.on_gap
        if isinstance(observer, MissedEventsObserver):
            self._keep: Callable[..., Awaitable[str | None]] = observer.on_missed
            takes_late = takes(observer.on_missed, "on_taken")
            self.on_missed = self._on_missed_for_now if takes_late else self._on_missed

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Pass the event on if it is wanted."""
        if self._choice.of([event]):
            await self.__wrapped__.on_event(event)

    async def _on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        """Pass those on that are wanted, as one batch.

        Raises:
            PartlyTaken: the observer did not take one of them; what was taken includes what it does not want.
        """
        wanted = self._choice.of(events)
        taken, raised = await take_in_order(self.__wrapped__, wanted, self._give)
        if raised is not None:
            next_one = wanted[taken]
            before = next(number for number, event in enumerate(events) if event is next_one)
            raise PartlyTaken(before, raised) from raised

    async def _on_missed(self, events: Sequence[RunLifecycleEvent], failure: BaseException) -> str | None:
        wanted = self._choice.of(events)
        return await self._keep(wanted, failure) if wanted else None

    async def _on_missed_for_now(
        self, events: Sequence[RunLifecycleEvent], failure: BaseException, on_taken: HearTaken | None = None
    ) -> str | None:
        """Keep what the observer may take later; once it has taken those it wants, all the events count as taken."""

        async def hear(_: Sequence[RunLifecycleEvent]) -> None:
            if on_taken is not None:
                await on_taken(events)

        wanted = self._choice.of(events)
        return await self._keep(wanted, failure, on_taken=hear) if wanted else None
