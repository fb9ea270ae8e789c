"""What a run may ask of a graph, as far as that can be told by what is asked for alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig

from trackside.harness.adapters.langgraph._graph import Graph, check_nodes
from trackside.harness.errors import InvalidSpecError
from trackside.harness.types import RunSpec

_CONFIG = frozenset(RunnableConfig.__annotations__) - {"run_id"}


def check_spec(graph: Graph, spec: RunSpec) -> None:
    """See that a graph has the nodes at which a run shall stop, and that its config is one of this thread.

    Raises:
        InvalidSpecError: it is not so.
    """
    for field in ("interrupt_before", "interrupt_after"):
        names = getattr(spec, field)
        if names is not None and names != "*":
            check_nodes(graph, field, [names] if isinstance(names, str) else list(names))
    config = spec.config or {}
    for key, value in config.items():
        check_key(key, value)
    configurable = config.get("configurable")
    if not isinstance(configurable, Mapping) or (named := configurable.get("thread_id")) is None:
        return
    if str(named) != spec.thread_id:
        on = "a thread of its own" if spec.thread_id is None else f"thread {spec.thread_id!r}"
        why = f"the run is on {on}; give the run a `thread_id` instead"
        raise InvalidSpecError(field="config.configurable.thread_id", value=named, why=why)


def check_key(key: str, value: Any) -> None:
    """Refuse what LangGraph would pass over."""
    if key not in _CONFIG:
        known = f"LangGraph's config has {', '.join(sorted(_CONFIG))}"
        why = "it is the run's own: give the run a `run_id` instead" if key == "run_id" else known
        raise InvalidSpecError(field=f"config.{key}", value=value, why=why)
