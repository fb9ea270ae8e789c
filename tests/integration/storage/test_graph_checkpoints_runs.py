"""Runs of graphs on the store's checkpointer: what they leave counts once all is on disk, and only while they may."""

import asyncio
import operator
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from blockbuster import BlockBuster
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import id as checkpoint_ids
from langgraph.graph import START, StateGraph

from trackside import ObserverBinding, RunManager, RunSpec, RunStatus
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.app.storage._graph import puts
from trackside.app.storage._graph.works import PutGraphRows
from trackside.app.storage._writing import outages
from trackside.app.storage._writing.work import UnitOfWork
from trackside.app.storage.errors import DatabaseBusyError
from trackside.harness.ids import new_id
from trackside.harness.observer import LifecycleEventType, RunLifecycleEvent


class Notes(TypedDict, total=False):
    notes: Annotated[list[Any], operator.add]


def steps(*nodes: Any) -> Any:
    return StateGraph(Notes).add_sequence([*nodes]).add_edge(START, nodes[0].__name__).compile()


async def count(state: Any) -> Any:
    return {"notes": [len(state["notes"])]}


async def again(state: Any) -> Any:
    return await count(state)


@asynccontextmanager
async def managing(store: Store, graph: Any) -> AsyncGenerator[RunManager]:
    async with RunManager(
        {"graph": graph},
        observers=[ObserverBinding(StorageObserver(store), required=True)],
        coordinator=store.coordinator(),
        checkpointer=store.checkpointer(),
    ) as manager:
        yield manager


async def play(manager: RunManager, *notes: Any, thread_id: str = "t", **more: Any) -> Any:
    return await (await manager.start(RunSpec("graph", {"notes": [*notes]}, thread_id=thread_id, **more))).result()


async def kept(store: Store, graph: Any, thread_id: str = "t") -> Any:
    bound = graph.copy({"checkpointer": store.checkpointer()})
    return (await bound.aget_state({"configurable": {"thread_id": thread_id}})).values.get("notes")


async def test_a_thread_forgets_nothing_where_one_process_had_a_clock_that_was_ahead(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I8: the newest checkpoint is the one with the highest id, and LangGraph makes ids from the wall clock."""
    graph, day = steps(count), 86_400 * 10_000_000
    monkeypatch.setattr(checkpoint_ids, "_last_v6_timestamp", checkpoint_ids.uuid6().time + day)
    async with managing(store, graph) as manager:
        await play(manager, "ahead")
        for note in ("right", "and right"):
            monkeypatch.setattr(checkpoint_ids, "_last_v6_timestamp", None)  # as in a new process
            await play(manager, note)
    assert await kept(store, graph) == ["ahead", 1, "right", 3, "and right", 5]


async def test_two_processes_take_turns_at_a_thread(store: Store, url: str) -> None:
    graph = steps(count)
    async with Store.open(url) as other, managing(store, graph) as here, managing(other, graph) as there:
        for manager in (here, there, here, there):
            assert (await play(manager, "n")).status is RunStatus.success
        assert await kept(store, graph) == ["n", 1, "n", 3, "n", 5, "n", 7]


async def test_thirty_two_threads_at_once_have_each_what_is_its_own(store: Store) -> None:
    graph = steps(count)
    async with managing(store, graph) as manager:
        names = [f"thread {number}" for number in range(32)]
        for _ in range(2):
            results = await asyncio.gather(*(play(manager, name, thread_id=name) for name in names))
            assert {result.status for result in results} == {RunStatus.success}
        for name in names:
            assert await kept(store, graph, name) == [name, 1, name, 3]


@pytest.mark.parametrize("durability", ["async", "sync", "exit"])
async def test_a_run_that_somebody_else_has_ended_adds_nothing(store: Store, url: str, durability: Any) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def wait(state: Any) -> Notes:
        reached.set()
        await go_on.wait()
        return {"notes": ["by a dead one"]}

    graph = steps(count, wait, again)
    async with Store.open(url) as other, managing(store, steps(count)) as manager:
        await play(manager, "before")
        before = await kept(other, graph)
        async with managing(store, graph) as dead:
            handle = await dead.start(RunSpec("graph", {"notes": ["x"]}, thread_id="t", durability=durability))
            await reached.wait()
            await store.checkpointer().aget_tuple({"configurable": {"thread_id": "t"}})  # now all its puts are on disk
            at_the_end = await kept(other, graph)
            await other.append([ended(handle.run_id, await last_of(other, handle.run_id) + 1)])
            go_on.set()
            result = await handle.result()
        assert result.status is RunStatus.error
        assert await kept(other, graph) == at_the_end
        assert at_the_end == (before if durability == "exit" else [*before, "x", 3])


async def last_of(store: Store, run_id: str) -> int:
    return (await store.events(run_id=run_id))[-1].event.sequence


def ended(run_id: str, sequence: int) -> RunLifecycleEvent:
    payload = {"status": "error", "error": "worker_lost", "error_type": "worker_lost", "completion_data": {}}
    now = datetime.now(UTC)
    return RunLifecycleEvent(new_id(), LifecycleEventType.RUN_FAILED, run_id, "t", sequence, now, payload)


def joined(state: Sequence[Any], writes: Sequence[Sequence[Any]]) -> list[Any]:
    return [*state, *(one for write in writes for one in write)]


class Deltas(TypedDict, total=False):
    notes: Annotated[list[Any], DeltaChannel(joined, snapshot_frequency=4)]


async def test_a_channel_of_changes_is_whole_after_a_prune_too(store: Store, database: Any) -> None:
    graph = StateGraph(Deltas).add_node("count", count).add_edge(START, "count").compile()
    expected: list[Any] = []
    async with managing(store, graph) as manager:
        for number in range(9):
            expected += [number, len(expected) + 1]
            assert (await play(manager, number)).status is RunStatus.success
            assert await kept(store, graph) == expected
            if number % 2:
                before = len(database.execute("SELECT * FROM graph_checkpoints").fetchall())
                await store.checkpointer().aprune(["t"])
                assert len(database.execute("SELECT * FROM graph_checkpoints").fetchall()) < before
                assert await kept(store, graph) == expected
    assert len(database.execute("SELECT * FROM graph_checkpoints").fetchall()) < 12


async def test_a_run_whose_checkpoints_cannot_be_written_is_an_error(
    store: Store, path: Path, blockbuster: BlockBuster
) -> None:
    async def grow(state: Notes) -> Notes:
        return {"notes": ["x" * 5_000_000]}

    graph = steps(grow)
    async with managing(store, steps(count)) as manager:
        await play(manager, "before")
    blockbuster.deactivate()  # the test limits the writer's own connection
    driver: Any = store._writer._session._driver  # type: ignore[union-attr]
    ((pages,),) = driver.execute("PRAGMA page_count").fetchall()
    driver.execute(f"PRAGMA max_page_count = {pages + 300}")  # enough for the run's events
    async with managing(store, graph) as manager:
        result = await play(manager, "too much")
    assert result.status is RunStatus.error
    assert "no room left for the database" in result.error
    left = await kept(store, graph)
    assert left in (
        ["before", 1],
        ["before", 1, "too much"],
    )  # what came with the input had room, if it was written alone
    async with managing(store, steps(count)) as manager:  # there is also room for something small
        assert (await play(manager, "after")).status is RunStatus.success
    assert await kept(store, graph) == [*left, "after", len(left) + 1]


def held_graph() -> tuple[Any, asyncio.Event, asyncio.Event]:
    """A graph that waits in its second step, an event that it sets then, and one with which a test lets it go on."""
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def wait(state: Any) -> Notes:
        reached.set()
        await go_on.wait()
        return {"notes": ["waited"]}

    return steps(count, wait, again), reached, go_on


@asynccontextmanager
async def away(store: Store, database: Any, dialect: str, *, failures: int) -> AsyncGenerator[None]:
    """Nothing of a graph can be written until this store's writes have failed so often."""
    lock = "LOCK TABLE graph_checkpoints, graph_writes, graph_values IN ACCESS EXCLUSIVE MODE"
    database.execute("BEGIN IMMEDIATE" if dialect == "sqlite" else f"BEGIN; {lock}")
    yield
    failed = store.writer_stats().failures_total
    async with asyncio.timeout(60):
        while store.writer_stats().failures_total < failed + failures:
            await asyncio.sleep(0.01)
    database.execute("COMMIT")


@pytest.mark.parametrize("durability", ["async", "sync", "exit"])
async def test_a_run_goes_on_while_the_database_is_away_and_loses_nothing(
    url: str, database: Any, dialect: str, durability: Any, blockbuster: BlockBuster
) -> None:
    blockbuster.deactivate()  # the test waits for its own connection
    graph, reached, go_on = held_graph()
    async with Store.open(url, busy_timeout=0.2) as store, managing(store, graph) as manager:
        playing = asyncio.create_task(play(manager, "n", durability=durability))
        await reached.wait()
        async with away(store, database, dialect, failures=3):
            go_on.set()
        result = await playing
        assert (result.status, result.error) == (RunStatus.success, None)
        assert await kept(store, graph) == ["n", 1, "waited", 3]
        assert (await play(manager, "more")).status is RunStatus.success
        assert await kept(store, graph) == ["n", 1, "waited", 3, "more", 5, "waited", 7]


def go_away(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Refuse all writes of a graph from now on, as if the database were away; the event is set at the first refusal."""
    refused = threading.Event()

    def refuse(work: PutGraphRows, unit: UnitOfWork) -> None:
        refused.set()
        raise DatabaseBusyError(database="it", seconds=0.2)

    monkeypatch.setattr(PutGraphRows, "apply", refuse)
    return refused


async def test_a_run_does_not_wait_for_ever_for_a_database_that_is_away(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "LONGEST_OUTAGE", 0.5)
    graph, reached, go_on = held_graph()
    async with managing(store, graph) as manager:
        playing = asyncio.create_task(play(manager, "n"))
        await reached.wait()
        go_away(monkeypatch)
        go_on.set()
        result = await playing
    assert result.status is RunStatus.error
    assert "locked" in result.error


@pytest.mark.parametrize("durability", ["async", "sync", "exit"])
@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_a_run_that_has_to_stop_does_not_wait_for_a_database_that_is_away(
    store: Store, durability: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(puts, "_MOST_KEPT", 0)  # the next put has to wait
    graph, reached, go_on = held_graph()
    async with managing(store, graph) as manager, asyncio.timeout(outages.LONGEST_OUTAGE / 3):
        handle = await manager.start(RunSpec("graph", {"notes": ["n"]}, thread_id="t", durability=durability))
        await reached.wait()
        refused = go_away(monkeypatch)
        go_on.set()
        while not refused.is_set():
            await asyncio.sleep(0.01)
        await (handle.cancel() if how == "cancel" else manager.aclose(grace=0))
        result = await handle.result()
    assert result.status is RunStatus.cancelled


async def test_a_thread_is_whole_whatever_its_process_still_had_to_write_when_it_was_killed(
    url: str, database: Any, dialect: str, blockbuster: BlockBuster
) -> None:
    """Checkpoints use what earlier ones have stored: none is written before those."""
    blockbuster.deactivate()
    names = [f"c{number}" for number in range(8)]
    kinds: Any = TypedDict("Channels", {**dict.fromkeys(names, list), "x": str}, total=False)
    locked = asyncio.Event()

    def step(name: str) -> Any:
        async def write(state: Any) -> Any:
            if name == names[2]:
                locked.set()
            await asyncio.sleep(0.1)
            return {name: [f"said by {name}"]}

        write.__name__ = f"write_{name}"
        return write

    nodes = [step(name) for name in names]
    graph = StateGraph(kinds).add_sequence(nodes).add_edge(START, nodes[0].__name__).compile()
    seen: list[Any] = []
    async with Store.open(url, busy_timeout=0.3) as store, Store.open(url) as other, managing(store, graph) as manager:
        real = puts.Behind._put_unwritten

        async def put_unwritten(behind: puts.Behind) -> None:
            write = behind._writer.write

            async def written(work: Any) -> None:
                await write(work)
                bound = graph.copy({"checkpointer": other.checkpointer()})
                seen.append((await bound.aget_state({"configurable": {"thread_id": "t"}})).values)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(behind._writer, "write", written)
                await real(behind)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(puts.Behind, "_put_unwritten", put_unwritten)
            handle = await manager.start(RunSpec("graph", {"x": "go"}, thread_id="t"))
            await locked.wait()
            async with away(store, database, dialect, failures=3):
                pass
            assert (await handle.result()).status is RunStatus.success
    counts = [len(values) for values in seen]
    assert counts == sorted(counts)
    assert counts[-1] == 1 + len(names)
