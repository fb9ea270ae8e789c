"""`RemoteGraph` against a real server: a graph that runs elsewhere, alone and as a node of a local graph."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel.remote import RemoteException, RemoteGraph
from langgraph.types import Command
from langgraph_sdk import get_client, get_sync_client
from served_project import PLACES, ServedProject

STEPS = ("first", "second", "third")
HI = {"messages": [{"role": "user", "content": "hi"}]}
PAY = {"messages": [{"role": "user", "content": "pay"}]}


@pytest.fixture(params=PLACES)
def url(request: pytest.FixtureRequest, project: ServedProject) -> str:
    return project.on(request.param).url


type Remote = Callable[[str], RemoteGraph]


@pytest.fixture
async def remote(url: str) -> AsyncIterator[Remote]:
    """The server's graphs, by name."""
    async with get_client(url=url, api_key=None) as client:
        yield partial(RemoteGraph, client=client)


@pytest.fixture
async def thread_id(url: str) -> str:
    """A new thread on the server."""
    async with get_client(url=url, api_key=None) as client:
        return str((await client.threads.create())["thread_id"])


def on(thread_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id}}


async def test_it_runs_streams_and_shows_its_states(remote: Remote, thread_id: str) -> None:
    graph, here = remote("steps"), on(thread_id)

    assert await graph.ainvoke({"log": ["zero"]}, here) == {"log": ["zero", "first", "second", "third"]}
    assert [part async for part in graph.astream({}, stream_mode="custom")] == [{"at": at} for at in STEPS]
    both = [part async for part in graph.astream({}, stream_mode=["updates", "values"])]
    assert ("updates", {"first": {"log": ["first"]}}) in [(mode, data) for mode, data, _ in both]
    assert both[-1][:2] == ("values", {"log": [*STEPS]})

    snapshot = await graph.aget_state(here)
    assert (snapshot.values["log"][-1], snapshot.next) == ("third", ())
    history = [state async for state in graph.aget_state_history(here)]
    before = next(state for state in history if state.next == ("second",))
    forked = await graph.aupdate_state(before.config, {"log": ["forked"]}, as_node="second")
    assert (await graph.ainvoke(None, forked))["log"] == ["zero", "first", "forked", "third"]

    drawn = await graph.aget_graph(xray=True)
    assert {*drawn.nodes} >= {*STEPS}
    with pytest.raises(RemoteException, match="it cannot be done"):
        await remote("fail").ainvoke({})


def test_it_does_so_without_an_event_loop(url: str) -> None:
    with get_sync_client(url=url, api_key=None) as client:
        graph = RemoteGraph("steps", sync_client=client)
        here = on(client.threads.create()["thread_id"])
        assert graph.invoke({"log": ["zero"]}, here) == {"log": ["zero", *STEPS]}
        assert [*graph.stream({}, stream_mode="custom")] == [{"at": at} for at in STEPS]
        assert graph.get_state(here).values == {"log": ["zero", *STEPS]}
        history = [*graph.get_state_history(here)]
        before = next(state for state in history if state.next == ("second",))
        forked = graph.update_state(before.config, {"log": ["forked"]}, as_node="second")
        assert graph.invoke(None, forked) == {"log": ["zero", "first", "forked", "third"]}
        assert {*graph.get_graph().nodes} >= {*STEPS}
        with pytest.raises(RemoteException, match="it cannot be done"):
            RemoteGraph("fail", sync_client=client).invoke({})


async def test_its_messages_arrive_word_by_word(remote: Remote) -> None:
    chunks = [message async for message, _ in remote("chat").astream(HI, stream_mode="messages")]
    assert len(chunks) > 3
    assert "".join(chunk["content"] for chunk in chunks) == "you said hi"


async def test_it_is_a_node_of_another_graph_and_streams_through_it(remote: Remote) -> None:
    local = StateGraph(MessagesState).add_node("remote", remote("nested")).add_edge(START, "remote").compile()

    values = await local.ainvoke({"messages": [HumanMessage("hi")]})
    assert values["messages"][-1].content == "you said hi"
    parts = [part async for part in local.astream({"messages": [HumanMessage("hi")]}, subgraphs=True)]
    assert [[name.partition(":")[0] for name in space] for space, _ in parts] == [["remote", "inside"], ["remote"], []]


async def test_a_node_that_a_human_lets_through_is_called_each_time(remote: Remote, thread_id: str) -> None:
    builder = StateGraph(MessagesState).add_node("remote", remote("chat")).add_edge(START, "remote")
    local = builder.compile(checkpointer=InMemorySaver(), interrupt_before=["remote"])
    for said in ("one", "two"):
        await local.ainvoke({"messages": [HumanMessage(said)]}, on(thread_id))
        values = await local.ainvoke(None, on(thread_id))
        assert values["messages"][-1].content == f"you said {said}"


async def test_its_questions_are_asked_here_and_answered_there(remote: Remote, thread_id: str) -> None:
    graph = remote("approve")
    values = await graph.ainvoke(PAY, on(thread_id))
    assert values["__interrupt__"][0]["value"] == {"question": "pay?", "amount": 3}
    told = await graph.ainvoke(Command(resume="yes"), on(thread_id))
    assert told["messages"][-1]["content"] == "it is paid"


async def test_a_question_of_a_node_that_is_elsewhere_stops_the_graph_here(remote: Remote, thread_id: str) -> None:
    graph, here = remote("approve"), on(thread_id)
    builder = StateGraph(MessagesState).add_node("remote", graph).add_edge(START, "remote")
    local = builder.compile(checkpointer=InMemorySaver())

    asked: Any = await local.ainvoke({"messages": [HumanMessage("pay")]}, here)
    assert asked["__interrupt__"][0].value == {"question": "pay?", "amount": 3}
    assert (await local.aget_state(here)).next == ("remote",)
    # The local graph passes no answer on; it is given where the question was asked, on the thread of the same id.
    told = await graph.ainvoke(Command(resume="yes"), here)
    assert told["messages"][-1]["content"] == "it is paid"


async def test_its_events_are_followed_as_those_of_a_graph_here(remote: Remote, thread_id: str) -> None:
    async with await remote("nested").astream_events(HI, on(thread_id), version="v3") as run:
        inside = [graph async for graph in run.subgraphs]
        output = await run.output()
    assert [(graph.graph_name, graph.status) for graph in inside] == [("inside", "completed")]
    assert output["messages"][-1]["content"] == "you said hi"


async def test_a_question_is_answered_by_what_is_followed_so(remote: Remote, thread_id: str) -> None:
    await remote("approve").ainvoke(PAY, on(thread_id))
    answer = Command(resume="yes")
    async with await remote("approve").astream_events(answer, on(thread_id), version="v3") as run:
        output = await run.output()
    assert output["messages"][-1]["content"] == "it is paid"


def test_so_they_are_without_an_event_loop(url: str) -> None:
    with (
        get_sync_client(url=url, api_key=None) as client,
        RemoteGraph("chat", sync_client=client).stream_events(HI, version="v3") as run,
    ):
        assert [str(message.text) for message in run.messages] == ["you said hi"]
        assert run.output["messages"][-1]["content"] == "you said hi"
