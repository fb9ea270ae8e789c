"""Reads the events of runs again, for observers that were too slow for them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, select

from trackside.app.storage._databases.readers import Readers
from trackside.app.storage._reading.queries import event_of
from trackside.app.storage._rows.tables import events
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.ports import EventSpan

__all__ = ["StoredRunLog"]

_OF_SPAN = (
    select(events)
    .where(
        events.c.run_id == bindparam("run_id"),
        events.c.sequence.between(bindparam("first"), bindparam("last")),
    )
    .order_by(events.c.sequence)
)


class StoredRunLog:
    """The port `RunLog` on a store (`Store.run_log`)."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers

    async def read(self, spans: Sequence[EventSpan]) -> list[RunLifecycleEvent]:
        """The events of these spans that the store has, as it is at one moment.

        Raises:
            ClosedError: the store is closed.
            StorageError: the database cannot be read.
        """

        def read(connection: Connection) -> list[RunLifecycleEvent]:
            return [event_of(row).event for span in spans for row in connection.execute(_OF_SPAN, span._asdict())]

        return await self._readers.run(read)
