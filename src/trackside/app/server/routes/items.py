"""The store: what agents keep beyond their threads, under namespaces and keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trackside.app.server.authorizing import About
from trackside.app.server.failures import HttpError
from trackside.app.server.principal import Permission
from trackside.app.server.responses import empty
from trackside.app.server.routing import Call, Routes
from trackside.app.server.wire.items import (
    FoundItems,
    FoundNamespaces,
    ItemInfo,
    ItemName,
    ItemPut,
    ItemQuery,
    ItemSearch,
    NamespaceSearch,
    found_on_wire,
    item_on_wire,
)

routes = Routes("Store")

_NO_VECTORS = "is not supported: items are found by namespace and by what their values have, not by meaning"


@routes.put("/store/items", Permission.run, about=About("store", "put", "item"), body=ItemPut, answers={204: None})
async def put_item(call: Call[ItemPut, None]) -> Any:
    """Store an item. It replaces the one that is there."""
    item = call.body
    if item.index:
        raise HttpError(status=422, detail=f"index = {item.index!r:.80} {_NO_VECTORS}")
    _check_namespace(call, item.namespace)
    await call.parts.store.items.put(item.namespace, item.key, item.value, ttl=item.ttl)
    return empty()


@routes.get(
    "/store/items",
    Permission.read,
    about=About("store", "get", "item"),
    query=ItemQuery,
    answers={200: ItemInfo | None},
)
async def get_item(call: Call[None, ItemQuery]) -> Any:
    """Get an item, or `null` if there is none. Its time to live begins anew, unless `refresh_ttl` is false."""
    wanted = call.query
    namespace = [label for part in wanted.namespace for label in part.split(".")]
    _check_namespace(call, namespace)
    refresh = wanted.refresh_ttl is not False
    found = await call.parts.store.items.get(namespace, wanted.key, refresh_ttl=refresh)
    return None if found is None else item_on_wire(found)


@routes.delete(
    "/store/items", Permission.run, about=About("store", "delete", "item"), body=ItemName, answers={204: None}
)
async def delete_item(call: Call[ItemName, None]) -> Any:
    """Delete an item. If there is none, that is not an error."""
    _check_namespace(call, call.body.namespace)
    await call.parts.store.items.delete(call.body.namespace, call.body.key)
    return empty()


@routes.post(
    "/store/items/search",
    Permission.read,
    about=About("store", "search", "item"),
    body=ItemSearch,
    answers={200: FoundItems},
)
async def search_items(call: Call[ItemSearch, None]) -> Any:
    """Find items below a namespace prefix, those written last first."""
    wanted = call.body
    if wanted.query is not None:
        raise HttpError(status=422, detail=f"query = {wanted.query!r:.80} {_NO_VECTORS}")
    _check_namespace(call, wanted.namespace_prefix, "namespace_prefix")
    found = await call.parts.store.items.search(
        wanted.namespace_prefix,
        filter=wanted.filter,
        limit=10 if wanted.limit is None else wanted.limit,
        offset=wanted.offset or 0,
        refresh_ttl=wanted.refresh_ttl is not False,
    )
    return FoundItems([found_on_wire(item) for item in found])


@routes.post(
    "/store/namespaces",
    Permission.read,
    about=About("store", "list_namespaces", "item"),
    body=NamespaceSearch,
    answers={200: FoundNamespaces},
)
async def list_namespaces(call: Call[NamespaceSearch, None]) -> Any:
    """List the namespaces that there are, in order."""
    wanted = call.body
    _check_namespace(call, wanted.prefix or (), "prefix")
    found = await call.parts.store.items.list_namespaces(
        prefix=wanted.prefix or (),
        suffix=wanted.suffix or (),
        max_depth=wanted.max_depth,
        limit=100 if wanted.limit is None else wanted.limit,
        offset=wanted.offset or 0,
    )
    return FoundNamespaces(found)


def _check_namespace(call: Call[Any, Any], labels: Sequence[str], field: str = "namespace") -> None:
    """See that callers ask for what is theirs: their name is the first label that is no kind. Behind somebody else's
    name, the item would be below what that user looks through.

    Raises:
        HttpError: it is not.
    """
    owner, kinds = call.principal.owner, call.parts.options.item_kinds
    if owner is None:
        return
    own = label_of(owner)
    if next((label for label in labels if label not in kinds), None) != own:
        after = f" that is not one of server.item_kinds ({', '.join(kinds)})" if kinds else ""
        raise HttpError(status=403, detail=f"this {field} is not yours: its first label{after} has to be {own!r}")


def label_of(identity: str) -> str:
    """The label that stands for this user, and for nobody else: a label has no dot, and "*" would be any label."""
    return identity.replace("%", "%25").replace(".", "%2E").replace("*", "%2A")
