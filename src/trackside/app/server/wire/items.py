"""Items on the wire: what agents keep beyond their threads."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct

from trackside.app.storage.items import Item

type Labels = Annotated[list[str], Meta(description="The labels of a namespace: texts without dots")]
type Count = Annotated[int, Meta(ge=0, le=10_000)]
type Offset = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class ItemPut(Struct, forbid_unknown_fields=True, kw_only=True):
    """An item to store, in place of the one that is there."""

    namespace: Labels
    key: str
    value: dict[str, Any]
    index: bool | list[str] | None = None
    ttl: float | None = None
    """Minutes without use after which it is gone; none: never."""


class ItemName(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which item is meant."""

    namespace: Labels
    key: str


class ItemQuery(Struct, kw_only=True):
    """Which item; the labels of its namespace are joined by dots."""

    namespace: list[str]
    key: str
    refresh_ttl: bool | None = None


class ItemSearch(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which items to return. `filter` says what their values must have, or compares them: `{"cups": {"$gte": 2}}`."""

    namespace_prefix: Labels = []
    filter: dict[str, Any] | None = None
    limit: Count | None = None
    offset: Offset | None = None
    query: str | None = None
    refresh_ttl: bool | None = None


class NamespaceSearch(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which namespaces to return: what they begin and end with. "*" stands for any label."""

    prefix: Labels | None = None
    suffix: Labels | None = None
    max_depth: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    limit: Count | None = None
    offset: Offset | None = None


class ItemInfo(Struct, frozen=True, kw_only=True):
    """An item. Times are ISO 8601."""

    namespace: tuple[str, ...]
    key: str
    value: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime


class FoundItem(ItemInfo, frozen=True, kw_only=True):
    """An item that a search has found."""

    score: float | None = None
    """How near a meaning it is: there is no such search."""


class FoundItems(Struct, frozen=True):
    """The items that a search has found."""

    items: list[FoundItem]


class FoundNamespaces(Struct, frozen=True):
    """The namespaces that there are."""

    namespaces: list[tuple[str, ...]]


def item_on_wire(item: Item) -> ItemInfo:
    """An item as clients see it."""
    return ItemInfo(**_fields(item))


def found_on_wire(item: Item) -> FoundItem:
    """An item as clients that searched for it see it."""
    return FoundItem(**_fields(item))


def _fields(item: Item) -> dict[str, Any]:
    return {
        "namespace": item.namespace,
        "key": item.key,
        "value": item.value,
        "created_at": item.created_at,
        "updated_at": item.updated_at,
    }
