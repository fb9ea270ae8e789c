"""What a graph's checkpointer has kept of a thread, for looks at it from outside, and changes to that."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph import types as langgraph
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.graph import END
from langgraph.types import PregelTask

from trackside.harness.adapters.langgraph._error_handlers import name_of, with_handlers
from trackside.harness.adapters.langgraph._graph import Graph, Saver, checkpointer_of, names_of_nodes
from trackside.harness.adapters.langgraph._input import pairs_as_tuples
from trackside.harness.adapters.langgraph._looking import GRAPH_FAILURES, address_of, look, state_at
from trackside.harness.adapters.langgraph._output import outputs_of
from trackside.harness.adapters.langgraph._questions import question_of
from trackside.harness.errors import (
    InvalidSpecError,
    TracksideError,
    UnknownCheckpointError,
    UnknownNodeError,
    UnshownStateError,
)
from trackside.harness.foreign.failures import line_of
from trackside.harness.payload import whole
from trackside.harness.states import StateSnapshot, StateUpdate, ThreadPlace
from trackside.harness.threads import in_own_thread
from trackside.harness.types import Json, JsonObject

_CHECKPOINT = ("thread_id", "checkpoint_ns", "checkpoint_id")
_OF_UPDATES = frozenset({END, "__input__", "__copy__"})
"""What LangGraph takes as the node of an update that is no node: it clears what is next, begins anew, or copies."""


async def read_state(graph: Graph, place: ThreadPlace, *, subgraphs: bool) -> StateSnapshot | None:
    """As `KeepsThreads.state`."""
    if checkpointer_of(graph) is None:
        return None
    state = await state_at(graph, address_of(place), subgraphs=subgraphs)
    if state.created_at is not None:
        return await _snapshot(graph, place, state)
    if place.checkpoint_id is not None:
        raise UnknownCheckpointError(thread_id=place.thread_id, checkpoint_id=place.checkpoint_id)
    return None


async def last_state(graph: Graph, place: ThreadPlace) -> StateSnapshot | None:
    """As `ShowsLastStates.last_state`."""
    if checkpointer_of(graph) is None:
        return None
    state = await look(graph, address_of(place))
    return None if state.created_at is None else await _snapshot(graph, place, state)


async def _snapshot(graph: Graph, place: ThreadPlace, state: langgraph.StateSnapshot) -> StateSnapshot:
    outputs = None if place.namespace else outputs_of(graph)  # a graph inside gives back what it gives
    snapshot = await _plain(graph, place, state)
    return snapshot if outputs is None else replace(snapshot, outputs=outputs)


async def _plain(graph: Graph, place: ThreadPlace, state: langgraph.StateSnapshot) -> StateSnapshot:
    state = state if place.namespace else await with_handlers(graph, state)
    return await in_own_thread(snapshot_of, state)  # a large one takes long, and nobody else should wait for it


async def read_history(
    graph: Graph, place: ThreadPlace, *, limit: int, before: str | None, metadata: Mapping[str, Any] | None
) -> list[StateSnapshot]:
    """As `KeepsThreads.history`."""
    saver = checkpointer_of(graph)
    if saver is None:
        return []
    older: RunnableConfig | None = None if before is None else address_of(_at(place, before))
    history = graph.aget_state_history(
        address_of(place), filter=dict(metadata) if metadata else None, before=older, limit=limit
    )
    try:
        async with aclosing(cast("AsyncGenerator[langgraph.StateSnapshot]", history)) as states:
            return [await _plain(graph, place, state) async for state in states]
    except TracksideError:
        raise
    except GRAPH_FAILURES as exc:
        if metadata:
            await _check_metadata(saver, place, metadata)
        raise UnshownStateError(thread_id=place.thread_id, why=line_of(exc)) from exc


async def _check_metadata(saver: Saver, place: ThreadPlace, metadata: Mapping[str, Any]) -> None:
    """Check that a saver can look for what is asked."""
    found = saver.alist(address_of(place), filter=dict(metadata), limit=1)
    try:
        async with aclosing(cast("AsyncGenerator[CheckpointTuple]", found)) as checkpoints:
            async for _ in checkpoints:
                pass
    except TracksideError:
        raise
    except ValueError as exc:
        raise InvalidSpecError(field="metadata", value=metadata, why=str(exc)) from exc


async def write_state(graph: Graph, place: ThreadPlace, values: Any, as_node: str | None) -> JsonObject:
    """As `KeepsThreads.update_state`."""
    return await replay(graph, place, [[StateUpdate(values=values, as_node=as_node)]])


async def replay(graph: Graph, place: ThreadPlace, steps: Sequence[Sequence[StateUpdate]]) -> JsonObject:
    """As `KeepsThreads.replay`."""
    saver = checkpointer_of(graph)
    if saver is None:
        why = f"the graph {graph.name!r} keeps no threads: it was compiled to have no checkpointer"
        raise InvalidSpecError(field="values", value=None, why=why)
    if not place.namespace:  # a graph inside has nodes of its own
        _check_writers(graph, steps)
    await _check_there(saver, place)
    given = [[langgraph.StateUpdate(pairs_as_tuples(one.values), one.as_node) for one in step] for step in steps]
    try:
        config = await graph.abulk_update_state(address_of(place), given)
    except TracksideError:
        raise
    except GRAPH_FAILURES as exc:  # from nodes and reducers
        named = "values" if len(steps) == len(given[0]) == 1 else "supersteps"
        shown = [[one.values for one in step] for step in steps]
        value = shown[0][0] if named == "values" else shown
        raise InvalidSpecError(field=named, value=value, why=line_of(exc)) from exc
    checkpoint = _checkpoint_of(config)
    assert checkpoint is not None
    return checkpoint


def _check_writers(graph: Graph, steps: Sequence[Sequence[StateUpdate]]) -> None:
    for one in (one for step in steps for one in step):
        name = one.as_node
        if name == END and one.values is not None:
            raise InvalidSpecError(field="as_node", value=name, why="an update as the end of the graph has no values")
        if name is not None and name not in graph.nodes and name not in _OF_UPDATES:
            raise UnknownNodeError(field="as_node", value=name, why=f"the graph's nodes are {names_of_nodes(graph)}")


def snapshot_of(state: langgraph.StateSnapshot) -> StateSnapshot:
    """A state as plain JSON."""
    return StateSnapshot(
        values=whole(state.values),
        next=tuple(state.next),
        tasks=[_task(task) for task in state.tasks],
        checkpoint=_checkpoint_of(state.config),
        parent_checkpoint=_checkpoint_of(state.parent_config),
        metadata=whole(dict(state.metadata or {})),
        created_at=state.created_at,
        interrupts=[question_of(interrupt) for interrupt in state.interrupts],
    )


def with_checkpoints(payload: Any) -> Json:
    """A checkpoint as a graph streams it, with what LangGraph's server adds: places as clients name them."""
    shown = whole(payload)
    if not isinstance(payload, Mapping) or "tasks" not in payload:
        return shown
    for task, whose in zip(shown["tasks"], payload["tasks"], strict=True):
        inside = whose.get("state")
        if isinstance(inside, Mapping):
            task["checkpoint"], task["state"] = _checkpoint_of(inside), None
    for name, config in (("checkpoint", payload.get("config")), ("parent_checkpoint", payload.get("parent_config"))):
        shown[name] = _checkpoint_of(config)
    return shown


def _task(task: PregelTask) -> JsonObject:
    inside = task.state
    is_place = isinstance(inside, Mapping)
    error: Any = task.error  # an exception, or what a saver could keep of it
    return {
        "id": task.id,
        "name": name_of(task),
        "path": whole(list(task.path)),
        "error": None if error is None else error if isinstance(error, str) else repr(error),
        "interrupts": [question_of(interrupt) for interrupt in task.interrupts],
        "checkpoint": _checkpoint_of(inside) if is_place else None,
        "state": snapshot_of(inside).as_json() if isinstance(inside, langgraph.StateSnapshot) else None,
        "result": whole(task.result),
    }


def _checkpoint_of(config: Any) -> JsonObject | None:
    """The place that a config names, as clients name it."""
    if config is None:
        return None
    configurable = config.get("configurable", {})
    place: JsonObject = {key: configurable.get(key) for key in _CHECKPOINT}
    place["checkpoint_ns"] = place["checkpoint_ns"] or ""
    if around := configurable.get("checkpoint_map"):
        place["checkpoint_map"] = dict(around)
    return place


def _at(place: ThreadPlace, checkpoint_id: str) -> ThreadPlace:
    return ThreadPlace(thread_id=place.thread_id, namespace=place.namespace, checkpoint_id=checkpoint_id)


async def _check_there(saver: Saver, place: ThreadPlace) -> None:
    """Check that the checkpoint is there: from one that is not, LangGraph would begin with nothing."""
    if place.checkpoint_id is not None and await saver.aget_tuple(address_of(place)) is None:
        raise UnknownCheckpointError(thread_id=place.thread_id, checkpoint_id=place.checkpoint_id)
