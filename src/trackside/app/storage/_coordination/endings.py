"""Ends runs that nobody can end by running them: their process is gone, or another one took them out of the queue.

The log gets what the harness would have announced (I1, I7): for a run that had started, its terminal event; for one
that never started, its terminal event alone; and for the last holder of a thread, that the thread rests, if it was
announced as busy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from sqlalchemy import select

from trackside.app.storage._databases.telling import tell_each
from trackside.app.storage._rows.encoding import EventRow, encode_events, json_of, time_of
from trackside.app.storage._rows.graph_checkpoint_tables import graph_checkpoints
from trackside.app.storage._rows.queue import ActiveRun, Standing
from trackside.app.storage._rows.tables import events
from trackside.app.storage._writing.attempts import next_attempt
from trackside.app.storage._writing.work import UnitOfWork
from trackside.harness.ids import new_id
from trackside.harness.journal import Journal
from trackside.harness.lifecycle import is_terminal, terminal_event_of, thread_status_after
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import (
    CancelAction,
    CancelMode,
    FailureReason,
    JsonObject,
    LifecycleEventType,
    RunStatus,
    ThreadStatus,
)

_NOBODYS = "no coordinator of this database looks after the run: nobody could be told to stop it"


def cancel_in_place(unit: UnitOfWork, active: ActiveRun, action: CancelAction, reason: str | None = None) -> None:
    """End a run that has not started as cancelled."""
    says: JsonObject = {"cancel_mode": CancelMode(action.value).value}
    if reason is not None:
        says["reason"] = reason
    _end(unit, active, RunStatus.cancelled, says)


def cancel_unattended(unit: UnitOfWork, run_id: str, thread_id: str, action: CancelAction) -> None:
    """End as cancelled a run that is in the log but that no coordinator has: it was imported, or recorded without one.

    Its process may be alive. What that process says later cannot follow, so the run has this end alone (I1).
    """
    has_thread = unit.queue.lane(thread_id).holder is None
    stand_in = ActiveRun(run_id=run_id, thread_id=thread_id, state=Standing.claimed, multitask="", holds=has_thread)
    cancel_in_place(unit, stand_in, done_of(unit, stand_in, action), _NOBODYS)


def done_of(unit: UnitOfWork, active: ActiveRun, action: CancelAction) -> CancelAction:
    """Which cancel was in effect carried out when nobody was left to do it: what a graph has stored stays."""
    stored = select(graph_checkpoints.c.checkpoint_id).where(graph_checkpoints.c.thread_id == active.thread_id)
    of_run = stored.where(graph_checkpoints.c.run_id == active.run_id).limit(1)
    if action is CancelAction.rollback and unit.session.execute(of_run):
        return CancelAction.interrupt
    return action


def lose(
    unit: UnitOfWork, active: ActiveRun, why: str, reason: FailureReason, *, retried_as: str | None = None
) -> bool:
    """End a run as failed because its worker is lost; returns whether it goes on as `retried_as`: it does if it may."""
    says: JsonObject = {"status": RunStatus.error.value, "error": why, "error_type": reason.value}
    attempt = None
    if retried_as is not None and active.cancel_requested is None:
        attempt = next_attempt(unit.session, active, retried_as)
    if attempt is not None:
        says["retried_as"] = retried_as
    _end(unit, active, RunStatus.error, says, goes_on=attempt is not None and attempt.is_due)
    return attempt is not None


def time_out(unit: UnitOfWork, active: ActiveRun, why: str) -> None:
    """End a run that has taken longer than it may."""
    _end(
        unit, active, RunStatus.timeout, {"status": RunStatus.timeout.value, "error": why, "error_type": "TimeoutError"}
    )


def announce_rest(unit: UnitOfWork, active: ActiveRun) -> None:
    """Announce that a thread whose last run has ended rests, and give it back."""
    rest_as(unit, active.run_id, active.thread_id, active.at_rest or ThreadStatus.idle)


def rest_as(unit: UnitOfWork, run_id: str, thread_id: str, at_rest: ThreadStatus) -> None:
    """Announce the status of a thread that rests, in the name of the run that it had last."""
    _append(unit, run_id, thread_id, [_rest(unit, thread_id, at_rest)])


def tell_ends(hear: Callable[[RunLifecycleEvent], object], rows: Sequence[EventRow]) -> None:
    """Report those ends among what was committed that are announced here, and not by the process that ran the run."""
    for row in rows:
        if row.is_of_store and is_terminal(row.event.event_type):
            tell_each([hear], row.event)


def _end(unit: UnitOfWork, active: ActiveRun, status: RunStatus, says: JsonObject, *, goes_on: bool = False) -> None:
    """Announce an end; with `goes_on` another attempt holds the thread next."""
    run = unit.run(active.run_id)
    assert run is not None
    now = datetime.now(UTC)
    journal, seconds = Journal(), 0.0
    if run.started_at is not None:
        seconds = max(0.0, (now - time_of(run.started_at)).total_seconds())
        _recall_messages(unit, active.run_id, journal)
    if run.agent is not None:
        says["agent"] = run.agent
    closing = [(terminal_event_of(status), {**says, "completion_data": journal.completion_data(seconds)})]
    if active.state is Standing.claimed:  # one that was not claimed leaves its thread as the run before it did
        asks = _asks(unit, active.thread_id, run.agent)
        active.at_rest = thread_status_after(status, another_waits=False, asks=asks)
    if active.holds and not goes_on and unit.thread_status(active.thread_id) is ThreadStatus.busy:
        lane = unit.queue.lane(active.thread_id)
        if unit.queue.first_waiting(lane) is None:
            at_rest = active.at_rest or thread_status_after(status, another_waits=False)
            closing.append(_rest(unit, active.thread_id, at_rest))
    _append(unit, active.run_id, active.thread_id, closing)


def _asks(unit: UnitOfWork, thread_id: str, agent: str | None) -> bool:
    """Whether a question of this agent is open; for a graph, which keeps its own questions, nobody can tell here."""
    _, paused = unit.remembered(thread_id) or (None, None)
    with contextlib.suppress(ValueError):  # a damaged row, whose question nobody can answer
        asked = None if paused is None else json_of(paused)
        return isinstance(asked, dict) and asked.get("agent") in (None, agent)
    return False


def _recall_messages(unit: UnitOfWork, run_id: str, journal: Journal) -> None:
    """Count the run's messages that the log has; what only its process knew, such as tokens, is lost with it."""
    is_message = events.c.event_type == LifecycleEventType.HUMAN_MESSAGE.value
    of_run = select(events.c.payload).where(events.c.run_id == run_id, is_message).order_by(events.c.sequence)
    for (payload,) in unit.session.execute(of_run):
        with contextlib.suppress(ValueError):  # somebody's own emitter, or a damaged row
            said = json_of(payload)
            if isinstance(said, dict) and "message" in said:
                journal.record_message(said["message"])


def _rest(unit: UnitOfWork, thread_id: str, at_rest: ThreadStatus) -> tuple[LifecycleEventType, JsonObject]:
    says: JsonObject = {"status": at_rest.value, "previous": unit.thread_status(thread_id).value}
    return LifecycleEventType.THREAD_STATUS_UPDATED, says


def _append(unit: UnitOfWork, run_id: str, thread_id: str, says: list[tuple[LifecycleEventType, JsonObject]]) -> None:
    run = unit.run(run_id)
    assert run is not None
    now = datetime.now(UTC)
    appended = [
        RunLifecycleEvent(new_id(), kind, run_id, thread_id, sequence, now, payload)
        for sequence, (kind, payload) in enumerate(says, run.fold.sequence + 1)
    ]
    rows = encode_events(appended)
    for row in rows:
        row.is_of_store = True
    unit.append(rows)
