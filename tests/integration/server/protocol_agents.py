"""Graphs whose threads tests follow: a model that speaks in pieces, tools, an inner graph, questions, failures."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt


class Log(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


class Speaker(BaseChatModel):
    """Thinks, answers in pieces, and reports its usage; if asked to, it calls a tool first."""

    calls: bool = False

    @property
    def _llm_type(self) -> str:
        return "speaker"

    def _generate(self, messages: list[BaseMessage], *args: Any, **options: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("it is sunny"))])

    async def _astream(self, messages: list[BaseMessage], *args: Any, **options: Any) -> AsyncIterator[Any]:
        if self.calls and messages[-1].type == "human":
            for name, args_piece in (("weather", '{"ci'), (None, 'ty": "Rome"}')):
                call = {"name": name, "args": args_piece, "id": name and "call-1", "index": 0}
                yield ChatGenerationChunk(message=AIMessageChunk("", tool_call_chunks=[call]))
            return
        yield ChatGenerationChunk(message=AIMessageChunk([{"type": "reasoning", "reasoning": "well", "index": 0}]))
        for piece in ("it ", "is ", "sunny"):
            yield ChatGenerationChunk(message=AIMessageChunk([{"type": "text", "text": piece, "index": 1}]))
        usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
        yield ChatGenerationChunk(message=AIMessageChunk("", usage_metadata=usage))


@tool
def weather(city: str) -> str:
    """The weather."""
    return f"sunny in {city}"


def talking() -> Any:
    """A model, and something that a node writes."""

    async def talk(state: MessagesState) -> dict[str, Any]:
        write = get_stream_writer()
        write({"half": "way"})
        write({"name": "progress", "payload": {"done": 1}})
        return {"messages": [await Speaker().ainvoke(state["messages"])]}

    return StateGraph(MessagesState).add_node("talk", talk).add_edge(START, "talk").compile()


def with_tools() -> Any:
    """A model that calls a tool and then answers."""

    async def talk(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await Speaker(calls=True).ainvoke(state["messages"])]}

    def goes_on(state: MessagesState) -> str:
        last = state["messages"][-1]
        return "tools" if isinstance(last, AIMessage) and last.tool_calls else END

    builder = StateGraph(MessagesState).add_node("talk", talk).add_node("tools", ToolNode([weather]))
    builder.add_edge(START, "talk").add_conditional_edges("talk", goes_on, ["tools", END]).add_edge("tools", "talk")
    return builder.compile()


def with_inside() -> Any:
    """A graph around an inner graph that speaks."""
    return StateGraph(MessagesState).add_node("inside", talking()).add_edge(START, "inside").compile()


def asking(*questions: str) -> Any:
    """Nodes that ask one question each, at the same time."""
    builder = StateGraph(Log)
    for question in questions:

        def ask(state: Log, question: str = question) -> Log:
            return {"log": [f"{question} {interrupt({'ask': question})}"]}

        builder.add_node(question, ask).add_edge(START, question)
    return builder.compile()


def failing() -> Any:
    def fail(state: Log) -> Log:
        raise ValueError("the oven is off")

    return StateGraph(Log).add_node("fail", fail).add_edge(START, "fail").compile()


class Held:
    """An agent whose runs go on until they are let go."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.let_go = asyncio.Event()

    async def __call__(self, input: Any) -> Any:
        self.begun.set()
        await self.let_go.wait()
        return {"said": input}
