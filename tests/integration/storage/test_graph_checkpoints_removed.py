"""Checkpoints are removed while a graph goes on with its thread: what it puts meanwhile is whole, and stays."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langgraph.checkpoint.conformance.test_utils import generate_checkpoint, generate_config, generate_metadata
from tests.integration.storage.conftest import held_up
from tests.property.queue_hands import Gate

from trackside import RunSpec
from trackside.app.storage import Store
from trackside.app.storage._graph import checkpoints, works
from trackside.app.storage._graph.works import RemoveCheckpoints
from trackside.app.storage._writing import graph_borrowing
from trackside.app.storage.errors import DamagedDatabaseError
from trackside.harness.context import RunContext, bind_run
from trackside.harness.journal import Journal
from trackside.harness.running.settling import Settling


def thread() -> Any:
    return {"configurable": {"thread_id": "t"}}


class Walk:
    """Puts a thread's checkpoints one after the other, as a run does that keeps its values in memory."""

    def __init__(self, saver: Any) -> None:
        self.saver = saver
        self.config: Any = generate_config("t")
        self.values: dict[str, Any] = {}
        self.versions: dict[str, str] = {}

    async def load(self) -> None:
        """Go on from the newest checkpoint."""
        found = await self.saver.aget_tuple(thread())
        self.config = found.config
        self.values, self.versions = found.checkpoint["channel_values"], found.checkpoint["channel_versions"]

    async def put(self, run_id: str = "run", **changed: Any) -> Any:
        """Put the next checkpoint, in which these channels have new values."""
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


async def test_what_a_long_history_leaves_of_values_is_looked_for_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, database: Any
) -> None:
    monkeypatch.setattr(checkpoints, "_REMOVED", 2)
    looked: list[Any] = []
    stored = works._stored
    monkeypatch.setattr(works, "_stored", lambda session, *place: looked.append(place) or stored(session, *place))
    saver = store.checkpointer()
    walk = Walk(saver)
    for number in range(8):
        await walk.put(notes=[number])

    await saver.aprune(["t"])

    assert looked == [("t", "")]
    assert await newest(store) == {"notes": [7]}
    assert len(database.execute("SELECT * FROM graph_checkpoints").fetchall()) == 1
    assert len(database.execute("SELECT * FROM graph_values").fetchall()) == 1


async def test_a_value_stays_that_a_checkpoint_in_the_same_transaction_has(store: Store, database: Any) -> None:
    walk = Walk(store.checkpointer())
    await walk.put("first", doc=["kept"], notes=["gone"])
    first = walk.config["configurable"]["checkpoint_id"]
    async with held_up(store):
        putting = asyncio.ensure_future(walk.put("second", notes=["new"]))
        while not store.writer_stats().pending:
            await asyncio.sleep(0)
        removing = store._writer.put(RemoveCheckpoints([("t", "", first)], {("t", "")}))
    await asyncio.gather(putting, removing)
    assert await newest(store) == {"doc": ["kept"], "notes": ["new"]}
    assert len(database.execute("SELECT * FROM graph_values").fetchall()) == 2


class Unfit:
    """A value that the serializer refuses."""

    def __reduce__(self) -> str:
        raise TypeError("it is changed by somebody else")


@pytest.fixture(params=["by this process", "by another one"])
async def remover(store: Store, url: str, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """A saver that removes checkpoints."""
    if request.param == "by this process":
        yield store.checkpointer()
        return
    async with Store.open(url) as other:
        yield other.checkpointer()


async def remove_run(remover: Any) -> None:
    await remover.adelete_for_runs(["first"])


async def remove_thread(remover: Any) -> None:
    await remover.adelete_thread("t")


@pytest.mark.parametrize("remove", [remove_run, remove_thread])
async def test_what_a_run_has_in_hand_is_there_again_when_it_goes_on(
    store: Store, remover: Any, remove: Any, database: Any
) -> None:
    saver = store.checkpointer()
    await Walk(saver).put("first", doc=["kept"], notes=["old"])
    walk = Walk(saver)
    await walk.load()
    await remove(remover)
    assert database.execute("SELECT * FROM graph_values").fetchall() == []
    await walk.put("second", notes=["new"])
    assert await newest(store) == {"doc": ["kept"], "notes": ["new"]}
    await walk.put("third", notes=["newer"])
    assert await newest(store) == {"doc": ["kept"], "notes": ["newer"]}


async def test_so_it_is_where_a_run_begins_at_an_older_checkpoint(store: Store, remover: Any) -> None:
    saver = store.checkpointer()
    fork, walk = Walk(saver), Walk(saver)
    await walk.put("first", doc=["kept"], notes=["old"])
    await fork.load()
    await walk.put("second", doc=["other"])
    await remover.aprune(["t"])
    await walk.put("second", notes=["new"])
    await fork.put("third", notes=["fork"])
    assert await newest(store) == {"doc": ["kept"], "notes": ["fork"]}


class OtherWalk(Walk):
    """The same for another graph, whose only channel is `notes`; LangGraph passes on the versions of all channels."""

    async def load(self) -> None:
        await super().load()
        self.values = {"notes": self.values["notes"]}


@pytest.mark.parametrize("remove", [remove_run, remove_thread])
async def test_what_only_another_graph_had_in_hand_is_gone_with_all_that_had_it(
    store: Store, remover: Any, remove: Any
) -> None:
    saver = store.checkpointer()
    await Walk(saver).put("first", doc=["gone"], number=1, notes=["old"])
    walk = OtherWalk(saver)
    await walk.load()
    await remove(remover)
    for note in ("new", "newer"):
        await walk.put("second", notes=[note])
        assert await newest(store) == {"notes": [note]}


async def test_what_another_graph_had_stays_as_long_as_one_checkpoint_has_it(store: Store, remover: Any) -> None:
    saver = store.checkpointer()
    await Walk(saver).put("first", doc=["kept"], number=1, notes=["old"])
    walk = OtherWalk(saver)
    await walk.load()
    await walk.put("second", notes=["new"])
    await remove_run(remover)
    await walk.put("second", notes=["newer"])
    assert await newest(store) == {"doc": ["kept"], "number": 1, "notes": ["newer"]}
    await remover.aprune(["t"])
    await walk.put("second", notes=["newest"])
    assert await newest(store) == {"doc": ["kept"], "number": 1, "notes": ["newest"]}


@pytest.fixture
def bound() -> Iterator[None]:
    """A run that the test itself is in."""
    journal = Journal(None, None)
    run = RunContext(RunSpec("graph"), run_id="run", thread_id="t", agent="graph", journal=journal, port=None)  # type: ignore[arg-type]  # says nothing
    bind_run(run)
    yield
    bind_run(None)


@pytest.mark.usefixtures("bound")
async def test_so_it_is_where_the_puts_of_a_run_are_written_together(store: Store, remover: Any) -> None:
    saver = store.checkpointer()
    await Walk(saver).put("first", doc=["kept"], notes=["old"])
    settling = Settling("run")
    settling.begin()
    walk = Walk(saver)
    await walk.load()
    await remove_run(remover)
    before = store.writer_stats().works_total
    for number in range(3):
        await walk.put("run", notes=[number])
    await settling.settle()
    assert store.writer_stats().works_total - before == 1
    found = [one.checkpoint["channel_values"] async for one in saver.alist(thread())]
    assert found == [{"doc": ["kept"], "notes": [number]} for number in (2, 1, 0)]


async def until_one_waits(dialect: str, database: Any) -> None:
    """Return when a transaction waits for another; SQLite's wait from their beginning, which nobody can see."""
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"
    while dialect == "postgres" and not database.execute(waiting).fetchall():
        await asyncio.sleep(0.01)


async def test_so_it_is_where_the_put_comes_before_the_removal_is_committed(
    store: Store, url: str, dialect: str, database: Any
) -> None:
    walk = Walk(store.checkpointer())
    await walk.put("first", doc=["kept"], notes=["old"])
    first = walk.config["configurable"]["checkpoint_id"]
    async with Store.open(url) as other:
        async with held_up(other):
            removing = asyncio.ensure_future(other._writer.write(RemoveCheckpoints([("t", "", first)], {("t", "")})))
            while not other.writer_stats().pending:
                await asyncio.sleep(0)
            held = Gate()
            holding = other._writer.put(held)
        await asyncio.to_thread(held.reached.wait)  # by now it has removed, in its transaction, what it should
        putting = asyncio.ensure_future(walk.put("second", notes=["new"]))
        await until_one_waits(dialect, database)
        held.opened.set()
        await asyncio.gather(removing, holding, putting)
    assert await newest(store) == {"doc": ["kept"], "notes": ["new"]}


async def test_a_removal_waits_for_a_put_that_is_not_committed(
    store: Store, url: str, dialect: str, database: Any
) -> None:
    """What the put takes from the removed checkpoint stays."""
    walk = Walk(store.checkpointer())
    await walk.put("first", doc=["kept"], notes=["old"])
    first = walk.config["configurable"]["checkpoint_id"]
    async with Store.open(url) as other:
        reached, let_go = threading.Event(), threading.Event()
        session: Any = store._writer._session  # type: ignore[union-attr]
        graph_removals = session.graph_removals

        def holding() -> int:  # the checkpoint is saved, and the transaction is open
            reached.set()
            let_go.wait()
            return graph_removals()

        session.graph_removals = holding
        putting = asyncio.ensure_future(walk.put("second", notes=["new"]))
        await asyncio.to_thread(reached.wait)
        removing = asyncio.ensure_future(other._writer.write(RemoveCheckpoints([("t", "", first)], {("t", "")})))
        await until_one_waits(dialect, database)
        let_go.set()
        await asyncio.gather(putting, removing)
    assert await newest(store) == {"doc": ["kept"], "notes": ["new"]}


async def test_nothing_is_looked_for_as_long_as_nothing_is_removed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = store.checkpointer()
    await Walk(saver).put(doc=["kept"], notes=["first"])
    looked: list[Any] = []
    missing = graph_borrowing._missing
    monkeypatch.setattr(graph_borrowing, "_missing", lambda *said: looked.append(said) or missing(*said))
    walk = Walk(saver)
    await walk.load()
    for number in range(3):
        await walk.put(notes=[number])
    assert looked == []
    await remove_run(saver)  # that run made nothing
    await walk.put(notes=["more"])
    assert looked == []
    await saver.aprune(["t"])
    for number in range(3):
        await walk.put(notes=[number])
    assert len(looked) == 1


async def test_what_cannot_be_made_again_is_the_trouble_of_its_own_thread(
    store: Store, monkeypatch: pytest.MonkeyPatch, database: Any
) -> None:
    saver = store.checkpointer()
    walk = Walk(saver)
    await walk.put("first", doc=["kept"], notes=["old"])
    await remove_run(saver)
    walk.values["doc"] = [Unfit()]
    await walk.put("second", notes=["new"])
    with pytest.raises(DamagedDatabaseError, match="lacks what it had in doc"):
        await newest(store)
    assert len(database.execute("SELECT * FROM graph_checkpoints").fetchall()) == 1


async def test_checkpoints_are_removed_beside_a_vacuum(store: Store, dialect: str, database: Any) -> None:
    if dialect != "postgres":
        pytest.skip("there is nothing like it in SQLite")
    saver = store.checkpointer()
    await Walk(saver).put(notes=["old"])
    await asyncio.to_thread(
        database.execute, "BEGIN; LOCK TABLE graph_checkpoints IN SHARE UPDATE EXCLUSIVE MODE"
    )  # as a vacuum locks it
    try:
        await saver.adelete_thread("t")
    finally:
        await asyncio.to_thread(database.execute, "ROLLBACK")
    assert await newest(store) is None
