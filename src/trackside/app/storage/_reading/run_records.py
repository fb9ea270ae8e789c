"""Runs as the harness knows them, from and for the rows that the store keeps of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, Select, Text, case, select, type_coerce

from trackside.app.storage._databases.readers import Readers
from trackside.app.storage._rows.arguments import is_plain
from trackside.app.storage._rows.conditions import HOLDS_ITS_THREAD
from trackside.app.storage._rows.encoding import UndecodableError, json_text, time_text
from trackside.app.storage._rows.fold import RunStart, labels_of
from trackside.app.storage._rows.tables import active_runs, runs
from trackside.harness.types import CancelAction, MultitaskStrategy, RunRecord, RunStatus

RUN_COLUMNS: Final = [column for column in runs.c if column is not runs.c.request]
"""All columns of a run except for what was asked for, which may be long."""

_STUCK_SINCE: Final = case((runs.c.ended_at.is_(None), active_runs.c.stuck_since)).label("stuck_since")

RUNS: Final[Select[Any]] = select(*RUN_COLUMNS, _STUCK_SINCE).outerjoin_from(
    runs, active_runs, runs.c.run_id == active_runs.c.run_id
)
"""Runs as a store gives them back, with the time since which they have been stuck."""

RECORDS: Final = select(
    *RUN_COLUMNS,
    active_runs.c.multitask,
    active_runs.c.due_at,
    active_runs.c.cancel_requested,
    _STUCK_SINCE,
).outerjoin_from(runs, active_runs, runs.c.run_id == active_runs.c.run_id)
"""Runs, with what is known of them only while they are active."""


async def find_run(readers: Readers, run_id: str) -> RunRecord | None:
    """What is known about a run; None if there is none."""
    if not is_plain(run_id):  # no run can have such an id
        return None
    return await readers.first(RECORDS.where(runs.c.run_id == run_id), record_of)


async def find_holder(readers: Readers, thread_id: str) -> str | None:
    """The run that holds a thread, from its admission on; None if no run does."""
    if not is_plain(thread_id):
        return None
    query = select(active_runs.c.run_id).where(active_runs.c.thread_id == thread_id, HOLDS_ITS_THREAD)
    return await readers.first(query, lambda row: str(row.run_id))


def start_of(record: RunRecord, request: str | None) -> RunStart:
    """What the row says of a run that is let in; `request` is what was asked for, as JSON text."""
    return RunStart(
        created_at=time_text(record.created_at),
        agent=record.agent,
        metadata=json_text(dict(record.metadata)),
        parent_run_id=record.parent_run_id,
        trigger=record.trigger,
        labels=labels_of(record.metadata),
        attempt=record.attempt,
        retry_of=record.retry_of,
        request=request,
    )


def record_of(row: Row[Any]) -> RunRecord:
    """The run in a row of `RECORDS`."""
    cancel_requested = row.cancel_requested
    return RunRecord(
        run_id=row.run_id,
        thread_id=row.thread_id,
        agent=row.agent or "",
        status=RunStatus(row.status),
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        metadata=row.metadata,
        multitask=MultitaskStrategy(row.multitask or MultitaskStrategy.enqueue),
        due_at=row.due_at,
        parent_run_id=row.parent_run_id,
        trigger=row.trigger,
        attempt=row.attempt,
        retry_of=row.retry_of,
        cancel_requested=None if cancel_requested is None else CancelAction(cancel_requested),
        stuck_since=row.stuck_since,
        error=row.error,
        title=row.title,
        completion_data=row.completion_data or {},
    )


class _Asked(msgspec.Struct):
    multitask: str | None = None


_asked = msgspec.json.Decoder(_Asked).decode
_REQUEST: Final = type_coerce(runs.c.request, Text)


def strategies_of(connection: Connection, run_ids: Sequence[str]) -> dict[str, str]:
    """What runs were to do if their thread was busy, by run id, if their request says it. No other request is read."""
    named = _REQUEST.contains('"multitask":')  # quotes in a text are escaped, but a nested object may have such a key
    found: dict[str, str] = {}
    for run_id, request in connection.execute(select(runs.c.run_id, _REQUEST).where(runs.c.run_id.in_(run_ids), named)):
        try:
            strategy = _asked(request).multitask
        except msgspec.DecodeError as exc:
            raise UndecodableError(f"{request!r:.60} is not the request of a run") from exc
        if strategy is not None:
            found[run_id] = strategy
    return found
