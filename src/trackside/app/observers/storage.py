"""Writes run events into a log, so that the harness never has to know that there is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from trackside.harness.errors import TracksideError
from trackside.harness.observer import RunLifecycleEvent


class EventLog(Protocol):
    """Where events go; `trackside.app.storage.Store` is one."""

    async def append(self, events: Sequence[RunLifecycleEvent]) -> object:
        """Store these events in one transaction; return when they are durable."""
        ...


class NotAnEventLogError(TracksideError, TypeError):
    """{passed} is not an event log that can be appended to. Pass an open store: `async with Store.open(url) as store`."""


class StorageObserver:
    """Stores each event before anybody bound after it sees it.

    Bind it first and as required. Alone it is enough: the first event of a run makes the rows of its run and thread. What
    the log raises says by `retryable` whether the same event may be taken later; an event that is taken twice is stored
    once.

    Raises:
        NotAnEventLogError: (a `TypeError`) `log` takes no events.
    """

    def __init__(self, log: EventLog) -> None:
        if isinstance(log, type) or not callable(getattr(log, "append", None)):
            raise NotAnEventLogError(passed=f"{log!r:.100}")
        self._log = log

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Store one event."""
        await self._log.append((event,))

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        """Store these events in one transaction: all or none."""
        await self._log.append(events)
