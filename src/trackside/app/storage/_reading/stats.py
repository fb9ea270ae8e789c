"""Totals over runs: how many, how they ended, how long they took, what they used and cost; in all, or in buckets of time.

They come from the sums that are kept with the runs (`totals`): whole days, hours and minutes are taken from there, and
the runs in the partial minutes at both ends are added one by one, so counts and sums are exact. Percentiles of up to
`FEW_RUNS` runs are exact too; those of more are derived from the bins of durations. Runs of one thread are added up one
by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, Table, Text, cast, func, literal_column, select

from trackside.app.storage._reading.owner_stats import read_owner_sums
from trackside.app.storage._rows.arguments import AnyOf, interval, members, plain_or_none, time
from trackside.app.storage._rows.conditions import Conditions, are_of, within
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._rows.records import Stats, TimeBucket
from trackside.app.storage._rows.sums import TOKENS, USED, Sums
from trackside.app.storage._rows.tables import duration_totals, run_totals, runs, usage, usage_totals
from trackside.app.storage._rows.totals import MINUTE, NO_AGENT, PERIODS, bin_of, minute_of, priced
from trackside.app.storage.errors import InvalidQueryError
from trackside.harness.lifecycle import is_final
from trackside.harness.types import RunStatus

FEW_RUNS = 2_000
"""Percentiles are exact for up to this many runs."""

MOST_BUCKETS = 1_000
"""At most this many buckets of time are given at once."""

_ENDED = [status.value for status in RunStatus if is_final(status)]
_OPEN = [status.value for status in RunStatus if not is_final(status)]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE, _HOUR = timedelta(minutes=1), timedelta(hours=1)
_LAST_MINUTE = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MINUTE
_NUMBERS = msgspec.json.Decoder(list[int])


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Runs of an agent (None: of all), with one of these statuses, of a thread (None: all), created in [since, until)."""

    agent: str | None
    statuses: Sequence[str]
    thread_id: str | None
    since: datetime | None
    until: datetime | None

    def rows(self, statuses: Iterable[str], edge: _Edge | None = None) -> Conditions:
        """The conditions for the chosen runs with one of these statuses, only those within `edge` if it is given."""
        since, until = edge or (self.since, self.until)
        # Always names a status: the indexes by status and by agent have it before the time.
        wanted = [status for status in statuses if status in self.statuses]
        return are_of(wanted, self.agent, self.thread_id) + within(runs.c.created_at, since, until)

    def sums(self, table: Table, span: _Span) -> Conditions:
        """The conditions for the rows of sums over these runs in a span."""
        conditions: Conditions = [table.c.seconds == span.seconds, table.c.status.in_(self.statuses)]
        if self.agent is not None:
            conditions.append(table.c.agent == self.agent)
        if span.first is not None:
            conditions.append(table.c.start >= span.first)
        if span.behind is not None:
            conditions.append(table.c.start < span.behind)
        return conditions


class _Span(NamedTuple):
    """Periods of so many `seconds`, from `first` to before `behind`; None: unbounded on that side."""

    seconds: int
    first: int | None
    behind: int | None


class _Edge(NamedTuple):
    """A time that is not a whole minute; if `until` is None, it goes to the end of the calendar."""

    since: datetime
    until: datetime | None


def chosen_runs(
    *,
    since: datetime | None,
    until: datetime | None,
    agent: str | None,
    thread_id: str | None,
    status: AnyOf[RunStatus] | None,
) -> Chosen:
    """The runs that totals are asked for.

    Raises:
        InvalidQueryError: an argument does not fit.
    """
    since, until = interval(since, until)
    statuses = [*RunStatus] if status is None else members(RunStatus, "status", status)
    return Chosen(
        agent=plain_or_none("agent", agent),
        statuses=[status.value for status in statuses],
        thread_id=plain_or_none("thread_id", thread_id),
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
    """The runs that totals in buckets are asked for: those of all buckets that overlap this time.

    Raises:
        InvalidQueryError: an argument does not fit.
    """
    if not _is_width(width):
        why = "it is a timedelta of whole hours, or of whole minutes of which an hour is a multiple"
        raise InvalidQueryError(field="width", value=width, why=why)
    begin, end = time("since", since), time("until", until)
    chosen = chosen_runs(since=begin, until=end, agent=agent, thread_id=None, status=status)
    if begin < _EPOCH:
        raise InvalidQueryError(field="since", value=since, why="buckets begin in 1970")
    first, behind = (begin - _EPOCH) // width, -((_EPOCH - end) // width)
    if behind - first > MOST_BUCKETS:
        why = f"it divides the time into {behind - first} buckets, and {MOST_BUCKETS} are the most"
        raise InvalidQueryError(field="width", value=width, why=why)
    try:
        return replace(chosen, since=_EPOCH + first * width, until=_EPOCH + behind * width)
    except OverflowError:
        raise InvalidQueryError(field="until", value=until, why="the last bucket ends behind the year 9999") from None


def _is_width(width: Any) -> bool:
    """Whether an hour is a whole number of buckets of this width, or a bucket a whole number of hours."""
    if not isinstance(width, timedelta) or width < _MINUTE or width % _MINUTE:
        return False
    return not (width % _HOUR and _HOUR % width)


def read_stats(connection: Connection, chosen: Chosen, owner: str | None = None) -> Stats:
    """Totals of the chosen runs; with an `owner`, only of that owner's.

    Raises:
        TooManyRunsError: an owner has more of them than are added up one by one.
    """
    if owner is not None and chosen.thread_id is None:
        return Stats(**_fields(_owned(connection, chosen, owner, None)[0]))
    return Stats(**_fields(_added_up(connection, chosen)[0]))


def read_timeline(
    connection: Connection, chosen: Chosen, width: timedelta, owner: str | None = None
) -> list[TimeBucket]:
    """Totals of the chosen runs (with an `owner`, only of that owner's) by creation time, in whole buckets.

    Raises:
        TooManyRunsError: an owner has more of them than are added up one by one.
    """
    assert chosen.since is not None
    assert chosen.until is not None
    minutes = width // _MINUTE
    sums = _added_up(connection, chosen, minutes) if owner is None else _owned(connection, chosen, owner, minutes)
    first, behind = ((when - _EPOCH) // width for when in (chosen.since, chosen.until))
    return [
        TimeBucket(start=_EPOCH + bucket * width, width=width, **_fields(sums[bucket]))
        for bucket in range(first, behind)
    ]


def _added_up(connection: Connection, chosen: Chosen, minutes: int | None = None) -> dict[int, Sums]:
    reader = _Reader(connection, chosen, minutes)
    if chosen.thread_id is not None or chosen.agent == NO_AGENT:  # an agent without a name counts as none
        reader.add_runs(chosen.rows(RunStatus))
        reader.add_durations(chosen.rows(_ENDED))
    else:
        reader.add_all()
    return reader.sums


def _owned(connection: Connection, chosen: Chosen, owner: str, minutes: int | None) -> dict[int, Sums]:
    found = read_owner_sums(
        connection,
        owner,
        since=chosen.since,
        until=chosen.until,
        agent=chosen.agent,
        statuses=[*chosen.statuses],
        minutes=minutes,
    )
    return defaultdict(Sums, found)


def _fields(sums: Sums) -> dict[str, Any]:
    return {
        "total": sums.total(),
        "by_agent": sums.by_agent(),
        "by_model": sums.by_name("model"),
        "by_caller": sums.by_name("caller"),
    }


class _Reader:
    """Adds up the chosen runs in buckets of so many `minutes`; None: all in one bucket, number 0."""

    def __init__(self, connection: Connection, chosen: Chosen, minutes: int | None = None) -> None:
        self._connection = connection
        self._chosen = chosen
        self._minutes = minutes
        self.sums: dict[int, Sums] = defaultdict(Sums)

    def add_all(self) -> None:
        """Add everything, from the sums as far as they go."""
        periods = [seconds for seconds in PERIODS if self._minutes is None or self._minutes * MINUTE % seconds == 0]
        spans, edges = divide(self._chosen.since, self._chosen.until, periods)
        for span in spans:
            self._add_sums(span)
        for edge in edges:
            self.add_runs(self._chosen.rows(_ENDED, edge))
        self.add_runs(self._chosen.rows(_OPEN))
        if sum(sums.count for sums in self.sums.values()) <= FEW_RUNS:
            self.add_durations(self._chosen.rows(_ENDED))
            return
        for span in spans:
            self._add_bins(span)
        for edge in edges:
            for agent, created_at, duration in self._durations(self._chosen.rows(_ENDED, edge)):
                self._sums_at(created_at).add_bins(agent or NO_AGENT, [bin_of(duration)], [1])

    def add_runs(self, conditions: Conditions) -> None:
        """Add runs one by one, except for their durations."""
        used = [runs.c[name] for name in USED]
        facts = (runs.c.run_id, runs.c.created_at, runs.c.agent, runs.c.status, runs.c.cost_usd)
        sums_of: dict[str, Sums] = {}
        for row in map(tuple, self._connection.execute(select(*facts, *used).where(*conditions))):
            run_id, created_at, agent, status, cost_usd, *amounts = row
            sums = sums_of[run_id] = self._sums_at(created_at)
            sums.add_runs(agent or NO_AGENT, status, [1, *amounts, *priced(cost_usd)])
        tokens = [usage.c[name] for name in TOKENS]
        # Not a join: for one, SQLite would read the usage of all runs.
        of_them = usage.c.run_id.in_(select(runs.c.run_id).where(*conditions))
        used_by = select(usage.c.run_id, usage.c.kind, usage.c.name, usage.c.cost_usd, *tokens).where(of_them)
        for run_id, kind, name, cost_usd, *amounts in map(tuple, self._connection.execute(used_by)):
            sums_of[run_id].add_usage(kind, name, [1, *amounts, *priced(cost_usd)])

    def add_durations(self, conditions: Conditions) -> None:
        """Add durations one by one."""
        for agent, created_at, duration in self._durations(conditions):
            self._sums_at(created_at).durations[agent or NO_AGENT].append(duration)

    def _durations(self, conditions: Conditions) -> Iterator[Sequence[Any]]:
        query = select(runs.c.agent, runs.c.created_at, runs.c.duration_seconds)
        yield from self._connection.execute(query.where(*conditions, runs.c.duration_seconds.is_not(None)))

    def _sums_at(self, created_at: datetime) -> Sums:
        return self.sums[0 if self._minutes is None else minute_of(time_text(created_at)) // self._minutes]

    def _add_sums(self, span: _Span) -> None:
        for bucket, agent, status, *amounts in self._grouped(run_totals, span, ["agent", "status"]):
            self.sums[bucket].add_runs(agent, status, amounts)
        for bucket, kind, name, *amounts in self._grouped(usage_totals, span, ["kind", "name"]):
            self.sums[bucket].add_usage(kind, name, amounts)

    def _add_bins(self, span: _Span) -> None:
        # In lists: a group has hundreds of bins, and a row for each would cost more than everything else. By the stored
        # periods: the rows are in that order, and sorting them for longer ones takes as long as reading them.
        table = duration_totals
        lists = [func.aggregate_strings(cast(column, Text), ",") for column in (table.c.bin, table.c.runs)]
        query = select(table.c.start, table.c.agent, *lists).where(*self._chosen.sums(table, span))
        for row in self._connection.execute(query.group_by(table.c.start, table.c.agent)):
            start, agent, *texts = tuple(row)
            bucket = 0 if self._minutes is None else start // (self._minutes * MINUTE // span.seconds)
            bins, counts = (_NUMBERS.decode(f"[{text}]") for text in texts)
            self.sums[bucket].add_bins(agent, bins, counts)

    def _bucket(self, table: Table, span: _Span) -> tuple[ColumnElement[int], list[ColumnElement[int]]]:
        """The bucket number of a row of sums, and what to group by to get it."""
        if self._minutes is None:
            return literal_column("0"), []
        # As a literal: to PostgreSQL, two parameters are two expressions.
        bucket = table.c.start // literal_column(str(self._minutes * MINUTE // span.seconds))
        return bucket, [bucket]

    def _grouped(self, table: Table, span: _Span, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """The sums in a table by bucket and group. The first of the amounts is how many runs there are, never 0."""
        keys = [table.c[name] for name in names]
        amounts = [func.sum(column) for column in table.c if column.name not in table.primary_key.columns]
        bucket, groups = self._bucket(table, span)
        query = select(bucket, *keys, *amounts).where(*self._chosen.sums(table, span)).group_by(*groups, *keys)
        for number, *rest in self._connection.execute(query.having(func.sum(table.c.runs) != 0)):
            yield number, *rest[: len(keys)], *map(int, rest[len(keys) :])  # PostgreSQL gives sums as decimals


def divide(
    since: datetime | None, until: datetime | None, periods: Sequence[int] = PERIODS
) -> tuple[list[_Span], list[_Edge]]:
    """Divide a time into whole periods, as long as possible, and the partial minutes left at its ends."""
    first = None if since is None else -((_EPOCH - since) // _MINUTE)
    behind = None if until is None else (until - _EPOCH) // _MINUTE
    if since is not None and first is not None and first > (_LAST_MINUTE if behind is None else behind):
        return [], [_Edge(since, until)]
    edges: list[_Edge] = []
    if since is not None and first is not None and since < (begin := _EPOCH + first * _MINUTE):
        edges.append(_Edge(since, begin))
    if until is not None and behind is not None and (end := _EPOCH + behind * _MINUTE) < until:
        edges.append(_Edge(end, until))
    return [*_spans(first, behind, sorted(periods, reverse=True))], edges


def _spans(first: int | None, behind: int | None, periods: Sequence[int]) -> Iterator[_Span]:
    """The minutes from `first` to before `behind`, in periods of the given lengths (the longest is given first)."""
    if not periods or (first is not None and first == behind):
        return
    seconds, *shorter = periods
    minutes = seconds // MINUTE
    begin = None if first is None else -(-first // minutes)
    end = None if behind is None else behind // minutes
    if begin is not None and end is not None and begin >= end:
        yield from _spans(first, behind, shorter)
        return
    if first is not None and begin is not None:
        yield from _spans(first, begin * minutes, shorter)
    yield _Span(seconds, begin, end)
    if behind is not None and end is not None:
        yield from _spans(end * minutes, behind, shorter)
