"""Graphs of one node that says something, as factories make them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph


class Said(TypedDict, total=False):
    said: str


def saying(what: Any, *, node: Callable[[Said], Any] | None = None) -> Any:
    builder = StateGraph(Said).add_node("say", node or (lambda state: {"said": str(what)}))
    return builder.add_edge(START, "say")


def nothing() -> CompiledStateGraph:
    return saying("nothing").compile()


def builder() -> StateGraph:
    return saying("built")
