"""Threads that are busy with nothing: an export cut their last event off, or somebody else changed their rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, override

from sqlalchemy import ColumnElement, and_, exists, select, update

from trackside.app.storage._rows.tables import runs, threads
from trackside.app.storage._writing.work import UnitOfWork, Work
from trackside.harness.lifecycle import thread_status_after
from trackside.harness.types import RunStatus, ThreadStatus

_ROW_BYTES: Final = 300


def is_left_busy() -> ColumnElement[bool]:
    """Whether a thread is busy though it has no run that has not ended."""
    goes_on = exists().where(runs.c.thread_id == threads.c.thread_id, runs.c.ended_at.is_(None))
    return and_(threads.c.status == ThreadStatus.busy.value, ~goes_on)


def _last_run_status() -> ColumnElement[str | None]:
    """The status of a thread's last run; None if it has none."""
    return select(runs.c.status).where(runs.c.run_id == threads.c.last_run_id).scalar_subquery()


@dataclass(frozen=True, slots=True)
class RestThreads(Work):
    """Gives threads that are busy with no run the status that their last run leaves.

    The event that said so may not have been exported: where another run follows at once, it is that run's last event.
    """

    candidates: Sequence[str]

    @property
    @override
    def size(self) -> int:
        return _ROW_BYTES * len(self.candidates)

    @override
    def thread_ids(self) -> Iterable[str]:
        return self.candidates

    @override
    def apply(self, unit: UnitOfWork) -> None:
        concerned = [thread_id for thread_id in self.candidates if not unit.changes_thread(thread_id)]
        query = select(threads.c.thread_id, _last_run_status()).where(
            threads.c.thread_id.in_(concerned), is_left_busy()
        )
        for thread_id, status in unit.session.execute(query):
            rests = ThreadStatus.idle
            if status is not None:
                rests = thread_status_after(RunStatus(status), another_waits=False)
            unit.session.execute(update(threads).where(threads.c.thread_id == thread_id).values(status=rests.value))
