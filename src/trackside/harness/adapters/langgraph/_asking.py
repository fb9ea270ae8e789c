"""What a run may ask of a graph, as far as the request alone can tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig

from trackside.harness.adapters.langgraph._graph import Graph, check_nodes
from trackside.harness.agents.asked import check_thread
from trackside.harness.errors import InvalidSpecError
from trackside.harness.types import RunSpec

_CONFIG = frozenset(RunnableConfig.__annotations__) - {"run_id"}
_KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "recursion_limit": ("a whole number from 1 up", lambda value: type(value) is int and value >= 1),
    "max_concurrency": ("a whole number from 0 up", lambda value: type(value) is int and value >= 0),
    "tags": (
        "a list of texts",
        lambda value: isinstance(value, list | tuple) and all(isinstance(tag, str) for tag in value),
    ),
    "run_name": ("a text", lambda value: isinstance(value, str)),
    "metadata": ("an object in LangGraph's config", lambda value: not value or isinstance(value, Mapping)),
}
"""What the values of these config keys must be, unless they are None, which LangGraph takes for nothing."""


def check_spec(graph: Graph, spec: RunSpec) -> None:
    """Check that a graph has the nodes at which a run is to stop, and that the run's config is one for this thread.

    Raises:
        InvalidSpecError: one of these does not hold.
    """
    for field in ("interrupt_before", "interrupt_after"):
        names = getattr(spec, field)
        if names is not None and names != "*":
            check_nodes(graph, field, [names] if isinstance(names, str) else list(names))
    config = spec.config or {}
    for key, value in config.items():
        check_key(key, value)
    configurable = config.get("configurable")
    if isinstance(configurable, Mapping):
        check_thread(configurable, spec.thread_id)


def check_key(key: str, value: Any) -> None:
    """Refuse what LangGraph would ignore, or fail at with a message of its own."""
    if key not in _CONFIG:
        known = f"LangGraph's config has {', '.join(sorted(_CONFIG))}"
        why = "it is the run's own: give the run a `run_id` instead" if key == "run_id" else known
        raise InvalidSpecError(field=f"config.{key}", value=value, why=why)
    if value is not None and key in _KINDS:
        what, fits = _KINDS[key]
        if not fits(value):
            raise InvalidSpecError(field=f"config.{key}", value=value, why=f"it is {what}")
