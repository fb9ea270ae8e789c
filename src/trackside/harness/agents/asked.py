"""Refuses what a run asks for that its agent does not have, so that nothing is ignored silently."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

from trackside.harness.context import RunContext
from trackside.harness.errors import InvalidSpecError
from trackside.harness.types import RunSpec

_OF_GRAPHS = ("interrupt_before", "interrupt_after", "durability")
_OF_RUNS: Final = frozenset({"thread_id", "run_id", "assistant_id", "graph_id", "cron_id"})
_OF_SERVERS: Final = ("langgraph_", "__")
PLACE: Final = frozenset({"checkpoint_id", "checkpoint_ns", "checkpoint_map"})
"""The names by which a config's `configurable` says at which checkpoint of its thread a run begins."""


def check_modes(run: RunContext, known: AbstractSet[str], who: str) -> None:
    """Check that `who`, an agent of some kind, streams what the run's followers want.

    Raises:
        InvalidSpecError: it streams only what is `known`.
    """
    if unknown := run.stream_modes - known:
        why = f"{who} streams {', '.join(sorted(known))}"
        raise InvalidSpecError(field="stream_mode", value=sorted(unknown), why=why)


def check_no_graph_options(run: RunContext | RunSpec, why: str) -> None:
    """Check that a run whose agent is not a graph asks for nothing that only graphs have.

    Raises:
        InvalidSpecError: it does; `why` says why that cannot be had.
    """
    for field in _OF_GRAPHS:
        if (value := getattr(run, field)) is not None:
            raise InvalidSpecError(field=field, value=value, why=why)


def configured(configurable: Mapping[str, Any]) -> dict[str, Any]:
    """What clients may configure for their graphs, and neither servers nor LangGraph do."""
    return {
        name: value
        for name, value in configurable.items()
        if name not in _OF_RUNS | PLACE and not name.startswith(_OF_SERVERS)
    }


def check_thread(configurable: Mapping[str, Any], thread_id: str | None) -> None:
    """Check that a run's `configurable` is about its own thread; None: a thread that nobody knows yet.

    Raises:
        InvalidSpecError: it is about another one.
    """
    named = configurable.get("thread_id")
    if named is None or str(named) == thread_id:
        return
    on = "a thread of its own" if thread_id is None else f"thread {thread_id!r}"
    why = f"the run is on {on}; give the run a `thread_id` instead"
    raise InvalidSpecError(field="config.configurable.thread_id", value=named, why=why)


def options_in(run: RunContext, why: str) -> dict[str, Any]:
    """The options in a run's config for an agent that is not a graph: all of it but the `configurable`.

    In the `configurable`, clients and servers say which run it is and who asks: that is for code that asks
    `current_run()`.

    Raises:
        InvalidSpecError: the `configurable` has something else, which is for graphs, as `why` says, or another thread.
    """
    options = dict(run.config)
    configurable = options.pop("configurable", None)
    if configurable is None:
        return options
    if not isinstance(configurable, Mapping):
        raise InvalidSpecError(field="config.configurable", value=configurable, why="it is an object")
    check_thread(configurable, run.thread_id)
    place = {name: value for name in sorted(PLACE) if (value := configurable.get(name))}
    if unheard := place | configured(configurable):
        name, value = next(iter(unheard.items()))
        raise InvalidSpecError(field=f"config.configurable.{name}", value=value, why=why)
    return options
