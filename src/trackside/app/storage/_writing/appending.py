"""Events that somebody wants appended, if their runs may have them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import override

from trackside.app.storage._rows.encoding import EventRow
from trackside.app.storage._rows.fold import concerns_thread
from trackside.app.storage._writing.expiry import has_expired
from trackside.app.storage._writing.work import UnitOfWork, Work
from trackside.app.storage.errors import RemovedThreadError

_ROW_BYTES = 300  # what an event takes besides its payload: ids, indexes, its share of other rows


@dataclass(slots=True, eq=False)
class Append(Work):
    """Events to append, in this order. Its result is these events as stored.

    `workers` are those of this process: a run that another worker looks after cannot be started here.
    """

    rows: Sequence[EventRow]
    workers: Collection[str] = ()

    needs_room = True

    @property
    @override
    def size(self) -> int:
        return sum([_ROW_BYTES + len(row.payload) for row in self.rows])

    @override
    def run_ids(self) -> Iterable[str]:
        return (row.event.run_id for row in self.rows)

    @override
    def thread_ids(self) -> Iterable[str]:
        return (row.event.thread_id for row in self.rows if row.event.sequence == 1 or concerns_thread(row.event))

    @override
    def queues(self) -> Iterable[str]:
        return (row.event.thread_id for row in self.rows if row.event.sequence == 1)

    @override
    def apply(self, unit: UnitOfWork) -> list[EventRow]:
        self.check_threads(unit)
        return unit.append(self.rows, self.workers)

    def check_threads(self, unit: UnitOfWork, now: str = "") -> None:
        """See that runs that nobody has let in before begin on threads that may have runs.

        They begin when their first events say, and not before `now`.

        Raises:
            RemovedThreadError: one is gone, or its time is over. What came to it would go with what was there before.
        """
        for row in self.rows:
            event = row.event
            if event.sequence != 1 or unit.run(event.run_id) is not None:
                continue
            lane = unit.queue.lane(event.thread_id)
            if lane.removed or has_expired(unit, lane, max(row.occurred_at, now)):
                raise RemovedThreadError(run_id=event.run_id, sequence=1, thread_id=event.thread_id)
