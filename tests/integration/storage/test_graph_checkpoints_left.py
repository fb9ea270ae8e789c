"""What LangGraph's own savers left in a database moves over, and goes when its thread goes."""

import operator
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.types import TASKS
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.store.postgres.aio import AsyncPostgresStore
from langgraph.store.sqlite.aio import AsyncSqliteStore
from langgraph.types import Command, Send, interrupt

from trackside.app.storage import Store
from trackside.app.storage.errors import ForeignDatabaseError


class Desk(TypedDict, total=False):
    messages: Annotated[list[Any], add_messages]
    notes: Annotated[list[Any], operator.add]
    title: str
    count: int


def desk(saver: Any) -> Any:
    """A graph that answers, counts and then asks."""

    async def answer(state: Desk) -> Desk:
        return {"messages": [AIMessage(f"answer {len(state.get('messages', ()))}")], "count": 1, "title": "x" * 400}

    async def ask(state: Desk) -> Desk:
        return {"notes": [interrupt("How many?")]}

    builder = StateGraph(Desk).add_sequence([("answer", answer), ("ask", ask)]).add_edge(START, "answer")
    return builder.compile(checkpointer=saver)


class Notes(TypedDict, total=False):
    notes: Annotated[list[Any], operator.add]


def noting(saver: Any) -> Any:
    """A graph that knows nothing of the desk except its notes."""
    return StateGraph(Notes).add_node("note", lambda _: {"notes": ["noted"]}).add_edge(START, "note").compile(saver)


def thread(thread_id: str = "old") -> Any:
    return {"configurable": {"thread_id": thread_id}}


@pytest.fixture
def langgraphs(url: str, dialect: str) -> Callable[[], AbstractAsyncContextManager[Any]]:
    """Opens LangGraph's own saver on the database."""

    @asynccontextmanager
    async def opened() -> AsyncGenerator[Any]:
        if dialect == "sqlite":
            async with AsyncSqliteSaver.from_conn_string(url.removeprefix("sqlite:///")) as sqlite:
                await sqlite.setup()
                yield sqlite
        else:
            async with AsyncPostgresSaver.from_conn_string(url) as postgres:
                await postgres.setup()
                yield postgres

    return opened


@pytest.fixture
def items_of_langgraph(url: str, dialect: str) -> Callable[[], Awaitable[None]]:
    """Have LangGraph's own store keep an item in the database."""

    async def kept() -> None:
        opened = (
            AsyncSqliteStore.from_conn_string(url.removeprefix("sqlite:///"))
            if dialect == "sqlite"
            else AsyncPostgresStore.from_conn_string(url)
        )
        async with opened as items:
            await items.setup()
            await items.aput(("notes",), "one", {"text": "an item"})

    return kept


async def history(saver: Any, thread_id: str = "old") -> list[Any]:
    """Everything known of a thread, except how its config is written."""
    return [
        (one.checkpoint["id"], one.checkpoint["channel_values"], one.metadata, one.parent_config, one.pending_writes)
        async for one in saver.alist(thread(thread_id))
    ]


async def left(saver: Any) -> list[Any]:
    """Make two threads that wait for an answer, one of them in its second run; return the history of the first."""
    await desk(saver).ainvoke({"messages": [HumanMessage("one")], "notes": [0]}, thread())
    await desk(saver).ainvoke(Command(resume=5), thread())
    await desk(saver).ainvoke({"messages": [HumanMessage("two")]}, thread())
    await desk(saver).ainvoke({"messages": [HumanMessage("hi")], "notes": []}, thread("other"))
    return await history(saver)


async def test_a_thread_goes_on_as_it_was(store: Store, langgraphs: Any) -> None:
    async with langgraphs() as saver:
        before = await left(saver)
    assert await history(store.checkpointer()) == before
    graph = desk(store.checkpointer())
    state = await graph.ainvoke(Command(resume=7), thread())
    assert state["notes"] == [0, 5, 7]
    assert [message.content for message in state["messages"]] == ["one", "answer 1", "two", "answer 3"]
    assert await history(store.checkpointer()) != before


async def test_another_graph_leaves_what_it_does_not_know_as_it_was(store: Store, langgraphs: Any) -> None:
    async with langgraphs() as saver:
        await left(saver)
    saver = store.checkpointer()
    await desk(saver).ainvoke(Command(resume=7), thread())
    asked = await desk(saver).ainvoke({"messages": [HumanMessage("three")]}, thread("other"))
    for thread_id in ("old", "other"):
        await noting(saver).ainvoke({"notes": ["beside"]}, thread(thread_id))
    states = [(await desk(saver).aget_state(thread(thread_id))).values for thread_id in ("old", "other")]
    assert [state["notes"] for state in states] == [[0, 5, 7, "beside", "noted"], ["beside", "noted"]]
    assert [[message.content for message in state["messages"]] for state in states] == [
        ["one", "answer 1", "two", "answer 3"],
        ["hi", "answer 1", "three", "answer 3"],
    ]
    assert [(state["count"], state["title"]) for state in states] == [(1, asked["title"])] * 2


class Round(TypedDict, total=False):
    asked: list[str]
    answers: Annotated[list[Any], operator.add]


def asking_all(saver: Any) -> Any:
    """A graph that sends a task to each of those who are asked, and waits for their answers."""

    async def ask(who: str) -> Round:
        return {"answers": [f"{who}: {interrupt(who)}"]}

    def send(state: Round) -> list[Send]:
        return [Send("ask", who) for who in state.get("asked", ())]

    builder: Any = StateGraph(Round)
    builder.add_node("begin", lambda _: {}).add_node("ask", ask).add_edge(START, "begin")
    return builder.add_conditional_edges("begin", send, ["ask"]).compile(checkpointer=saver)


async def put_as_before_version_4(saver: Any) -> None:
    """Put the thread anew as LangGraph did before 0.5: what is sent is only among what the step before has written."""
    found = [one async for one in saver.alist(thread())]
    await saver.adelete_thread("old")
    for one in reversed(found):
        values, versions = (
            {channel: said for channel, said in one.checkpoint[of].items() if channel != TASKS}
            for of in ("channel_values", "channel_versions")
        )
        checkpoint = {**one.checkpoint, "v": 3, "channel_values": values, "channel_versions": versions}
        before = {} if one.parent_config is None else one.parent_config["configurable"]
        place = {"configurable": {"thread_id": "old", "checkpoint_ns": "", **before}}
        config = await saver.aput(place, checkpoint, one.metadata, versions)
        for task in dict.fromkeys(task for task, _, _ in one.pending_writes):
            writes = [(channel, value) for of, channel, value in one.pending_writes if of == task]
            await saver.aput_writes(config, writes, task)


@pytest.mark.parametrize("is_pruned", [False, True])
async def test_tasks_that_an_older_langgraph_had_sent_are_not_forgotten(
    store: Store, langgraphs: Any, is_pruned: bool
) -> None:
    async with langgraphs() as saver:
        asked = await asking_all(saver).ainvoke({"asked": ["Ada", "Bob"]}, thread())
        await put_as_before_version_4(saver)
    graph = asking_all(store.checkpointer())
    if is_pruned:
        await store.checkpointer().aprune(["old"])
    waits = [one.value for task in (await graph.aget_state(thread())).tasks for one in task.interrupts]
    listed = [one async for one in graph.aget_state_history(thread())]
    assert waits == [one.value for task in listed[0].tasks for one in task.interrupts] == ["Ada", "Bob"]
    answers = {one.id: one.value.lower() for one in asked["__interrupt__"]}
    assert (await graph.ainvoke(Command(resume=answers), thread()))["answers"] == ["Ada: ada", "Bob: bob"]
    assert (await graph.aget_state(thread())).next == ()


async def test_a_prune_leaves_nothing_of_the_history_that_langgraph_left(
    store: Store, langgraphs: Any, database: Any
) -> None:
    async with langgraphs() as saver:
        (newest, *older) = await left(saver)
    saver = store.checkpointer()
    await saver.aprune(["old"])
    assert await history(saver) == [newest]
    values = database.execute("SELECT channel, version FROM graph_values WHERE thread_id = 'old'").fetchall()
    versions = (await saver.aget_tuple(thread())).checkpoint["channel_versions"]  # type: ignore[union-attr]
    assert older
    assert [(channel, version) for channel, version in values if versions[channel] != version] == []
    assert (await desk(saver).ainvoke(Command(resume=7), thread()))["notes"] == [0, 5, 7]


async def test_a_database_that_has_only_what_langgraph_left_becomes_ours(
    url: str, langgraphs: Any, items_of_langgraph: Callable[[], Awaitable[None]]
) -> None:
    async with langgraphs() as saver:
        before = await left(saver)
    await items_of_langgraph()

    async with Store.open(url) as store:
        after = await history(store.checkpointer())
        answered = await desk(store.checkpointer()).ainvoke(Command(resume=7), thread())

    assert after == before
    assert answered["notes"] == [0, 5, 7]


async def test_a_database_with_other_tables_beside_langgraph_s_stays_as_it_is(url: str, langgraphs: Any) -> None:
    async with langgraphs() as saver:
        await left(saver)
        await saver.conn.execute("CREATE TABLE accounts (name TEXT)")
        await saver.conn.commit()

        with pytest.raises(ForeignDatabaseError, match="such as 'accounts'"):
            async with Store.open(url):
                pass
        assert await history(saver) != []


async def test_it_moves_once_and_as_a_whole(store: Store, langgraphs: Any) -> None:
    async with langgraphs() as saver:
        await left(saver)
        await desk(store.checkpointer()).aget_state(thread())
        assert await history(saver) == []
        assert await history(saver, "other") != []
        await store.checkpointer().adelete_thread("old")
        assert await store.checkpointer().aget_tuple(thread()) is None


async def test_what_is_removed_or_copied_before_it_is_used_is_so_everywhere(store: Store, langgraphs: Any) -> None:
    async with langgraphs() as saver:
        before = await left(saver)
        await store.checkpointer().acopy_thread("old", "copy")
        assert [one[1] for one in await history(store.checkpointer(), "copy")] == [one[1] for one in before]
        await store.checkpointer().adelete_thread("other")
        assert await history(saver, "other") == []
        every: Any = store.checkpointer().alist(None)
        found = {one.config["configurable"]["thread_id"] async for one in every}
        assert found == {"old", "copy"}


async def test_tables_of_the_same_names_that_are_another_program_s_stay_as_they_are(
    store: Store, database: Any
) -> None:
    database.execute("CREATE TABLE checkpoints (name TEXT)")
    database.execute("CREATE TABLE writes (checkpoint_ns TEXT, thread_id TEXT)")
    await desk(store.checkpointer()).ainvoke({"messages": [HumanMessage("hi")]}, thread())
    await store.checkpointer().adelete_thread("old")
    assert database.execute("SELECT * FROM checkpoints").fetchall() == []


async def test_with_the_last_run_of_a_thread_its_checkpoints_go(
    store: Store, langgraphs: Any, script: Any, database: Any
) -> None:
    async with langgraphs() as saver:
        await left(saver)
        for thread_id in ("old", "other", "new", "stays"):
            await desk(store.checkpointer()).ainvoke({"messages": [HumanMessage("hi")]}, thread(f"{thread_id} one"))
            await store.append(script(run_id=f"run of {thread_id}", thread_id=f"{thread_id} one").whole())
        await store.append(script(run_id="run of other itself", thread_id="other").whole())
        waits = script(run_id="waits", thread_id="stays one")
        await store.append([waits.started(), waits.thread("busy")])
        report = await store.prune(older_than=None)
        assert report.threads == 4
        assert await history(saver, "other") == []
        assert await history(saver) != []
    found = database.execute("SELECT DISTINCT thread_id FROM graph_checkpoints").fetchall()
    assert [row[0] for row in found] == ["stays one"]
    for table in ("graph_values", "graph_writes"):
        assert database.execute(f"SELECT DISTINCT thread_id FROM {table}").fetchall() == found
