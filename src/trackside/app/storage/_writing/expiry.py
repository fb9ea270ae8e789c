"""What keeps a thread whose time to live is over from going: its runs."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select

from trackside.app.storage._rows.conditions import heard_last, is_unattended
from trackside.app.storage._rows.queue import Lane, Standing
from trackside.app.storage._rows.tables import active_runs, runs
from trackside.app.storage._writing.work import UnitOfWork
from trackside.harness.lifecycle import is_final


def has_expired(unit: UnitOfWork, lane: Lane, now: str) -> bool:
    """Whether a thread's time is over and no run keeps it: the next sweep removes it, with all that came to it."""
    if lane.expires_at is None or lane.expires_at > now:
        return False
    return active_on(unit, lane) is None and not unattended_on(unit, lane.thread_id, now)


def active_on(unit: UnitOfWork, lane: Lane) -> str | None:
    """A run of a thread that a coordinator has."""
    if (holder := lane.holder or unit.queue.first_waiting(lane)) is not None:
        return holder.run_id
    return next(iter(delayed_on(unit, lane)), None)


def delayed_on(unit: UnitOfWork, lane: Lane) -> list[str]:
    """The runs of a thread that are not due, or were not before this transaction, except for those that it removes."""
    of_thread = (active_runs.c.thread_id == lane.thread_id, active_runs.c.state == Standing.delayed.value)
    in_order = select(active_runs.c.run_id).where(*of_thread).order_by(active_runs.c.ordinal)
    delayed = [run_id for (run_id,) in unit.session.execute(in_order)]
    return [run_id for run_id in dict.fromkeys([*delayed, *lane.delayed]) if run_id not in unit.queue.removed]


def unattended_on(unit: UnitOfWork, thread_id: str, now: str) -> Mapping[str, str]:
    """Runs of a thread that have not ended and have no coordinator, and when they were last heard of.

    Nothing here would end them, and so they would never go.
    """
    goes_on = select(runs.c.run_id, heard_last()).where(runs.c.thread_id == thread_id, is_unattended())
    found: dict[str, str] = {}
    for run_id, since in unit.session.execute(goes_on):
        run = unit.run(run_id)
        if run is None or not is_final(run.fold.status):  # which this transaction may have ended
            found[run_id] = now if unit.changes_run(run_id) else since
    return found | dict.fromkeys(unit.begun_on(thread_id), now)
