"""Ways to look at a thread that need nothing but what is there, even if a step has left what LangGraph cannot show.

LangGraph shows a thread with what the finished nodes of its last step have written. Where these writes clash, or do not
fit the state, it raises what the step has raised; a new run of the thread leaves them out, and so does a look before it.
"""

from __future__ import annotations

from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.errors import InvalidUpdateError
from langgraph.types import StateSnapshot

from trackside.harness.adapters.langgraph._graph import Graph, checkpointer_of
from trackside.harness.adapters.langgraph._sent_on import SentOn
from trackside.harness.errors import TracksideError, UnshownStateError
from trackside.harness.foreign.failures import line_of
from trackside.harness.states import ThreadPlace

GRAPH_FAILURES: Final = (
    InvalidUpdateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
)
"""What a graph's channels, reducers and types raise, and storage does not."""

_CHECKPOINTER: Final = "__pregel_checkpointer"
"""LangGraph's config key for a saver that takes the place of the graph's."""

_STEPS_BACK: Final = 20
"""How many steps back to look for a state that can be shown."""


def address_of(place: ThreadPlace) -> RunnableConfig:
    """A place in a thread as LangGraph names it."""
    configurable: dict[str, Any] = {"thread_id": place.thread_id, "checkpoint_ns": place.namespace}
    if place.checkpoint_id is not None:
        configurable["checkpoint_id"] = place.checkpoint_id
    if place.checkpoints:
        configurable["checkpoint_map"] = dict(place.checkpoints)
    return {"configurable": configurable}


async def state_at(graph: Graph, place: RunnableConfig, *, subgraphs: bool = False) -> StateSnapshot:
    """The state at a place, as LangGraph shows it, but also with what is next where a command has sent the thread.

    Raises:
        UnshownStateError: it cannot be shown.
    """
    try:
        return await graph.aget_state(_as_sent_on(graph, place), subgraphs=subgraphs)
    except TracksideError:
        raise
    except GRAPH_FAILURES as exc:
        thread_id = place.get("configurable", {}).get("thread_id")
        raise UnshownStateError(thread_id=thread_id, why=line_of(exc)) from exc


def _as_sent_on(graph: Graph, place: RunnableConfig) -> RunnableConfig:
    """The same place, seen through `SentOn`; one in a graph inside, which no command sends anywhere, stays as it is."""
    saver, configurable = checkpointer_of(graph), place.get("configurable", {})
    if saver is None or configurable.get("checkpoint_ns"):
        return place
    return {**place, "configurable": {**configurable, _CHECKPOINTER: SentOn(graph, saver)}}


async def look(graph: Graph, place: RunnableConfig, *, subgraphs: bool = False) -> StateSnapshot:
    """The state at a place; if it cannot be shown, the state without what its last step has written.

    If not even that can be shown, it has the values of the last state before it that can, and nothing is next.
    """
    try:
        return await state_at(graph, place, subgraphs=subgraphs)
    except UnshownStateError:
        return await _last_that_can_be_shown(graph, place)


async def look_before_input(graph: Graph, place: RunnableConfig) -> StateSnapshot:
    """The state at a place as an input finds it: without what finished nodes have written in a step that was left open."""
    state = await look(graph, place)
    return await look(graph, state.config) if state.tasks else state  # as below: no writes of nodes are applied


async def _last_that_can_be_shown(graph: Graph, place: RunnableConfig) -> StateSnapshot:
    saver = checkpointer_of(graph)
    saved = await saver.aget_tuple(place) if saver is not None else None
    for steps in range(_STEPS_BACK):
        if saver is None or saved is None:
            break
        try:
            state = await state_at(graph, saved.config)  # which names a checkpoint, so that no writes are applied
        except UnshownStateError:
            saved = None if saved.parent_config is None else await saver.aget_tuple(saved.parent_config)
        else:
            return _without_answered(state) if steps == 0 else state._replace(next=(), tasks=(), interrupts=())
    return StateSnapshot({}, (), place, None, None, None, (), ())


def _without_answered(state: StateSnapshot) -> StateSnapshot:
    """A state without the questions of finished nodes: a checkpoint's state has all that was ever asked."""
    tasks = tuple(task if task.result is None else task._replace(interrupts=()) for task in state.tasks)
    return state._replace(tasks=tasks, interrupts=tuple(question for task in tasks for question in task.interrupts))
