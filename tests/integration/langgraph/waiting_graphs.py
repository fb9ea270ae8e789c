"""Graphs whose nodes wait until their run is stopped, and runs that are stopped."""

import asyncio
import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import START, StateGraph

from trackside import current_run


class State(TypedDict, total=False):
    notes: Annotated[list[Any], operator.add]


def graph_of(*nodes: Any, **compiled: Any) -> Any:
    """A graph of these nodes, one after the other, each under its function's name."""
    builder = StateGraph(State)
    before = START
    for node in nodes:
        builder.add_node(node.__name__, node).add_edge(before, node.__name__)
        before = node.__name__
    return builder.compile(**compiled)


def in_parallel(*nodes: Any, **compiled: Any) -> Any:
    builder = StateGraph(State)
    for node in nodes:
        builder.add_node(node.__name__, node).add_edge(START, node.__name__)
    return builder.compile(**compiled)


def say_waiting() -> None:
    run = current_run()
    assert run is not None
    run.send("waiting")


async def step(state: State) -> State:
    return {"notes": ["step"]}


async def wait(state: State) -> State:
    say_waiting()
    await asyncio.Event().wait()
    return {}


async def waiting(handle: Any) -> None:
    """Wait until a node of the run has said that it waits."""
    async for part in handle.stream(modes=["custom"]):
        if part.data == "waiting":
            return


async def cancelled(stage: Any, graph: Any, given: Any = None, *, action: str = "interrupt", **spec: Any) -> Any:
    """A run that was cancelled while one of its nodes waited."""
    handle = await stage.start(graph, given, **spec)
    await waiting(handle)
    await handle.cancel(action=action)
    return await stage.outcome(handle)
