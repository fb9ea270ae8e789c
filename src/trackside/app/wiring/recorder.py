"""A `StorageObserver` that can be asked how recording goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trackside.app.observers.storage import EventLog, StorageObserver
from trackside.app.spool import DeliveryReport, Spool
from trackside.harness.observer import HearTaken, RunLifecycleEvent


class Recorder(StorageObserver):
    """Stores events, and knows whether any was stored, what went wrong last, and which runs ended in the spool."""

    def __init__(self, log: EventLog, *, spool: Spool) -> None:
        super().__init__(log, spool=spool)
        self.spool_folder = spool.folder
        self.delivered_at_start = DeliveryReport()
        self.has_recorded = False
        self.failure: BaseException | None = None
        self.spooled_in: str | None = None
        """The folder that holds what could not be recorded, if anything could not."""
        self.not_spooled: BaseException | None = None
        """Why something that could not be recorded could not be kept in the spool either, and is lost."""
        self._on_first: list[Callable[[], object]] = []

    def on_first(self, call: Callable[[], object]) -> None:
        """Call this when the first event has been stored."""
        self._on_first.append(call)

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

    async def on_missed(
        self, events: Sequence[RunLifecycleEvent], failure: BaseException, *, on_taken: HearTaken | None = None
    ) -> str | None:
        """Spool the rest of a run, if a log may ever take it."""
        try:
            place = await super().on_missed(events, failure, on_taken=on_taken)
        except Exception as exc:
            self.not_spooled = exc
            raise
        self.spooled_in = place or self.spooled_in
        return place

    async def deliver_spooled(self) -> DeliveryReport:
        """Give the log what earlier processes left in the spool."""
        self.delivered_at_start = await super().deliver_spooled()
        return self.delivered_at_start
