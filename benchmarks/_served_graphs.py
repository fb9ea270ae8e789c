"""Graphs that our server and the peers' servers serve."""

import asyncio
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    done: bool
    seconds: float


async def _do_nothing(state: State) -> State:
    return {"done": True}


async def _wait(state: State) -> State:
    await asyncio.sleep(state.get("seconds", 0.0))
    return {"done": True}


def _graph_of(step: Any) -> Any:
    graph = StateGraph(State)
    graph.add_node("step", step)
    graph.add_edge(START, "step")
    graph.add_edge("step", END)
    return graph.compile()


graph = _graph_of(_do_nothing)
waiting = _graph_of(_wait)
