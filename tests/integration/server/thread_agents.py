"""Agents that threads are made for: graphs that log and ask, functions that chat and ask, and one behind a gate."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from trackside import RunContext


class Log(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


def logging_graph(saver: Any = None) -> Any:
    builder = StateGraph(Log).add_node("first", lambda state: {"log": ["first"]})
    builder.add_node("second", lambda state: {"log": ["second"]})
    return builder.add_edge(START, "first").add_edge("first", "second").compile(checkpointer=saver)


def asking_graph() -> Any:
    def ask(state: Log) -> Log:
        return {"log": [str(interrupt("why?"))]}

    return StateGraph(Log).add_node("ask", ask).add_edge(START, "ask").compile()


async def chat(input: Any, run: RunContext) -> dict[str, Any]:
    return {"said": input, "nested": {"list": [1, {"deep": True}]}}


async def asking(input: Any, run: RunContext) -> dict[str, Any]:
    return {"answer": run.interrupt({"question": "why?"})}


def gated(gate: asyncio.Event) -> Any:
    async def wait(input: Any) -> dict[str, Any]:
        await gate.wait()
        return {"waited": True}

    return wait
