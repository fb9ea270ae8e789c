"""What followers of a run see of its graph."""

import json
from typing import Any, TypedDict

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.channels import LastValue
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel import NodeBuilder, Pregel

from trackside import RunStatus


class State(TypedDict, total=False):
    a: int
    b: int


def two_steps(**compiled: Any) -> Any:
    async def first(state: State) -> State:
        get_stream_writer()({"half": "way"})
        return {"a": 1}

    async def second(state: State) -> State:
        return {"b": 2}

    builder = StateGraph(State).add_node("first", first).add_node("second", second)
    return builder.add_edge(START, "first").add_edge("first", "second").compile(**compiled)


def talking(text: str = "hello there") -> Any:
    async def talk(state: MessagesState) -> dict[str, Any]:
        llm = GenericFakeChatModel(messages=iter([AIMessage(text)]))
        return {"messages": [await llm.ainvoke(state["messages"])]}

    return StateGraph(MessagesState).add_node("talk", talk).add_edge(START, "talk").compile()


async def test_values_begin_with_the_input_and_end_with_the_result(stage: Any) -> None:
    outcome = await stage.play(two_steps(), {"a": 0})
    assert outcome.streamed("values") == [{"a": 0}, {"a": 1}, {"a": 1, "b": 2}]
    assert {part.mode for part in outcome.parts} == {"values"}


async def test_updates_name_the_node(stage: Any) -> None:
    outcome = await stage.play(two_steps(), {"a": 0}, stream_mode="updates")
    assert [part.data for part in outcome.parts] == [{"first": {"a": 1}}, {"second": {"b": 2}}]


async def test_nothing_is_streamed_that_was_not_asked_for(stage: Any) -> None:
    outcome = await stage.play(two_steps(), {"a": 0}, stream_mode=[], stream_subgraphs=True)
    assert outcome.parts == []
    assert outcome.status is RunStatus.success


async def test_custom_parts_come_from_the_nodes(stage: Any) -> None:
    outcome = await stage.play(two_steps(), {"a": 0}, stream_mode=["custom", "updates"])
    assert [part.mode for part in outcome.parts] == ["custom", "updates", "updates"]
    assert outcome.streamed("custom") == [{"half": "way"}]


async def test_tasks_checkpoints_and_debug_are_plain_json(stage: Any) -> None:
    modes = ["tasks", "checkpoints", "debug"]
    outcome = await stage.play(two_steps(checkpointer=InMemorySaver()), {"a": 0}, thread_id="t", stream_mode=modes)
    assert {part.mode for part in outcome.parts} == set(modes)
    names = [data["name"] for data in outcome.streamed("tasks") if "input" in data]
    assert names == ["first", "second"]
    last = outcome.streamed("checkpoints")[-1]
    assert last["values"] == {"a": 1, "b": 2}
    assert last["config"]["configurable"]["thread_id"] == "t"
    assert {data["type"] for data in outcome.streamed("debug")} == {"checkpoint", "task", "task_result"}
    for part in outcome.parts:
        assert json.loads(json.dumps(part.data, allow_nan=False)) == part.data


@pytest.mark.parametrize("mode", ["messages", "messages-tuple"])
async def test_messages_come_in_chunks_with_their_metadata_in_langchains_flat_form(stage: Any, mode: str) -> None:
    outcome = await stage.play(talking(), "hi", stream_mode=mode)
    chunks = [message for message, _ in outcome.streamed(mode)]
    assert "".join(chunk["content"] for chunk in chunks) == "hello there"
    assert {chunk["type"] for chunk in chunks} == {"AIMessageChunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {"content", "additional_kwargs", "response_metadata", "type", "name", "id", "tool_calls"} <= chunks[0].keys()
    assert {metadata["langgraph_node"] for _, metadata in outcome.streamed(mode)} == {"talk"}


async def test_both_names_of_messages_get_their_parts(stage: Any) -> None:
    outcome = await stage.play(talking(), "hi", stream_mode=["messages", "messages-tuple"])
    assert outcome.streamed("messages") == outcome.streamed("messages-tuple")
    assert outcome.streamed("messages")


async def test_messages_in_values_have_langchains_flat_form(stage: Any) -> None:
    outcome = await stage.play(talking(), "hi")
    human, ai = outcome.values["messages"]
    assert human == human | {"type": "human", "content": "hi"}
    assert ai == ai | {"type": "ai", "content": "hello there", "tool_calls": []}


def nested() -> Any:
    async def leaf(state: State) -> State:
        return {"b": 5}

    inner = StateGraph(State).add_node("leaf", leaf).add_edge(START, "leaf").compile()
    return StateGraph(State).add_node("outer", inner).add_edge(START, "outer").compile()


async def test_subgraphs_are_streamed_under_their_namespace_when_asked_for(stage: Any) -> None:
    outcome = await stage.play(nested(), {"a": 1}, stream_mode=["updates"], stream_subgraphs=True)
    inner, outer = outcome.parts
    assert inner.data == {"leaf": {"b": 5}}
    assert [name.partition(":")[0] for name in inner.namespace] == ["outer"]
    assert (outer.namespace, outer.data) == ((), {"outer": {"a": 1, "b": 5}})


async def test_subgraphs_stay_inside_otherwise_and_never_make_the_result(stage: Any) -> None:
    outcome = await stage.play(nested(), {"a": 1}, stream_mode=["values", "updates"])
    assert {part.namespace for part in outcome.parts} == {()}
    outcome = await stage.play(nested(), {"a": 1}, stream_subgraphs=True)
    assert outcome.values == {"a": 1, "b": 5}


@pytest.mark.parametrize("subgraphs", [False, True])
async def test_events_are_langchains_and_the_other_modes_come_beside_them(stage: Any, subgraphs: bool) -> None:
    modes = ["events", "values", "messages"]
    outcome = await stage.play(talking("one two"), "hi", stream_mode=modes, stream_subgraphs=subgraphs)
    assert outcome.status is RunStatus.success
    events = outcome.streamed("events")
    assert events[0]["event"] == "on_chain_start"
    assert events[0]["run_id"] == outcome.result.run_id
    assert events[-1]["event"] == "on_chain_end"
    tokens = [event["data"]["chunk"]["content"] for event in events if event["event"] == "on_chat_model_stream"]
    assert "".join(tokens) == "one two"
    assert "".join(message["content"] for message, _ in outcome.streamed("messages")) == "one two"
    assert outcome.values["messages"][-1]["content"] == "one two"
    for part in outcome.parts:
        assert json.loads(json.dumps(part.data, allow_nan=False)) == part.data


async def test_events_end_with_what_a_node_raises(stage: Any) -> None:
    async def fail(state: State) -> State:
        raise ZeroDivisionError("by zero")

    graph = StateGraph(State).add_node("fail", fail).add_edge(START, "fail").compile()
    outcome = await stage.play(graph, {"a": 1}, stream_mode="events")
    assert outcome.end["error_type"] == "ZeroDivisionError"


async def test_values_that_json_does_not_know_are_made_to_fit(stage: Any) -> None:
    class Odd(TypedDict, total=False):
        thing: Any

    def odd(state: Odd) -> Odd:
        return {"thing": {"set": {2, 1}, "bytes": b"hi", "nan": float("nan"), "object": object}}

    graph = StateGraph(Odd).add_node("odd", odd).add_edge(START, "odd").compile()
    outcome = await stage.play(graph, {"thing": None}, stream_mode=["values", "updates"])
    assert outcome.values["thing"] == {"set": [1, 2], "bytes": "aGk=", "nan": "NaN", "object": "<class 'object'>"}


async def test_a_large_state_is_streamed_whole(stage: Any) -> None:
    class Large(TypedDict, total=False):
        text: str

    graph = StateGraph(Large).add_node("grow", lambda _: {"text": "x" * 3_000_000}).add_edge(START, "grow").compile()
    outcome = await stage.play(graph, {"text": ""})
    assert len(outcome.values["text"]) == 3_000_000


def desk(gives: Any) -> Any:
    """Keep what was said and a private note; return what a schema says."""

    async def talk(state: Desk) -> dict[str, Any]:
        return {"messages": [AIMessage(f"to {state['asked']}")], "note": "private", "title": "A talk"}

    async def conclude(state: Desk) -> dict[str, Any]:
        return {"answer": "because"}

    builder = StateGraph(Desk, output_schema=gives).add_node("talk", talk).add_node("conclude", conclude)
    return builder.add_edge(START, "talk").add_edge("talk", "conclude").compile(checkpointer=InMemorySaver())


class Desk(MessagesState, total=False):
    asked: str
    note: str
    title: str
    answer: str


class Answer(TypedDict, total=False):
    answer: str


class Talk(MessagesState, total=False):
    title: str


@pytest.mark.parametrize("gives", [Answer, Talk], ids=["without messages", "with messages"])
async def test_only_what_a_graph_gives_back_is_streamed_and_all_that_is_new_is_recorded(stage: Any, gives: Any) -> None:
    graph = desk(gives)
    for question in ("why?", "and then?"):  # neither question touches what the graph returns
        outcome = await stage.play(graph, {"asked": question}, thread_id="t", stream_mode=["values", "updates"])
        assert outcome.result.output.keys() == gives.__annotations__.keys()
        assert outcome.values == outcome.result.output
        assert all(part.data.keys() <= gives.__annotations__.keys() for part in outcome.parts if part.mode == "values")
        assert "private" not in str(outcome.parts)
        assert outcome.usage["last_ai_message"] == f"to {question}"
        assert outcome.usage["message_count"] == 1
        assert outcome.end["title"] == "A talk"
    kept = (await graph.aget_state({"configurable": {"thread_id": "t"}})).values
    assert kept.keys() == Desk.__annotations__.keys() | {"messages"}


async def test_a_graph_that_gives_back_one_value_streams_that_alone(stage: Any) -> None:
    first = NodeBuilder().subscribe_only("asked").do(str.upper).write_to("note")
    second = NodeBuilder().subscribe_only("note").do(len).write_to("answer")
    graph: Any = Pregel(
        nodes={"first": first, "second": second},
        channels={"asked": LastValue(str), "note": LastValue(str), "answer": LastValue(int)},
        input_channels=["asked"],
        output_channels="answer",
    )
    outcome = await stage.play(graph, {"asked": "why?"}, stream_mode=["values", "updates"])
    given = graph.astream({"asked": "why?"}, stream_mode=["values", "updates"], output_keys=graph.output_channels)
    assert [(part.mode, part.data) for part in outcome.parts] == [part async for part in given]
    assert outcome.result.output == 4
