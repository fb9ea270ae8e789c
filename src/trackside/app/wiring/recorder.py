"""A `StorageObserver` that can be asked how recording goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trackside.app.observers.storage import EventLog, StorageObserver
from trackside.harness.observer import RunLifecycleEvent


class Recorder(StorageObserver):
    """Stores events, and knows whether any was stored and what went wrong last."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(log)
        self.has_recorded = False
        self.failure: BaseException | None = None
        self._on_first: list[Callable[[], object]] = []

    def on_first(self, call: Callable[[], object]) -> None:
        """Call this when the first event has been stored."""
        self._on_first.append(call)

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Store one event."""
        await self.on_events((event,))

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        """Store these events in one transaction: all or none."""
        try:
            await super().on_events(events)
        except BaseException as exc:
            self.failure = exc
            raise
        self.has_recorded = True
        while self._on_first:
            self._on_first.pop()()
