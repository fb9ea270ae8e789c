"""Rows as the bulk statements of the writer take and give them, column by column: the same in every database."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from trackside.app.storage._encoding import EventRow, json_of, time_of
from trackside.app.storage._fold import RunRow, StoredFacts
from trackside.app.storage._queue import ActiveRun, Lane, Standing
from trackside.harness.lifecycle import RunFold
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import CancelAction, LifecycleEventType, RunStatus, ThreadStatus

type Row = Sequence[Any]


@dataclass(slots=True)
class RunChanges:
    """What a transaction changes in runs, by the statement that does it."""

    started: list[Row] = field(default_factory=list)
    begun: list[Row] = field(default_factory=list)
    advanced: list[Row] = field(default_factory=list)
    ended: list[Row] = field(default_factory=list)
    used: list[Row] = field(default_factory=list)
    labels: list[Row] = field(default_factory=list)

    @classmethod
    def of(cls, runs: Iterable[RunRow]) -> Self:
        """Sort runs by what becomes of them."""
        changes = cls()
        for run in runs:
            if (start := run.start) is not None:
                changes.started.append(_started(run))
                changes.labels.extend((*label, start.created_at, run.fold.run_id) for label in start.labels)
            elif run.begins:
                changes.begun.append((run.fold.run_id, run.fold.status.value, run.started_at, run.fold.sequence))
            if run.end is not None:
                changes.ended.append(_ended(run))
                changes.used.extend((run.fold.run_id, *usage) for usage in run.end.usage)
            elif run.start is None and not run.begins:
                changes.advanced.append((run.fold.run_id, run.fold.sequence))
        return changes


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


def number_events(rows: Iterable[EventRow], first: int) -> list[Row]:
    """Give events their positions, from the first on, and the rows to insert."""
    values: list[Row] = []
    for position, row in enumerate(rows, first):
        row.position = position
        event = row.event
        values.append(
            (
                position,
                event.event_id,
                event.run_id,
                event.thread_id,
                event.sequence,
                event.event_type.value,
                row.occurred_at,
                row.payload,
            )
        )
    return values


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
        fold=RunFold(run_id, RunStatus(status), sequence),
        thread_id=thread_id,
        stored=StoredFacts(created_at=created_at, agent=agent),
        started_at=started_at,
        active=None if active is None else active_of(*active),
    )


def lane_of(thread_id: str, status: str | None, holder: Row | None, waiting: Row | None) -> Lane:
    """A thread, who holds it, and who is the first to wait."""
    return Lane(
        thread_id=thread_id,
        status=None if status is None else ThreadStatus(status),
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
) -> ActiveRun:
    """An active run."""
    return ActiveRun(
        run_id=run_id,
        thread_id=thread_id,
        state=Standing(state),
        multitask=multitask,
        ordinal=ordinal,
        holds=bool(holds),
        owner=owner,
        due_at=due_at,
        cancel_requested=None if cancel_requested is None else CancelAction(cancel_requested),
        at_rest=None if at_rest is None else ThreadStatus(at_rest),
    )


def changed_active(run: ActiveRun) -> Row:
    """What may change in a row of `active_runs`."""
    return run.run_id, run.state.value, run.holds, run.owner, run.cancel_requested, run.at_rest


def new_active(run: ActiveRun) -> Row:
    """A new row of `active_runs`; the database gives it its ordinal."""
    return (
        run.run_id,
        run.thread_id,
        run.state.value,
        run.multitask,
        run.holds,
        run.owner,
        run.due_at,
        run.cancel_requested,
        run.at_rest,
        run.request,
    )


def _started(run: RunRow) -> Row:
    start = run.start
    assert start is not None
    return (
        run.fold.run_id,
        run.thread_id,
        start.agent,
        run.fold.status.value,
        start.created_at,
        run.started_at,
        run.fold.sequence,
        start.parent_run_id,
        start.trigger,
        start.metadata,
    )


def _ended(run: RunRow) -> Row:
    end = run.end
    assert end is not None
    return (
        run.fold.run_id,
        run.fold.status.value,
        run.fold.sequence,
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
    )
