"""The agents of a server that gets killed: those of fleets, and graphs. The journal of its folder has what they do.

`SERVED_DIES` in the environment names a moment at which the process kills itself: `before settle 5`, as in
`crash_steps`, or `committed end 5`, as in `crash_points`.
"""

from __future__ import annotations

import asyncio
import operator
import os
from typing import Annotated, Any, TypedDict

from crash_points import STEPS, DeadlyPoint
from crash_steps import DeadlyStep
from fleet_agents import asks, executing, fails, talks, tries
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from trackside import RunContext
from trackside.harness import current_run

__all__ = ["asks", "counts", "fails", "pauses", "talks", "tries"]


class Turns(TypedDict):
    """What the graphs keep about their threads."""

    token: str
    tokens: Annotated[list[str], operator.add]


def _work(run: RunContext) -> None:
    """Say that a run is executed, in a step that ends at once."""
    with executing(run):
        pass


def _note(state: Turns) -> dict[str, Any]:
    run = current_run()
    assert run is not None
    _work(run)
    return {"tokens": [state["token"]]}


async def _rest(state: Turns) -> dict[str, Any]:
    await asyncio.sleep(0.02)
    return {}


def _ask(state: Turns) -> dict[str, Any]:
    answer, run = interrupt("sure?"), current_run()
    assert run is not None
    _work(run)  # only now: the asking run has worked in the node before
    return {"tokens": [f"answer {answer}"]}


def _graph(second: Any) -> Any:
    graph = StateGraph(Turns)
    graph.add_node("note", _note)
    graph.add_node("second", second)
    graph.add_edge(START, "note")
    graph.add_edge("note", "second")
    return graph.compile()


counts: Any = _graph(_rest)
pauses: Any = _graph(_ask)

if moment := os.environ.get("SERVED_DIES"):
    _when, _, _rest_of_it = moment.partition(" ")
    if moment.startswith("handed back "):
        _when, _rest_of_it = "handed back", moment.removeprefix("handed back ")
    _what, _, _number = _rest_of_it.rpartition(" ")
    _is_point = (_when in STEPS and _what[:1].isupper()) or _what in {"start", "end"}
    (DeadlyPoint if _is_point else DeadlyStep)(_when, _what, int(_number)).install()
if "COUNT_TASKS" in os.environ:
    from tests.torture import counted_tasks

    counted_tasks.begin()
