"""Items in the database: how they are found, and the transaction that writes them."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, override

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Text,
    and_,
    case,
    delete,
    func,
    or_,
    select,
    text,
    tuple_,
    type_coerce,
    update,
)

from trackside.app.storage._databases.readers import beside_the_loop
from trackside.app.storage._rows.arguments import id_range
from trackside.app.storage._rows.client_tables import items
from trackside.app.storage._rows.encoding import json_of
from trackside.app.storage._rows.parts import parts_of
from trackside.app.storage._threads.item_records import fits, fixed_part, labels_of, matches, needles_of, stored_prefix
from trackside.app.storage._writing.work import UnitOfWork, Work
from trackside.harness.items import Item

SWEPT_AT_ONCE: Final = 1_000
"""How many expired items one transaction removes."""

_ROW_BYTES: Final = 300
_NAMES_AT_ONCE: Final = 500
_ROWS_AT_ONCE: Final = 200
_LONG: Final = 16_384  # bytes of a value: shorter ones can be read with a page of rows, and decoded on an event loop
_BYTES_AT_ONCE: Final = 4 * 1_048_576

_TEXT: Final = type_coerce(items.c.value, Text).label("value")
_ITEM: Final = (*(column for column in items.c if column is not items.c.value), _TEXT)
_NAME: Final = (items.c.namespace, items.c.key)

type _Row = Row[*tuple[Any, ...]]

type ItemName = tuple[str, str]
"""The namespace of an item as it is stored, and its key."""

type ItemVersion = tuple[str, str, str]
"""The same, and when it was written last: another value has another time."""


@dataclass(frozen=True, slots=True)
class ItemRow:
    """An item as it is written."""

    namespace: str
    key: str
    value: str
    expires_at: str | None
    ttl_minutes: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteItems(Work):
    """Puts items, removes some, and gives others more time. All names in it differ; those of rows are in order.

    `now` is the time of writing; with `sweeps` it also removes what has expired by then, as much as fits.
    """

    now: str
    rows: Sequence[ItemRow] = ()
    removed: Sequence[ItemName] = ()
    extended: Mapping[str, Sequence[ItemVersion]] | None = None
    """By the times when they then expire. Those that have a newer value, or live as long already, stay as they are."""
    sweeps: bool = False

    @property
    @override
    def size(self) -> int:
        extended = sum(len(names) for names in (self.extended or {}).values())
        return sum(_ROW_BYTES + len(row.value) for row in self.rows) + _ROW_BYTES * (1 + len(self.removed) + extended)

    @override
    def apply(self, unit: UnitOfWork) -> int:
        """Its result is how many expired items it has removed."""
        execute = unit.session.execute
        for row in self.rows:
            execute(_put(row, self.now))
        for names in _parts(self.removed):
            execute(delete(items).where(_is_one_of(names)))
        for expires_at, all_versions in (self.extended or {}).items():
            ends_sooner = (items.c.expires_at > self.now, items.c.expires_at < expires_at)
            for versions in _parts(all_versions):
                extended = update(items).where(_is_one_of_versions(versions), *ends_sooner)
                execute(extended.values(expires_at=expires_at))
        return self._sweep(unit) if self.sweeps else 0

    def _sweep(self, unit: UnitOfWork) -> int:
        expired = items.c.expires_at <= self.now
        oldest = select(items.c.namespace, items.c.key).where(expired).order_by(items.c.expires_at).limit(SWEPT_AT_ONCE)
        # Locked, so that two processes that sweep share the work.
        names = unit.session.execute(oldest.with_for_update(skip_locked=True))
        for part in _parts([(namespace, key) for namespace, key in names]):
            unit.session.execute(delete(items).where(_is_one_of(part)))
        return len(names)


def one_item(connection: Connection, *, namespace: str, key: str, now: datetime) -> list[Item]:
    """The item, if it is there and has not expired."""
    return _read(connection, select(*_ITEM).where(items.c.namespace == namespace, items.c.key == key, _is_alive(now)))


def one_expired(now: datetime) -> Any:
    """The query for an item that nobody sees any more."""
    return select(items.c.key).where(items.c.expires_at <= now)


def _read(connection: Connection, query: Select[*tuple[Any, ...]]) -> list[Item]:
    """The items that a query finds, no more than are wanted; long ones are not decoded on an event loop."""
    rows = connection.execute(query).all()
    make = partial(_items_of, rows)
    return make() if sum(len(row.value) for row in rows) < _LONG else beside_the_loop(connection, make)


def _items_of(rows: Sequence[_Row]) -> list[Item]:
    return [
        Item(
            namespace=labels_of(row.namespace),
            key=row.key,
            value=json_of(row.value),
            created_at=row.created_at,
            updated_at=row.updated_at,
            expires_at=row.expires_at,
            ttl=row.ttl_minutes,
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemSearch:
    """Which items are wanted: below a prefix of namespaces, in its stored form, with what their values must contain."""

    prefix: str
    wanted: Mapping[str, Any]
    limit: int
    offset: int
    now: datetime

    def read(self, connection: Connection) -> list[Item]:
        """The items, last written first."""
        if not self.limit:
            return []
        return self._filtered(connection) if self.wanted else self._newest(connection)

    def _newest(self, connection: Connection) -> list[Item]:
        order = items.c.updated_at.desc(), items.c.namespace, items.c.key
        # An index tells which they are, and only these are read.
        found = select(items.c.namespace, items.c.key).where(*_below(self.prefix), _is_alive(self.now))
        found = found.order_by(*order).limit(self.limit).offset(self.offset)
        names = found.subquery()
        of_them = and_(items.c.namespace == names.c.namespace, items.c.key == names.c.key)
        return _read(connection, select(*_ITEM).join(names, of_them).order_by(*order))

    def _filtered(self, connection: Connection) -> list[Item]:
        fitting = (
            found
            for rows in self._likely(connection)
            for found in beside_the_loop(connection, partial(self._fitting, rows))
        )
        newest = heapq.nsmallest(self.offset + self.limit, fitting)[self.offset :]
        found: list[Item] = []
        for names in _parts([(namespace, key) for _, namespace, key in newest]):
            found += _read(connection, select(*_ITEM).where(_is_one_of(names)))
        places = {(namespace, key): place for place, (_, namespace, key) in enumerate(newest)}
        return sorted(found, key=lambda item: places[stored_prefix(item.namespace), item.key])

    def _fitting(self, rows: Sequence[_Row]) -> list[tuple[float, str, str]]:
        """The places, and so the names, of the rows (with values as texts) that have what is wanted."""
        return [_place(row) for row in rows if fits(json_of(row.value), self.wanted)]

    def _likely(self, connection: Connection) -> Iterator[Sequence[_Row]]:
        """The rows that may have what is wanted, with values as texts; never many bytes of these at once."""
        likely = [_TEXT.contains(needle, autoescape=True) for needle in needles_of(self.wanted)]
        chosen = [*_below(self.prefix), _is_alive(self.now), *likely]
        columns = (*_NAME, items.c.updated_at)
        with_values: Select[*tuple[Any, ...]] = select(*columns, _TEXT)
        if connection.dialect.name == "sqlite":  # which gives one row after another
            yield from ([row] for row in connection.execute(with_values.where(*chosen)))
            return
        size = func.octet_length(_TEXT)
        short = case((size < _LONG, _TEXT)).label("value")
        query: Select[*tuple[Any, ...]] = select(*columns, short, size.label("size")).where(*chosen).order_by(*_NAME)
        query = query.limit(_ROWS_AT_ONCE)
        page = connection.execute(query).all()
        while page:
            yield [row for row in page if row.value is not None]
            long = (row for row in page if row.value is None)
            for part in parts_of(long, lambda row: int(row.size), _BYTES_AT_ONCE):
                names = [(row.namespace, row.key) for row in part]
                yield connection.execute(with_values.where(_is_one_of(names))).all()
            last = page[-1]
            page = connection.execute(query.where(tuple_(*_NAME) > (last.namespace, last.key))).all()


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceListing:
    """Which namespaces are wanted: those that begin and end with all of these labels, cut at a depth."""

    prefix: tuple[str, ...]
    suffix: tuple[str, ...]
    max_depth: int | None
    limit: int
    offset: int
    now: datetime

    def read(self, connection: Connection) -> list[tuple[str, ...]]:
        """The namespaces, in order, each once."""
        below = _below("".join(f"{label}." for label in fixed_part(self.prefix)))
        query = select(items.c.namespace).where(*below, _is_alive(self.now)).distinct()
        rows = connection.execute(query.execution_options(yield_per=_ROWS_AT_ONCE))
        named = {labels[: self.max_depth] for labels in map(labels_of, rows.scalars()) if self._wants(labels)}
        return sorted(named)[self.offset : self.offset + self.limit]

    def _wants(self, labels: tuple[str, ...]) -> bool:
        begins = matches(labels[: len(self.prefix)], self.prefix)
        return begins and (not self.suffix or matches(labels[-len(self.suffix) :], self.suffix))


def _place(row: _Row) -> tuple[float, str, str]:
    """What sorts items by when they were written, the last first."""
    return -row.updated_at.timestamp(), row.namespace, row.key


def _below(prefix: str) -> list[ColumnElement[bool]]:
    if not prefix:
        return []
    first, behind = id_range(prefix)
    assert behind is not None  # it ends with a dot
    return [items.c.namespace >= first, items.c.namespace < behind]


def _is_alive(now: datetime) -> ColumnElement[bool]:
    return or_(items.c.expires_at.is_(None), items.c.expires_at > now)


def _is_one_of(names: Sequence[ItemName]) -> ColumnElement[bool]:
    return tuple_(items.c.namespace, items.c.key).in_(names)


def _is_one_of_versions(versions: Sequence[ItemVersion]) -> ColumnElement[bool]:
    return tuple_(items.c.namespace, items.c.key, items.c.updated_at).in_(versions)


def _parts[T](names: Sequence[T]) -> Iterable[Sequence[T]]:
    return (names[start : start + _NAMES_AT_ONCE] for start in range(0, len(names), _NAMES_AT_ONCE))


# Putting an item that has expired makes a new one.
_PUT = text("""
    INSERT INTO items (namespace, key, value, created_at, updated_at, expires_at, ttl_minutes)
    VALUES (:namespace, :key, :value, :now, :now, :expires_at, :ttl_minutes)
    ON CONFLICT (namespace, key) DO UPDATE SET
        value = excluded.value,
        created_at = CASE
            WHEN items.expires_at <= excluded.updated_at THEN excluded.created_at ELSE items.created_at END,
        updated_at = excluded.updated_at,
        expires_at = excluded.expires_at,
        ttl_minutes = excluded.ttl_minutes
""")


def _put(row: ItemRow, now: str) -> Any:
    return _PUT.bindparams(
        namespace=row.namespace,
        key=row.key,
        value=row.value,
        now=now,
        expires_at=row.expires_at,
        ttl_minutes=row.ttl_minutes,
    )
