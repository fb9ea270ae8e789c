"""Agents that threads have states of: graphs that log their steps, ask, and have others inside, and functions."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from trackside import RunContext
from trackside.harness.ids import new_id


class Log(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


def step(name: str) -> Any:
    return lambda state: {"log": [name]}


def ask(state: Log) -> Log:
    return {"log": [f"answered {interrupt('why?')}"]}


def steps() -> Any:
    builder = StateGraph(Log).add_node("first", step("first")).add_node("second", step("second"))
    return builder.add_edge(START, "first").add_edge("first", "second").compile()


def asking(*names: str) -> Any:
    builder = StateGraph(Log)
    for name in names:
        builder.add_node(name, ask).add_edge(START, name)
    return builder.compile()


def nested() -> Any:
    return StateGraph(Log).add_node("inside", asking("ask")).add_edge(START, "inside").compile()


def talking() -> Any:
    async def talk(state: MessagesState) -> dict[str, Any]:
        model = GenericFakeChatModel(messages=iter([AIMessage(f"reply {len(state['messages'])}")]))
        return {"messages": [await model.ainvoke(state["messages"])]}

    return StateGraph(MessagesState).add_node("talk", talk).add_edge(START, "talk").compile()


async def counting(input: Any, run: RunContext) -> dict[str, Any]:
    return {"count": run.values.get("count", 0) + 1}


async def wondering(input: Any, run: RunContext) -> dict[str, Any]:
    return {"answer": run.interrupt("which?")}


def agents() -> dict[str, Any]:
    return {
        "steps": steps(),
        "asking": asking("ask"),
        "several": asking("one", "two"),
        "nested": nested(),
        "talking": talking(),
        "counting": counting,
        "wondering": wondering,
    }


async def thread_of(client: Any, agent: str, input: Any, **asked: Any) -> str:
    """A thread on which the agent has run."""
    thread_id = new_id()
    await client.runs.wait(thread_id, agent, input=input, if_not_exists="create", **asked)
    return thread_id
