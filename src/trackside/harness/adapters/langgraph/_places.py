"""Which state of its thread a run begins with, and which one is the newest, in terms of LangGraph's configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from langchain_core.runnables import RunnableConfig

from trackside.harness.adapters.langgraph._errors import NoCheckpointerError
from trackside.harness.adapters.langgraph._graph import Graph, checkpointer_of
from trackside.harness.adapters.langgraph._users import user_of
from trackside.harness.agents.asked import PLACE, check_thread
from trackside.harness.context import RunContext
from trackside.harness.errors import InvalidSpecError, UnknownCheckpointError
from trackside.harness.ids import assistant_id_of
from trackside.harness.types import USER, USER_ID

type Origin = Mapping[str, Any]
"""The checkpoint that a run begins with, as keys of a config's `configurable`; empty: the thread's newest state."""

_OF_LANGGRAPH: Final = "__pregel_"
"""The prefix of keys by which LangGraph speaks to a graph inside another; a `RemoteGraph` that is a node sends some."""


async def origin_of(run: RunContext, graph: Graph) -> Origin:
    """Where a run begins. One that answers what the newest state asks begins there, whether it names that or not.

    Raises:
        InvalidSpecError: what its config says of a checkpoint does not fit.
        NoCheckpointerError: the graph keeps no checkpoints.
        UnknownCheckpointError: the thread does not have it.
    """
    configurable = section(run, "configurable")
    checkpoint_id, namespace = configurable.get("checkpoint_id"), configurable.get("checkpoint_ns") or ""
    if not checkpoint_id:
        if namespace:
            why = "it is part of the name of a checkpoint; give its `checkpoint_id`, too"
            raise InvalidSpecError(field="config.configurable.checkpoint_ns", value=namespace, why=why)
        return {}
    saver = checkpointer_of(graph)
    if saver is None:
        raise NoCheckpointerError(graph=graph.name, what="go on from a checkpoint")
    place = {"thread_id": run.thread_id, "checkpoint_ns": str(namespace), "checkpoint_id": str(checkpoint_id)}
    saved = await saver.aget_tuple({"configurable": place})
    if saved is None:
        raise UnknownCheckpointError(thread_id=run.thread_id, checkpoint_id=checkpoint_id)
    if namespace:  # LangGraph finds it by the checkpoints of the graphs around it
        around = {**saved.metadata.get("parents", {}), str(namespace): str(checkpoint_id)}
        return {"checkpoint_id": str(checkpoint_id), "checkpoint_ns": str(namespace), "checkpoint_map": around}
    if run.resuming:
        newest = await saver.aget_tuple(newest_place(run))
        if newest is not None and newest.checkpoint["id"] == checkpoint_id:
            return {}
    return {"checkpoint_id": str(checkpoint_id)}


def newest_place(run: RunContext) -> RunnableConfig:
    """The newest state of a run's thread."""
    return {"configurable": configurable_of(run, {})}


def place_of(run: RunContext, origin: Origin) -> RunnableConfig:
    """The state of the whole graph that a run begins with, even if it begins in a graph inside."""
    checkpoint_id = origin.get("checkpoint_map", {}).get("", origin.get("checkpoint_id"))
    return {"configurable": configurable_of(run, {} if checkpoint_id is None else {"checkpoint_id": checkpoint_id})}


def configurable_of(run: RunContext, origin: Origin) -> dict[str, Any]:
    """What a run's config hands to its graph. Only LangGraph may tell a graph where it is inside another.

    Raises:
        InvalidSpecError: it is about another thread.
    """
    configurable = section(run, "configurable")
    check_thread(configurable, run.thread_id)
    own = {
        key: value for key, value in configurable.items() if key not in PLACE and not str(key).startswith(_OF_LANGGRAPH)
    }
    if (user := own.get(USER)) is not None:
        own[USER] = user_of(user)
    if (user_id := own.get(USER_ID)) is not None:  # for whom the caller says that it asks, else whose key it uses
        own["user_id"] = own.get("user_id") or user_id
    return {"checkpoint_ns": "", **own, **origin, **_ids_of(run), "thread_id": run.thread_id}


def metadata_of(run: RunContext) -> dict[str, Any]:
    """What a run's config hands to tracers, and to savers, which later tell by the run id which checkpoints it made.

    Raises:
        InvalidSpecError: the metadata in its config is not an object.
    """
    return {**run.metadata, **section(run, "metadata"), **_ids_of(run)}


def _ids_of(run: RunContext) -> dict[str, str]:
    """What a run and its agent are known by, whatever a client says; LangGraph makes its `server_info` from it."""
    if not run.is_named:
        return {"run_id": run.run_id}
    return {"run_id": run.run_id, "assistant_id": assistant_id_of(run.agent), "graph_id": run.agent}


def section(run: RunContext, name: str) -> Mapping[str, Any]:
    """A part of a run's config.

    Raises:
        InvalidSpecError: it is not an object.
    """
    found = run.config.get(name) or {}
    if not isinstance(found, Mapping):
        raise InvalidSpecError(field=f"config.{name}", value=found, why="it is an object in LangGraph's config")
    return found
