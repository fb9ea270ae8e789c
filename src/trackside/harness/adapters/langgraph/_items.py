"""What agents keep beyond their threads, as a LangGraph store: `get_store()` and `runtime.store` in a node."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    validate_op_namespace,
)

from trackside.harness import items as kept

_NO_INDEX = "this store finds items by namespace and by what their values have; it has no vectors to search by meaning"


class LentItems(BaseStore):
    """A LangGraph store over the manager's. In a batch of operations, the reads see nothing of the writes.

    It belongs to the event loop in which it is made. Nodes that are plain functions run in threads, where its methods
    without an `a` work; on the event loop these would wait for themselves, so they are refused.
    """

    supports_ttl = True

    def __init__(self, items: kept.ItemStore) -> None:
        self._items = items
        self._loop = asyncio.get_running_loop()

    def is_of(self, items: kept.ItemStore) -> bool:
        """Whether it is the store of these items, and of the running event loop."""
        return self._items is items and self._loop is asyncio.get_running_loop()

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do all of these operations; the results come in the same order.

        Raises:
            NotImplementedError: one of them searches by meaning, or wants its value to be found that way.
        """
        asked = [*ops]
        if asyncio.get_running_loop() is self._loop:
            return await self._do(asked)
        # Called on a thread's own loop.
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._do(asked), self._loop))

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """As `abatch`, from a thread.

        Raises:
            asyncio.InvalidStateError: it is called on the event loop.
        """
        if _running_loop() is self._loop:
            raise asyncio.InvalidStateError(
                "a synchronous call on the event loop would wait for itself; use "
                "`await store.aget(…)`, `store.aput(…)`, `store.asearch(…)` in an async node"
            )
        return asyncio.run_coroutine_threadsafe(self._do([*ops]), self._loop).result()

    async def _do(self, ops: Sequence[Op]) -> list[Result]:
        changes = [_change_of(op) for op in ops if isinstance(op, PutOp)]
        results = [None if isinstance(op, PutOp) else await self._read(op) for op in ops]
        if changes:
            await self._items.change(changes)
        return results

    async def _read(self, op: Op) -> Result:
        validate_op_namespace(op)
        if isinstance(op, GetOp):
            found = await self._items.get(op.namespace, op.key, refresh_ttl=op.refresh_ttl)
            return None if found is None else Item(**_fields(found))
        if isinstance(op, SearchOp):
            return await self._search(op)
        if isinstance(op, ListNamespacesOp):
            return await self._namespaces(op)
        raise ValueError(f"{op!r:.200} is no operation of a store")

    async def _search(self, op: SearchOp) -> list[SearchItem]:
        if op.query is not None:
            raise NotImplementedError(f"query: {_NO_INDEX}")
        found = await self._items.search(
            op.namespace_prefix, filter=op.filter, limit=op.limit, offset=op.offset, refresh_ttl=op.refresh_ttl
        )
        return [SearchItem(**_fields(item)) for item in found]

    async def _namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        by_type: dict[str, Sequence[str]] = {}
        for condition in op.match_conditions or ():
            if condition.match_type in by_type:
                raise NotImplementedError(f"namespaces are listed by one {condition.match_type} at a time")
            by_type[condition.match_type] = condition.path
        return await self._items.list_namespaces(
            prefix=by_type.get("prefix", ()),
            suffix=by_type.get("suffix", ()),
            max_depth=op.max_depth,
            limit=op.limit,
            offset=op.offset,
        )


def _change_of(op: PutOp) -> kept.ItemChange:
    validate_op_namespace(op)
    if op.index:
        raise NotImplementedError(f"index: {_NO_INDEX}")
    return kept.ItemChange(namespace=op.namespace, key=op.key, value=op.value, ttl=op.ttl)


def _fields(item: kept.Item) -> dict[str, Any]:
    return {
        "namespace": item.namespace,
        "key": item.key,
        "value": item.value,
        "created_at": item.created_at,
        "updated_at": item.updated_at,
    }


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
