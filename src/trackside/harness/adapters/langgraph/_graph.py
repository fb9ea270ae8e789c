"""What a graph is to this adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.constants import START
from langgraph.graph.state import CompiledStateGraph, StateGraph
from langgraph.pregel import Pregel

from trackside.harness.errors import InvalidSpecError

__all__ = [
    "UNNAMED",
    "CompiledStateGraph",
    "Graph",
    "Pregel",
    "Saver",
    "StateGraph",
    "branches_at_start",
    "check_nodes",
    "checkpointer_of",
    "has_timed_nodes",
    "shows_start",
]

UNNAMED = "LangGraph"
"""What LangGraph calls a graph that was compiled without a name."""

type Graph = Pregel[Any, Any, Any, Any]
"""Any compiled graph."""

type Saver = BaseCheckpointSaver[Any]
"""Where graphs keep their threads."""


def checkpointer_of(graph: Graph) -> Saver | None:
    """Where the graph keeps its threads; None if it keeps none."""
    return graph.checkpointer if isinstance(graph.checkpointer, BaseCheckpointSaver) else None


def has_timed_nodes(graph: Graph) -> bool:
    """Whether a node has a `timeout`, also inside a graph that is a node; True for an entrypoint: it cannot be told."""
    if not isinstance(graph, CompiledStateGraph):
        return True
    nodes = graph.nodes.values()
    inside = (found for node in nodes for found in node.subgraphs if isinstance(found, Pregel))
    return any(getattr(node, "timeout", None) is not None for node in nodes) or any(map(has_timed_nodes, inside))


def branches_at_start(graph: Graph) -> bool:
    """Whether conditional edges lead from its START: LangGraph streams nothing of what those ask."""
    return isinstance(graph, CompiledStateGraph) and bool(graph.builder.branches.get(START))


def shows_start(graph: Graph, value: Any) -> bool:
    """Whether a graph streams the state it begins with: a `StateGraph` does if its input has something for that."""
    shown = graph.stream_channels_asis
    if not isinstance(graph, CompiledStateGraph) or isinstance(shown, str) or not isinstance(value, dict):
        return True
    taken = graph.builder.schemas[graph.builder.input_schema]
    return any(key in taken and key in shown for key in value)


def check_nodes(graph: Graph, field: str, names: Sequence[str]) -> None:
    """Check that the graph has these nodes; LangGraph ignores names that it does not know.

    Raises:
        InvalidSpecError: it lacks one.
    """
    if unknown := [name for name in names if name not in graph.nodes]:
        raise InvalidSpecError(field=field, value=unknown, why=f"the graph's nodes are {names_of_nodes(graph)}")


def names_of_nodes(graph: Graph) -> str:
    """The graph's nodes, for a sentence."""
    return ", ".join(sorted(name for name in graph.nodes if not name.startswith("__")))
