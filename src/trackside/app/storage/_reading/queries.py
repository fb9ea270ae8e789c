"""What can be looked up: events of the log, and single records; each `…_of` makes a record of its row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from sqlalchemy import Column, ColumnElement, Connection, Row, Select, func, literal_column, select, union_all

from trackside.app.storage._databases.growth import log_end
from trackside.app.storage._reading.run_records import RUNS
from trackside.app.storage._rows.arguments import AnyOf, flag, limit_of, members, plain, plain_or_none, position, time
from trackside.app.storage._rows.conditions import (
    are_few,
    are_of,
    are_owned_by,
    has_status,
    is_owned,
    there_is,
    unindexed,
)
from trackside.app.storage._rows.records import StoredEvent
from trackside.app.storage._rows.tables import (
    EVENTS_AT_A_TIME,
    RARE_EVENTS,
    event_times,
    events,
    idempotency_keys,
    runs,
    thread_states,
    threads,
)
from trackside.app.storage.errors import InvalidQueryError
from trackside.harness.lifecycle import STATUSES_OF_EVENT, is_terminal
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType, RunStatus

FEW_RUNS = 250
"""Looking up and sorting the events of this many runs takes about two milliseconds."""

# Worded as in the index, so that the database sees that the index has all that is asked for.
_is_rare = events.c.event_type.in_([literal_column(f"'{kind}'") for kind in sorted(RARE_EVENTS)])


@dataclass(frozen=True, slots=True, kw_only=True)
class EventListing:
    """Some of the events, in order of position, up or down.

    The log is read in its order until there are enough; rare types have an index of their own. Events of some runs are
    searched for in stretches of the log that get longer: where only a few matching runs can have events in a stretch,
    their events are fetched and sorted; otherwise the run of each event is looked at.
    """

    after: int
    before: int | None
    newest_first: bool
    run_id: str | None
    thread_id: str | None
    agent: str | None
    statuses: Sequence[RunStatus] | None
    types: Sequence[LifecycleEventType] | None
    since: datetime | None
    owner: str | None
    limit: int

    @classmethod
    def of(
        cls,
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
        owner: str | None,
        limit: int,
    ) -> Self:
        """Check what was asked for.

        Raises:
            InvalidQueryError: an argument does not fit.
        """
        return cls(
            after=position("after", after),
            before=None if before is None else position("before", before),
            newest_first=flag("newest_first", newest_first),
            run_id=plain_or_none("run_id", run_id),
            thread_id=plain_or_none("thread_id", thread_id),
            agent=plain_or_none("agent", agent),
            statuses=None if status is None else members(RunStatus, "status", status),
            types=None if types is None else members(LifecycleEventType, "types", types),
            since=None if since is None else time("since", since),
            owner=plain_or_none("owner", owner),
            limit=limit_of(limit),
        )

    def read(self, connection: Connection) -> list[StoredEvent]:
        """The events.

        Raises:
            InvalidQueryError: `after` is beyond the end of the log.
        """
        if self.types == [] or self.statuses == []:
            return []
        begin = self._begin(connection)
        if begin is None:
            return []
        if self.run_id is not None or not self._of_run():
            listed = self._fetch(connection, self._looking_at_each(begin, self.before), self.limit)
        else:
            listed = self._of_some_runs(connection, begin)
        if not listed and self.after > 0:
            self._check_end(connection)
        return listed

    def _begin(self, connection: Connection) -> int | None:
        """The position after which matching events can be; None if there can be none."""
        return self.after if self.since is None else begin_since(connection, self.since, self.after)

    def _of_some_runs(self, connection: Connection, begin: int) -> list[StoredEvent]:
        of_runs = self._of_run()
        of_owner = [] if self.owner is None or self.thread_id is not None else [are_owned_by(self.owner)]
        if are_few(connection, self._of_thread() or of_owner or of_runs, FEW_RUNS):
            few = [*of_owner, *self._indexless()] if of_owner else of_runs
            return self._fetch(connection, self._of_few_runs(begin, self.before, few), self.limit)
        end = log_end(connection) + 1
        listed: list[StoredEvent] = []
        for stretch in _stretches(
            begin + 1, end if self.before is None else min(end, self.before), newest_first=self.newest_first
        ):
            in_stretch = [*of_runs, *_with_events_in(stretch)]
            if are_few(connection, in_stretch, FEW_RUNS):
                found = self._of_few_runs(stretch.start - 1, stretch.stop, in_stretch)
            else:
                found = self._looking_at_each(stretch.start - 1, stretch.stop)
            listed += self._fetch(connection, found, self.limit - len(listed))
            if len(listed) == self.limit:
                break
        return listed

    def _of_few_runs(self, after: int, before: int | None, of_runs: Sequence[ColumnElement[bool]]) -> Select[Any]:
        # Not the column itself, by which the database would go through the log.
        place = events.c.position + 0
        of_these = events.c.run_id.in_(select(runs.c.run_id).where(*of_runs))
        return self._keys([*_between(place, after, before), *self._of_event(), of_these])

    def _looking_at_each(self, after: int, before: int | None) -> Select[Any]:
        conditions = [*_between(events.c.position, after, before), *self._of_event()]
        if self.run_id is not None:
            conditions.append(events.c.run_id == self.run_id)
        if self.thread_id is not None:
            conditions.append(events.c.thread_id == self.thread_id)
        if of_run := are_of(self.statuses, self.agent):
            conditions.append(there_is(runs.c.run_id == events.c.run_id, *of_run))
        if self.owner is not None:
            conditions.append(is_owned(self.owner, events.c.thread_id))
        return self._positions(conditions)

    def _positions(self, conditions: Sequence[ColumnElement[bool]]) -> Select[Any]:
        if self.run_id is not None or self.types is None or not RARE_EVENTS.issuperset(self.types):
            return self._keys(conditions)
        parts = [self._keys([*conditions, _is_rare, events.c.event_type == kind.value]) for kind in self.types]
        every = union_all(*(select(part.subquery()) for part in parts)).subquery()
        return self._in_order(select(every).limit(self.limit), every.c.position)

    def _keys(self, conditions: Sequence[ColumnElement[bool]]) -> Select[Any]:
        return self._in_order(select(events.c.position).where(*conditions).limit(self.limit), events.c.position)

    def _fetch(self, connection: Connection, positions: Select[Any], limit: int) -> list[StoredEvent]:
        found = positions.subquery()
        query = select(events).where(events.c.position.in_(select(found.c.position))).limit(limit)
        return [event_of(row) for row in connection.execute(self._in_order(query, events.c.position))]

    def _in_order(self, query: Select[Any], position: ColumnElement[int]) -> Select[Any]:
        return query.order_by(position.desc() if self.newest_first else position)

    def _of_event(self) -> list[ColumnElement[bool]]:
        conditions: list[ColumnElement[bool]] = []
        if self.types is not None:
            conditions.append(events.c.event_type.in_([kind.value for kind in self.types]))
        if self.since is not None:
            conditions.append(events.c.occurred_at >= self.since)
        return conditions

    def _of_run(self) -> list[ColumnElement[bool]]:
        """The conditions for the runs, in a form that finds them by time; if only ends are wanted, also by status."""
        if self.agent is None and self.statuses is None and self.owner is None:
            return self._of_thread()
        owned = [] if self.owner is None else [is_owned(self.owner, runs.c.thread_id)]
        statuses = self.statuses
        if statuses is None and self.types and all(map(is_terminal, self.types)):
            statuses = [status for kind in self.types for status in STATUSES_OF_EVENT[kind]]
        if self.thread_id is None:
            return [*are_of(statuses or [*RunStatus], self.agent), *owned]
        conditions = [*self._of_thread(), *owned]
        if self.agent is not None:
            conditions.append(unindexed(runs.c.agent) == self.agent)
        if statuses is not None:
            conditions.append(has_status(statuses, runs))
        return conditions

    def _indexless(self) -> list[ColumnElement[bool]]:
        """The other conditions for runs that are found through an owner's threads."""
        conditions: list[ColumnElement[bool]] = []
        if self.agent is not None:
            conditions.append(unindexed(runs.c.agent) == self.agent)
        if self.statuses is not None:
            conditions.append(unindexed(runs.c.status).in_([status.value for status in self.statuses]))
        return conditions

    def _of_thread(self) -> list[ColumnElement[bool]]:
        return [] if self.thread_id is None else [runs.c.thread_id == self.thread_id]

    def _check_end(self, connection: Connection) -> None:
        end = log_end(connection)
        if self.after > end:
            why = f"the log ends at {end}: it is the position in another log, or in this one before it was put back"
            raise InvalidQueryError(field="after", value=self.after, why=why)


def begin_since(connection: Connection, since: datetime, after: int) -> int | None:
    """The position, `after` or a later one, after which events from `since` on can be; None if there are none."""
    part = event_times.c.part
    first = connection.execute(select(part).where(event_times.c.latest >= since).order_by(part).limit(1)).scalar()
    return None if first is None else max(after, first * EVENTS_AT_A_TIME - 1)


def _stretches(begin: int, end: int, *, newest_first: bool) -> Iterator[range]:
    """The positions from `begin` to before `end` in stretches of 1, 4, 16 … parts of the log, from either end on."""
    first, behind = begin // EVENTS_AT_A_TIME, -(-end // EVENTS_AT_A_TIME)
    parts = 1
    while first < behind:
        if newest_first:
            start, stop = max(first, behind - parts), behind
            behind = start
        else:
            start, stop = first, min(first + parts, behind)
            first = stop
        yield range(max(begin, start * EVENTS_AT_A_TIME), min(end, stop * EVENTS_AT_A_TIME))
        parts *= 4


def _with_events_in(stretch: range) -> list[ColumnElement[bool]]:
    """Conditions that hold for all runs with events in this stretch, and for few others."""
    first, last = stretch.start // EVENTS_AT_A_TIME, (stretch.stop - 1) // EVENTS_AT_A_TIME
    of_stretch = event_times.c.part.between(first, last)
    oldest = select(func.min(event_times.c.oldest_run)).where(of_stretch).scalar_subquery()
    newest = select(func.max(event_times.c.newest_run)).where(of_stretch).scalar_subquery()
    return [runs.c.created_at >= oldest, runs.c.created_at <= newest]


def _between(place: ColumnElement[int], after: int, before: int | None) -> list[ColumnElement[bool]]:
    return [place > after] if before is None else [place > after, place < before]


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


def runs_that_fit(
    *,
    status: AnyOf[RunStatus] | None = None,
    agent: str | None = None,
    thread_id: str | None = None,
) -> list[ColumnElement[bool]]:
    """The conditions for the rows of these runs; those of a thread are searched for among its runs.

    Raises:
        InvalidQueryError: an argument does not fit.
    """
    statuses = None if status is None else members(RunStatus, "status", status)
    return are_of(statuses, plain_or_none("agent", agent), plain_or_none("thread_id", thread_id))


def one_run(run_id: str, *, owner: str | None = None, removed: bool = True) -> Select[Any]:
    """One run, if its thread is this owner's; with `removed` also if it, or its thread, was removed."""
    query = RUNS.where(_is(runs.c.run_id, run_id))
    if owner is None and removed:
        return query
    thread = [threads.c.thread_id == runs.c.thread_id]
    if owner is not None:
        thread.append(_is(threads.c.owner, owner))
    if not removed:
        thread.append(threads.c.removed_at.is_(None))
        query = query.where(runs.c.removed_at.is_(None))
    return query.where(there_is(*thread))


def request_of_run(run_id: str) -> Select[Any]:
    """What was asked for when a run was started."""
    return select(runs.c.request).where(_is(runs.c.run_id, run_id))


def asked_since(run_id: str) -> Select[Any]:
    """The last run on a run's thread that has asked something, of those let in with it or later, even if deleted."""
    others = runs.alias("others")
    on_its_thread = (others.c.thread_id == runs.c.thread_id) & (others.c.created_at >= runs.c.created_at)
    asked = select(others.c.run_id).join_from(runs, others, on_its_thread).where(_is(runs.c.run_id, run_id))
    has_asked = others.c.status == RunStatus.interrupted
    return asked.where(has_asked).order_by(others.c.created_at.desc()).limit(1)


def run_of_key(key: str) -> Select[Any]:
    """The run that a caller's idempotency key names."""
    return select(idempotency_keys.c.run_id).where(idempotency_keys.c.key == key)


def retries_of_run(run_id: str) -> Select[Any]:
    """The ids of the runs that are further attempts of one run, oldest first."""
    return select(runs.c.run_id).where(_is(runs.c.retry_of, run_id)).order_by(runs.c.created_at, runs.c.run_id)


def agents_of(connection: Connection, run_ids: Sequence[str]) -> dict[str, str | None]:
    """The agents of runs, by their ids."""
    rows = connection.execute(select(runs.c.run_id, runs.c.agent).where(runs.c.run_id.in_(run_ids)))
    return {row.run_id: row.agent for row in rows}


def owners_of(connection: Connection, run_ids: Sequence[str]) -> dict[str, str | None]:
    """The owners of runs, by their ids: those of their threads."""
    owned = select(runs.c.run_id, threads.c.owner).join(threads, threads.c.thread_id == runs.c.thread_id)
    return {row.run_id: row.owner for row in connection.execute(owned.where(runs.c.run_id.in_(run_ids)))}


def events_of_run(run_id: str) -> Select[Any]:
    """All events of one run."""
    return select(events).where(_is(events.c.run_id, run_id)).order_by(events.c.sequence)


def one_thread(thread_id: str, *, owner: str | None = None, removed: bool = True) -> Select[Any]:
    """One thread, if it is this owner's; with `removed` also if it was removed."""
    query = select(threads).where(_is(threads.c.thread_id, thread_id))
    if owner is not None:
        query = query.where(_is(threads.c.owner, owner))
    return query if removed else query.where(threads.c.removed_at.is_(None))


def one_thread_state(thread_id: str) -> Select[Any]:
    """What one thread remembers."""
    return select(thread_states).where(_is(thread_states.c.thread_id, thread_id))


def _is(column: Column[Any], text: Any) -> ColumnElement[bool]:
    return column == plain(column.name, text)
