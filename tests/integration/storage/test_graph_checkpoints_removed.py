"""Checkpoints are removed while a graph goes on with its thread: what it puts meanwhile is whole, and stays."""

from typing import Any

import pytest
from langgraph.checkpoint.conformance.test_utils import generate_checkpoint, generate_config, generate_metadata

from trackside.app.storage import Store


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
