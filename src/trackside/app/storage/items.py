"""What agents keep beyond their threads: JSON objects under namespaces and keys.

A namespace is a sequence of labels, like the folders of a path: `("memories", "ada")`. What is below a prefix is found
through an index. Items may have a time to live, which begins anew whenever they are used. Nobody sees expired items,
and they are removed in time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from trackside.app.storage._databases.readers import Readers
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._threads.item_records import (
    checked_filter,
    checked_number,
    checked_ttl,
    pattern,
    stored_key,
    stored_namespace,
    stored_prefix,
    stored_value,
)
from trackside.app.storage._threads.item_works import (
    SWEPT_AT_ONCE,
    ItemName,
    ItemRow,
    ItemSearch,
    ItemVersion,
    NamespaceListing,
    WriteItems,
)
from trackside.app.storage._threads.item_works import one_expired as _one_expired
from trackside.app.storage._threads.item_works import one_item as _one_item
from trackside.app.storage._writing.writer import NoWriter, Writer
from trackside.app.storage.errors import InvalidQueryError
from trackside.harness.items import Item, ItemChange

__all__ = ["Item", "ItemChange", "Items"]

_SWEEP_EVERY: Final = timedelta(minutes=1)
_UNUSED: Final = 0.01
"""The part of its time that an item has lost before a use restores it all: not every read should cost a write."""


def _now() -> datetime:
    return datetime.now(UTC)


class Items:
    """The items of a store: `store.items`. Items have no owner: the caller decides who may see which."""

    def __init__(self, writer: Writer | NoWriter, readers: Readers, *, now: Callable[[], datetime] = _now) -> None:
        self._writer = writer
        self._readers = readers
        self._now = now
        self._swept_at: datetime | None = None

    async def put(
        self, namespace: Sequence[str], key: str, value: Mapping[str, Any], *, ttl: float | None = None
    ) -> None:
        """Keep a value, in place of the one that is there. It is on disk when this returns.

            await store.items.put(("memories", "ada"), "coffee", {"likes": "black"})

        Args:
            namespace: its labels: texts without dots, at least one, the first not "langgraph".
            key: the item's name in the namespace.
            value: a mapping; what JSON lacks is kept in its canonical form.
            ttl: after how many minutes without use the item is gone; None: never.

        Raises:
            InvalidItemError: an argument does not fit; the message names it.
            PayloadError: a value's own code failed while the value was read.
            StorageError: it could not be written; a `read_only` store writes nothing.
        """
        await self.change([ItemChange(namespace=namespace, key=key, value=value, ttl=ttl)])

    async def delete(self, namespace: Sequence[str], key: str) -> None:
        """Delete an item. If there is none, this is no error.

        Raises:
            InvalidItemError: an argument does not fit; the message names it.
            StorageError: it could not be written.
        """
        await self.change([ItemChange(namespace=namespace, key=key, value=None)])

    async def change(self, changes: Iterable[ItemChange]) -> None:
        """Put and delete several items, all or none. Of several changes to the same item, the last one counts.

        Raises:
            InvalidItemError: one of the changes does not fit; the message says what in it.
            PayloadError: a value's own code failed while the value was read.
            StorageError: they could not be written.
        """
        now = self._now()
        rows: dict[ItemName, ItemRow | None] = {}
        for change in changes:
            namespace, key = stored_namespace(change.namespace), stored_key(change.key)
            rows[namespace, key] = None if change.value is None else _row_of(namespace, key, change, now)
        if not rows:
            return
        await self._writer.write(
            WriteItems(
                now=time_text(now),
                # In order, so that two who write the same items do not wait for each other.
                rows=[row for _, row in sorted(rows.items()) if row is not None],
                removed=[name for name, row in sorted(rows.items()) if row is None],
                sweeps=self._begin_sweep(now),
            )
        )

    async def get(self, namespace: Sequence[str], key: str, *, refresh_ttl: bool = True) -> Item | None:
        """An item; None if there is none.

        Args:
            namespace: its labels.
            key: the item's name in the namespace.
            refresh_ttl: whether its time to live begins anew, if it has one.

        Raises:
            InvalidItemError: an argument does not fit; the message names it.
            StorageError: the database cannot be read.
        """
        now = self._now()
        read = partial(_one_item, namespace=stored_namespace(namespace), key=stored_key(key), now=now)
        found = await self._readers.run(read)
        return next(iter(await self._refreshed(found, now) if refresh_ttl else found), None)

    async def search(
        self,
        prefix: Sequence[str] = (),
        *,
        filter: Mapping[str, Any] | None = None,
        limit: int = 10,
        offset: int = 0,
        refresh_ttl: bool = True,
    ) -> list[Item]:
        """Items below a prefix of namespaces, the last written first.

            await store.items.search(("memories",), filter={"likes": "black", "cups": {"$gte": 2}})

        Args:
            prefix: the labels that their namespaces begin with; none: all items.
            filter: what their values must have, by key: a value (for an object, a part of it), or comparisons: `$eq`,
                `$ne`, `$gt`, `$gte`, `$lt`, `$lte`. Numbers compare with numbers, texts with texts; nothing else does.
            limit: how many at most.
            offset: how many to skip.
            refresh_ttl: whether the time to live of the items found begins anew.

        Raises:
            InvalidQueryError: an argument does not fit; the message names it.
            StorageError: the database cannot be read.
        """
        now = self._now()
        search = ItemSearch(
            prefix=stored_prefix(prefix),
            wanted=checked_filter(filter),
            limit=checked_number("limit", limit),
            offset=checked_number("offset", offset),
            now=now,
        )
        found = await self._readers.run(search.read)
        return await self._refreshed(found, now) if refresh_ttl else found

    async def list_namespaces(
        self,
        *,
        prefix: Sequence[str] = (),
        suffix: Sequence[str] = (),
        max_depth: int | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[tuple[str, ...]]:
        """The namespaces that there are, in order.

        Args:
            prefix: the labels that they begin with; "*" matches any one label.
            suffix: the labels that they end with, likewise.
            max_depth: after how many labels they are cut; those that are then the same are listed once.
            limit: how many at most.
            offset: how many to skip.

        Raises:
            InvalidQueryError: an argument does not fit; the message names it.
            StorageError: the database cannot be read.
        """
        if max_depth is not None and checked_number("max_depth", max_depth) == 0:
            raise InvalidQueryError(field="max_depth", value=max_depth, why="it is a whole number from 1 up")
        listing = NamespaceListing(
            prefix=pattern(prefix, field="prefix"),
            suffix=pattern(suffix, field="suffix"),
            max_depth=max_depth,
            limit=checked_number("limit", limit),
            offset=checked_number("offset", offset),
            now=self._now(),
        )
        return await self._readers.run(listing.read)

    async def sweep(self) -> int:
        """Remove expired items; returns how many there were. `store.sweeper()` does this, and some writes do.

        Raises:
            StorageError: they could not be removed.
        """
        removed = 0
        while True:  # some in each transaction, so that nobody waits long
            now = self._swept_at = self._now()
            if await self._readers.first(_one_expired(now), lambda row: True) is None:
                return removed
            swept: int = await self._writer.write(WriteItems(now=time_text(now), sweeps=True))
            removed += swept
            if swept < SWEPT_AT_ONCE:
                return removed

    def _begin_sweep(self, now: datetime) -> bool:
        """Whether it is time to sweep again; if so, it counts as begun."""
        if self._swept_at is not None and abs(now - self._swept_at) < _SWEEP_EVERY:
            return False
        self._swept_at = now
        return True

    async def _refreshed(self, found: list[Item], now: datetime) -> list[Item]:
        """The items, with all of their time to live from now on."""
        if isinstance(self._writer, NoWriter):
            return found
        extended: dict[str, list[ItemVersion]] = defaultdict(list)
        for number, item in enumerate(found):
            if item.ttl is not None and item.expires_at is not None and _is_used(item.expires_at, item.ttl, now):
                expires_at = now + timedelta(minutes=item.ttl)
                version = stored_prefix(item.namespace), item.key, time_text(item.updated_at)
                extended[time_text(expires_at)].append(version)
                found[number] = replace(item, expires_at=expires_at)
        if extended:
            versions = {expires_at: sorted(versions) for expires_at, versions in extended.items()}
            await self._writer.write(WriteItems(now=time_text(now), extended=versions))
        return found


def _row_of(namespace: str, key: str, change: ItemChange, now: datetime) -> ItemRow:
    ttl = checked_ttl(change.ttl)
    expires_at = None if ttl is None else time_text(now + timedelta(minutes=ttl))
    return ItemRow(namespace, key, stored_value(change.value), expires_at, ttl)


def _is_used(expires_at: datetime, ttl: float, now: datetime) -> bool:
    return expires_at - now < (1 - _UNUSED) * timedelta(minutes=ttl)
