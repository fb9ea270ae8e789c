"""Read the states of threads, now and before; change them, or go back to earlier ones."""

from __future__ import annotations

from typing import Any

from trackside.app.server.access import thread_for
from trackside.app.server.authorizing import About
from trackside.app.server.principal import Permission
from trackside.app.server.routing import Call, Routes
from trackside.app.server.thread_states import StatesOfThread
from trackside.app.server.wire.runs import CheckpointRef
from trackside.app.server.wire.states import (
    Before,
    HistoryQuery,
    HistorySearch,
    StateAt,
    StateChange,
    StateChanged,
    StateQuery,
    ThreadState,
    selected,
)
from trackside.harness.states import StateUpdate

routes = Routes("Thread state")


@routes.get(
    "/threads/{thread_id}/state",
    Permission.read,
    about=About("threads", "read", "thread"),
    query=StateQuery,
    answers={200: ThreadState},
)
async def get_state(call: Call[None, StateQuery]) -> Any:
    """Get the state of a thread."""
    query = call.query
    states = await _states(call)
    return selected(await states.state(subgraphs=query.subgraphs), query.select)


@routes.get(
    "/threads/{thread_id}/state/{checkpoint_id}",
    Permission.read,
    about=About("threads", "read", "thread"),
    query=StateQuery,
    answers={200: ThreadState},
)
async def get_state_at(call: Call[None, StateQuery]) -> Any:
    """Get the state of a thread at a checkpoint."""
    query = call.query
    at = CheckpointRef(checkpoint_id=call.path["checkpoint_id"])
    states = await _states(call)
    return selected(await states.state(at, subgraphs=query.subgraphs), query.select)


@routes.post(
    "/threads/{thread_id}/state/checkpoint",
    Permission.read,
    about=About("threads", "read", "thread"),
    body=StateAt,
    answers={200: ThreadState},
)
async def get_state_of_checkpoint(call: Call[StateAt, None]) -> Any:
    """Get the state of a thread at a checkpoint, which may be one of a graph inside its graph."""
    asked = call.body
    states = await _states(call)
    return selected(await states.state(asked.checkpoint, subgraphs=bool(asked.subgraphs)), asked.select)


@routes.post(
    "/threads/{thread_id}/state",
    Permission.run,
    about=About("threads", "update", "thread"),
    body=StateChange,
    answers={200: StateChanged},
)
async def update_state(call: Call[StateChange, None]) -> Any:
    """Change a thread's state, as if a node had returned the values; from an older checkpoint, the thread forks."""
    asked = call.body
    at = asked.checkpoint or CheckpointRef()
    at.checkpoint_id = at.checkpoint_id or asked.checkpoint_id
    states = await _states(call)
    checkpoint = await states.update(StateUpdate(values=asked.values, as_node=asked.as_node), at)
    return StateChanged(checkpoint=checkpoint, configurable=checkpoint)


@routes.get(
    "/threads/{thread_id}/history",
    Permission.read,
    about=About("threads", "read", "thread"),
    query=HistoryQuery,
    answers={200: list[ThreadState]},
)
async def get_history(call: Call[None, HistoryQuery]) -> Any:
    """List the states of a thread, newest first."""
    states = await _states(call)
    return [state.as_json() for state in await states.history(limit=call.query.limit, before=call.query.before)]


@routes.post(
    "/threads/{thread_id}/history",
    Permission.read,
    about=About("threads", "read", "thread"),
    body=HistorySearch,
    answers={200: list[ThreadState]},
)
async def search_history(call: Call[HistorySearch, None]) -> Any:
    """Find states of a thread, newest first: before a checkpoint, with some metadata, of a graph inside its graph."""
    asked = call.body
    before = asked.before.named if isinstance(asked.before, Before) else asked.before
    states = await _states(call)
    found = await states.history(limit=asked.limit or 10, before=before, metadata=asked.metadata, at=asked.checkpoint)
    return [selected(state, asked.select) for state in found]


routes.refuse(
    "PATCH",
    "/threads/{thread_id}/state",
    "states have the metadata of the runs that made them; those of a thread are changed by PATCH /threads/{thread_id}",
    about=About("threads", "update"),
)


async def _states(call: Call[Any, Any]) -> StatesOfThread:
    return StatesOfThread.of(call, await thread_for(call))
