"""Rows as the bulk statements of the writer take and give them, column by column: the same in every database."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Container, Iterable, Sequence
from enum import StrEnum, auto
from typing import Any

from trackside.app.storage._databases.session import Changes
from trackside.app.storage._rows.encoding import EventRow, json_of, time_of
from trackside.app.storage._rows.fold import RunEnd, RunRow, RunStart, StoredFacts, ThreadRow
from trackside.app.storage._rows.queue import ActiveRun, Lane, Standing
from trackside.app.storage.fleet import DEFAULT_POOL
from trackside.harness.lifecycle import RunFold
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import CancelAction, LifecycleEventType, RunStatus, ThreadStatus

type Row = Sequence[Any]

# What calling the enum gives, at a tenth of the cost, for several rows of each run.
_RUN_STATUSES = {str(status): status for status in RunStatus}
_THREAD_STATUSES = {str(status): status for status in ThreadStatus}
_STANDINGS = {str(standing): standing for standing in Standing}


class Step(StrEnum):
    """What one bulk statement does, in the order in which a transaction does all of them, and locks rows.

    No two of them touch the same row, so that they may be parts of one statement. Only the rule that a thread has one
    holder looks at the rows of several: the step that gives threads back comes first. And SQLite gives a new row the
    place behind all others, which may be one that was just given up: the step that takes such places over comes before.
    """

    save_thread_states = auto()
    save_graph_checkpoints = auto()
    insert_graph_values = auto()
    save_graph_writes = auto()
    insert_threads = auto()
    change_threads = auto()
    remove_threads = auto()
    label_threads = auto()
    insert_runs = auto()
    insert_ended_runs = auto()
    begin_runs = auto()
    advance_runs = auto()
    end_runs = auto()
    insert_usage = auto()
    insert_labels = auto()
    remove_active = auto()
    release_active = auto()
    hold_active = auto()
    insert_retries = auto()
    insert_active = auto()
    insert_pooled = auto()
    add_to_run_totals = auto()
    add_to_duration_totals = auto()
    add_to_usage_totals = auto()


type Batch = dict[Step, list[Row]]
"""The rows of each step, in the order of the steps."""

_STEPS = (*Step,)  # in one go: iterating over an enum is a call for each member


def batch_of(changes: Changes, *, stored_threads: Container[str] = ()) -> Batch:
    """The rows of all that changes except the events. `stored_threads` are known to have rows."""
    batch: Batch = {step: [] for step in _STEPS}
    batch[Step.save_thread_states].extend(changes.thread_states)
    batch[Step.save_graph_checkpoints].extend(changes.graph_checkpoints)
    batch[Step.insert_graph_values].extend(changes.graph_values)
    batch[Step.save_graph_writes].extend(changes.graph_writes)
    for thread in changes.threads:
        if thread.may_be_new and thread.thread_id not in stored_threads:
            batch[Step.insert_threads].append(_new_thread(thread))
        else:
            change_thread(batch, thread)
    batch[Step.label_threads].extend(changes.thread_labels)
    for run in changes.runs:
        _add_run(batch, run)
    batch[Step.remove_active].extend([(run_id,) for run_id in changes.inactive])
    new: list[ActiveRun] = []
    for active in changes.active:
        if active.stored:
            step = Step.hold_active if active.holds else Step.release_active
            batch[step].append(_changed_active(active))
        elif active.ordinal:
            batch[Step.insert_retries].append((*_new_active(active), active.pool, active.version, active.ordinal))
        else:
            new.append(active)
    if any(active.pool != DEFAULT_POOL or active.version is not None for active in new):  # all, to keep their order
        batch[Step.insert_pooled] = [(*_new_active(active), active.pool, active.version) for active in new]
    else:
        batch[Step.insert_active] = [*map(_new_active, new)]
    if changes.totals:
        batch[Step.add_to_run_totals] = changes.totals.run_rows()
        batch[Step.add_to_duration_totals] = changes.totals.duration_rows()
        batch[Step.add_to_usage_totals] = changes.totals.usage_rows()
    return batch


def _add_run(batch: Batch, run: RunRow) -> None:
    """Add the rows of a run to the steps for what becomes of it."""
    run_id, start, end = run.fold.run_id, run.start, run.end
    if start is not None:
        place = (start.created_at, run_id, run.thread_id, start.agent)
        batch[Step.insert_labels].extend([(*label, *place) for label in start.labels])
    if end is not None:
        batch[Step.insert_usage].extend([(run_id, *usage) for usage in end.usage])
    if start is not None and end is not None:
        batch[Step.insert_ended_runs].append((*_started(run, start), *_ended(end)))
    elif start is not None:
        batch[Step.insert_runs].append(_started(run, start))
    elif end is not None:
        batch[Step.end_runs].append((run_id, str(run.fold.status), run.started_at, run.fold.sequence, *_ended(end)))
    elif run.begins:
        batch[Step.begin_runs].append((run_id, str(run.fold.status), run.started_at, run.fold.sequence))
    else:
        batch[Step.advance_runs].append((run_id, run.fold.sequence))


def stored_event(row: Row) -> EventRow:
    """An event as it was stored."""
    position, event_id, event_type, run_id, thread_id, sequence, occurred_at, payload = row
    event = RunLifecycleEvent(
        event_id,
        LifecycleEventType(event_type),
        run_id,
        thread_id,
        sequence,
        time_of(occurred_at),
        json_of(payload),
    )
    return EventRow(event, occurred_at, payload, position)


def times_of(rows: Collection[EventRow]) -> tuple[str, str, str]:
    """When the last of these events occurred; when the oldest and the newest of their runs were created."""
    created_at = [row.run_created_at for row in rows]
    return max([row.occurred_at for row in rows]), min(created_at), max(created_at)


def number_events(rows: Iterable[EventRow], first: int) -> None:
    """Give events their positions, from the first on."""
    for position, row in enumerate(rows, first):
        row.position = position


def event_row(row: EventRow) -> Row:
    """A new row of `events`, the position last."""
    event = row.event
    return (
        event.event_id,
        event.run_id,
        event.thread_id,
        event.sequence,
        str(event.event_type),
        row.occurred_at,
        row.payload,
        row.position,
    )


def run_of(
    active: Row | None,
    run_id: str,
    thread_id: str,
    status: str,
    sequence: int,
    started_at: str | None,
    created_at: str,
    agent: str | None,
) -> RunRow:
    """A run, and what is stored of its place in a queue."""
    return RunRow(
        fold=RunFold(run_id, _RUN_STATUSES[status], sequence),
        thread_id=thread_id,
        stored=StoredFacts(created_at=created_at, agent=agent),
        started_at=started_at,
        active=None if active is None else active_of(*active),
    )


def lane_of(thread_id: str, thread: Row | None, holder: Row | None, waiting: Row | None) -> Lane:
    """A thread, if it has a row, who holds it, and who is the first to wait."""
    status, owner, ends, removed, delayed, expires_at = (None, None, 0, 0, None, None) if thread is None else thread
    return Lane(
        thread_id=thread_id,
        status=None if status is None else _THREAD_STATUSES[status],
        exists=thread is not None,
        owner=owner,
        ends=bool(ends),
        removed=bool(removed),
        expires_at=expires_at,
        delayed=delayed or [],
        holder=None if holder is None else active_of(*holder),
        waiting=deque(() if waiting is None else (active_of(*waiting),)),
        complete=waiting is None,
    )


def active_of(
    run_id: str,
    thread_id: str,
    state: str,
    multitask: str,
    ordinal: int,
    holds: int,
    owner: str | None,
    due_at: str | None,
    cancel_requested: str | None,
    at_rest: str | None,
    portable: int,
    keeps_request: int,
    pool: str,
) -> ActiveRun:
    """An active run."""
    return ActiveRun(
        run_id=run_id,
        thread_id=thread_id,
        state=_STANDINGS[state],
        multitask=multitask,
        ordinal=ordinal,
        holds=bool(holds),
        owner=owner,
        due_at=due_at,
        cancel_requested=None if cancel_requested is None else CancelAction(cancel_requested),
        at_rest=None if at_rest is None else _THREAD_STATUSES[at_rest],
        portable=bool(portable),
        keeps_request=bool(keeps_request),
        pool=pool,
        stored=True,
    )


def change_thread(batch: Batch, thread: ThreadRow) -> None:
    """Add the change of a row of `threads`; a column whose new value is None stays as it is.

    Removing a thread has a step of its own: whether a thread is removed is in the conditions of most indexes, and each
    change that might remove one would cost a look at each of them.
    """
    status = thread.status and str(thread.status)
    changed = (
        thread.thread_id,
        status,
        thread.title,
        thread.last_run_id,
        thread.updated_at,
        thread.agent,
        thread.first_agent,
    )
    if thread.removed_at is None:
        batch[Step.change_threads].append(changed)
    else:
        batch[Step.remove_threads].append((*changed, thread.removed_at))


def _new_thread(thread: ThreadRow) -> Row:
    status = str(thread.status or ThreadStatus.idle)
    return (
        thread.thread_id,
        status,
        thread.title,
        thread.last_run_id,
        thread.created_at,
        thread.updated_at,
        thread.agent or thread.first_agent,
        thread.removed_at,
        thread.owner,
        thread.ends,
        thread.metadata,
        thread.expires_at,
        thread.ttl_minutes,
    )


def _changed_active(run: ActiveRun) -> Row:
    return run.run_id, str(run.state), run.holds, run.owner, run.cancel_requested, run.at_rest


def _new_active(run: ActiveRun) -> Row:
    """What is stored of a new one besides its ordinal, which the database gives it unless it takes another's place."""
    return (
        run.run_id,
        run.thread_id,
        str(run.state),
        run.multitask,
        run.holds,
        run.owner,
        run.due_at,
        run.cancel_requested,
        run.at_rest,
        run.portable,
        run.keeps_request,
        run.agent,
    )


def _started(run: RunRow, start: RunStart) -> Row:
    return (
        run.fold.run_id,
        run.thread_id,
        start.agent,
        str(run.fold.status),
        start.created_at,
        run.started_at,
        run.fold.sequence,
        start.parent_run_id,
        start.trigger,
        start.metadata,
        start.attempt,
        start.retry_of,
        start.request,
    )


def _ended(end: RunEnd) -> Row:
    return (
        end.ended_at,
        end.title,
        end.error,
        end.error_type,
        end.completion_data,
        end.total_input_tokens,
        end.total_output_tokens,
        end.llm_call_count,
        end.tool_call_count,
        end.message_count,
        end.duration_seconds,
        end.cost_usd,
        end.removed_at,
    )
