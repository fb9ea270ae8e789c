"""What clients get from graphs that keep more than they return: what their output schema lets out."""

from __future__ import annotations

from typing import Any, TypedDict

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import interrupt
from tests.integration.server.stream_clients import RawClient, events_in
from tests.integration.server.test_server_protocol import ends, events_until, of

DIALECTS = ("sqlite",)


class Asked(TypedDict, total=False):
    question: str


class Given(TypedDict, total=False):
    answer: str


class Whole(Asked, Given, total=False):
    secret: str


class Desk(MessagesState, total=False):
    title: str
    answer: str


QUESTION = {"question": "why?"}
ANSWERED = {"answer": "because"}
KEPT = {"question": "why?", "secret": "42", "answer": "because"}


def look_up(state: Whole) -> Whole:
    return {"secret": "42"}


def answer(state: Whole) -> Whole:
    return {"answer": "because"}


def ask(state: Whole) -> Whole:
    interrupt("sure?")
    return {"answer": "because"}


def steps(*nodes: Any, state: Any = Whole, gives: Any = Given, **compiled: Any) -> Any:
    builder = StateGraph(state, output_schema=gives)
    before = START
    for node in nodes:
        builder.add_node(node.__name__, node).add_edge(before, node.__name__)
        before = node.__name__
    return builder.compile(**compiled)


def keeping() -> Any:
    return steps(look_up, answer)


def desk() -> Any:
    """A graph that talks, and returns what it has come to without what was said."""

    async def talk(state: Desk) -> dict[str, Any]:
        model = GenericFakeChatModel(messages=iter([AIMessage("hello there")]))
        return {"messages": [await model.ainvoke(state["messages"])], "title": "A talk"}

    async def conclude(state: Desk) -> dict[str, Any]:
        return {"answer": "because"}

    return steps(talk, conclude, state=Desk)


async def parts_of(stream: Any, event: str) -> list[Any]:
    return [part.data async for part in stream if part.event == event]


async def test_who_waits_for_a_run_gets_what_its_graph_gives_back(serve_agents: Any) -> None:
    graph = keeping()
    async with serve_agents({"keeping": graph}) as served:
        threads, runs = served.client.threads, served.client.runs
        thread_id = (await threads.create())["thread_id"]
        waited = await runs.wait(thread_id, "keeping", input=QUESTION)
        run = await runs.create(thread_id, "keeping", input=QUESTION)
        joined = await runs.join(thread_id, run["run_id"])
        again = await runs.join(thread_id, run["run_id"])
        stateless = await runs.wait(None, "keeping", input=QUESTION)
        state, thread = await threads.get_state(thread_id), await threads.get(thread_id)
        history = await threads.get_history(thread_id)

    assert [waited, joined, again, stateless] == [ANSWERED] * 4 == [await graph.ainvoke(QUESTION)] * 4
    assert state["values"] == thread["values"] == history[0]["values"] == KEPT


@pytest.mark.parametrize("modes", ["updates", "custom", "tasks"])
async def test_so_does_who_waits_for_one_that_has_streamed_no_values(serve_agents: Any, modes: str) -> None:
    async with serve_agents({"keeping": keeping(), "asking": steps(look_up, ask)}) as served:
        runs = served.client.runs
        thread_id = (await served.client.threads.create())["thread_id"]
        run = await runs.create(thread_id, "keeping", input=QUESTION, stream_mode=modes)
        joined = await runs.join(thread_id, run["run_id"]), await runs.join(thread_id, run["run_id"])
        other_id = (await served.client.threads.create())["thread_id"]
        run = await runs.create(other_id, "asking", input=QUESTION, stream_mode=modes)
        asked = await runs.join(other_id, run["run_id"])

    assert joined == (ANSWERED, ANSWERED)
    assert asked.keys() == {"__interrupt__"}


async def test_values_and_updates_show_what_the_graph_gives_back(serve_agents: Any) -> None:
    graph = keeping()
    modes = ["values", "updates"]
    async with serve_agents({"keeping": graph}) as served:
        there = [
            (part.event, part.data)
            async for part in served.client.runs.stream(None, "keeping", input=QUESTION, stream_mode=modes)
            if part.event in modes
        ]
        remote = RemoteGraph("keeping", client=served.client)
        invoked = await remote.ainvoke(QUESTION)
        streamed = [values async for values in remote.astream(QUESTION, stream_mode="values")]

    here = graph.astream(QUESTION, stream_mode=modes, output_keys=graph.output_channels)
    assert there == [part async for part in here]
    assert there[0] == ("updates", {"look_up": None})
    assert (invoked, streamed) == (ANSWERED, [ANSWERED])


@pytest.mark.parametrize("modes", [["values"], ["values", "events"]])
async def test_that_a_graph_gives_back_nothing_is_said(serve_agents: Any, modes: list[str]) -> None:
    async with serve_agents({"silent": steps(look_up)}) as served:
        stream = served.client.runs.stream(None, "silent", input=QUESTION, stream_mode=modes)
        assert await parts_of(stream, "values") == [{}]
        assert await served.client.runs.wait(None, "silent", input=QUESTION) == {}


async def test_values_beside_events_are_no_other_ones(serve_agents: Any) -> None:
    async with serve_agents({"keeping": keeping()}) as served:
        stream = served.client.runs.stream(None, "keeping", input=QUESTION, stream_mode=["events", "values"])
        assert await parts_of(stream, "values") == [ANSWERED]


async def test_checkpoints_and_tasks_that_are_asked_for_are_whole(serve_agents: Any) -> None:
    async with serve_agents({"keeping": keeping()}) as served:
        stream = served.client.runs.stream(
            None, "keeping", input=QUESTION, stream_mode=["checkpoints", "tasks", "debug"]
        )
        parts = [part async for part in stream]
    assert [part.data["values"] for part in parts if part.event == "checkpoints"][-1] == KEPT
    results = [part.data["result"] for part in parts if part.event == "tasks" and "result" in part.data]
    assert results == [{"secret": "42"}, ANSWERED]
    debug = [part.data["payload"] for part in parts if part.event == "debug" and part.data["type"] == "checkpoint"]
    assert debug[-1]["values"] == KEPT


async def test_a_question_stands_beside_what_the_graph_gives_back(serve_agents: Any) -> None:
    async with serve_agents({"asking": steps(look_up, ask)}) as served:
        thread_id = (await served.client.threads.create())["thread_id"]
        stream = served.client.runs.stream(thread_id, "asking", input=QUESTION)
        *_, asked = await parts_of(stream, "values")
        answered = await served.client.runs.wait(thread_id, "asking", command={"resume": True})
    assert asked.keys() == {"__interrupt__"}
    assert answered == ANSWERED


async def test_graphs_inside_show_what_they_give_back_to_the_one_around(serve_agents: Any) -> None:
    inner = keeping()
    builder: Any = StateGraph(Whole, output_schema=Given).add_node("inner", inner).add_edge(START, "inner")
    graph = builder.compile()
    asked: dict[str, Any] = {"stream_mode": ["values", "updates"], "stream_subgraphs": True}
    async with serve_agents({"around": graph}) as served:
        stream = served.client.runs.stream(None, "around", input=QUESTION, **asked)
        there = [(part.event.split("|")[0], part.event.count("|"), part.data) async for part in stream]
    here = graph.astream(QUESTION, stream_mode=["values", "updates"], subgraphs=True, output_keys=graph.output_channels)
    assert there[1:-1] == [(mode, len(namespace), part) async for namespace, mode, part in here]
    assert "secret" not in str(there)


async def test_messages_are_recorded_that_the_graph_does_not_give_back(serve_agents: Any) -> None:
    said = {"messages": [{"role": "user", "content": "hi", "id": "1"}]}
    modes = ["values", "updates", "messages-tuple"]
    async with serve_agents({"desk": desk()}) as served:
        thread_id = (await served.client.threads.create())["thread_id"]
        stream = served.client.runs.stream(thread_id, "desk", input=said, stream_mode=modes)
        parts = [part async for part in stream]
        second = {"messages": [*said["messages"], {"role": "user", "content": "and?", "id": "2"}]}
        assert await served.client.runs.wait(thread_id, "desk", input=second) == ANSWERED
        runs = await served.app.store.runs(thread_id=thread_id)
        thread = await served.app.store.thread(thread_id)

    assert [part.data for part in parts if part.event == "values"] == [ANSWERED]
    updates = [part.data for part in parts if part.event == "updates"]
    assert updates == [{"talk": None}, {"conclude": ANSWERED}]
    assert "".join(part.data[0]["content"] for part in parts if part.event == "messages") == "hello there"
    assert thread.title == "A talk"
    recorded = [run.completion_data for run in reversed(runs)]
    assert [data["first_human_message"] for data in recorded] == ["hi", "and?"]
    assert [data["last_ai_message"] for data in recorded] == ["hello there", "hello there"]
    assert [run.message_count for run in runs] == [2, 2]


async def test_the_channels_of_a_thread_show_what_the_graph_gives_back(serve_agents: Any) -> None:
    async with serve_agents({"keeping": keeping()}) as served:
        async with served.client.threads.stream(assistant_id="keeping") as thread:
            await thread.run.start(input=QUESTION)
            said = await events_until(thread, ends)
        await served.client.threads.update_state(thread.thread_id, {"secret": "43"}, as_node="look_up")
        values = await served.client.http.post(
            f"/threads/{thread.thread_id}/commands", json={"id": 1, "method": "state.get", "params": {}}
        )
    assert of(said, "values")[-1] == ANSWERED
    assert of(said, "updates") == [{"node": "look_up", "values": {}}, {"node": "answer", "values": ANSWERED}]
    assert values["result"]["values"] == {**KEPT, "secret": "43"}


async def test_so_does_the_channel_of_values_when_the_state_was_changed_by_hand(serve_agents: Any) -> None:
    async with (
        serve_agents({"keeping": keeping()}) as served,
        served.client.threads.stream(assistant_id="keeping") as thread,
    ):
        await thread.run.start(input=QUESTION)
        await thread.output
        await served.client.threads.update_state(thread.thread_id, {"answer": "no"}, as_node="answer")
        said = await events_until(thread, lambda event: "no" in str(event["params"]["data"]), ["values"])
    assert of(said, "values")[-1] == {"answer": "no"}


async def test_who_follows_the_threads_state_gets_it_as_clients_of_langgraph_know_states(serve_agents: Any) -> None:
    async with serve_agents({"keeping": keeping()}) as served:
        threads = served.client.threads
        thread_id = (await threads.create(graph_id="keeping"))["thread_id"]
        path = f"/threads/{thread_id}/stream?stream_mode=state_update"
        async with RawClient.asking(served, "GET", path) as client:
            await threads.update_state(thread_id, {"answer": "no", "secret": "43"}, as_node="answer")
            await client.read_until(b"\r\n\r\n")
        ((_, said, _),) = events_in(client.body)
        state = await threads.get_state(thread_id)

    assert (said["thread_id"], said["state"]["values"]) == (thread_id, {"answer": "no", "secret": "43"})
    assert set(said["state"]) <= set(state)
