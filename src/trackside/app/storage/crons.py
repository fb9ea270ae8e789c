"""Crons: runs that are started again and again.

This module keeps them, and says which are due. Others work out when they are due, and start them. A caller that changes
a cron says what it has seen of it, so that of two callers who change it at once only one succeeds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import partial
from itertools import batched
from typing import Any, Final, Literal, NamedTuple, get_args, override

from sqlalchemy import ColumnElement, Connection, Row, Select, Text, delete, func, insert, select, type_coerce, update

from trackside.app.storage._databases.readers import Readers, beside_the_loop
from trackside.app.storage._rows.arguments import check_size, plain, plain_or_none, short, short_or_none, time
from trackside.app.storage._rows.client_tables import crons
from trackside.app.storage._rows.encoding import json_identity, json_of, json_text, time_text
from trackside.app.storage._threads.item_records import checked_number
from trackside.app.storage._writing.work import UnitOfWork, Work
from trackside.app.storage._writing.writer import NoWriter, Writer
from trackside.app.storage.containment import MOST_WANTED, Wanted
from trackside.app.storage.errors import CronExistsError, InvalidQueryError
from trackside.harness.types import Json, JsonObject

__all__ = ["Cron", "CronOrder", "CronPage", "Crons"]

type CronOrder = Literal["cron_id", "agent", "thread_id", "created_at", "updated_at", "next_run_at", "end_time"]
"""The fields by which crons can be sorted."""

_ORDERS: Final = frozenset(get_args(CronOrder.__value__))
_TIMES: Final = frozenset({"end_time", "next_run_at", "created_at", "updated_at"})
_JSON: Final = frozenset({"payload", "metadata"})
_BYTES: Final = 500
_ROWS_AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """Runs that are started again and again. Times are aware UTC."""

    cron_id: str
    agent: str
    schedule: str
    """When, in cron's form: minute, hour, day of the month, month, day of the week."""
    created_at: datetime
    updated_at: datetime
    thread_id: str | None = None
    """The thread of the runs; None: each on one of its own."""
    timezone: str | None = None
    """The time zone of the schedule; None: UTC."""
    end_time: datetime | None = None
    """The time from which no run is started; None: there is no end."""
    enabled: bool = True
    disabled_because: str | None = None
    """Why the scheduler itself has disabled the cron; None: somebody else has, or it is not disabled."""
    on_run_completed: str | None = None
    """Whether the thread of a run without one is removed when the run has ended ("delete"), or stays ("keep")."""
    payload: JsonObject = field(default_factory=dict)
    """The request for each run."""
    metadata: JsonObject = field(default_factory=dict)
    """The metadata of the cron and of its runs."""
    owner: str | None = None
    next_run_at: datetime | None = None
    """When the next run is due; None: never again, as things are."""


class CronPage(NamedTuple):
    """A page of the crons that match, and how many match."""

    crons: list[Cron]
    total: int


class Crons:
    """The crons of a store: `store.crons`."""

    def __init__(self, writer: Writer | NoWriter, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers
        self.on_change: list[Callable[[], object]] = []
        """Called on the loop after this process wrote something here that may change what is due next."""

    async def create(self, cron: Cron) -> None:
        """Keep a new cron.

        Raises:
            CronExistsError: (a `ValueError`) there is one with this id.
            InvalidQueryError: (a `ValueError`) one of its texts cannot be kept.
            StorageError: it could not be written.
        """
        _check(cron)
        await self._write(_Create(cron))

    async def get(self, cron_id: str, *, owner: str | None = None) -> Cron | None:
        """The cron with this id; None if there is none, or if it is not this `owner`'s."""
        query = select(crons).where(crons.c.cron_id == plain("cron_id", cron_id), *_owned_by(owner))
        return await self._readers.first(query, _cron_of)

    async def replace(self, seen: Cron, changed: Cron) -> bool:
        """Change a cron if it is still as it was seen; False: it is not, or is gone, and nothing was changed.

        Raises:
            InvalidQueryError: (a `ValueError`) one of its texts cannot be kept.
            StorageError: it could not be written.
        """
        _check(changed)
        return bool(await self._write(_Replace(seen, changed)))

    async def delete(self, cron_id: str, *, owner: str | None = None) -> bool:
        """Delete a cron; False: there is none, or it is not this `owner`'s.

        Raises:
            StorageError: it could not be written.
        """
        return bool(await self._write(_Delete(plain("cron_id", cron_id), owner)))

    async def search(
        self,
        *,
        owner: str | None = None,
        agent: str | None = None,
        thread_id: str | None = None,
        enabled: bool | None = None,
        metadata: Mapping[str, Json] | None = None,
        wanted: Mapping[str, Json] | None = None,
        sort_by: CronOrder = "created_at",
        descending: bool = True,
        limit: int = 10,
        offset: int = 0,
    ) -> CronPage:
        """A page of the crons that match, and how many match.

        Args:
            owner: only this owner's.
            agent: only of this agent.
            thread_id: only on this thread.
            enabled: only those that are enabled, or only those that are not.
            metadata: only those whose metadata has all of this.
            wanted: only those whose metadata contains this, too.
            sort_by: the field to sort by; crons that lack it come last.
            descending: whether the greatest comes first.
            limit: how many at most.
            offset: how many to skip.

        Raises:
            InvalidQueryError: an argument does not fit; the message names it.
        """
        if sort_by not in _ORDERS:
            raise InvalidQueryError(field="sort_by", value=sort_by, why=f"there are {', '.join(sorted(_ORDERS))}")
        conditions = _wanted(owner=owner, agent=agent, thread_id=thread_id, enabled=enabled)
        order = crons.c[sort_by].desc() if descending else crons.c[sort_by].asc()
        query = select(crons).where(*conditions).order_by(order.nulls_last(), crons.c.cron_id)
        first, count = checked_number("offset", offset), checked_number("limit", limit)
        same, contained = _identities_of(metadata or {}), Wanted("wanted", dict(wanted or {}))

        def fitting(rows: Sequence[Row[*tuple[Any, ...]]]) -> list[str]:
            said = ((row.cron_id, json_of(row.metadata)) for row in rows)
            return [cron_id for cron_id, one in said if _has(one, same) and contained.is_in(one)]

        def read(connection: Connection) -> CronPage:
            if metadata or wanted:
                found: list[str] = []
                said = type_coerce(crons.c.metadata, Text).label("metadata")
                looked_at: Select[*tuple[Any, ...]] = query.with_only_columns(crons.c.cron_id, said)
                rows = connection.execute(looked_at, execution_options={"yield_per": _ROWS_AT_ONCE})
                for some in rows.partitions():
                    found += beside_the_loop(connection, partial(fitting, some))
                page = []
                for ids in batched(found[first : first + count], _ROWS_AT_ONCE):  # in order, as they were found
                    page += [_cron_of(row) for row in connection.execute(query.where(crons.c.cron_id.in_(ids)))]
                return CronPage(page, len(found))
            page = [_cron_of(row) for row in connection.execute(query.offset(first).limit(count))]
            return CronPage(
                page, connection.execute(select(func.count()).select_from(crons).where(*conditions)).scalar_one()
            )

        return await self._readers.run(read)

    async def agents(self, *, owner: str | None = None) -> list[str]:
        """The names of the agents that have crons, or crons of this `owner`, by name."""
        query = select(crons.c.agent).where(*_owned_by(owner)).distinct().order_by(crons.c.agent)
        return await self._readers.all(query, lambda row: row.agent)

    async def due(self, now: datetime, agents: Collection[str], *, limit: int = 100) -> list[Cron]:
        """Crons of these agents with a run that is due by now, those that have been due for longest first."""
        query = select(crons).where(crons.c.next_run_at <= time("now", now), crons.c.agent.in_([*agents]))
        return await self._readers.all(_next_first(query).limit(limit), _cron_of)

    async def unknown(self, now: datetime, agents: Collection[str], *, limit: int = 100) -> list[Cron]:
        """Crons of other agents than these with a run that is due by now."""
        query = select(crons).where(crons.c.next_run_at <= time("now", now), crons.c.agent.not_in([*agents]))
        return await self._readers.all(_next_first(query).limit(limit), _cron_of)

    async def next_due(self, agents: Collection[str], *, after: datetime | None = None) -> datetime | None:
        """When the next run of one of these agents is due, among those later than `after`; None: none is."""
        is_later = crons.c.next_run_at.is_not(None) if after is None else crons.c.next_run_at > time("after", after)
        query = select(crons).where(is_later, crons.c.agent.in_([*agents]))
        return await self._readers.first(_next_first(query), lambda row: row.next_run_at)

    async def upcoming(self, after: Cron | None, *, limit: int = 100) -> list[Cron]:
        """Crons with a run that will be due, in the order of their ids, starting after this one."""
        query = select(crons).where(crons.c.next_run_at.is_not(None)).order_by(crons.c.cron_id)
        if after is not None:
            query = query.where(crons.c.cron_id > after.cron_id)
        return await self._readers.all(query.limit(limit), _cron_of)

    async def _write(self, work: Work) -> Any:
        result = await self._writer.write(work)
        for tell in self.on_change:
            tell()
        return result


def _next_first(query: Select[Any]) -> Select[Any]:
    return query.order_by(crons.c.next_run_at, crons.c.cron_id)


def _wanted(
    *, owner: str | None, agent: str | None, thread_id: str | None, enabled: bool | None
) -> list[ColumnElement[bool]]:
    wanted = _owned_by(owner)
    if agent is not None:
        wanted.append(crons.c.agent == plain("agent", agent))
    if thread_id is not None:
        wanted.append(crons.c.thread_id == plain("thread_id", thread_id))
    if enabled is not None:
        wanted.append(crons.c.enabled.is_(enabled))
    return wanted


def _owned_by(owner: str | None) -> list[ColumnElement[bool]]:
    return [] if owner is None else [crons.c.owner == plain("owner", owner)]


def _check(cron: Cron) -> None:
    """Check that a database can hold and index what a cron says. What it means is up to whoever makes runs from it."""
    short("cron_id", cron.cron_id)
    short("agent", cron.agent)
    short_or_none("thread_id", cron.thread_id)
    short_or_none("owner", cron.owner)
    plain("schedule", cron.schedule)
    for name in ("timezone", "disabled_because", "on_run_completed"):
        plain_or_none(name, getattr(cron, name))


def _identities_of(metadata: Mapping[str, Json]) -> Mapping[str, bytes]:
    check_size("metadata", metadata, MOST_WANTED)
    return {key: json_identity(value) for key, value in metadata.items()}


def _has(said: Mapping[str, Json], identities: Mapping[str, bytes]) -> bool:
    return all(key in said and json_identity(said[key]) == identity for key, identity in identities.items())


def _cron_of(row: Row[Any]) -> Cron:
    return Cron(**{column.name: getattr(row, column.name) for column in fields(Cron)})


def _columns(cron: Cron) -> dict[str, Any]:
    return {column.name: _written(column.name, getattr(cron, column.name)) for column in fields(Cron)}


def _written(column: str, value: Any) -> Any:
    if column in _JSON:
        return json_text(value)
    return time_text(value) if column in _TIMES and value is not None else value


@dataclass(slots=True, eq=False)
class _Create(Work):
    cron: Cron
    _tried: bool = False

    @override
    def undone(self) -> None:
        self._tried = False

    @property
    @override
    def size(self) -> int:
        return _BYTES + len(json_text(self.cron.payload))

    @override
    def apply(self, unit: UnitOfWork) -> None:
        columns = _columns(self.cron)
        is_there = select(crons.c.created_at).where(crons.c.cron_id == self.cron.cron_id)
        if not (found := unit.session.execute(is_there)):
            unit.session.execute(insert(crons).values(columns))
            self._tried = True
        elif not self._tried or found != [(columns["created_at"],)]:  # else the reply to an earlier commit was lost
            raise CronExistsError(cron_id=self.cron.cron_id)


@dataclass(slots=True, eq=False)
class _Replace(Work):
    seen: Cron
    changed: Cron
    _done: bool = False

    @override
    def undone(self) -> None:
        self._done = False

    @property
    @override
    def size(self) -> int:
        return _BYTES + len(json_text(self.changed.payload))

    @override
    def apply(self, unit: UnitOfWork) -> bool:
        if self._done:  # the reply to an earlier commit may have been lost
            is_there = select(crons.c.cron_id).where(*_stands_as(self.changed))
            if unit.session.execute(is_there):
                return True
        change = update(crons).where(*_stands_as(self.seen)).values(_columns(self.changed))
        self._done = bool(unit.session.execute(change.returning(crons.c.cron_id)))
        return self._done


def _stands_as(cron: Cron) -> list[ColumnElement[bool]]:
    columns = _columns(cron)
    return [crons.c[name].is_not_distinct_from(columns[name]) for name in ("cron_id", "next_run_at", "updated_at")]


@dataclass(slots=True, eq=False)
class _Delete(Work):
    cron_id: str
    owner: str | None
    _was_there: bool = False

    @override
    def undone(self) -> None:
        self._was_there = False

    @property
    @override
    def size(self) -> int:
        return _BYTES

    @override
    def apply(self, unit: UnitOfWork) -> bool:
        gone = delete(crons).where(crons.c.cron_id == self.cron_id, *_owned_by(self.owner)).returning(crons.c.cron_id)
        # It also counts if an earlier commit whose reply was lost has deleted the cron.
        self._was_there = bool(unit.session.execute(gone)) or self._was_there
        return self._was_there
