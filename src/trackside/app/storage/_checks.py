"""What can be wrong in a database although nobody should be able to make it so: each check says what it finds.

The checks compute the rows from the events once more, by the same rules that wrote them (`fold`, `totals`). So whatever
they find was caused by somebody else, a broken disk, or a mistake of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import batched, groupby
from typing import Any, Final

from msgspec.structs import asdict
from sqlalchemy import Column, ColumnElement, Connection, Executable, Row, Select, Text, func, or_, select, type_coerce
from sqlalchemy.sql.expression import exists

from trackside.app.storage._reading.run_records import RUN_COLUMNS
from trackside.app.storage._rows.encoding import EventRow, UndecodableError, json_of, time_of
from trackside.app.storage._rows.fleet_tables import server_metadata
from trackside.app.storage._rows.fold import RunRow
from trackside.app.storage._rows.tables import (
    POSITION,
    JsonText,
    UtcTime,
    counters,
    duration_totals,
    events,
    metadata,
    run_totals,
    runs,
    subscriptions,
    threads,
    usage,
    usage_totals,
)
from trackside.app.storage._rows.totals import NO_AGENT, Totals, minute_of
from trackside.app.storage._transfer.left_busy import is_left_busy
from trackside.harness.errors import EventOrderError
from trackside.harness.lifecycle import RunFold
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType

_NAMED: Final = 3  # ids that a finding lists
_PAGE: Final = 200  # runs that are compared together
_MOST_RUNS: Final = 10  # that are reported one by one
_NOT_ALONE: Final = frozenset({"usage", "removed_at"})  # other tables' rows; what clients and threads decide, too


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong: where, and what."""

    where: str
    what: str


def tables(connection: Connection) -> Iterator[Finding]:
    """Whether the tables are as they are declared, and the file is sound."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    options = {"include_name": _is_ours}  # a checkpointer may keep its tables in the same file
    declared: Any = [metadata, server_metadata] if connection.dialect.name == "postgresql" else metadata
    for difference in compare_metadata(MigrationContext.configure(connection, opts=options), declared):
        yield Finding("tables", f"they are not as declared: {_described(difference)}")
    if connection.dialect.name == "sqlite":
        for (said,) in connection.exec_driver_sql("PRAGMA integrity_check(10)"):
            if said != "ok":
                yield Finding("file", str(said))
        for table, _, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check").fetchmany(10):
            yield Finding(str(table), f"a row refers to a row of {parent} that is not there")


def contents(connection: Connection, sample: int | None) -> Iterator[Finding]:
    """Whether the rows are what the events say; of runs, only the newest `sample` are looked at (None: all)."""
    for check in (_positions, _sequences, _threads, _cursors, _totals):
        yield from check(connection)
    yield from _runs(connection, sample)


def _is_ours(name: str | None, kind: str, parents: Any) -> bool:
    return kind != "table" or name in metadata.tables or name in server_metadata.tables


def _described(difference: Any) -> str:
    if isinstance(difference, list):  # changes of one column
        return ", ".join(map(_described, difference))
    kind, *things = difference
    return " ".join(
        [kind.replace("_", " "), *(getattr(thing, "name", None) or str(thing) for thing in things if thing is not None)]
    )


def _positions(connection: Connection) -> Iterator[Finding]:
    last = connection.scalar(select(counters.c.value).where(counters.c.name == POSITION))
    if last is None:
        yield Finding("counters", "the counter of positions is missing")
        return
    first, newest = connection.execute(select(func.min(events.c.position), func.max(events.c.position))).one()
    if first is not None and first < 1:
        yield Finding("events", f"there is a position {first}; they begin with 1")
    # The counter may be greater: retention removes events, and positions are never given again.
    if newest is not None and newest > last:
        yield Finding("counters", f"the last position given is {last}, and an event has {newest}")


def _sequences(connection: Connection) -> Iterator[Finding]:
    counted = (
        select(events.c.run_id, func.count().label("count"), func.max(events.c.sequence).label("last"))
        .group_by(events.c.run_id)
        .subquery()
    )
    have_gaps = select(counted.c.run_id).where(counted.c.count != counted.c.last)
    yield from _each(connection, have_gaps, "events", "have a gap in the sequence of their events")
    beginnings = exists().where(events.c.run_id == runs.c.run_id, events.c.sequence == 1)
    none = select(runs.c.run_id).where(runs.c.last_sequence > 0, ~beginnings)
    yield from _each(connection, none, "runs", "have a row that says that they have events, and have none")


def _threads(connection: Connection) -> Iterator[Finding]:
    its_last = exists().where(runs.c.run_id == threads.c.last_run_id)
    lost = select(threads.c.thread_id).where(threads.c.last_run_id.is_not(None), ~its_last)
    yield from _each(connection, lost, "threads", "name a last run that is not there", noun="thread")
    busy = select(threads.c.thread_id).where(is_left_busy())
    what = "are busy with no run; unless one is just about to follow, the next run on them puts that right"
    yield from _each(connection, busy, "threads", what, noun="thread")


def _cursors(connection: Connection) -> Iterator[Finding]:
    last = select(counters.c.value).where(counters.c.name == POSITION).scalar_subquery()
    beyond = select(subscriptions.c.name).where(or_(subscriptions.c.cursor > last, subscriptions.c.cursor < 0))
    yield from _each(connection, beyond, "subscriptions", "have a cursor outside of the log", noun="subscription")


def _each(connection: Connection, query: Select[Any], where: str, what: str, *, noun: str = "run") -> Iterator[Finding]:
    """One finding about everything that the query gives; it names the first few."""
    found = connection.execute(query).scalars().all()
    if found:
        named = ", ".join([*found[:_NAMED], *("…" for _ in found[_NAMED : _NAMED + 1])])
        yield Finding(where, f"{len(found)} {noun}{'s' if len(found) > 1 else ''} ({named}) {what}")


def _totals(connection: Connection) -> Iterator[Finding]:
    counted = _recount(connection)
    for table, rows in (
        (run_totals, counted.run_rows()),
        (duration_totals, counted.duration_rows()),
        (usage_totals, counted.usage_rows()),
    ):
        stored = {tuple(row) for row in connection.execute(select(table).where(table.c.runs != 0))}
        differing = stored ^ set(map(tuple, rows))
        if differing:
            keys = {row[: len(table.primary_key)] for row in differing}
            yield Finding(table.name, f"{len(keys)} sums are not what the runs come to")


_USED: Final = (
    runs.c.total_input_tokens,
    runs.c.total_output_tokens,
    runs.c.llm_call_count,
    runs.c.tool_call_count,
    runs.c.message_count,
)
_TOKENS: Final = (usage.c.input_tokens, usage.c.output_tokens, usage.c.cache_read_tokens, usage.c.reasoning_tokens)
_PLACE: Final = (type_coerce(runs.c.created_at, Text), runs.c.agent, runs.c.status)


def _recount(connection: Connection) -> Totals:
    totals = Totals()
    has_ended = runs.c.ended_at.is_not(None)
    query = select(*_PLACE, runs.c.cost_usd, runs.c.duration_seconds, *_USED).where(has_ended)
    for created_at, agent, status, cost_usd, duration, *used in _stream(connection, query):
        place = (minute_of(created_at), agent or NO_AGENT, status)
        totals.count(place, 1, used, cost_usd=cost_usd, duration=duration)
    query = select(*_PLACE, usage.c.kind, usage.c.name, *_TOKENS, usage.c.cost_usd).join_from(usage, runs)
    for created_at, agent, status, *row in _stream(connection, query):
        kind, name, inputs, outputs, cached, reasoning, cost_usd = row
        place = (minute_of(created_at), agent or NO_AGENT, status)
        totals.count_usage(place, (kind, name, inputs, outputs, cached, reasoning, cost_usd), 1)
    return totals


def _stream(connection: Connection, query: Executable) -> Iterable[Any]:
    return connection.execute(query, execution_options={"yield_per": 1_000})


def _as_stored(columns: Iterable[Column[Any]]) -> list[ColumnElement[Any]]:
    """The columns with times and JSON as text."""
    return [
        type_coerce(column, Text).label(column.name) if isinstance(column.type, UtcTime | JsonText) else column
        for column in columns
    ]


def _runs(connection: Connection, sample: int | None) -> Iterator[Finding]:
    """Whether the rows of runs are the folds of their events (I6), and events are where they belong (I1, I3)."""
    query = select(*_as_stored(RUN_COLUMNS)).order_by(runs.c.created_at.desc(), runs.c.run_id.desc())
    if sample is not None:
        query = query.limit(sample)
    found = 0
    for page in batched(_stream(connection, query), _PAGE):
        histories = _histories(connection, [run.run_id for run in page])
        used = _usage_of(connection, [run.run_id for run in page])
        for run in page:
            why = _wrong_with(run, histories.get(run.run_id, ()), used[run.run_id])
            if why is not None:
                found += 1
                yield Finding("runs", f"run {run.run_id} {why}")
            if found == _MOST_RUNS:
                yield Finding("runs", "there may be more like these")
                return


def _histories(connection: Connection, run_ids: Sequence[str]) -> dict[str, list[Row[Any]]]:
    query = select(*_as_stored(events.c)).where(events.c.run_id.in_(run_ids))
    rows = connection.execute(query.order_by(events.c.run_id, events.c.sequence))
    return {run_id: [*group] for run_id, group in groupby(rows, lambda row: row.run_id)}


def _event_row(row: Row[Any]) -> EventRow:
    """The event in a row.

    Raises:
        ValueError: the row has none.
    """
    payload = json_of(row.payload)
    if not isinstance(payload, dict):
        raise UndecodableError(f"{row.payload!r:.60} is not an object")
    event = RunLifecycleEvent(
        row.event_id,
        LifecycleEventType(row.event_type),
        row.run_id,
        row.thread_id,
        row.sequence,
        time_of(row.occurred_at),
        payload,
    )
    return EventRow(event, row.occurred_at, row.payload, row.position)


def _usage_of(connection: Connection, run_ids: Sequence[str]) -> dict[str, set[tuple[Any, ...]]]:
    used: dict[str, set[tuple[Any, ...]]] = {run_id: set() for run_id in run_ids}
    query = select(usage.c.run_id, usage.c.kind, usage.c.name, *_TOKENS, usage.c.cost_usd)
    for run_id, *row in connection.execute(query.where(usage.c.run_id.in_(run_ids))):
        used[run_id].add(tuple(row))
    return used


def _wrong_with(stored: Row[Any], history: Sequence[Row[Any]], used: set[tuple[Any, ...]]) -> str | None:
    """What is wrong with a run; None if nothing is."""
    run = RunRow(fold=RunFold(stored.run_id), thread_id=stored.thread_id)
    position = 0
    for found in history:
        try:
            row = _event_row(found)
        except ValueError as exc:
            return f"has an event at position {found.position} that is damaged: {exc}"
        if row.event.thread_id != run.thread_id:
            return f"has an event at position {row.position} of thread {row.event.thread_id}"
        if row.position <= position:
            return f"has its events in another order than their positions, at {row.position}"
        position = row.position
        try:
            fold = run.fold.apply(row.event.event_type, row.event.sequence, row.event.payload)
        except EventOrderError as exc:
            return f"has an event at position {row.position} that does not follow: {exc.details['why']}"
        run.take(row, fold)
    expected = _expected(run)
    wrong = [name for name, value in expected.items() if getattr(stored, name) != value]
    if run.end is not None and set(run.end.usage) != used:
        wrong.append("usage")
    return f"has a row that its events do not tell: {', '.join(wrong)}" if wrong else None


def _expected(run: RunRow) -> dict[str, Any]:
    """What the row of a run has to say, as far as that follows from its events alone."""
    expected: dict[str, Any] = {
        "status": run.fold.status.value,
        "last_sequence": run.fold.sequence,
        "started_at": run.started_at,
    }
    end = run.end
    if end is None:
        return {**expected, **dict.fromkeys(("ended_at", "error", "completion_data", "duration_seconds", "cost_usd"))}
    return {**expected, **{name: value for name, value in asdict(end).items() if name not in _NOT_ALONE}}
