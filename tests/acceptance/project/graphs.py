"""Graphs as somebody would have written them for LangGraph's server: they know nothing of Trackside.

`gate`, `speak`, `deep` and `twice` wait until `release` is run with the same key, so that tests know how far a run has
come without looking at a clock.
"""

from __future__ import annotations

import asyncio
import operator
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

from langchain_core.language_models import BaseChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_store, get_stream_writer
from langgraph.func import entrypoint
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt


class Log(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


class Keyed(Log, total=False):
    key: str


@dataclass
class Context:
    name: str = "nobody"


async def _say(text: str, state: Any) -> AIMessage:
    """What a model says, word by word; the same number of messages gives the same id each time."""
    model = GenericFakeChatModel(messages=iter([AIMessage(text)]))
    return AIMessage(**(await model.ainvoke(state["messages"])).model_dump())


async def talk(state: MessagesState) -> dict[str, Any]:
    said = state["messages"][-1].text
    return {"messages": [await _say(f"you said {said}", state)]}


_gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)


class Pausing(BaseChatModel):
    """A model that says one word, waits for the gate that the last message names, and says the rest."""

    @property
    def _llm_type(self) -> str:
        return "pausing"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    async def _astream(self, messages: list[BaseMessage], *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        yield ChatGenerationChunk(message=AIMessageChunk("half "))
        await _gates[messages[-1].text].wait()
        yield ChatGenerationChunk(message=AIMessageChunk("and "))
        yield ChatGenerationChunk(message=AIMessageChunk("whole"))


async def pause(state: MessagesState) -> dict[str, Any]:
    return {"messages": [await Pausing(disable_streaming=False).ainvoke(state["messages"])]}


speak = StateGraph(MessagesState).add_node("pause", pause).add_edge(START, "pause").compile()
deep = StateGraph(MessagesState).add_node("inside", speak).add_edge(START, "inside").compile()

chat = StateGraph(MessagesState).add_node("talk", talk).add_edge(START, "talk").compile()


async def plan(state: MessagesState) -> dict[str, Any]:
    call = {"name": "pay", "args": {"amount": 3}, "id": f"call-{len(state['messages'])}"}
    return {"messages": [AIMessage("may I?", tool_calls=[call])]}


async def pay(state: MessagesState) -> dict[str, Any]:
    call = state["messages"][-1].tool_calls[0]
    answer = interrupt({"question": "pay?", "amount": call["args"]["amount"]})
    content = "paid" if answer == "yes" else f"not paid: {answer}"
    return {"messages": [ToolMessage(content, tool_call_id=call["id"], name="pay")]}


async def tell(state: MessagesState) -> dict[str, Any]:
    return {"messages": [await _say(f"it is {state['messages'][-1].text}", state)]}


approve = (
    StateGraph(MessagesState)
    .add_node("plan", plan)
    .add_node("pay", pay)
    .add_node("tell", tell)
    .add_edge(START, "plan")
    .add_edge("plan", "pay")
    .add_edge("pay", "tell")
    .compile()
)


def step(name: str) -> Any:
    async def run(state: Log) -> Log:
        get_stream_writer()({"at": name})
        return {"log": [name]}

    return run


steps = (
    StateGraph(Log)
    .add_node("first", step("first"))
    .add_node("second", step("second"))
    .add_node("third", step("third"))
    .add_edge(START, "first")
    .add_edge("first", "second")
    .add_edge("second", "third")
    .add_edge("third", END)
    .compile()
)

inner = StateGraph(MessagesState).add_node("talk", talk).add_edge(START, "talk").compile()
nested = StateGraph(MessagesState).add_node("inside", inner).add_edge(START, "inside").compile()


@asynccontextmanager
async def greeter(config: RunnableConfig) -> AsyncIterator[Any]:
    """Made for each run: the greeting is of the environment, the language of the config, the name of the context."""
    language = config.get("configurable", {}).get("language", "en")

    async def greet(state: Log, runtime: Runtime[Context]) -> Log:
        name = runtime.context.name if runtime.context else "nobody"
        return {"log": [f"{os.environ['GREETING']} {name} ({language})"]}

    yield StateGraph(Log, context_schema=Context).add_node("greet", greet).add_edge(START, "greet")


async def count(state: Log) -> Log:
    store = get_store()
    item = await store.aget(("counts",), "runs")
    number = item.value["number"] + 1 if item else 1
    await store.aput(("counts",), "runs", {"number": number})
    return {"log": [f"run {number}"]}


remember = StateGraph(Log).add_node("count", count).add_edge(START, "count").compile()


async def break_(state: Log) -> Log:
    raise ValueError("it cannot be done")


fail = StateGraph(Log).add_node("break", break_).add_edge(START, "break").compile()


async def wait(state: Keyed) -> Keyed:
    write = get_stream_writer()
    write({"waits": state["key"]})
    await _gates[state["key"]].wait()
    write({"goes": state["key"]})
    return {"log": [state["key"]]}


async def open_(state: Keyed) -> Keyed:
    _gates[state["key"]].set()
    return {"log": ["released"]}


gate = StateGraph(Keyed).add_node("wait", wait).add_edge(START, "wait").compile()
release = StateGraph(Keyed).add_node("open", open_).add_edge(START, "open").compile()


async def first(state: Keyed) -> Keyed:
    return {"log": [interrupt("first?")]}


async def second(state: Keyed) -> Keyed:
    return {"log": [interrupt("second?")]}


twice = (
    StateGraph(Keyed)
    .add_node("first", first)
    .add_node("wait", wait)
    .add_node("second", second)
    .add_edge(START, "first")
    .add_edge("first", "wait")
    .add_edge("wait", "second")
    .compile()
)


async def price(state: Log) -> Log:
    answer = interrupt("how much?")
    if answer == "nothing":
        raise ValueError("that is not enough")
    if answer == "again":
        interrupt("sure?")
    return {"log": [answer]}


pay = StateGraph(Log).add_node("price", price).add_edge(START, "price").compile()


@entrypoint()
async def quiet(input: Any) -> None:
    """Nothing comes of it."""
