"""Failures of models and tools are reported even where a graph swallows them."""

from collections.abc import Iterator
from contextlib import aclosing
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import FakeMessagesListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.tools import StructuredTool, ToolException, tool
from langgraph.channels import UntrackedValue
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from trackside import RunStatus


class Lost(GenericFakeChatModel):
    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        raise ConnectionError("no route")


def chat(*nodes: Any, **compiled: Any) -> Any:
    builder = StateGraph(MessagesState).add_sequence([(f"node{i}", node) for i, node in enumerate(nodes)])
    return builder.add_edge(START, "node0").compile(**compiled)


def asking(model: Any, *, swallows: bool = False) -> Any:
    async def ask(state: MessagesState) -> dict[str, Any]:
        try:
            return {"messages": [await model.ainvoke(state["messages"])]}
        except ConnectionError:
            if not swallows:
                raise
            return {"messages": [AIMessage("I am sorry")]}

    return ask


def lost() -> Lost:
    return Lost(messages=iter(()))


def answering(*answers: AIMessage) -> FakeMessagesListChatModel:
    return FakeMessagesListChatModel(responses=list(answers or [AIMessage("well")]))


async def test_a_fallback_that_answers_makes_the_run_a_success(stage: Any) -> None:
    outcome = await stage.play(chat(asking(lost().with_fallbacks([answering()]))), "hello")
    assert outcome.status is RunStatus.success
    assert (outcome.usage["llm_call_count"], outcome.usage["llm_error_count"]) == (1, 1)


async def test_fallbacks_that_all_fail_make_it_an_error_also_if_a_node_swallows_that(stage: Any) -> None:
    outcome = await stage.play(chat(asking(lost().with_fallbacks([lost()]), swallows=True)), "hello")
    assert outcome.status is RunStatus.error
    assert outcome.end["error_type"] == "ConnectionError"
    assert outcome.end["error"].endswith("the last one because of ConnectionError: no route.")
    assert outcome.usage["llm_error_count"] == 2


async def test_a_node_that_tries_again_and_gets_an_answer_has_not_failed(stage: Any) -> None:
    outcome = await stage.play(chat(asking(lost(), swallows=True), asking(answering())), "hello")
    assert outcome.status is RunStatus.success


class CutOff(Lost):
    """A model that fails in the middle of its answer, after it has reported its usage."""

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        usage = {"input_tokens": 50, "output_tokens": 1, "total_tokens": 51}
        yield ChatGenerationChunk(message=AIMessageChunk("we", usage_metadata=usage))
        raise ConnectionError("cut off")


async def test_half_an_answer_is_none_but_its_tokens_count(stage: Any) -> None:
    async def ask(state: MessagesState) -> dict[str, Any]:
        try:
            return {"messages": [part async for part in CutOff(messages=iter(())).astream("hello")]}
        except ConnectionError:
            return {"messages": [AIMessage("I am sorry")]}

    outcome = await stage.play(chat(ask), "hello")
    assert outcome.status is RunStatus.error
    assert outcome.end["error_type"] == "ConnectionError"
    assert outcome.usage["total_tokens"] == 51
    assert [call.get("error_type") for call in outcome.usage["calls"]] == ["ConnectionError"]


def speaking() -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter([AIMessage("one two three")]))


async def break_off(state: MessagesState) -> dict[str, Any]:
    async for part in speaking().astream("hello"):
        if part.text.strip():
            break
    return {"messages": [AIMessage(part.text)]}


async def close(state: MessagesState) -> dict[str, Any]:
    async with aclosing(speaking().astream("hello")) as parts:
        return {"messages": [AIMessage((await anext(parts)).text)]}


def break_off_in_a_thread(state: MessagesState) -> dict[str, Any]:
    for part in speaking().stream("hello"):
        if part.text.strip():
            break
    return {"messages": [AIMessage(part.text)]}


@pytest.mark.parametrize("read_half", [break_off, close, break_off_in_a_thread])
@pytest.mark.parametrize("mode", ["values", "messages"])
async def test_a_model_whose_stream_is_not_read_to_the_end_has_answered(stage: Any, read_half: Any, mode: str) -> None:
    outcome = await stage.play(chat(read_half), "hello", stream_mode=mode)
    assert outcome.status is RunStatus.success
    assert outcome.result.output["messages"][-1]["content"] == "one"
    assert outcome.usage["llm_call_count"] == 1
    assert "llm_error_count" not in outcome.usage
    assert [call.get("error_type") for call in outcome.usage["calls"]] == [None]


async def test_an_answer_from_the_cache_is_one_though_no_call(stage: Any) -> None:
    cached = FakeMessagesListChatModel(responses=[AIMessage("well")], cache=InMemoryCache())
    graph = chat(asking(lost().with_fallbacks([cached])))
    for calls in (1, 0):
        outcome = await stage.play(graph, {"messages": [HumanMessage("hello", id="always")]})
        assert outcome.status is RunStatus.success
        assert (outcome.usage["llm_call_count"], outcome.usage["llm_error_count"]) == (calls, 1)


@tool
def look() -> str:
    """Look."""
    raise LookupError("nothing to be seen")


TOOLS = ToolNode([look], handle_tool_errors=True)
CALL = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "1"}])


async def test_a_tool_that_failed_is_not_the_last_word_of_a_success(stage: Any) -> None:
    outcome = await stage.play(chat(asking(answering(CALL)), TOOLS), "hello")
    assert outcome.status is RunStatus.error
    assert outcome.end["error_type"] == "ErrorOutputError"
    assert "The last word of the agent 'LangGraph' is an error: " in outcome.end["error"]
    assert "nothing to be seen" in outcome.end["error"]
    assert outcome.usage["llm_call_count"] == 1


async def test_a_tool_that_failed_may_be_answered(stage: Any) -> None:
    outcome = await stage.play(chat(asking(answering(CALL)), TOOLS, asking(answering())), "hello")
    assert outcome.status is RunStatus.success
    assert [call.get("error_type") for call in outcome.usage["calls"]] == [None, "LookupError", None]


async def test_a_tool_that_makes_a_text_of_its_own_failure_is_listed_as_one_that_failed(stage: Any) -> None:
    def search() -> str:
        raise ToolException("nothing to be seen")

    tools = [StructuredTool.from_function(search, name="look", description="Look.", handle_tool_error=True)]
    outcome = await stage.play(chat(asking(answering(CALL)), ToolNode(tools), asking(answering())), "hello")
    assert outcome.status is RunStatus.success
    assert [call.get("error_type") for call in outcome.usage["calls"]] == [None, "ToolException", None]


async def test_a_tool_that_failed_in_an_earlier_run_is_not_this_ones_error(stage: Any) -> None:
    async def nothing(state: MessagesState) -> dict[str, Any]:
        return {}

    saver = InMemorySaver()
    failed = await stage.play(chat(asking(answering(CALL)), TOOLS, checkpointer=saver), "hello", thread_id="t")
    assert failed.status is RunStatus.error
    outcome = await stage.play(chat(nothing, checkpointer=saver), {"messages": []}, thread_id="t")
    assert outcome.status is RunStatus.success


@pytest.mark.parametrize("repaired", [True, False])
async def test_a_message_that_was_an_error_counts_as_what_it_is_in_the_end(stage: Any, repaired: bool) -> None:
    async def fail(state: MessagesState) -> dict[str, Any]:
        return {"messages": [ToolMessage("gone", tool_call_id="1", id="tool", status="error")]}

    async def repair(state: MessagesState) -> dict[str, Any]:
        status = "success" if repaired else "error"
        return {"messages": [ToolMessage("there", tool_call_id="1", id="tool", status=status)]}

    outcome = await stage.play(chat(asking(answering(CALL)), fail, repair), "hello")
    assert outcome.status is (RunStatus.success if repaired else RunStatus.error)


async def test_too_many_steps_say_what_to_change(stage: Any) -> None:
    async def step(state: MessagesState) -> dict[str, Any]:
        return {}

    loop = StateGraph(MessagesState).add_node("step", step).add_edge(START, "step").add_edge("step", "step").compile()
    outcome = await stage.play(loop, "hello", config={"recursion_limit": 3})
    assert outcome.end["error_type"] == "GraphRecursionError"
    assert "Recursion limit of 3 reached" in outcome.end["error"]
    assert "`recursion_limit`" in outcome.end["error"]


class Plain:
    """A value that LangGraph's serializer cannot write."""


class Kept(TypedDict, total=False):
    thing: Plain


class Untracked(TypedDict, total=False):
    thing: Annotated[Plain, UntrackedValue]


@pytest.mark.parametrize(("kind", "error"), [(Kept, "Type is not msgpack serializable: Plain"), (Untracked, None)])
async def test_what_cannot_be_written_is_not_pickled(kind: Any, error: str | None, open_stage: Any) -> None:
    builder = StateGraph(kind).add_sequence([("make", lambda _: {"thing": Plain()}), ("use", lambda state: {})])
    stage = await open_stage(checkpointer=InMemorySaver())
    outcome = await stage.play(builder.add_edge(START, "make").compile(), {}, thread_id="t")
    assert outcome.result.error == error
