"""Checkpoints are removed while a graph goes on with its thread: what it puts meanwhile is whole, and stays."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, override

import pytest
from langgraph.checkpoint.conformance.test_utils import generate_checkpoint, generate_config, generate_metadata

from trackside.app.storage import Store
from trackside.app.storage._graph_checkpoint_work import RemoveCheckpoints
from trackside.app.storage._work import UnitOfWork, Work


def thread() -> Any:
    return {"configurable": {"thread_id": "t"}}


class Walk:
    """The checkpoints of a thread, one after the other, as a run puts them that keeps its values in memory."""

    def __init__(self, saver: Any) -> None:
        self.saver = saver
        self.config: Any = generate_config("t")
        self.values: dict[str, Any] = {}
        self.versions: dict[str, str] = {}

    async def load(self) -> None:
        """Go on from the newest one."""
        found = await self.saver.aget_tuple(thread())
        self.config = found.config
        self.values, self.versions = found.checkpoint["channel_values"], found.checkpoint["channel_versions"]

    async def put(self, run_id: str = "run", **changed: Any) -> Any:
        """The next one, in which these channels have new values."""
        new = {channel: self.saver.get_next_version(self.versions.get(channel), None) for channel in changed}
        self.values, self.versions = self.values | changed, self.versions | new
        checkpoint = generate_checkpoint(channel_values=self.values, channel_versions=self.versions)
        self.config = await self.saver.aput(self.config, checkpoint, generate_metadata(run_id=run_id), new)
        return self.config


async def newest(store: Store) -> Any:
    found = await store.checkpointer().aget_tuple(thread())
    return None if found is None else found.checkpoint["channel_values"]


async def test_what_comes_while_a_thread_is_pruned_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch, database: Any
) -> None:
    saver: Any = store.checkpointer()
    walk, read = Walk(saver), saver.aget_tuple
    await walk.put(notes=["old"])
    await walk.put(notes=["read"])

    async def putting(config: Any) -> Any:
        found = await read(config)
        await walk.put(notes=["new"])
        return found

    monkeypatch.setattr(saver, "aget_tuple", putting)
    await saver.aprune(["t"])
    monkeypatch.undo()
    assert await newest(store) == {"notes": ["new"]}
    left = [found.checkpoint["channel_values"] async for found in saver.alist(thread())]
    assert left == [{"notes": ["new"]}, {"notes": ["read"]}]
    assert len(database.execute("SELECT * FROM graph_values").fetchall()) == 2
    await saver.aprune(["t"])
    assert len(database.execute("SELECT * FROM graph_values").fetchall()) == 1


class Held(Work):
    """Holds the writer in its transaction, so that what is asked for meanwhile comes into the next one together."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.let_go = threading.Event()

    @override
    def apply(self, unit: UnitOfWork) -> None:
        self.reached.set()
        self.let_go.wait()


@asynccontextmanager
async def one_transaction(store: Store) -> AsyncGenerator[None]:
    """What is put into the writer's queue in here is written together."""
    held = Held()
    holding = asyncio.ensure_future(store._writer.write(held))
    await asyncio.to_thread(held.reached.wait)
    try:
        yield
    finally:
        held.let_go.set()
        await holding


async def test_a_value_stays_that_a_checkpoint_in_the_same_transaction_has(store: Store, database: Any) -> None:
    walk = Walk(store.checkpointer())
    await walk.put("first", doc=["kept"], notes=["gone"])
    first = walk.config["configurable"]["checkpoint_id"]
    async with one_transaction(store):
        putting = asyncio.ensure_future(walk.put("second", notes=["new"]))
        while not store.writer_stats().pending:
            await asyncio.sleep(0)
        removing = store._writer.put(RemoveCheckpoints([("t", "", first)]))
    await asyncio.gather(putting, removing)
    assert await newest(store) == {"doc": ["kept"], "notes": ["new"]}
    assert len(database.execute("SELECT * FROM graph_values").fetchall()) == 2
