"""Graphs of one node: one that counts, or one that a test gives."""

import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import START, StateGraph


class Count(TypedDict, total=False):
    n: Annotated[int, operator.add]
    seen: list[str]


def counting() -> Any:
    async def add(state: Count) -> Count:
        return {"n": 1}

    return StateGraph(Count).add_node("add", add).add_edge(START, "add")


def calling(node: Any, state: Any = Count, **compiled: Any) -> Any:
    return StateGraph(state).add_node("node", node).add_edge(START, "node").compile(**compiled)
