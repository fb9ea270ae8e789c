"""Conditions of queries, said so that a database finds the rows by the index that is meant, and by no other."""

from __future__ import annotations

from collections.abc import Sequence
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
    tuple_,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from trackside.app.storage._arguments import id_range
from trackside.app.storage._fold import Label
from trackside.app.storage._queue import Standing
from trackside.app.storage._tables import active_runs, events, run_labels, runs, threads
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


def waits_for_human() -> Conditions:
    """That a thread has a question that nobody has answered."""
    return [threads.c.status == ThreadStatus.interrupted.value, threads.c.removed_at.is_(None)]


def are_newest_of_waiting() -> ColumnElement[bool]:
    """That a run, if it has stopped to ask, asks what its thread waits for a human to answer; in a way that leads from these
    threads to it. None behind it closes its questions, as one that brings an answer does, and one that fails does not.
    """
    run = runs.alias()
    newest = (
        select(run.c.run_id)
        .where(run.c.thread_id == threads.c.thread_id, _closes_questions(run), run.c.removed_at.is_(None))
        .order_by(run.c.created_at.desc(), run.c.run_id.desc())
        .limit(1)
        .scalar_subquery()
    )
    return runs.c.run_id.in_(select(newest).where(*waits_for_human()))


def is_newest_of_waiting(of: Table) -> Conditions:
    """The same, looked at by the thread of a row and what came behind it."""
    thread, later = threads.alias(), runs.alias()
    waits = unindexed(thread.c.status) == ThreadStatus.interrupted.value
    is_behind = tuple_(later.c.created_at, later.c.run_id) > tuple_(of.c.created_at, of.c.run_id)
    return [
        there_is(thread.c.thread_id == of.c.thread_id, waits, thread.c.removed_at.is_(None)),
        ~there_is(
            later.c.thread_id == of.c.thread_id, is_behind, _closes_questions(later), later.c.removed_at.is_(None)
        ),
    ]


def _closes_questions(run: FromClause) -> ColumnElement[bool]:
    """That nothing is open any more that was asked before a run; one that is to begin later lets that be answered before."""
    active = active_runs.alias()
    begins_later = there_is(active.c.run_id == run.c.run_id, unindexed(active.c.state) == Standing.delayed.value)
    return and_(unindexed(run.c.status).in_([status.value for status in CLOSE_QUESTIONS]), ~begins_later)


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
