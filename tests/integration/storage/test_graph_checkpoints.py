"""The store as LangGraph's checkpointer: everything that LangGraph asks of one, and what only this one promises."""

import asyncio
import operator
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.test_utils import generate_checkpoint, generate_config, generate_metadata
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages

from trackside import ObserverBinding, RunManager, RunSpec, RunStatus
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.app.storage._graph import checkpoints as checkpoints_module
from trackside.app.storage.errors import (
    CheckpointLoopError,
    CheckpointTooLargeError,
    DamagedDatabaseError,
    PruneStrategyError,
    ReadOnlyStoreError,
    RunEndedError,
)
from trackside.harness.context import RunContext, bind_run
from trackside.harness.errors import ClosedError, ThreadExistsError
from trackside.harness.journal import Journal
from trackside.harness.running.settling import Settling


class Chat(TypedDict, total=False):
    messages: Annotated[list[Any], add_messages]
    notes: Annotated[list[Any], operator.add]
    document: str


def chatting(saver: Any) -> Any:
    async def answer(state: Chat) -> Chat:
        return {"messages": [AIMessage(f"answer {len(state.get('messages', ()))}")]}

    return StateGraph(Chat).add_node("answer", answer).add_edge(START, "answer").compile(checkpointer=saver)


def thread(thread_id: str = "t", **more: Any) -> Any:
    return {"configurable": {"thread_id": thread_id, **more}}


async def put(saver: Any, config: Any = None, run_id: str | None = None, **values: Any) -> Any:
    """Put a checkpoint whose channels have these values, all of them new."""
    versions = {channel: saver.get_next_version(None, None) for channel in values}
    checkpoint = generate_checkpoint(channel_values=values, channel_versions=versions)
    metadata = generate_metadata() if run_id is None else generate_metadata(run_id=run_id)
    return await saver.aput(config or generate_config("t"), checkpoint, metadata, versions)


async def listed(saver: Any, config: Any = None, **options: Any) -> list[Any]:
    return [found async for found in saver.alist(config or thread(), **options)]


async def test_langgraph_s_own_suite_passes_with_all_capabilities(store: Store) -> None:
    @checkpointer_test(name="StoreCheckpointer")
    async def registered() -> AsyncIterator[Any]:
        yield store.checkpointer()

    report = await validate(registered)
    assert {name: result.failures for name, result in report.results.items() if result.failures} == {}
    assert all(result.detected and result.passed for result in report.results.values())


async def test_a_conversation_goes_on_through_another_process_s_store(url: str) -> None:
    async with Store.open(url) as store:
        await chatting(store.checkpointer()).ainvoke({"messages": [HumanMessage("one")]}, thread())
    async with Store.open(url) as store:
        state = await chatting(store.checkpointer()).ainvoke({"messages": [HumanMessage("two")]}, thread())
    assert [message.content for message in state["messages"]] == ["one", "answer 1", "two", "answer 3"]


async def test_a_value_is_stored_once_for_each_version(store: Store, database: Any) -> None:
    long = "x" * 10_000
    graph = chatting(store.checkpointer())
    await graph.ainvoke({"messages": [HumanMessage("one")], "document": long}, thread())
    for _ in range(3):
        await graph.ainvoke({"messages": [HumanMessage("more")]}, thread())
    assert len(await listed(store.checkpointer())) == 12
    found = database.execute("SELECT count(*) FROM graph_values WHERE channel = 'document'").fetchall()
    assert found[0][0] == 1
    bodies = database.execute("SELECT max(length(body)) FROM graph_checkpoints WHERE refs LIKE '%document%'").fetchall()
    assert bodies[0][0] < 2_000
    assert (await graph.aget_state(thread())).values["document"] == long


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1.5, "", "short", "x" * 5_000, "\x00", "\ud800", b"\x00\xff", [], {}, {"a": [1, {"b": "\x00"}]}],
    ids=repr,
)
async def test_whatever_the_serializer_makes_of_a_value_comes_back(store: Store, value: Any) -> None:
    saver = store.checkpointer()
    await saver.aput_writes(await put(saver, channel=value, other=1), [("channel", value)], "task")
    found = await saver.aget_tuple(thread())
    kept = saver.serde.loads_typed(saver.serde.dumps_typed(value))  # it turns half a surrogate pair into a "?"
    assert found is not None
    assert found.checkpoint["channel_values"] == {"channel": kept, "other": 1}
    assert found.pending_writes == [("task", "channel", kept)]


async def test_who_names_no_checkpoint_may_say_so_with_an_empty_id(store: Store) -> None:
    saver = store.checkpointer()
    made = [await put(saver, a=number) for number in range(2)]

    for of in ({}, {"checkpoint_id": ""}, {"checkpoint_id": None}):
        for before in (None, thread(**of)):
            found = await listed(saver, thread(**of), before=before)
            assert [one.config for one in found] == made[::-1], (of, before)


async def test_a_history_is_filtered_cut_and_continued(store: Store) -> None:
    saver = store.checkpointer()
    configs: list[Any] = [None]
    for number in range(70):  # more than one look covers
        config = generate_config("t") if configs[-1] is None else configs[-1]
        configs.append(await put(saver, config, run_id=f"run {number % 2}", n=number))
    found = await listed(saver)
    assert [one.checkpoint["channel_values"]["n"] for one in found] == [*reversed(range(70))]
    assert [one.parent_config for one in found] == [*reversed(configs[:-1])]
    odd = await listed(saver, filter={"run_id": "run 1"}, before=configs[60], limit=3)
    assert [one.checkpoint["channel_values"]["n"] for one in odd] == [57, 55, 53]
    assert await listed(saver, limit=0) == []
    assert len([one async for one in saver.alist(None, limit=66)]) == 66


async def test_a_put_outside_of_a_run_is_on_disk_when_it_returns(store: Store, database: Any) -> None:
    await put(store.checkpointer(), n=1)
    assert len(database.execute("SELECT * FROM graph_checkpoints").fetchall()) == 1


@pytest.fixture
def bound() -> Iterator[RunContext]:
    """A run that the test itself is in."""
    journal = Journal(None, None)
    run = RunContext(RunSpec("graph"), run_id="run", thread_id="t", agent="graph", journal=journal, port=None)  # type: ignore[arg-type]  # says nothing
    bind_run(run)
    yield run
    bind_run(None)


async def test_what_settles_later_is_seen_at_once_by_this_process(
    store: Store, bound: RunContext, database: Any
) -> None:
    saver = store.checkpointer()
    settling = Settling(bound.run_id)
    settling.begin()
    await put(saver, n=1)
    assert database.execute("SELECT * FROM graph_checkpoints").fetchall() == []
    found = await store.checkpointer().aget_tuple(thread())
    assert found is not None
    assert found.checkpoint["channel_values"] == {"n": 1}
    await put(saver, n=2)
    await settling.settle()
    assert len(database.execute("SELECT * FROM graph_checkpoints").fetchall()) == 2


async def test_puts_of_a_run_share_one_commit(store: Store, bound: RunContext) -> None:
    saver = store.checkpointer()
    settling = Settling(bound.run_id)
    settling.begin()
    before = store.writer_stats()
    config = generate_config("t")
    for number in range(5):
        config = await put(saver, config, n=number)
        await saver.aput_writes(config, [("n", number)], "task")
    await settling.settle()
    after = store.writer_stats()
    assert (after.batches_total - before.batches_total, after.works_total - before.works_total) == (1, 1)
    assert len(await listed(saver)) == 5


async def test_a_run_that_belongs_to_another_waits_for_its_own_puts(
    store: Store, bound: RunContext, database: Any
) -> None:
    Settling("the run that started it").begin()
    await put(store.checkpointer(), n=1)
    assert len(database.execute("SELECT * FROM graph_checkpoints").fetchall()) == 1


async def test_what_comes_after_the_end_of_a_run_waits_for_itself(
    store: Store, bound: RunContext, database: Any
) -> None:
    settling = Settling(bound.run_id)
    settling.begin()
    await settling.settle()
    await put(store.checkpointer(), n=1)
    assert len(database.execute("SELECT * FROM graph_checkpoints").fetchall()) == 1


async def test_after_a_failure_nothing_more_is_written_and_the_run_hears_of_it(
    store: Store, bound: RunContext, database: Any, script: Any
) -> None:
    run = script(run_id=bound.run_id, thread_id="t")
    saver = store.checkpointer()
    settling = Settling(bound.run_id)
    settling.begin()
    await put(saver, n=1)
    assert await saver.aget_tuple(thread()) is not None
    await store.append([run.started(), run.completed()])  # somebody else ends the run
    await put(saver, n=2)
    with pytest.raises(RunEndedError, match="takes nothing more from run 'run', which has ended as success"):
        await saver.aget_tuple(thread())
    with pytest.raises(RunEndedError):
        await put(saver, n=3)
    with pytest.raises(RunEndedError):
        await settling.settle()
    assert len(database.execute("SELECT * FROM graph_checkpoints").fetchall()) == 1


async def test_a_run_takes_back_a_thread_only_until_it_has_ended(store: Store, bound: RunContext, script: Any) -> None:
    run, saver = script(run_id=bound.run_id, thread_id="t"), store.checkpointer()
    await put(saver, n=1)
    await saver.adelete_begun_thread("t", bound.run_id)
    assert await listed(saver) == []

    await put(saver, n=2)
    await store.append([run.started(), run.completed()])  # somebody else ends the run
    with pytest.raises(RunEndedError, match="takes nothing more from run 'run', which has ended as success"):
        await saver.adelete_begun_thread("t", bound.run_id)
    assert len(await listed(saver)) == 1


@pytest.mark.parametrize("removal", ["adelete_thread", "aprune"])
async def test_a_thread_is_removed_for_who_asks_in_the_name_of_a_run_that_has_ended(
    store: Store, bound: RunContext, script: Any, removal: str
) -> None:
    """As an observer does that hears of the end, and whose code belongs to the run."""
    run, saver = script(run_id=bound.run_id, thread_id="t"), store.checkpointer()
    await put(saver, n=1)
    await store.append([run.started(), run.completed()])
    await (saver.adelete_thread("t") if removal == "adelete_thread" else saver.aprune(["t"], strategy="delete"))
    assert await listed(saver) == []


async def test_what_is_too_large_is_refused_by_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints_module, "MAX_PUT_BYTES", 100_000)
    saver = store.checkpointer()
    with pytest.raises(CheckpointTooLargeError, match="Thread 't' cannot take 2[0-9]{5} bytes"):
        await put(saver, big=["x" * 200_000])
    assert await saver.aget_tuple(thread()) is None


async def test_a_hundred_mebibytes_are_no_trouble(store: Store) -> None:
    saver = store.checkpointer()
    await put(saver, big=[b"x" * 100 * 1_048_576])
    found = await saver.aget_tuple(thread())
    assert found is not None
    assert len(found.checkpoint["channel_values"]["big"][0]) == 100 * 1_048_576


async def test_a_value_that_is_missing_is_no_value_less(store: Store, database: Any) -> None:
    await put(store.checkpointer(), notes=[1])
    database.execute("DELETE FROM graph_values")
    with pytest.raises(DamagedDatabaseError, match="of thread 't' lacks what it had in notes"):
        await store.checkpointer().aget_tuple(thread())


async def test_a_closed_store_and_one_to_look_into_say_so(url: str) -> None:
    async with Store.open(url) as store:
        saver = store.checkpointer()
        await put(saver, n=1)
    with pytest.raises(ClosedError):
        await put(saver, n=2)
    with pytest.raises(ClosedError):
        await saver.aget_tuple(thread())
    async with Store.open(url, read_only=True) as store:
        found = await store.checkpointer().aget_tuple(thread())
        assert found is not None
        with pytest.raises(ReadOnlyStoreError):
            await put(store.checkpointer(), n=2)


async def test_a_thread_is_copied_with_its_checkpoints_or_not_at_all(store: Store) -> None:
    saver, threads = store.checkpointer(), store.threads_of(None)
    for thread_id in ("t", "taken"):
        await threads.create(thread_id=thread_id)
    await chatting(saver).ainvoke({"messages": [HumanMessage("one")]}, thread())
    await saver.agather("t")

    with pytest.raises(ThreadExistsError):
        await threads.copy("t", copy_id="taken", checkpoints=True)
    await threads.copy("t", copy_id="copy", checkpoints=True)
    await threads.copy("t", copy_id="bare")

    found = {thread_id: len(await listed(saver, thread(thread_id))) for thread_id in ("t", "taken", "copy", "bare")}
    assert found == {"t": 3, "taken": 0, "copy": 3, "bare": 0}


async def test_other_threads_use_it_without_await(store: Store) -> None:
    saver: Any = store.checkpointer()

    def note(state: Chat) -> Chat:
        return {"notes": [1]}

    def elsewhere() -> Any:
        graph = StateGraph(Chat).add_node("note", note).add_edge(START, "note")
        compiled = graph.compile(checkpointer=saver)
        compiled.invoke({"notes": [0]}, thread())
        compiled.invoke({"notes": [2]}, thread())
        first, *_ = saver.list(thread(), limit=5)
        saver.copy_thread("t", "copy")
        saver.prune(["t"])
        saver.delete_for_runs(["nobody"])
        saver.delete_thread("t")
        assert saver.get_tuple(thread()) is None
        return first.checkpoint["channel_values"], saver.get_tuple(thread("copy")).checkpoint["channel_values"]

    assert await asyncio.to_thread(elsewhere) == ({"notes": [0, 1, 2, 1]}, {"notes": [0, 1, 2, 1]})


async def test_on_its_own_loop_it_refuses_to_wait_for_itself(store: Store) -> None:
    with pytest.raises(CheckpointLoopError, match="use `await graph.ainvoke"):
        store.checkpointer().get_tuple(thread())


async def test_pruning_leaves_what_the_newest_state_is_made_of(store: Store, database: Any) -> None:
    graph = chatting(store.checkpointer())
    for _ in range(3):
        await graph.ainvoke({"messages": [HumanMessage("one")], "document": "x" * 500}, thread())
    before = (await graph.aget_state(thread())).values
    await store.checkpointer().aprune(["t"])
    assert (await graph.aget_state(thread())).values == before
    assert len(database.execute("SELECT * FROM graph_checkpoints").fetchall()) == 1
    channels = database.execute("SELECT channel FROM graph_values ORDER BY channel").fetchall()
    assert [row[0] for row in channels] == ["document", "messages"]
    state = await graph.ainvoke({"messages": [HumanMessage("two")]}, thread())
    assert len(state["messages"]) == 8
    with pytest.raises(PruneStrategyError, match='"keep_latest" or "delete"'):
        await store.checkpointer().aprune(["t"], strategy="all")


async def test_what_runs_have_made_goes_and_what_others_have_of_it_stays(store: Store) -> None:
    saver = store.checkpointer()
    versions: Any = {"kept": saver.get_next_version(None, None), "gone": saver.get_next_version(None, None)}
    first = generate_checkpoint(channel_values={"kept": [1], "gone": [2]}, channel_versions=versions)
    config = await saver.aput(generate_config("t"), first, generate_metadata(run_id="first"), versions)
    second = generate_checkpoint(channel_values={"kept": [1]}, channel_versions={"kept": versions["kept"]})
    await saver.aput(config, second, generate_metadata(run_id="second"), {})
    await saver.adelete_for_runs(["first"])
    assert [one.checkpoint["channel_values"] for one in await listed(saver)] == [{"kept": [1]}]


async def test_a_run_in_a_manager_has_its_checkpoints_when_it_has_ended(store: Store, database: Any) -> None:
    async with RunManager(
        {"chat": chatting(None)},
        observers=[ObserverBinding(StorageObserver(store), required=True)],
        coordinator=store.coordinator(),
        checkpointer=store.checkpointer(),
    ) as manager:
        for durability in (None, "async", "sync", "exit"):
            handle = await manager.start(
                RunSpec("chat", {"messages": [HumanMessage("hi")]}, thread_id=f"{durability}", durability=durability)  # type: ignore[arg-type]  # each of them
            )
            assert (await handle.result()).status is RunStatus.success
            found = database.execute(
                f"SELECT run_id FROM graph_checkpoints WHERE thread_id = '{durability}'"
            ).fetchall()
            assert {row[0] for row in found} == {handle.run_id}
            assert len(found) == (1 if durability == "exit" else 3)
