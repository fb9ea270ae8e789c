"""What graphs stream to LangGraph's clients: each mode, of the graph and of its inner graphs."""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypedDict

import httpx
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import interrupt
from langgraph_sdk.errors import UnprocessableEntityError
from tests.integration.server.stream_clients import events_in

from trackside.harness.ids import new_id

DIALECTS = ("sqlite",)


class Log(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


def talking_inside() -> Any:
    async def talk(state: MessagesState) -> dict[str, Any]:
        get_stream_writer()({"half": "way"})
        model = GenericFakeChatModel(messages=iter([AIMessage("hello there")]))
        return {"messages": [await model.ainvoke(state["messages"])]}

    inner = StateGraph(MessagesState).add_node("talk", talk).add_edge(START, "talk").compile()
    return StateGraph(MessagesState).add_node("inside", inner).add_edge(START, "inside").compile()


def asking() -> Any:
    def ask(state: Log) -> Log:
        return {"log": [interrupt("why?")]}

    return StateGraph(Log).add_node("ask", ask).add_edge(START, "ask").compile()


HI = {"messages": [{"role": "user", "content": "hi", "id": "1"}]}


async def streamed(served: Any, agent: str, input: Any, **asked: Any) -> list[Any]:
    return [part async for part in served.client.runs.stream(None, agent, input=input, **asked)]


async def test_each_mode_arrives_under_its_name_with_the_namespace_of_graphs_inside(serve_agents: Any) -> None:
    modes = ["values", "updates", "messages-tuple", "custom", "tasks", "checkpoints", "debug"]
    async with serve_agents({"chat": talking_inside()}) as served:
        parts = await streamed(served, "chat", HI, stream_mode=modes, stream_subgraphs=True)

    events = {part.event.partition("|")[0] for part in parts} - {"metadata", "end"}
    assert events == {"values", "updates", "messages", "custom", "tasks", "checkpoints", "debug"}
    inside = {part.event.partition("|")[2].partition(":")[0] for part in parts if "|" in part.event}
    assert inside == {"inside"}
    assert {part.event.partition("|")[0] for part in parts if "|" in part.event} >= {"values", "updates", "custom"}
    root = [part.data for part in parts if part.event == "values"]
    assert [len(values["messages"]) for values in root] == [1, 2]
    chunks = [part.data for part in parts if part.event.startswith("messages")]
    assert "".join(message["content"] for message, _ in chunks) == "hello there"
    assert all(about["langgraph_node"] == "talk" for _, about in chunks)


async def test_without_graphs_inside_only_the_root_says_its_values(serve_agents: Any) -> None:
    async with serve_agents({"chat": talking_inside()}) as served:
        parts = await streamed(served, "chat", HI, stream_mode=["values", "updates", "custom"])
    assert not [part.event for part in parts if "|" in part.event]
    assert [part.event for part in parts if part.event in {"values", "updates"}] == ["values", "updates", "values"]


async def test_messages_add_up_to_the_whole_under_the_same_names_in_graphs_inside(serve_agents: Any) -> None:
    async with serve_agents({"chat": talking_inside()}) as served:
        parts = await streamed(served, "chat", HI, stream_mode="messages", stream_subgraphs=True)
    names = [part.event for part in parts]
    assert (names[1], {*names[2:-1]}) == ("messages/metadata", {"messages/partial"})
    (about,) = parts[1].data.values()
    assert about["metadata"]["langgraph_checkpoint_ns"].startswith("inside:")
    assert parts[-2].data[0]["content"] == "hello there"


def block(**said: Any) -> dict[str, Any]:
    return {"content": [said]}


def thought(text: str) -> dict[str, Any]:
    return {"content": "", "additional_kwargs": {"reasoning_content": text}}


def summary(text: str) -> dict[str, Any]:
    part = {"type": "summary_text", "index": 0, "text": text}
    return block(type="reasoning", index="lc_rs_7", summary=[part])


def call(name: str | None, args: str, call_id: str | None) -> dict[str, Any]:
    return {"content": "", "tool_call_chunks": [{"name": name, "args": args, "id": call_id, "index": 0}]}


def function_call(name: str, arguments: str) -> dict[str, Any]:
    return {"content": "", "additional_kwargs": {"function_call": {"name": name, "arguments": arguments}}}


PIECES = {
    "thoughts beside the content": [thought("First "), thought("then that."), {"content": "Yes."}],
    "thoughts as blocks": [
        block(type="thinking", thinking="First ", index=0),
        block(type="thinking", thinking="then that.", index=0),
        block(type="thinking", signature="abc", index=0),
        block(type="text", text="Yes.", index=1),
    ],
    "a summary inside a block": [summary("First "), summary("then that.")],
    "citations": [
        block(type="text", text=title, index=0, annotations=[{"type": "url_citation", "title": title}])
        for title in ("a", "b", "c")
    ],
    "a call as a block": [
        block(type="tool_use", id="toolu_1", name="search", input={}, index=0),
        block(type="input_json_delta", partial_json='{"q": ', index=0),
        block(type="input_json_delta", partial_json="1}", index=0),
    ],
    "a call named once": [call("search", "", "1"), call(None, '{"q": ', None), call(None, "1}", None)],
    "a call named by nothing then": [call("search", "", "1"), call("", '{"q": ', ""), call("", "1}", "")],
    "calls of one index": [call("search", '{"q": 1}', "1"), call("search", '{"q": 2}', "2")],
    "a call of old": [function_call("search", '{"q"'), function_call("", ": 1}")],
    "speech": [
        {"content": "", "additional_kwargs": {"audio": audio}}
        for audio in ({"id": "a", "transcript": "Y"}, {"transcript": "es."}, {"expires_at": 7})
    ],
    "odds of tokens": [
        {"content": text, "response_metadata": {"logprobs": {"content": [{"token": text}]}}} for text in ("Y", "es.")
    ],
}
"""The pieces in which models speak, as LangChain's provider packages pass them on."""


class Scripted(BaseChatModel):
    """Speaks in these pieces."""

    pieces: list[dict[str, Any]]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(self, *args: Any, **options: Any) -> ChatResult:
        raise AssertionError("it streams")

    async def _astream(self, *args: Any, **options: Any) -> AsyncIterator[ChatGenerationChunk]:
        for piece in self.pieces:
            yield ChatGenerationChunk(message=AIMessageChunk(**piece))


def saying(pieces: list[dict[str, Any]]) -> Any:
    async def talk(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await Scripted(pieces=pieces).ainvoke(state["messages"])]}

    return StateGraph(MessagesState).add_node("talk", talk).add_edge(START, "talk").compile()


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
async def test_what_a_message_adds_up_to_is_what_the_thread_keeps(serve_agents: Any, pieces: list[Any]) -> None:
    async with serve_agents({"chat": saying(pieces)}) as served:
        parts = await streamed(served, "chat", HI, stream_mode=["messages", "values"])
    said = [part.data[0] for part in parts if part.event in {"messages/partial", "messages/complete"}][-1]
    kept = [part.data["messages"][-1] for part in parts if part.event == "values"][-1]

    assert kept["type"] == "ai"
    assert {name: said.get(name) for name in kept} == kept


async def test_messages_of_a_graph_inside_are_chosen_and_taken_up_again_by_its_namespace(serve_agents: Any) -> None:
    asked = {"stream_mode": "messages", "stream_subgraphs": True, "stream_resumable": True, "on_completion": "keep"}
    async with serve_agents({"chat": talking_inside()}) as served:
        run = await served.client.runs.create(None, "chat", input=HI, **asked)
        path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/stream"
        said = [part async for part in served.client.runs.join_stream(run["thread_id"], run["run_id"])]
        ((_, about),) = said[1].data.items()
        namespace = about["metadata"]["langgraph_checkpoint_ns"].partition("|")[0]
        async with httpx.AsyncClient(base_url=served.url) as http:
            root = events_in((await http.get(path, params={"namespace": ""})).content)
            back = {"Last-Event-ID": said[1].id}
            inside = events_in((await http.get(path, params={"namespace": namespace}, headers=back)).content)
    assert [name for name, _, _ in root] == ["metadata", "end"]
    assert inside == [(part.event, part.data, part.id) for part in said[2:]]
    assert {name for name, _, _ in inside} == {"messages/partial", "end"}


async def test_events_are_langchains(serve_agents: Any) -> None:
    async with serve_agents({"chat": talking_inside()}) as served:
        parts = await streamed(served, "chat", HI, stream_mode=["events", "values"])
    kinds = {part.data["event"] for part in parts if part.event == "events"}
    assert {"on_chain_start", "on_chain_end", "on_chat_model_stream"} <= kinds
    assert [len(part.data["messages"]) for part in parts if part.event == "values"] == [1, 2]


async def test_events_name_the_agent_and_the_node_and_leave_out_what_streams_have_anyway(serve_agents: Any) -> None:
    async with serve_agents({"chat": talking_inside()}) as served:
        parts = await streamed(served, "chat", HI, stream_mode=["events", "values"])
    events = [part.data for part in parts if part.event == "events"]
    assert (events[0]["event"], events[0]["name"]) == ("on_chain_start", "chat")
    root = [event["event"] for event in events if event["run_id"] == events[0]["run_id"]]
    assert root == ["on_chain_start", "on_chain_end"]
    said = [event for event in events if event["event"] == "on_chat_model_stream"]
    assert "".join(event["data"]["chunk"]["content"] for event in said) == "hello there"
    for event in said:
        outer, inner = event["metadata"]["langgraph_checkpoint_ns"].split("|")
        assert (outer.partition(":")[0], inner.partition(":")[0]) == ("inside", "talk")
        assert event["metadata"]["checkpoint_ns"] in (outer, f"{outer}|{inner}")


@pytest.mark.parametrize("mode", ["events", "values"])
async def test_a_name_that_a_graph_or_a_run_brings_stands(serve_agents: Any, mode: str) -> None:
    seen: list[str] = []

    class Names(BaseCallbackHandler):
        def on_chain_start(self, *_: Any, parent_run_id: Any = None, **more: Any) -> None:
            if parent_run_id is None:
                seen.append(more["name"])

    plain, named = (talking_inside().with_config(callbacks=[Names()]) for _ in range(2))
    named.name = "Desk"
    async with serve_agents({"plain": plain, "named": named}) as served:
        await streamed(served, "plain", HI, stream_mode=mode)
        await streamed(served, "named", HI, stream_mode=mode)
        await streamed(served, "plain", HI, stream_mode=mode, config={"run_name": "mine"})
    assert seen == ["plain", "Desk", "mine"]


async def test_a_question_stands_in_values_and_updates(serve_agents: Any) -> None:
    async with serve_agents({"asking": asking()}) as served:
        parts = await streamed(served, "asking", {"log": ["in"]}, stream_mode=["values", "updates"])
    values = [part.data for part in parts if part.event == "values"]
    updates = [part.data for part in parts if part.event == "updates"]
    assert values[0] == {"log": ["in"]}
    assert values[-1]["log"] == ["in"]
    assert values[-1]["__interrupt__"][0]["value"] == "why?"
    assert updates[-1]["__interrupt__"] == values[-1]["__interrupt__"]


async def test_a_mode_that_graphs_do_not_have_is_refused_at_once(serve_agents: Any) -> None:
    async with serve_agents({"asking": asking()}) as served:
        with pytest.raises(UnprocessableEntityError, match="stream_mode = lifecycle") as refused:
            await streamed(served, "asking", {"log": []}, stream_mode=["values", "lifecycle"])
        offered = str(refused.value).rpartition(" streams ")[2].split(", ")
        parts = await streamed(served, "asking", {"log": []}, stream_mode=offered)
    assert {"values", "tasks"} <= {part.event for part in parts}


async def test_a_remote_graph_streams_as_the_graph_does(serve_agents: Any) -> None:
    graph = talking_inside()
    async with serve_agents({"chat": graph}) as served:
        remote = RemoteGraph("chat", client=served.client)
        config: Any = {"configurable": {"thread_id": new_id()}}
        there = [
            (ns and ns[0].partition(":")[0], mode, sorted(data))
            async for ns, mode, data in remote.astream(HI, config, stream_mode=["values", "updates"], subgraphs=True)
        ]
        message = [chunk async for chunk in remote.astream(HI, config, stream_mode="messages", subgraphs=True)]
    here = [
        (ns and ns[0].partition(":")[0], mode, sorted(data))
        async for ns, mode, data in graph.astream(HI, stream_mode=["values", "updates"], subgraphs=True)
    ]
    assert there == here
    assert "".join(part[0]["content"] for _, part in message) == "hello there"
