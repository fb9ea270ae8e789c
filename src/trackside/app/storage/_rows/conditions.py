"""Conditions of queries, worded so that a database finds the rows by the intended index, and by no other."""

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
"""That an active run holds its thread, worded as in the index of those that do: SQLite recognises no other wording."""


def are_few(connection: Connection, conditions: Sequence[ColumnElement[bool]], few: int) -> bool:
    """Whether at most `few` rows match. An index has to tell; no more rows than needed for that are looked at."""
    return count_up_to(connection, conditions, few + 1) <= few


def count_up_to(connection: Connection, conditions: Sequence[ColumnElement[bool]], most: int) -> int:
    """How many rows match, counted up to `most`."""
    some = select(literal(1)).where(*conditions).limit(most).subquery()
    count: int = connection.execute(select(func.count()).select_from(some)).scalar_one()
    return count


def is_unattended() -> ColumnElement[bool]:
    """Whether a run has no end and no coordinator: it was recorded without one, or imported. Nobody here ends it."""
    return and_(runs.c.ended_at.is_(None), ~exists().where(active_runs.c.run_id == runs.c.run_id))


def heard_last() -> ColumnElement[Any]:
    """When a run last said something; if it has said nothing, when it was created."""
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
    """That the run of a row has a label, looked up where all runs with this label are adjacent."""
    key, value = label
    label_ = run_labels.alias()
    return there_is(
        label_.c.key == key,
        label_.c.value == value,
        label_.c.created_at == of.c.created_at,
        unindexed(label_.c.run_id) == of.c.run_id,
    )


def are_of(statuses: Sequence[str] | None, agent: str | None, thread_id: str | None = None) -> Conditions:
    """That runs have one of these statuses, and are of this agent and thread; None: of any.

    Runs of a thread are looked for among its own, which are few.
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
    """That a run is on a thread of this owner, in a form that leads from his threads to the run."""
    return runs.c.thread_id.in_(select(threads.c.thread_id).where(threads.c.owner == owner))


def is_owned(owner: str, thread_id: ColumnElement[Any]) -> ColumnElement[bool]:
    """That a thread is this owner's, looked up by its id."""
    thread = threads.alias()
    return there_is(thread.c.thread_id == thread_id, unindexed(thread.c.owner) == owner)


def has_status(statuses: Sequence[RunStatus], of: Table, *, removed: bool = True) -> ColumnElement[bool]:
    """That the run of a row has one of these statuses, looked up where all runs that have it are adjacent.

    With `removed` also if the run was removed.
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
    """The last matching run of a thread in the order of the log: the clocks of several machines give no order (I8).

    That is the order of first events, up to the run that the thread names as its last one. Runs behind that one were
    imported since, and are older than all of these. If a run never begins, its first event comes while another goes on.
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
    """That a run holds the thread and has not begun: until then, the log says of the thread what it was before."""
    is_to_begin = unindexed(active_runs.c.state).in_([Standing.pending.value, Standing.withdrawn.value])
    return there_is(active_runs.c.thread_id == thread.c.thread_id, HOLDS_ITS_THREAD, is_to_begin)


def are_newest_of_waiting() -> ColumnElement[bool]:
    """That what a run asks, if it has stopped to ask, is what its thread waits for a human to answer.

    In a form that leads from these threads to the run. No run after it closes its questions: one that brings an answer
    does that, and one that fails does not.
    """
    return runs.c.run_id.in_(select(_last_that_closes_questions(threads)).where(*waits_for_human(), ~goes_on()))


def is_newest_of_waiting(of: Table) -> ColumnElement[bool]:
    """The same, looked up by the thread of a row."""
    thread = threads.alias()
    return there_is(
        thread.c.thread_id == of.c.thread_id,
        unindexed(thread.c.status) == ThreadStatus.interrupted.value,
        thread.c.removed_at.is_(None),
        ~goes_on(thread),
        _last_that_closes_questions(thread) == of.c.run_id,
    )


def _last_that_closes_questions(thread: FromClause) -> ColumnElement[str]:
    """The last run of a thread that leaves no earlier question open: mostly the thread's last one, which is at hand."""
    last = runs.alias()
    at_hand = select(last.c.run_id).where(last.c.run_id == thread.c.last_run_id, _closes_questions(last))
    return func.coalesce(at_hand.scalar_subquery(), last_in_log(thread, _closes_questions))


def _closes_questions(run: FromClause) -> ColumnElement[bool]:
    """That a run, even one deleted since, has begun, and no question asked before it is open any more."""
    closes = unindexed(run.c.status).in_([status.value for status in CLOSE_QUESTIONS])
    return and_(run.c.last_sequence > 0, closes)


def there_is(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """That there is a row for which this holds. Selects nothing of the row, so that it need not be fetched itself."""
    return select(literal_column("1")).where(*conditions).exists()


def unindexed(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The same value in a form that no index has: SQLite would follow an index from any condition that it can."""
    return column.concat("")


class holds_mostly(FunctionElement[bool]):  # noqa: N801  # named as the functions of SQL are
    """The same condition, but SQLite does not expect it to leave few rows, and so follows no index from it."""

    inherit_cache = True


@compiles(holds_mostly)
def _as_it_is(condition: holds_mostly, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(condition.clauses, **kw)


@compiles(holds_mostly, "sqlite")
def _likely(condition: holds_mostly, compiler: SQLCompiler, **kw: Any) -> str:
    return f"likely({compiler.process(condition.clauses, **kw)})"
