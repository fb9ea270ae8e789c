"""What can be looked up: each function checks its arguments and gives a query; each `…_of` makes a record of its row."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, ColumnElement, Row, Select, literal, select, tuple_

from trackside.app.storage._encoding import is_plain_text, time_of
from trackside.app.storage._records import StoredEvent, StoredRun, StoredThread
from trackside.app.storage._tables import events, runs, thread_states, threads
from trackside.app.storage.errors import InvalidQueryError
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType, RunStatus, ThreadStatus

_MAX_POSITION = 2**63 - 1


def events_after(
    after: int,
    *,
    run_id: str | None,
    thread_id: str | None,
    types: Collection[LifecycleEventType | str] | None,
    limit: int,
) -> Select[Any]:
    """Events in order of position."""
    if type(after) is not int or not 0 <= after <= _MAX_POSITION:
        raise InvalidQueryError(field="after", value=after, why="a position is a whole number from 0 up")
    query = select(events).where(events.c.position > after).order_by(events.c.position).limit(_limit(limit))
    query = _where(query, events.c.run_id, run_id)
    if thread_id is not None:
        query = query.where(events.c.run_id.in_(select(runs.c.run_id).where(_is(runs.c.thread_id, thread_id))))
    if types is not None:
        query = query.where(events.c.event_type.in_(_members(LifecycleEventType, "types", types)))
    return query


def event_of(row: Row[Any]) -> StoredEvent:
    """The event in a row."""
    event = RunLifecycleEvent(
        event_id=row.event_id,
        event_type=LifecycleEventType(row.event_type),
        run_id=row.run_id,
        thread_id=row.thread_id,
        sequence=row.sequence,
        occurred_at=row.occurred_at,
        payload=row.payload,
    )
    return StoredEvent(row.position, event)


def one_run(run_id: str) -> Select[Any]:
    """One run."""
    return select(runs).where(_is(runs.c.run_id, run_id))


def newest_runs(
    *,
    status: RunStatus | str | Collection[RunStatus | str] | None,
    agent: str | None,
    thread_id: str | None,
    since: datetime | None,
    before: str | None,
    limit: int,
) -> Select[Any]:
    """Runs, those created last first."""
    query = select(runs)
    if status is not None:
        query = query.where(runs.c.status.in_(_members(RunStatus, "status", status)))
    query = _where(query, runs.c.agent, agent)
    query = _where(query, runs.c.thread_id, thread_id)
    if since is not None:
        query = query.where(runs.c.created_at >= aware(since))
    return _newest(query, runs.c.created_at, runs.c.run_id, before).limit(_limit(limit))


def run_of(row: Row[Any]) -> StoredRun:
    """The run in a row."""
    values = dict(row._mapping)  # noqa: SLF001  # the documented way to a row's names
    values["status"] = RunStatus(row.status)
    values["completion_data"] = row.completion_data or {}
    return StoredRun(**values)


def one_thread(thread_id: str) -> Select[Any]:
    """One thread."""
    return select(threads).where(_is(threads.c.thread_id, thread_id))


def newest_threads(
    *,
    status: ThreadStatus | str | Collection[ThreadStatus | str] | None,
    since: datetime | None,
    before: str | None,
    limit: int,
) -> Select[Any]:
    """Threads, those in which something happened last first."""
    query = select(threads)
    if status is not None:
        query = query.where(threads.c.status.in_(_members(ThreadStatus, "status", status)))
    if since is not None:
        query = query.where(threads.c.updated_at >= aware(since))
    return _newest(query, threads.c.updated_at, threads.c.thread_id, before).limit(_limit(limit))


def thread_of(row: Row[Any]) -> StoredThread:
    """The thread in a row."""
    values = dict(row._mapping)  # noqa: SLF001  # the documented way to a row's names
    values["status"] = ThreadStatus(row.status)
    return StoredThread(**values)


def one_thread_state(thread_id: str) -> Select[Any]:
    """What one thread remembers."""
    return select(thread_states).where(_is(thread_states.c.thread_id, thread_id))


def aware(since: Any) -> datetime:
    """A lower bound for times."""
    if not isinstance(since, datetime) or since.utcoffset() is None:
        raise InvalidQueryError(field="since", value=since, why="it is a datetime with a time zone")
    return since


def _limit(limit: Any) -> int:
    if type(limit) is not int or not 1 <= limit <= _MAX_POSITION:
        raise InvalidQueryError(field="limit", value=limit, why="it is a whole number from 1 up")
    return limit


def _where(query: Select[Any], column: Column[Any], text: Any) -> Select[Any]:
    return query if text is None else query.where(_is(column, text))


def _is(column: Column[Any], text: Any) -> ColumnElement[bool]:
    if not isinstance(text, str) or not is_plain_text(text):
        raise InvalidQueryError(field=column.name, value=text, why="it is a text, without NUL and half characters")
    return column == text


def _members(kinds: type[StrEnum], field: str, said: Any) -> list[str]:
    """Members of an enumeration, from one or several of their values."""
    try:
        return [kinds(value).value for value in ([said] if isinstance(said, str) else said)]
    except (TypeError, ValueError):
        raise InvalidQueryError(field=field, value=said, why=f"there are {', '.join(kinds)}") from None


def _newest(query: Select[Any], when: Column[Any], id_: Column[Any], before: Any) -> Select[Any]:
    """Sorted by time and id, newest first, from behind a cursor on."""
    query = query.order_by(when.desc(), id_.desc())
    if before is None:
        return query
    return query.where(tuple_(when, id_) < tuple_(*_place(before, when, id_)))


def _place(before: Any, when: Column[Any], id_: Column[Any]) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """The time and id in a cursor."""
    time, slash, id_before = before.partition("/") if isinstance(before, str) else ("", "", "")
    try:
        moment = aware(time_of(time))
    except ValueError:
        moment = None
    if moment is None or not slash or not is_plain_text(id_before):
        raise InvalidQueryError(field="before", value=before, why="it is not the `cursor` of a record")
    return literal(moment, when.type), literal(id_before, id_.type)
