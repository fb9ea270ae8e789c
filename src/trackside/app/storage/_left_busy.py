"""Threads that are busy with nothing: an export cut their last event off, or somebody else changed their rows."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, exists, select

from trackside.app.storage._tables import runs, threads
from trackside.harness.types import ThreadStatus


def is_left_busy() -> ColumnElement[bool]:
    """Whether a thread is busy though it has no run that has not ended."""
    goes_on = exists().where(runs.c.thread_id == threads.c.thread_id, runs.c.ended_at.is_(None))
    return and_(threads.c.status == ThreadStatus.busy.value, ~goes_on)


def last_run_status() -> ColumnElement[str | None]:
    """The status of a thread's last run; None if it has none."""
    newest = select(runs.c.status).where(runs.c.thread_id == threads.c.thread_id)
    return newest.order_by(runs.c.created_at.desc(), runs.c.run_id.desc()).limit(1).scalar_subquery()
