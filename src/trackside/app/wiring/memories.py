"""Whether a thread remembers what it waits for. A log that says it waits may be from elsewhere, without memories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trackside.harness.powers import uses_thread_state

if TYPE_CHECKING:
    from trackside.app.wiring import App


async def remembers_question(app: App, agent: Any, thread_id: str) -> bool:
    """Whether an answer would find what it answers; True for agents that remember in a way of their own."""
    if hasattr(agent, "aget_state"):
        return await _is_graph_paused(app, agent, thread_id)
    if hasattr(agent, "human_messages") and not uses_thread_state(agent):
        return True
    state = await app.store.thread_states().load(thread_id)
    return state is not None and state.paused is not None


async def _is_graph_paused(app: App, graph: Any, thread_id: str) -> bool:
    if graph.checkpointer is None:
        graph = graph.copy({"checkpointer": app.checkpointer})
    if not hasattr(graph.checkpointer, "aget_tuple"):
        return True  # it remembers nothing at all, which its run says
    try:
        snapshot = await graph.aget_state({"configurable": {"thread_id": thread_id}})
    except Exception:  # noqa: BLE001  # what its nodes have left cannot be shown, which its run says
        return True
    return bool(snapshot.next)
