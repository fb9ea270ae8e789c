"""Conditions of queries, said so that a database finds the rows by the index that is meant, and by no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    FromClause,
    Table,
    and_,
    exists,
    func,
    literal,
    literal_column,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from trackside.app.storage._rows.arguments import id_range
from trackside.app.storage._rows.fold import Label
from trackside.app.storage._rows.queue import Standing
from trackside.app.storage._rows.tables import active_runs, events, run_labels, runs, threads
from trackside.harness.lifecycle import CLOSE_QUESTIONS
from trackside.harness.types import RunStatus, ThreadStatus

type Conditions = list[ColumnElement[bool]]

HOLDS_ITS_THREAD: Final[ColumnElement[bool]] = literal_column("active_runs.holds")
"""That an active run has its thread, in the words of the index of those that do: SQLite sees it behind no others."""


def are_few(connection: Connection, conditions: Sequence[ColumnElement[bool]], few: int) -> bool:
    """Whether no more rows fit than that; an index has to tell. Looks at no more."""
    return count_up_to(connection, conditions, few + 1) <= few


def count_up_to(connection: Connection, conditions: Sequence[ColumnElement[bool]], most: int) -> int:
    """How many rows fit, if they are no more than that."""
    some = select(literal(1)).where(*conditions).limit(most).subquery()
    count: int = connection.execute(select(func.count()).select_from(some)).scalar_one()
    return count


def is_unattended() -> ColumnElement[bool]:
    """Whether a run has no end and is no coordinator's: it was recorded without one, or imported. Nobody here ends it."""
    return and_(runs.c.ended_at.is_(None), ~exists().where(active_runs.c.run_id == runs.c.run_id))


def heard_last() -> ColumnElement[Any]:
    """When a run has said something last; if it has said nothing, when it was created."""
    last = select(events.c.occurred_at).where(
        events.c.run_id == runs.c.run_id, events.c.sequence == runs.c.last_sequence
    )
    return func.coalesce(last.scalar_subquery(), runs.c.created_at)


def within(when: Column[Any], since: datetime | None, until: datetime | None) -> Conditions:
    """That a time is in this interval."""
    conditions: Conditions = []
    if since is not None:
        conditions.append(when >= since)
    if until is not None:
        conditions.append(when < until)
    return conditions


def begins(id_: ColumnElement[Any], prefix: str) -> Conditions:
    """That an id begins like this."""
    first, behind = id_range(prefix)
    return [id_ >= first] if behind is None else [id_ >= first, id_ < behind]


def is_labelled(label: Label, of: Table) -> ColumnElement[bool]:
    """That the run of a row has a label, where all runs with this label stand together."""
    key, value = label
    label_ = run_labels.alias()
    return there_is(
        label_.c.key == key,
        label_.c.value == value,
        label_.c.created_at == of.c.created_at,
        unindexed(label_.c.run_id) == of.c.run_id,
    )


def are_of(statuses: Sequence[str] | None, agent: str | None, thread_id: str | None = None) -> Conditions:
    """That runs have one of these statuses, and are of this agent and thread; None: of any. Those of a thread are looked for
    among its own, which are few.
    """
    status: ColumnElement[Any] = runs.c.status
    its_agent: ColumnElement[Any] = runs.c.agent
    conditions: Conditions = []
    if thread_id is not None:
        status, its_agent = unindexed(status), unindexed(its_agent)
        conditions.append(runs.c.thread_id == thread_id)
    if statuses is not None:
        conditions.append(status.in_([*map(str, statuses)]))
    if agent is not None:
        conditions.append(its_agent == agent)
    return conditions


def are_owned_by(owner: str) -> ColumnElement[bool]:
    """That a run is of a thread of this owner, in a way that leads from his threads to it."""
    return runs.c.thread_id.in_(select(threads.c.thread_id).where(threads.c.owner == owner))


def is_owned(owner: str, thread_id: ColumnElement[Any]) -> ColumnElement[bool]:
    """That a thread is this owner's, looked at by its id."""
    thread = threads.alias()
    return there_is(thread.c.thread_id == thread_id, unindexed(thread.c.owner) == owner)


def has_status(statuses: Sequence[RunStatus], of: Table, *, removed: bool = True) -> ColumnElement[bool]:
    """That the run of a row has one of these statuses, and with `removed` also if it was; where all runs that have it stand
    together.
    """
    run = runs.alias()
    return there_is(
        run.c.status.in_([status.value for status in statuses]),
        run.c.created_at == of.c.created_at,
        unindexed(run.c.run_id) == of.c.run_id,
        *([] if removed else [run.c.removed_at.is_(None)]),
    )


def last_position(run: FromClause = runs) -> ColumnElement[int]:
    """Where in the log the last event of a run is; 0 if it has none."""
    return _position(run, run.c.last_sequence)


def _first_position(run: FromClause) -> ColumnElement[int]:
    return _position(run, literal_column("1"))


def _position(run: FromClause, sequence: ColumnElement[int]) -> ColumnElement[int]:
    event = select(events.c.position).where(events.c.run_id == run.c.run_id, events.c.sequence == sequence)
    return func.coalesce(event.correlate(run).scalar_subquery(), 0)


def last_in_log(thread: FromClause, fits: Callable[[FromClause], ColumnElement[bool]]) -> ColumnElement[str]:
    """The last run of a thread of those that fit, in the order of the log: clocks of several machines give none (I8).

    That is the order of their first events up to the run that the thread names as its last one. What is behind it was
    imported since, and is older than all of these. Of a run that never begins that event comes while another one goes on.
    """
    last, run = runs.alias(), runs.alias()
    place = _first_position(run)
    return (
        select(run.c.run_id)
        .where(last.c.run_id == thread.c.last_run_id, run.c.thread_id == thread.c.thread_id, fits(run))
        .order_by(place > _first_position(last), place.desc())
        .limit(1)
        .scalar_subquery()
    )


def waits_for_human() -> Conditions:
    """That a thread has a question that nobody has answered."""
    return [threads.c.status == ThreadStatus.interrupted.value, threads.c.removed_at.is_(None)]


def goes_on(thread: FromClause = threads) -> ColumnElement[bool]:
    """That a run has the thread and has not begun: as long, the log says of the thread what it was before."""
    is_to_begin = unindexed(active_runs.c.state).in_([Standing.pending.value, Standing.withdrawn.value])
    return there_is(active_runs.c.thread_id == thread.c.thread_id, HOLDS_ITS_THREAD, is_to_begin)


def are_newest_of_waiting() -> ColumnElement[bool]:
    """That a run, if it has stopped to ask, asks what its thread waits for a human to answer; in a way that leads from these
    threads to it. None behind it closes its questions, as one that brings an answer does, and one that fails does not.
    """
    return runs.c.run_id.in_(select(_last_that_closes_questions(threads)).where(*waits_for_human(), ~goes_on()))


def is_newest_of_waiting(of: Table) -> ColumnElement[bool]:
    """The same, looked at by the thread of a row."""
    thread = threads.alias()
    return there_is(
        thread.c.thread_id == of.c.thread_id,
        unindexed(thread.c.status) == ThreadStatus.interrupted.value,
        thread.c.removed_at.is_(None),
        ~goes_on(thread),
        _last_that_closes_questions(thread) == of.c.run_id,
    )


def _last_that_closes_questions(thread: FromClause) -> ColumnElement[str]:
    """The last run of a thread that leaves nothing open of what was asked before: mostly its last one, which is at hand."""
    last = runs.alias()
    at_hand = select(last.c.run_id).where(last.c.run_id == thread.c.last_run_id, _closes_questions(last))
    return func.coalesce(at_hand.scalar_subquery(), last_in_log(thread, _closes_questions))


def _closes_questions(run: FromClause) -> ColumnElement[bool]:
    """That nothing is open any more that was asked before a run, which has begun; be it there or deleted since."""
    closes = unindexed(run.c.status).in_([status.value for status in CLOSE_QUESTIONS])
    return and_(run.c.last_sequence > 0, closes)


def there_is(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """That there is a row of which this holds. It selects nothing of it, so that the row itself need not be fetched."""
    return select(literal_column("1")).where(*conditions).exists()


def unindexed(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The same value, which no index has: SQLite would follow an index from any condition that it can."""
    return column.concat("")


class holds_mostly(FunctionElement[bool]):  # noqa: N801  # named as the functions of SQL are
    """The same condition, of which SQLite does not think that it leaves few rows, and so follows no index from it."""

    inherit_cache = True


@compiles(holds_mostly)
def _as_it_is(condition: holds_mostly, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(condition.clauses, **kw)


@compiles(holds_mostly, "sqlite")
def _likely(condition: holds_mostly, compiler: SQLCompiler, **kw: Any) -> str:
    return f"likely({compiler.process(condition.clauses, **kw)})"
