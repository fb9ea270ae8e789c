"""What a graph's thread was, as seen from outside; changing it; runs that go on from one of its checkpoints."""

from __future__ import annotations

import asyncio
import itertools
import operator
import threading
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt

from trackside import InvalidSpecError, RunStatus
from trackside.harness.adapters.langgraph import LangGraphAgent, _states
from trackside.harness.errors import UnknownCheckpointError
from trackside.harness.payload import whole
from trackside.harness.states import Describes, KeepsThreads, StateSnapshot, StateUpdate, ThreadPlace


class Log(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


def step(name: str) -> Any:
    return lambda state: {"log": [name]}


def two_steps(**compiled: Any) -> Any:
    builder = StateGraph(Log).add_node("first", step("first")).add_node("second", step("second"))
    return builder.add_edge(START, "first").add_edge("first", "second").compile(**compiled)


def asking(**compiled: Any) -> Any:
    def ask(state: Log) -> Log:
        return {"log": [f"answered {interrupt('why?')}"]}

    return StateGraph(Log).add_node("ask", ask).add_edge(START, "ask").compile(**compiled)


def nested(**compiled: Any) -> Any:
    builder = StateGraph(Log).add_node("before", step("before")).add_node("inside", asking())
    return builder.add_edge(START, "before").add_edge("before", "inside").compile(**compiled)


async def history_of(graph: Any, **asked: Any) -> list[StateSnapshot]:
    return list(await LangGraphAgent(graph).history(ThreadPlace(thread_id="t"), limit=20, **asked))


async def log_of(graph: Any) -> list[str]:
    state = await LangGraphAgent(graph).state(ThreadPlace(thread_id="t"))
    assert state is not None
    log: list[str] = state.values["log"]
    return log


async def at(graph: Any, *following: str) -> str:
    """The newest checkpoint that these nodes follow."""
    return next(state.checkpoint["checkpoint_id"] for state in await history_of(graph) if state.next == following)


def test_a_graph_keeps_threads_and_describes_itself() -> None:
    agent = LangGraphAgent(two_steps())
    assert isinstance(agent, KeepsThreads)
    assert isinstance(agent, Describes)


async def test_a_thread_that_nothing_has_run_on_has_no_state(saver: Any) -> None:
    agent = LangGraphAgent(two_steps(checkpointer=saver))
    assert await agent.state(ThreadPlace(thread_id="t")) is None
    assert await agent.history(ThreadPlace(thread_id="t"), limit=10) == []
    assert await LangGraphAgent(two_steps(checkpointer=False)).state(ThreadPlace(thread_id="t")) is None


async def test_large_states_are_made_ready_beside_the_event_loop(
    stage: Any, saver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that they hold nobody else up."""
    graph = two_steps(checkpointer=saver)
    await stage.play(graph, {"log": ["in"]}, thread_id="t")
    threads: set[int] = set()

    def seen(value: Any) -> Any:
        threads.add(threading.get_ident())
        return whole(value)

    monkeypatch.setattr(_states, "whole", seen)

    assert await log_of(graph) == ["in", "first", "second"]
    assert len(await history_of(graph)) == 4
    assert threads
    assert threading.get_ident() not in threads


async def test_the_state_has_what_was_asked_and_where_it_is(stage: Any, saver: Any) -> None:
    graph = asking(checkpointer=saver)
    outcome = await stage.play(graph, {"log": ["in"]}, thread_id="t")

    state = await LangGraphAgent(graph).state(ThreadPlace(thread_id="t"))

    assert state is not None
    assert (state.values, list(state.next)) == ({"log": ["in"]}, ["ask"])
    question = outcome.interrupts[0]
    assert list(state.interrupts) == [question]
    assert [(task["name"], task["interrupts"], task["error"]) for task in state.tasks] == [("ask", [question], None)]
    assert state.checkpoint is not None
    assert state.checkpoint.keys() == {"thread_id", "checkpoint_ns", "checkpoint_id"}
    assert (state.parent_checkpoint or {})["thread_id"] == "t"
    assert state.metadata["source"] == "loop"
    assert state.created_at is not None


async def test_a_node_that_failed_leaves_its_error(stage: Any, saver: Any) -> None:
    def fail(state: Log) -> Log:
        raise ValueError("it cannot be done")

    graph = StateGraph(Log).add_node("fail", fail).add_edge(START, "fail").compile(checkpointer=saver)
    await stage.play(graph, {"log": []}, thread_id="t")
    state = await LangGraphAgent(graph).state(ThreadPlace(thread_id="t"))
    assert state is not None
    assert state.tasks[0]["error"] == "ValueError('it cannot be done')"


async def test_states_of_graphs_inside_come_with_their_task_or_by_their_namespace(stage: Any, saver: Any) -> None:
    graph = nested(checkpointer=saver)
    agent = LangGraphAgent(graph)
    await stage.play(graph, {"log": []}, thread_id="t")

    plain = await agent.state(ThreadPlace(thread_id="t"))
    with_inside = await agent.state(ThreadPlace(thread_id="t"), subgraphs=True)

    assert plain is not None
    assert with_inside is not None
    namespace = plain.tasks[0]["checkpoint"]["checkpoint_ns"]
    assert namespace.startswith("inside:")
    assert plain.tasks[0]["state"] is None
    inside = with_inside.tasks[0]["state"]
    assert (inside["next"], inside["values"]) == (["ask"], {"log": ["before"]})
    assert inside["checkpoint"]["checkpoint_map"].keys() == {"", namespace}
    by_name = await agent.state(ThreadPlace(thread_id="t", namespace=namespace))
    assert by_name is not None
    assert by_name.as_json() == inside


async def test_history_is_newest_first_and_can_be_narrowed(stage: Any, saver: Any) -> None:
    graph = two_steps(checkpointer=saver)
    agent = LangGraphAgent(graph)
    await stage.play(graph, {"log": ["in"]}, thread_id="t")

    states = await history_of(graph)

    assert [list(state.next) for state in states] == [[], ["second"], ["first"], ["__start__"]]
    for newer, older in itertools.pairwise(states):
        assert newer.parent_checkpoint == older.checkpoint
    before = states[1].checkpoint["checkpoint_id"]  # type: ignore[index]  # it has one
    assert await history_of(graph, before=before) == states[2:]
    assert await agent.history(ThreadPlace(thread_id="t"), limit=1) == states[:1]
    assert await history_of(graph, metadata={"source": "input"}) == states[3:]
    assert await agent.history(ThreadPlace(thread_id="t", checkpoint_id=before), limit=5) == states[1:2]


async def test_an_update_is_as_if_a_node_had_returned_it(stage: Any, saver: Any) -> None:
    graph = two_steps(checkpointer=saver)
    agent = LangGraphAgent(graph)
    await stage.play(graph, {"log": []}, thread_id="t", interrupt_before=["second"])

    checkpoint = await agent.update_state(ThreadPlace(thread_id="t"), {"log": ["by hand"]}, as_node="second")

    state = await agent.state(ThreadPlace(thread_id="t"))
    assert state is not None
    assert (state.checkpoint, list(state.next), state.values) == (checkpoint, [], {"log": ["first", "by hand"]})


async def test_an_update_of_an_older_checkpoint_forks_and_a_run_goes_on_there(stage: Any, saver: Any) -> None:
    graph = two_steps(checkpointer=saver)
    await stage.play(graph, {"log": []}, thread_id="t")
    place = ThreadPlace(thread_id="t", checkpoint_id=await at(graph, "second"))

    await LangGraphAgent(graph).update_state(place, {"log": ["instead"]}, as_node="first")
    outcome = await stage.play(graph, None, thread_id="t")

    assert outcome.values == {"log": ["first", "instead", "second"]}


async def test_several_steps_can_be_replayed_at_once(saver: Any) -> None:
    graph = two_steps(checkpointer=saver)
    steps = [
        [StateUpdate(values={"log": ["in"]}, as_node="__input__")],
        [StateUpdate(values={"log": ["in"]}, as_node="__start__")],
        [StateUpdate(values={"log": ["from a copy"]}, as_node="first")],
    ]
    await LangGraphAgent(graph).replay(ThreadPlace(thread_id="t"), steps)
    assert await log_of(graph) == ["in", "from a copy"]
    assert (await history_of(graph))[0].next == ("second",)


@pytest.mark.parametrize(
    ("values", "as_node", "why"),
    [
        ({"log": ["x"]}, "third", "as_node = .third.: the graph.s nodes are first, second"),
        (["x"], "first", "Expected dict"),
        ({"log": 5}, "first", "list"),
    ],
)
async def test_an_update_that_does_not_fit_says_why(values: Any, as_node: str, why: str, saver: Any) -> None:
    agent = LangGraphAgent(two_steps(checkpointer=saver))
    with pytest.raises(InvalidSpecError, match=why):
        await agent.update_state(ThreadPlace(thread_id="t"), values, as_node=as_node)


async def test_a_checkpoint_that_is_not_there_is_named(stage: Any, saver: Any) -> None:
    graph = two_steps(checkpointer=saver)
    agent = LangGraphAgent(graph)
    await stage.play(graph, {"log": []}, thread_id="t")
    nowhere = ThreadPlace(thread_id="t", checkpoint_id="nowhere")

    with pytest.raises(UnknownCheckpointError, match="nowhere"):
        await agent.state(nowhere)
    with pytest.raises(UnknownCheckpointError, match="nowhere"):
        await agent.update_state(nowhere, {"log": ["x"]}, as_node="first")
    outcome = await stage.play(
        graph, {"log": ["in"]}, thread_id="t", config={"configurable": {"checkpoint_id": "nowhere"}}
    )
    assert outcome.status is RunStatus.error
    assert "nowhere" in (outcome.result.error or "")
    assert await log_of(graph) == ["first", "second"]


def from_checkpoint(checkpoint_id: str, **more: Any) -> dict[str, Any]:
    return {"configurable": {"checkpoint_id": checkpoint_id, **more}}


async def test_a_run_from_a_checkpoint_goes_on_there(stage: Any, saver: Any) -> None:
    graph = two_steps(checkpointer=saver)
    await stage.play(graph, {"log": ["one"]}, thread_id="t")
    checkpoint = await at(graph, "second")
    await stage.play(graph, {"log": ["two"]}, thread_id="t")

    outcome = await stage.play(graph, None, thread_id="t", config=from_checkpoint(checkpoint))

    assert outcome.values == {"log": ["one", "first", "second"]}
    assert await log_of(graph) == ["one", "first", "second"]


async def test_a_run_from_a_checkpoint_with_an_input_forks(stage: Any, saver: Any) -> None:
    graph = two_steps(checkpointer=saver)
    await stage.play(graph, {"log": ["one"]}, thread_id="t")
    checkpoint = await at(graph)
    await stage.play(graph, {"log": ["two"]}, thread_id="t")

    await stage.play(graph, {"log": ["other"]}, thread_id="t", config=from_checkpoint(checkpoint))

    assert await log_of(graph) == ["one", "first", "second", "other", "first", "second"]


async def test_messages_that_a_fork_leaves_behind_are_new_again(stage: Any, saver: Any) -> None:
    def reply(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("indeed")]}

    graph = StateGraph(MessagesState).add_node("reply", reply).add_edge(START, "reply").compile(checkpointer=saver)
    one, two = ({"role": "user", "content": text, "id": text} for text in ("one", "two"))
    await stage.play(graph, {"messages": [one]}, thread_id="t")
    checkpoint = await at(graph)
    await stage.play(graph, {"messages": [two]}, thread_id="t")

    outcome = await stage.play(graph, {"messages": [one, two]}, thread_id="t", config=from_checkpoint(checkpoint))

    assert [message["id"] for message in outcome.humans] == ["two"]
    assert [message["content"] for message in outcome.values["messages"]] == ["one", "indeed", "two", "indeed"]


async def test_an_answer_to_what_was_answered_long_ago_says_how_to_be_asked_again(stage: Any, saver: Any) -> None:
    graph = asking(checkpointer=saver)
    await stage.play(graph, {"log": []}, thread_id="t")
    checkpoint = await at(graph, "ask")
    await stage.play(graph, thread_id="t", command={"resume": "so"})

    outcome = await stage.play(graph, thread_id="t", command={"resume": "not so"}, config=from_checkpoint(checkpoint))

    assert "without a command asks it again" in (outcome.result.error or "")
    assert await log_of(graph) == ["answered so"]


async def test_the_newest_question_can_be_answered_by_its_checkpoint(stage: Any, saver: Any) -> None:
    graph = nested(checkpointer=saver)
    await stage.play(graph, {"log": []}, thread_id="t")
    checkpoint = await at(graph, "inside")

    outcome = await stage.play(graph, thread_id="t", command={"resume": "so"}, config=from_checkpoint(checkpoint))

    assert outcome.status is RunStatus.success
    assert (await log_of(graph))[-1] == "answered so"


async def test_a_run_that_starts_again_at_a_question_asks_again_and_can_be_answered(stage: Any, saver: Any) -> None:
    graph = asking(checkpointer=saver)
    await stage.play(graph, {"log": []}, thread_id="t")
    checkpoint = await at(graph, "ask")
    await stage.play(graph, thread_id="t", command={"resume": "so"})

    again = await stage.play(graph, None, thread_id="t", config=from_checkpoint(checkpoint))
    answered = await stage.play(graph, thread_id="t", command={"resume": "again"})

    assert again.status is RunStatus.interrupted
    assert answered.status is RunStatus.success
    assert await log_of(graph) == ["answered again"]


@pytest.mark.parametrize("names_it", [True, False])
async def test_a_question_of_a_graph_inside_is_answered_after_that_was_changed(
    names_it: bool, stage: Any, saver: Any
) -> None:
    def ask(state: Log) -> Log:
        return {"log": [f"{state['log'][-1]}, answered {interrupt('why?')}"]}

    inner = StateGraph(Log).add_node("a", step("a")).add_node("ask", ask).add_edge(START, "a").add_edge("a", "ask")
    graph = StateGraph(Log).add_node("in", inner.compile()).add_edge(START, "in").compile(checkpointer=saver)
    agent = LangGraphAgent(graph)
    await stage.play(graph, {"log": []}, thread_id="t")
    state = await agent.state(ThreadPlace(thread_id="t"))
    assert state is not None
    namespace = state.tasks[0]["checkpoint"]["checkpoint_ns"]
    place = ThreadPlace(thread_id="t", namespace=namespace)

    changed = await agent.update_state(place, {"log": ["by hand"]}, as_node="a")
    config = from_checkpoint(changed["checkpoint_id"], checkpoint_ns=namespace) if names_it else None
    outcome = await stage.play(graph, thread_id="t", command={"resume": "so"}, config=config)

    assert outcome.status is RunStatus.success
    assert outcome.values["log"][-1] == "by hand, answered so"


async def test_a_namespace_without_its_checkpoint_is_refused(stage: Any, saver: Any) -> None:
    config = {"configurable": {"checkpoint_ns": "inside:1"}}
    outcome = await stage.play(nested(checkpointer=saver), {"log": []}, thread_id="t", config=config)
    assert "checkpoint_id" in (outcome.result.error or "")


async def test_rolling_back_a_run_from_a_checkpoint_brings_back_what_was_newest(stage: Any, saver: Any) -> None:
    started = asyncio.Event()

    async def second(state: Log) -> Log:
        if "hang" in state["log"]:
            started.set()
            await asyncio.Event().wait()
        return {"log": ["second"]}

    builder = StateGraph(Log).add_node("first", step("first")).add_node("second", second)
    graph = builder.add_edge(START, "first").add_edge("first", "second").compile(checkpointer=saver)
    await stage.play(graph, {"log": ["one"]}, thread_id="t")
    checkpoint = await at(graph)
    await stage.play(graph, {"log": ["two"]}, thread_id="t")
    before = await log_of(graph)

    handle = await stage.start(graph, {"log": ["hang"]}, thread_id="t", config=from_checkpoint(checkpoint))
    await started.wait()
    await handle.cancel(action="rollback", wait=True)

    assert await log_of(graph) == before
    assert (await history_of(graph))[0].next == ()


async def test_a_question_that_was_open_is_open_again_after_a_rolled_back_run_from_elsewhere(
    stage: Any, saver: Any
) -> None:
    started = asyncio.Event()

    async def ask(state: Log) -> Log:
        if state["log"][-1] == "hang":
            started.set()
            await asyncio.Event().wait()
        return {"log": [f"answered {interrupt('why?')}"]}

    graph = StateGraph(Log).add_node("ask", ask).add_edge(START, "ask").compile(checkpointer=saver)
    agent = LangGraphAgent(graph)
    await stage.play(graph, {"log": ["one"]}, thread_id="t")
    checkpoint = await at(graph, "__start__")

    handle = await stage.start(graph, {"log": ["hang"]}, thread_id="t", config=from_checkpoint(checkpoint))
    await started.wait()
    await handle.cancel(action="rollback", wait=True)

    state = await agent.state(ThreadPlace(thread_id="t"))
    assert state is not None
    assert [question["value"] for question in state.interrupts] == ["why?"]
    await stage.play(graph, thread_id="t", command={"resume": "so"})
    assert await log_of(graph) == ["one", "answered so"]


async def test_tools_are_streamed_as_they_are_called(stage: Any) -> None:
    @tool
    def weigh(what: str) -> str:
        """Weigh it."""
        return f"{what} is heavy"

    def call(state: MessagesState) -> dict[str, Any]:
        calls = [{"name": "weigh", "args": {"what": "it"}, "id": "c1"}]
        return {"messages": [AIMessage("", tool_calls=calls)]}

    builder = StateGraph(MessagesState).add_node("call", call).add_node("tools", ToolNode([weigh]))
    graph = builder.add_edge(START, "call").add_edge("call", "tools").compile()
    outcome = await stage.play(graph, "weigh it", stream_mode=["tools"])
    assert [part["event"] for part in outcome.streamed("tools")] == ["tool-started", "tool-finished"]
    assert outcome.streamed("tools")[0]["input"] == {"what": "it"}


async def test_streamed_checkpoints_name_places_as_clients_do(stage: Any) -> None:
    graph = nested(checkpointer=InMemorySaver())
    outcome = await stage.play(
        graph, {"log": []}, thread_id="t", stream_mode=["checkpoints", "debug"], stream_subgraphs=True
    )
    shown = [part.data for part in outcome.parts if part.mode == "checkpoints" and not part.namespace]
    assert shown[-1]["checkpoint"]["checkpoint_id"] == shown[-1]["config"]["configurable"]["checkpoint_id"]
    assert shown[-1]["parent_checkpoint"] == shown[-2]["checkpoint"]
    assert shown[-1]["tasks"][0]["checkpoint"]["checkpoint_ns"].startswith("inside:")
    debugged = [part.data["payload"] for part in outcome.parts if part.mode == "debug" and not part.namespace]
    assert [data for data in debugged if "next" in data] == shown


async def test_a_drawing_has_nodes_and_edges() -> None:
    agent = LangGraphAgent(nested())
    plain, deep = await agent.drawing(), await agent.drawing(xray=True)
    assert [node["id"] for node in plain["nodes"]] == ["__start__", "before", "inside", "__end__"]
    assert all(node.keys() >= {"id", "type", "data"} for node in plain["nodes"])
    assert {"source": "before", "target": "inside"} in plain["edges"]
    assert "inside:ask" in {node["id"] for node in deep["nodes"]} or "ask" in {node["id"] for node in deep["nodes"]}


async def test_schemas_say_what_goes_in_and_what_is_kept() -> None:
    class Context(TypedDict):
        tenant: str

    graph = StateGraph(Log, context_schema=Context).add_node("first", step("x")).add_edge(START, "first").compile()
    schemas = await LangGraphAgent(graph).schemas()
    for name in ("input_schema", "output_schema", "state_schema"):
        assert schemas[name]["properties"].keys() == {"log"}
    assert schemas["context_schema"]["properties"].keys() == {"tenant"}
    assert (await LangGraphAgent(two_steps()).schemas())["context_schema"] is None


async def test_graphs_inside_are_described_by_their_namespaces() -> None:
    outer = StateGraph(Log).add_node("deep", nested()).add_edge(START, "deep").compile()
    agent = LangGraphAgent(outer)
    assert (await agent.subgraphs()).keys() == {"deep"}
    assert (await agent.subgraphs(recurse=True)).keys() == {"deep", "deep|inside"}
    assert (await agent.subgraphs(namespace="deep|inside", recurse=True)).keys() == {"deep|inside"}
    assert (await agent.subgraphs())["deep"]["input_schema"]["properties"].keys() == {"log"}
