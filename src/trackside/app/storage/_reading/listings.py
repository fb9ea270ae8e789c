"""Runs and threads in pages, newest first, however many there are: a page begins at a place, and no rows are counted off.

Indexes end with time and id, so whichever one finds the records finds them in the order of the listing, and is read
no further than a page needs. There is no index for the time alone: a page of all runs, or of all threads, is merged
from one page for each status, which costs writers nothing. Of several filters, one that few records match leads, and
the others are checked; a glance at the indexes tells which one that is. What it finds is sorted only if it is few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Self

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    Select,
    literal,
    select,
    tuple_,
    union_all,
)

from trackside.app.storage._reading.run_records import RUNS
from trackside.app.storage._rows.arguments import (
    AnyOf,
    Place,
    flag,
    interval,
    labels,
    limit_of,
    members,
    place,
    plain_or_none,
)
from trackside.app.storage._rows.conditions import (
    Conditions,
    are_few,
    are_newest_of_waiting,
    are_owned_by,
    begins,
    count_up_to,
    has_status,
    is_labelled,
    is_newest_of_waiting,
    is_owned,
    there_is,
    unindexed,
    waits_for_human,
    within,
)
from trackside.app.storage._rows.fold import Label
from trackside.app.storage._rows.records import StoredRun, StoredThread
from trackside.app.storage._rows.tables import run_labels, runs, threads
from trackside.app.storage.errors import InvalidQueryError
from trackside.harness.types import RunStatus, ThreadStatus

FEW = 2_000
"""Looking up and sorting this many records takes some milliseconds."""

MANY = 4_000
"""A hundred pages of an index have this many entries. If each filter matches more, any of them may lead."""

_A_LOOK_UP = 8
"""How much longer it takes to look a run up in another index than to go on to the next one of a thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A part of a listing: the newest records, those after (newer than) a place, or those before (older than) one."""

    after: Place | None
    before: Place | None
    limit: int

    @classmethod
    def of(cls, *, after: str | None, before: str | None, limit: int) -> Self:
        """Check what was asked for.

        Raises:
            InvalidQueryError: an argument does not fit.
        """
        if after is not None and before is not None:
            raise InvalidQueryError(field="after", value=after, why="a page is after a cursor or before one: give one")
        return cls(
            after=None if after is None else place("after", after),
            before=None if before is None else place("before", before),
            limit=limit_of(limit),
        )

    def keys(self, conditions: Iterable[ColumnElement[bool]], when: Column[Any], id_: Column[Any]) -> Select[Any]:
        """The times and ids of its records."""
        query = select(when.label("time"), id_.label("id")).where(*conditions).limit(self.limit)
        if self.after is not None:
            query = query.where(tuple_(when, id_) > _values(self.after, when, id_))
        if self.before is not None:
            query = query.where(tuple_(when, id_) < _values(self.before, when, id_))
        return self._in_order(query, when, id_)

    def merged(self, parts: Sequence[Select[Any]]) -> Select[Any]:
        """The keys of its records, merged from parts that each have a page of them."""
        if len(parts) == 1:
            return parts[0]
        every = union_all(*(select(part.subquery()) for part in parts)).subquery()
        return self._in_order(select(every).limit(self.limit), every.c.time, every.c.id)

    def _in_order(
        self, query: Select[*tuple[Any, ...]], when: ColumnElement[Any], id_: ColumnElement[Any]
    ) -> Select[Any]:
        if self.after is not None:
            return query.order_by(when, id_)
        return query.order_by(when.desc(), id_.desc())


@dataclass(frozen=True, slots=True, kw_only=True)
class RunListing:
    """Some of the runs, those created last first."""

    statuses: Sequence[RunStatus] | None
    agent: str | None
    thread_id: str | None
    parent_run_id: str | None
    labels: Sequence[Label]
    since: datetime | None
    until: datetime | None
    id_prefix: str | None
    owner: str | None
    removed: bool
    waiting: bool
    page: Page

    @classmethod
    def of(
        cls,
        *,
        status: AnyOf[RunStatus] | None = None,
        agent: str | None = None,
        thread_id: str | None = None,
        parent_run_id: str | None = None,
        metadata: Any = None,
        since: datetime | None = None,
        until: datetime | None = None,
        id_prefix: str | None = None,
        owner: str | None = None,
        removed: bool = False,
        waiting: bool = False,
        page: Page,
    ) -> Self:
        """Check what was asked for.

        Raises:
            InvalidQueryError: an argument does not fit.
        """
        since, until = interval(since, until)
        waiting = flag("waiting", waiting)
        statuses = None if status is None else members(RunStatus, "status", status)
        if waiting:
            statuses = [RunStatus.interrupted] if statuses is None or RunStatus.interrupted in statuses else []
        return cls(
            statuses=statuses,
            agent=plain_or_none("agent", agent),
            thread_id=plain_or_none("thread_id", thread_id),
            parent_run_id=plain_or_none("parent_run_id", parent_run_id),
            labels=[] if metadata is None else labels(metadata),
            since=since,
            until=until,
            id_prefix=plain_or_none("id_prefix", id_prefix),
            owner=plain_or_none("owner", owner),
            removed=flag("removed", removed) and not waiting,
            waiting=waiting,
            page=page,
        )

    def read(self, connection: Connection) -> list[StoredRun]:
        """The runs."""
        if self.statuses == []:
            return []
        found = self.keys(connection).subquery()
        query = RUNS.where(runs.c.run_id.in_(select(found.c.id))).order_by(
            runs.c.created_at.desc(), runs.c.run_id.desc()
        )
        return [run_of(row) for row in connection.execute(query)]

    def beginning_with(self, connection: Connection, beginning: str) -> list[Select[Any]]:
        """The keys of pages of runs whose id, or whose thread's id, begins like this; each only if these are few."""
        rest = [*self._time(runs.c.created_at), *self._rest()]
        return [
            self.page.keys([*begins(id_, beginning), *rest], runs.c.created_at, runs.c.run_id)
            for id_ in (runs.c.run_id, runs.c.thread_id)
            if are_few(connection, begins(id_, beginning), FEW)
        ]

    def keys(self, connection: Connection) -> Select[Any]:
        """The times and ids of the runs. `statuses` must not be empty."""
        if self.id_prefix is not None and are_few(connection, begins(runs.c.run_id, self.id_prefix), FEW):
            return self._through_ids(self.id_prefix)
        if self.owner is not None and are_few(connection, [are_owned_by(self.owner)], FEW):
            return self._through_owner(self.owner)
        if self.waiting and are_few(connection, waits_for_human(), FEW):
            return self._through_waiting()
        ways: list[tuple[Conditions, int, Callable[[], Select[Any]]]] = []
        if self.thread_id is not None:
            ways.append((self._of_thread(self.thread_id), 1, partial(self._through_thread, self.thread_id)))
        if self.parent_run_id is not None:
            ways.append(
                (self._of_parent(self.parent_run_id), _A_LOOK_UP, partial(self._through_parent, self.parent_run_id))
            )
        if self.statuses is not None or self.agent is not None:
            ways.append((self._of_statuses(), _A_LOOK_UP, self._through_statuses))
        ways += [(self._of_label(label), _A_LOOK_UP, partial(self._through_label, label)) for label in self.labels]
        if not ways:
            return self._through_statuses()
        if len(ways) == 1:
            return ways[0][2]()
        _, _, through = min(ways, key=lambda way: way[1] * count_up_to(connection, way[0], MANY))
        return through()

    def _through_thread(self, thread_id: str) -> Select[Any]:
        # If a status is asked for, its index says what was removed: then none of the others' rows is read.
        is_there = self.statuses is None
        conditions = [*self._of_thread(thread_id), *self._rest(thread=False, statuses=False, is_there=is_there)]
        if self.agent is not None:
            conditions.append(unindexed(runs.c.agent) == self.agent)
        if self.statuses is not None:
            conditions.append(has_status(self.statuses, runs, removed=self.removed))
        return self.page.keys(conditions, runs.c.created_at, runs.c.run_id)

    def _through_parent(self, parent_run_id: str) -> Select[Any]:
        conditions = [*self._of_parent(parent_run_id), *self._rest(parent=False)]
        return self.page.keys(conditions, runs.c.created_at, runs.c.run_id)

    def _through_ids(self, id_prefix: str) -> Select[Any]:
        conditions = [*begins(runs.c.run_id, id_prefix), *self._time(runs.c.created_at), *self._rest(prefix=False)]
        return self.page.keys(conditions, runs.c.created_at, runs.c.run_id)

    def _through_owner(self, owner: str) -> Select[Any]:
        conditions = [are_owned_by(owner), *self._time(runs.c.created_at), *self._rest(owner=False)]
        return self.page.keys(conditions, runs.c.created_at, runs.c.run_id)

    def _through_waiting(self) -> Select[Any]:
        conditions = [are_newest_of_waiting(), *self._time(runs.c.created_at), *self._rest(waiting=False)]
        return self.page.keys(conditions, runs.c.created_at, runs.c.run_id)

    def _through_label(self, label: Label) -> Select[Any]:
        # Conditions that read the run itself come last, so that this is done for few.
        conditions = self._of_label(label)
        if self.agent is not None:
            conditions.append(run_labels.c.agent == self.agent)
        if self.thread_id is not None:
            conditions.append(run_labels.c.thread_id == self.thread_id)
        if self.id_prefix is not None:
            conditions += begins(unindexed(run_labels.c.run_id), self.id_prefix)
        conditions += [is_labelled(other, run_labels) for other in self.labels if other != label]
        if self.statuses is not None:
            conditions.append(has_status(self.statuses, run_labels, removed=self.removed))
        elif not self.removed:
            run = runs.alias()
            conditions.append(there_is(run.c.run_id == run_labels.c.run_id, run.c.removed_at.is_(None)))
        if self.parent_run_id is not None:
            run = runs.alias()
            is_its = unindexed(run.c.parent_run_id) == self.parent_run_id
            conditions.append(there_is(run.c.run_id == run_labels.c.run_id, is_its))
        if self.owner is not None:
            conditions.append(is_owned(self.owner, run_labels.c.thread_id))
        if self.waiting:
            conditions.append(is_newest_of_waiting(run_labels))
        return self.page.keys(conditions, run_labels.c.created_at, run_labels.c.run_id)

    def _through_statuses(self) -> Select[Any]:
        rest = self._rest(statuses=False)
        parts = [
            self.page.keys([*self._of_statuses([status]), *rest], runs.c.created_at, runs.c.run_id)
            for status in self.statuses or RunStatus
        ]
        return self.page.merged(parts)

    def _of_statuses(self, statuses: Sequence[RunStatus] | None = None) -> Conditions:
        wanted = [status.value for status in statuses or self.statuses or RunStatus]
        conditions: Conditions = [runs.c.status.in_(wanted) if len(wanted) > 1 else runs.c.status == wanted[0]]
        if self.agent is not None:
            conditions.append(runs.c.agent == self.agent)
        return [*conditions, *self._time(runs.c.created_at)]

    def _of_thread(self, thread_id: str) -> Conditions:
        return [runs.c.thread_id == thread_id, *self._time(runs.c.created_at)]

    def _of_parent(self, parent_run_id: str) -> Conditions:
        return [runs.c.parent_run_id == parent_run_id, *self._time(runs.c.created_at)]

    def _of_label(self, label: Label) -> Conditions:
        key, value = label
        return [run_labels.c.key == key, run_labels.c.value == value, *self._time(run_labels.c.created_at)]

    def _time(self, when: Column[Any]) -> Conditions:
        return within(when, self.since, self.until)

    def _rest(
        self,
        *,
        thread: bool = True,
        parent: bool = True,
        prefix: bool = True,
        statuses: bool = True,
        owner: bool = True,
        waiting: bool = True,
        is_there: bool = True,
    ) -> Conditions:
        """The other conditions, in a form that makes no index lead: the page is already read through another one."""
        conditions = [is_labelled(label, runs) for label in self.labels]
        if is_there and not self.removed:
            conditions.append(runs.c.removed_at.is_(None))
        if owner and self.owner is not None:
            conditions.append(is_owned(self.owner, runs.c.thread_id))
        if statuses and self.statuses is not None:
            conditions.append(unindexed(runs.c.status).in_([status.value for status in self.statuses]))
        if statuses and self.agent is not None:
            conditions.append(unindexed(runs.c.agent) == self.agent)
        if thread and self.thread_id is not None:
            conditions.append(unindexed(runs.c.thread_id) == self.thread_id)
        if parent and self.parent_run_id is not None:
            conditions.append(unindexed(runs.c.parent_run_id) == self.parent_run_id)
        if prefix and self.id_prefix is not None:
            conditions += begins(unindexed(runs.c.run_id), self.id_prefix)
        if waiting and self.waiting:
            conditions.append(is_newest_of_waiting(runs))
        return conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadListing:
    """Some of the threads, those with the latest activity first."""

    statuses: Sequence[ThreadStatus]
    thread_id: str | None
    agent: str | None
    labels: Sequence[Label]
    since: datetime | None
    until: datetime | None
    id_prefix: str | None
    owner: str | None
    removed: bool
    page: Page

    @classmethod
    def of(
        cls,
        *,
        status: AnyOf[ThreadStatus] | None,
        agent: str | None,
        thread_id: str | None,
        metadata: Any,
        since: datetime | None,
        until: datetime | None,
        id_prefix: str | None,
        owner: str | None,
        removed: bool,
        page: Page,
    ) -> Self:
        """Check what was asked for.

        Raises:
            InvalidQueryError: an argument does not fit.
        """
        since, until = interval(since, until)
        return cls(
            statuses=[*ThreadStatus] if status is None else members(ThreadStatus, "status", status),
            agent=plain_or_none("agent", agent),
            thread_id=plain_or_none("thread_id", thread_id),
            labels=[] if metadata is None else labels(metadata),
            since=since,
            until=until,
            id_prefix=plain_or_none("id_prefix", id_prefix),
            owner=plain_or_none("owner", owner),
            removed=flag("removed", removed),
            page=page,
        )

    def read(self, connection: Connection) -> list[StoredThread]:
        """The threads."""
        if not self.statuses:
            return []
        found = self._keys(connection).subquery()
        query = (
            select(threads)
            .where(threads.c.thread_id.in_(select(found.c.id)))
            .order_by(threads.c.updated_at.desc(), threads.c.thread_id.desc())
        )
        return [thread_of(row) for row in connection.execute(query)]

    def _keys(self, connection: Connection) -> Select[Any]:
        if (few := self._few(connection)) is not None:
            statuses = unindexed(threads.c.status).in_([status.value for status in self.statuses])
            if not self.removed:
                few.append(threads.c.removed_at.is_(None))
            return self.page.keys([*few, statuses, *self._time()], threads.c.updated_at, threads.c.thread_id)
        shared = [*self._time(), *self._has_run()]
        if self.id_prefix is not None:
            shared += begins(unindexed(threads.c.thread_id), self.id_prefix)
        if self.owner is not None:
            shared.append(unindexed(threads.c.owner) == self.owner)
        standing = [threads.c.removed_at.is_(None), *([threads.c.removed_at.is_not(None)] if self.removed else [])]
        parts = [
            self.page.keys(
                [threads.c.status == status.value, is_there, *shared], threads.c.updated_at, threads.c.thread_id
            )
            for status in self.statuses
            for is_there in standing
        ]
        return self.page.merged(parts)

    def _few(self, connection: Connection) -> Conditions | None:
        """Conditions for few threads, which can be sorted, with all that are asked for; None if they may be many."""
        of_prefix = [] if self.id_prefix is None else begins(threads.c.thread_id, self.id_prefix)
        owned = [] if self.owner is None else [threads.c.owner == self.owner]
        if self.thread_id is not None:
            return [threads.c.thread_id == self.thread_id, *of_prefix, *owned, *self._has_run()]
        if of_prefix and are_few(connection, of_prefix, FEW):
            return [*of_prefix, *owned, *self._has_run()]
        if owned and are_few(connection, owned, FEW):
            return [*of_prefix, *owned, *self._has_run()]
        if (of_runs := self._of_few_runs(connection)) is not None:
            return [*of_prefix, *owned, threads.c.thread_id.in_(of_runs)]
        return None

    def _of_few_runs(self, connection: Connection) -> Select[Any] | None:
        """The threads of the runs that they must have, if these runs are few; None if they may be many, or any."""
        for key, value in self.labels:
            of_label = [run_labels.c.key == key, run_labels.c.value == value]
            if are_few(connection, of_label, FEW):
                others = [is_labelled(other, run_labels) for other in self.labels if other != (key, value)]
                agent = [] if self.agent is None else [run_labels.c.agent == self.agent]
                return select(run_labels.c.thread_id).where(*of_label, *others, *agent)
        if self.agent is not None and are_few(connection, [runs.c.agent == self.agent], FEW):
            labelled = (is_labelled(label, runs) for label in self.labels)
            return select(runs.c.thread_id).where(runs.c.agent == self.agent, *labelled)
        return None

    def _of_its_runs(self) -> Conditions:
        conditions = [is_labelled(label, runs) for label in self.labels]
        if self.agent is not None:
            conditions.append(unindexed(runs.c.agent) == self.agent)
        return conditions

    def _has_run(self) -> Conditions:
        """The condition that they have a run of the kind that is asked for."""
        if of_runs := self._of_its_runs():
            return [there_is(runs.c.thread_id == threads.c.thread_id, *of_runs)]
        return []

    def _time(self) -> Conditions:
        return within(threads.c.updated_at, self.since, self.until)


def run_of(row: Row[Any]) -> StoredRun:
    """The run in a row."""
    values = dict(row._mapping)  # noqa: SLF001  # the documented way to a row's names
    values["status"] = RunStatus(row.status)
    values["completion_data"] = row.completion_data or {}
    return StoredRun(**values)


def thread_of(row: Row[Any]) -> StoredThread:
    """The thread in a row."""
    values = dict(row._mapping)  # noqa: SLF001  # the documented way to a row's names
    del values["forgotten"]
    values["status"] = ThreadStatus(row.status)
    values["metadata"] = row.metadata or {}
    return StoredThread(**values)


def _values(where: Place, when: Column[Any], id_: Column[Any]) -> ColumnElement[Any]:
    return tuple_(literal(where.when, when.type), literal(where.id_, id_.type))
