"""What can be looked up: each function checks its arguments and gives a query; each `…_of` makes a record of its row."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Row, Select, exists, func, literal, select, tuple_

from trackside.app.storage._encoding import is_plain_text, time_of
from trackside.app.storage._records import StoredEvent, StoredRun, StoredThread
from trackside.app.storage._stats import Chosen
from trackside.app.storage._tables import events, runs, thread_states, threads
from trackside.app.storage.errors import InvalidQueryError
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType, RunStatus, ThreadStatus

type AnyOf[K: StrEnum] = K | str | Collection[K | str]
"""A member of an enumeration, by its name or itself, or several, any of which will do."""

FEW_EVENTS = 2_000
"""So many are fetched by the index of runs, and sorted, in less time than a long log takes to read."""

MOST_BUCKETS = 1_000
"""So many buckets of time are given at once."""

_MAX_POSITION = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE, _HOUR = timedelta(minutes=1), timedelta(hours=1)


def logged_events(
    *,
    after: int,
    before: int | None,
    newest_first: bool,
    run_id: str | None,
    thread_id: str | None,
    agent: str | None,
    status: AnyOf[RunStatus] | None,
    types: AnyOf[LifecycleEventType] | None,
    since: datetime | None,
    limit: int,
    by_runs: bool = False,
) -> Select[Any]:
    """Events in order of position, up or down; `by_runs` says that `are_few` of the runs fit."""
    if not isinstance(newest_first, bool):
        raise InvalidQueryError(field="newest_first", value=newest_first, why="it is True or False")
    position = events.c.position
    query = select(events).where(position > _position("after", after))
    if before is not None:
        query = query.where(position < _position("before", before))
    if run_id is not None:
        query = query.where(_is(events.c.run_id, run_id))
    if thread_id is not None:
        # A thread has few runs: their events are fetched by the index of runs, and sorted.
        query = query.where(events.c.run_id.in_(select(runs.c.run_id).where(_is(runs.c.thread_id, thread_id))))
    if of_the_run := runs_that_fit(status=status, agent=agent):
        if by_runs:
            query = query.where(events.c.run_id.in_(select(runs.c.run_id).where(*of_the_run)))
        else:
            # The log is read in its order, and the run of each event looked at, until there are enough.
            query = query.where(exists().where(runs.c.run_id == events.c.run_id, *of_the_run))
    if types is not None:
        query = query.where(events.c.event_type.in_(_members(LifecycleEventType, "types", types)))
    if since is not None:
        query = query.where(events.c.occurred_at >= _since(since))
    return query.order_by(position.desc() if newest_first else position).limit(_limit(limit))


def are_few(connection: Connection, *, agent: str | None, status: AnyOf[RunStatus] | None) -> bool:
    """Whether the runs of this agent and status have so few events that these are found faster through the runs."""
    of_the_run = runs_that_fit(status=status, agent=agent)
    if not of_the_run:
        return False
    # A run has one event at least, so one run more than `FEW_EVENTS` is enough to tell.
    counts = select(runs.c.last_sequence).where(*of_the_run).limit(FEW_EVENTS + 1).subquery()
    total: int = connection.execute(select(func.coalesce(func.sum(counts.c.last_sequence), 0))).scalar_one()
    return total <= FEW_EVENTS


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


def runs_that_fit(
    *,
    status: AnyOf[RunStatus] | None = None,
    agent: str | None = None,
    thread_id: str | None = None,
    since: datetime | None = None,
) -> list[ColumnElement[bool]]:
    """What holds for the rows of these runs; `since` is about when they were created."""
    conditions: list[ColumnElement[bool]] = []
    if status is not None:
        conditions.append(runs.c.status.in_(_members(RunStatus, "status", status)))
    if agent is not None:
        conditions.append(_is(runs.c.agent, agent))
    if thread_id is not None:
        conditions.append(_is(runs.c.thread_id, thread_id))
    if since is not None:
        conditions.append(runs.c.created_at >= _since(since))
    return conditions


def chosen_runs(
    *,
    since: datetime | None,
    until: datetime | None,
    agent: str | None,
    thread_id: str | None,
    status: AnyOf[RunStatus] | None,
) -> Chosen:
    """The runs of which somebody wants totals."""
    since, until = _interval(since, until)
    return Chosen(
        agent=None if agent is None else _plain("agent", agent),
        statuses=_members(RunStatus, "status", [*RunStatus] if status is None else status),
        thread_id=None if thread_id is None else _plain("thread_id", thread_id),
        since=since,
        until=until,
    )


def chosen_buckets(
    *,
    since: datetime,
    until: datetime,
    width: timedelta,
    agent: str | None,
    status: AnyOf[RunStatus] | None,
) -> Chosen:
    """The runs of which somebody wants totals in buckets: from the one that has `since` to the one before `until`."""
    if not _is_width(width):
        why = "it is a timedelta of whole hours, or of whole minutes of which an hour is a multiple"
        raise InvalidQueryError(field="width", value=width, why=why)
    chosen = chosen_runs(since=since, until=until, agent=agent, thread_id=None, status=status)
    if chosen.since is None or chosen.since < _EPOCH:
        raise InvalidQueryError(field="since", value=since, why="buckets begin in 1970")
    if chosen.until is None:
        raise InvalidQueryError(field="until", value=until, why="it is a datetime with a time zone")
    first, behind = (chosen.since - _EPOCH) // width, -((_EPOCH - chosen.until) // width)
    if behind - first > MOST_BUCKETS:
        why = f"it divides the time into {behind - first} buckets, and {MOST_BUCKETS} are the most"
        raise InvalidQueryError(field="width", value=width, why=why)
    try:
        return replace(chosen, since=_EPOCH + first * width, until=_EPOCH + behind * width)
    except OverflowError:
        raise InvalidQueryError(field="until", value=until, why="the last bucket ends behind the year 9999") from None


def newest_runs(
    *,
    status: AnyOf[RunStatus] | None,
    agent: str | None,
    thread_id: str | None,
    since: datetime | None,
    id_prefix: str | None,
    before: str | None,
    limit: int,
) -> Select[Any]:
    """Runs, those created last first."""
    query = select(runs).where(
        *runs_that_fit(status=status, agent=agent, thread_id=thread_id, since=since),
        *_begins_with(runs.c.run_id, id_prefix),
    )
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
    status: AnyOf[ThreadStatus] | None,
    agent: str | None,
    thread_id: str | None,
    since: datetime | None,
    id_prefix: str | None,
    before: str | None,
    limit: int,
) -> Select[Any]:
    """Threads, those in which something happened last first."""
    query = select(threads).where(*_begins_with(threads.c.thread_id, id_prefix))
    if status is not None:
        query = query.where(threads.c.status.in_(_members(ThreadStatus, "status", status)))
    if agent is not None:
        # The runs of each thread are looked at, until there are enough threads. The expression hides the index of agents
        # from SQLite, which would go through all runs of the agent for each thread.
        its_agent = runs.c.agent.concat("")
        query = query.where(
            exists().where(runs.c.thread_id == threads.c.thread_id, its_agent == _plain("agent", agent))
        )
    if thread_id is not None:
        query = query.where(_is(threads.c.thread_id, thread_id))
    if since is not None:
        query = query.where(threads.c.updated_at >= _since(since))
    return _newest(query, threads.c.updated_at, threads.c.thread_id, before).limit(_limit(limit))


def thread_of(row: Row[Any]) -> StoredThread:
    """The thread in a row."""
    values = dict(row._mapping)  # noqa: SLF001  # the documented way to a row's names
    values["status"] = ThreadStatus(row.status)
    return StoredThread(**values)


def one_thread_state(thread_id: str) -> Select[Any]:
    """What one thread remembers."""
    return select(thread_states).where(_is(thread_states.c.thread_id, thread_id))


def _is_width(width: Any) -> bool:
    """Whether hours divide into buckets of this width, or these into hours."""
    if not isinstance(width, timedelta) or width < _MINUTE or width % _MINUTE:
        return False
    return not (width % _HOUR and _HOUR % width)


def _interval(since: Any, until: Any) -> tuple[datetime | None, datetime | None]:
    """A time from `since` to before `until`, either of which may be open."""
    begin = None if since is None else _since(since)
    end = None if until is None else _time("until", until)
    if begin is not None and end is not None and end < begin:
        raise InvalidQueryError(field="until", value=until, why="it is not before since")
    return begin, end


def _since(said: Any) -> datetime:
    return _time("since", said)


def _time(field: str, said: Any) -> datetime:
    when = _utc(said)
    if when is None:
        raise InvalidQueryError(field=field, value=said, why="it is a datetime with a time zone")
    return when


def _utc(said: Any) -> datetime | None:
    """An aware time in UTC; None if it is not one, or not one there."""
    if not isinstance(said, datetime) or said.utcoffset() is None:
        return None
    try:
        return said.astimezone(UTC)
    except OverflowError:
        return None


def _position(field: str, said: Any) -> int:
    if type(said) is not int or not 0 <= said <= _MAX_POSITION:
        raise InvalidQueryError(field=field, value=said, why="a position is a whole number from 0 up")
    return said


def _limit(limit: Any) -> int:
    if type(limit) is not int or not 1 <= limit <= _MAX_POSITION:
        raise InvalidQueryError(field="limit", value=limit, why="it is a whole number from 1 up")
    return limit


def _is(column: Column[Any], text: Any) -> ColumnElement[bool]:
    return column == _plain(column.name, text)


def _plain(field: str, text: Any) -> str:
    if not isinstance(text, str) or not is_plain_text(text):
        raise InvalidQueryError(field=field, value=text, why="it is a text, without NUL and half characters")
    return text


def _begins_with(id_: Column[Any], prefix: Any) -> list[ColumnElement[bool]]:
    """The range of ids that begin like this. Not LIKE, which knows no case in SQLite and so cannot use the index.

    It takes ids that are sorted by code point: in SQLite they are, in PostgreSQL under the collation "C".
    """
    if prefix is None:
        return []
    beginning = _plain("id_prefix", prefix)
    end = _behind_all(beginning)
    return [id_ >= beginning] if end is None else [id_ >= beginning, id_ < end]


def _behind_all(prefix: str) -> str | None:
    """The first text behind all that begin like this; None if nothing is."""
    kept = prefix.rstrip(chr(sys.maxunicode))
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if following == 0xD800 else following)  # D800 to DFFF are halves of characters


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
        moment = _utc(time_of(time))
    except ValueError:
        moment = None
    if moment is None or not slash or not is_plain_text(id_before):
        raise InvalidQueryError(field="before", value=before, why="it is not the `cursor` of a record")
    return literal(moment, when.type), literal(id_before, id_.type)
