"""What agents keep beyond their threads: items, which are JSON objects under namespaces and keys.

A namespace is a sequence of labels, like the folders of a path: `("memories", "ada")`. A store in a database has such a
place (`store.items`). A manager hands it to its agents as `run.items`, and to graphs as LangGraph's own store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from trackside.harness.types import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """An item that is kept. Times are aware UTC."""

    namespace: tuple[str, ...]
    key: str
    value: JsonObject
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = None
    """When the item is gone unless it is used before; None: never."""
    ttl: float | None = None
    """How many minutes the item stays after its last use; None: for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemChange:
    """An item to put, or without a value to delete."""

    namespace: Sequence[str]
    key: str
    value: Mapping[str, Any] | None
    ttl: float | None = None


class ItemStore(Protocol):
    """Where items are kept. It belongs to one event loop."""

    async def put(
        self, namespace: Sequence[str], key: str, value: Mapping[str, Any], *, ttl: float | None = None
    ) -> None:
        """Keep a value in place of any that is there; it is gone after `ttl` minutes in which nobody uses it."""
        ...

    async def get(self, namespace: Sequence[str], key: str, *, refresh_ttl: bool = True) -> Item | None:
        """An item; None if there is none. Its time to live begins anew, unless `refresh_ttl` is False."""
        ...

    async def delete(self, namespace: Sequence[str], key: str) -> None:
        """Remove an item. One that is not there is fine."""
        ...

    async def change(self, changes: Iterable[ItemChange]) -> None:
        """Put and delete several items, all or none. Of several changes of the same item the last one counts."""
        ...

    async def search(
        self,
        prefix: Sequence[str] = (),
        *,
        filter: Mapping[str, Any] | None = None,
        limit: int = 10,
        offset: int = 0,
        refresh_ttl: bool = True,
    ) -> list[Item]:
        """Items below a prefix of namespaces, those written last first.

        `filter` is what their values have, by key: a value, a part of an object, or comparisons: `$eq`, `$ne`, `$gt`,
        `$gte`, `$lt`, `$lte`.
        """
        ...

    async def list_namespaces(
        self,
        *,
        prefix: Sequence[str] = (),
        suffix: Sequence[str] = (),
        max_depth: int | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[tuple[str, ...]]:
        """The namespaces that begin and end with these labels ("*" is any one), in order, cut at a depth, each once."""
        ...
