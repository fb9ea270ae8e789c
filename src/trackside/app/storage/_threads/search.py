"""Threads as clients search for them: by what their metadata say, in whatever order, with how many there are in all.

Labels, owners, statuses and agents are found through indexes, and so is the order of the last change. What no index has,
a nested value or one of the thread's state, is looked at, thread by thread, among those that everything else leaves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import batched
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Select,
    Text,
    and_,
    case,
    func,
    or_,
    select,
    type_coerce,
    union_all,
)

from trackside.app.storage._databases.readers import beside_the_loop
from trackside.app.storage._reading.listings import FEW, thread_of
from trackside.app.storage._rows.arguments import check_size, ids, members, plain, plain_or_none
from trackside.app.storage._rows.conditions import HOLDS_ITS_THREAD, are_few, there_is, unindexed
from trackside.app.storage._rows.encoding import json_of
from trackside.app.storage._rows.fold import Label, is_label, label_value
from trackside.app.storage._rows.records import StoredThread
from trackside.app.storage._rows.tables import active_runs, thread_labels, thread_states, threads
from trackside.app.storage.containment import MOST_WANTED, Wanted
from trackside.app.storage.errors import InvalidQueryError
from trackside.harness.types import ThreadStatus

type SortBy = Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"]

_HOLDERS: Final = select(active_runs.c.thread_id).where(HOLDS_ITS_THREAD)
_IS_HELD: Final = there_is(active_runs.c.thread_id == threads.c.thread_id, HOLDS_ITS_THREAD)
"""That a run has the thread, from its admission on: for a search the thread is busy, whatever the log has said."""

_SORTED_BY: Final[Mapping[str, ColumnElement[Any]]] = {
    "thread_id": threads.c.thread_id,
    "status": case((_IS_HELD, ThreadStatus.busy.value), else_=threads.c.status),
    "created_at": threads.c.created_at,
    "updated_at": threads.c.updated_at,
    # A state is what a run leaves, and the end of a run is a change of its thread.
    "state_updated_at": threads.c.updated_at,
}

MOST: Final = 2**31 - 1
_ROWS_AT_ONCE: Final = 1_000
_MOST_LABELS: Final = 20
"""How many labels the database finds threads by; others are looked at, as no statement has room for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadQuery:
    """Which threads to search for, and in which order; None, or nothing, matches all.

    `metadata` has to be contained in the thread's metadata, and `values` in what the harness remembers of the thread:
    objects with these keys, lists with these elements. So has `wanted` in the metadata: it is a demand of somebody
    else, whatever `metadata` says. A key of it that is in `by_agent` fits threads of these agents, whatever their own
    metadata says.

    `ids` has at most 10,000 ids.

    A thread is busy from the admission of a run on. With `announced`, its status is what the log says, in which a run
    that has not started has changed nothing yet.
    """

    metadata: Mapping[str, Any] = field(default_factory=dict)
    wanted: Mapping[str, Any] = field(default_factory=dict)
    by_agent: Mapping[str, Collection[str]] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    status: ThreadStatus | str | Collection[ThreadStatus | str] | None = None
    announced: bool = False
    ids: Collection[str] | None = None
    agent: str | None = None
    sort_by: SortBy = "updated_at"
    descending: bool = True
    limit: int = 10
    offset: int = 0


class ThreadPage(NamedTuple):
    """Some threads, and how many match in all."""

    threads: Sequence[StoredThread]
    total: int


class ThreadSearch:
    """A search for threads of one owner; None may see everybody's.

    Raises:
        InvalidQueryError: an argument does not fit.
    """

    def __init__(self, query: ThreadQuery, owner: str | None) -> None:
        self._query = query
        self._owner = owner
        status = query.status
        self._statuses = [*ThreadStatus] if status is None else members(ThreadStatus, "status", status)
        self._agent = plain_or_none("agent", query.agent)
        self._ids = None if query.ids is None else ids("ids", query.ids)
        if query.sort_by not in _SORTED_BY:
            raise InvalidQueryError(field="sort_by", value=query.sort_by, why=f"there are {', '.join(_SORTED_BY)}")
        for name, least in (("limit", 0), ("offset", 0)):
            value = getattr(query, name)
            if type(value) is not int or not least <= value <= MOST:
                raise InvalidQueryError(field=name, value=value, why=f"it is a whole number from {least} to {MOST}")
        self._labels: list[Label] = []
        self._looked_at: list[Wanted] = []
        self._by_agent = [_said_by(agents, key, query.wanted[key]) for key, agents in query.by_agent.items()]
        wanted = {key: value for key, value in query.wanted.items() if key not in query.by_agent}
        for asked in (query.metadata, wanted):
            if others := self._without_labels(asked):
                self._looked_at.append(Wanted("metadata", others))
        self._values = Wanted("values", dict(query.values)) if query.values else None
        self._order = _SORTED_BY[query.sort_by]

    def _without_labels(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What of it no label says; the labels that there is room for are taken down."""
        check_size("metadata", asked, MOST_WANTED)
        others: dict[str, Any] = {}
        for key, value in asked.items():
            plain("metadata", key)
            said = plain("metadata", value) if isinstance(value, str) else value
            # A number with a point is looked at: labels have not always had those that are whole.
            text = None if type(said) is float else label_value(said)
            if text is not None and is_label(key, text) and len(self._labels) < _MOST_LABELS:
                self._labels.append((key, text))
            else:
                others[key] = value
        return others

    def page(self, connection: Connection) -> ThreadPage:
        """The threads that are asked for."""
        if not self._can_fit:
            return ThreadPage([], 0)
        if self._looks:
            found = self._look(connection)
            ids = found[self._query.offset : self._query.offset + self._query.limit]
            return ThreadPage(self._fetch(connection, ids), len(found))
        total = self.count(connection)
        if self._query.offset >= total or not self._query.limit:
            return ThreadPage([], total)
        most = self._query.offset + self._query.limit
        keys = self._rows(connection, most=most).limit(self._query.limit).offset(self._query.offset)
        return ThreadPage(self._fetch(connection, [row[0] for row in connection.execute(keys)]), total)

    def count(self, connection: Connection) -> int:
        """How many fit."""
        if not self._can_fit:
            return 0
        if self._looks:
            return len(self._look(connection))

        def many(conditions: Sequence[ColumnElement[bool]]) -> int:
            count: int = connection.execute(select(func.count()).select_from(threads).where(*conditions)).scalar_one()
            return count

        leading = self._leading(connection)
        if leading is not None or not self._holds_matter:
            return sum(map(many, self._ways(leading)))
        # First as the log says it, then those for which that is not so: this does not look at every thread.
        announced = many([_is_one_of(self._statuses), *self._others])
        return announced + many(self._held()) if self._finds_held else announced - many(self._held(announced=True))

    @property
    def _can_fit(self) -> bool:
        return bool(self._statuses) and self._ids != []

    @property
    def _looks(self) -> bool:
        return bool(self._looked_at or self._values)

    def _leading(self, connection: Connection) -> ColumnElement[bool] | None:
        """A condition that leads to few threads, if one does."""
        if self._ids is not None:
            return threads.c.thread_id.in_(self._ids)
        for label in self._labels:
            if are_few(connection, _has_label(label), FEW):
                return threads.c.thread_id.in_(select(thread_labels.c.thread_id).where(*_has_label(label)))
        if self._owner is not None and are_few(connection, [*self._owned(threads.c.owner)], FEW):
            return threads.c.owner == self._owner
        return None

    def _owned(self, column: ColumnElement[Any]) -> Iterable[ColumnElement[bool]]:
        return [] if self._owner is None else [column == self._owner, threads.c.removed_at.is_(None)]

    def _ways(self, leading: ColumnElement[bool] | None, *, apart: bool = False) -> list[list[ColumnElement[bool]]]:
        """The conditions for the threads, for each way to find them: first what leads to them, then what is looked at.

        Each thread is found in one way only. If nothing leads to few, their statuses lead to them, each by itself if
        they are to be `apart`.
        """
        wanted, others = self._statuses, self._others
        if leading is not None:
            status = _is_one_of(wanted, unindexed(threads.c.status))
            if self._holds_matter:
                status = or_(status, _IS_HELD) if self._finds_held else and_(status, ~_IS_HELD)
            return [[status, leading, *others]]
        if self._holds_matter and not self._finds_held:
            others = [~_IS_HELD, *others]
        ways = [[_is_one_of(those), *others] for those in ([[one] for one in wanted] if apart else [wanted])]
        return [*ways, self._held()] if self._holds_matter and self._finds_held else ways

    def _held(self, *, announced: bool = False) -> list[ColumnElement[bool]]:
        """The conditions for threads that a run has, and that are not `announced` with a wanted status, or are."""
        is_wanted = _is_one_of(self._statuses, unindexed(threads.c.status))
        return [threads.c.thread_id.in_(_HOLDERS), is_wanted if announced else ~is_wanted, *self._others]

    @property
    def _holds_matter(self) -> bool:
        return not self._query.announced and len(self._statuses) < len(ThreadStatus)

    @property
    def _finds_held(self) -> bool:
        return ThreadStatus.busy in self._statuses

    @property
    def _others(self) -> list[ColumnElement[bool]]:
        conditions: list[ColumnElement[bool]] = [threads.c.removed_at.is_(None), *self._by_agent]
        if self._owner is not None:
            conditions.append(unindexed(threads.c.owner) == self._owner)
        if self._agent is not None:
            conditions.append(threads.c.agent == self._agent)
        for label in self._labels:
            own = thread_labels.c.thread_id == threads.c.thread_id
            conditions.append(there_is(*_has_label(label), own))
        return conditions

    def _rows(self, connection: Connection, *columns: ColumnElement[Any], most: int | None = None) -> Select[Any]:
        """The ids of all that fit, or at least of the first `most`, in order, with these columns."""
        source: FromClause = threads
        if self._query.values:
            source = threads.join(thread_states, threads.c.thread_id == thread_states.c.thread_id)
        apart = most is not None and self._order is threads.c.updated_at
        ways = self._ways(self._leading(connection), apart=apart)
        if len(ways) == 1:
            return self._sorted(select(threads.c.thread_id, *columns).select_from(source).where(*ways[0]))
        asked = select(threads.c.thread_id, *columns, self._order.label("place")).select_from(source)
        parts = [self._sorted(asked.where(*way)).limit(most) for way in ways]
        every = union_all(*(select(part.subquery()) for part in parts)).subquery()
        shown = [column for column in every.c if column.key != "place"]
        return self._sorted(select(*shown), every.c.place, every.c.thread_id)

    def _sorted(
        self,
        query: Select[*tuple[Any, ...]],
        order: ColumnElement[Any] | None = None,
        id_: ColumnElement[Any] = threads.c.thread_id,
    ) -> Select[Any]:
        columns = [self._order if order is None else order]
        if columns[0] is not id_:
            columns.append(id_)
        return query.order_by(*[column.desc() if self._query.descending else column for column in columns])

    def _look(self, connection: Connection) -> list[str]:
        """The ids of all that fit, in order, each looked at."""
        remembered = [type_coerce(thread_states.c.remembered, Text)] if self._values else []
        query = self._rows(connection, type_coerce(threads.c.metadata, Text), *remembered)
        rows = connection.execute(query, execution_options={"yield_per": _ROWS_AT_ONCE})
        found: list[str] = []
        for page in rows.partitions():
            found += beside_the_loop(connection, partial(self._fitting, page))
        return found

    def _fitting(self, rows: Sequence[Row[Any]]) -> list[str]:
        """The ids of these that fit; each row has metadata, and what the thread remembers if that matters, as texts."""
        found: list[str] = []
        for thread_id, metadata, *states in map(tuple, rows):
            said = {} if metadata is None else json_of(metadata)
            if all(wanted.is_in(said) for wanted in self._looked_at) and (
                self._values is None or self._values.is_in(*map(json_of, states))
            ):
                found.append(thread_id)
        return found

    def _fetch(self, connection: Connection, ids: Sequence[str]) -> list[StoredThread]:
        found: dict[str, StoredThread] = {}
        for some in batched(ids, _ROWS_AT_ONCE):  # as a statement takes no more than some 32,000 values
            rows = connection.execute(select(threads).where(threads.c.thread_id.in_(some)))
            found.update((row.thread_id, thread_of(row)) for row in rows)
        return [found[thread_id] for thread_id in ids]


def _said_by(agents: Collection[str], key: str, value: Any) -> ColumnElement[bool]:
    """Whether a thread has one of these agents; if it has none yet, whether its metadata say so."""
    is_theirs = threads.c.agent.in_([plain("by_agent", agent) for agent in agents])
    text = label_value(plain("metadata", value) if isinstance(value, str) else value)
    if text is None:
        return is_theirs
    own = thread_labels.c.thread_id == threads.c.thread_id
    return or_(is_theirs, and_(threads.c.agent.is_(None), there_is(*_has_label((key, text)), own)))


def _is_one_of(statuses: Sequence[ThreadStatus], column: ColumnElement[Any] = threads.c.status) -> ColumnElement[bool]:
    return column == statuses[0].value if len(statuses) == 1 else column.in_([status.value for status in statuses])


def _has_label(label: Label) -> list[ColumnElement[bool]]:
    key, value = label
    return [thread_labels.c.key == key, thread_labels.c.value == value]
