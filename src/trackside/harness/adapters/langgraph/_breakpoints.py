"""Breakpoints: what a run reports when it stops at one, and whether the attempt before another had come to one."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from langgraph.constants import TAG_HIDDEN
from langgraph.types import StateSnapshot

from trackside.harness.adapters.langgraph._graph import Graph, Pregel, Saver
from trackside.harness.adapters.langgraph._looking import look, state_at
from trackside.harness.adapters.langgraph._places import newest_place
from trackside.harness.adapters.langgraph._threads import noted_at_stop
from trackside.harness.context import RunContext
from trackside.harness.questions import stops_said
from trackside.harness.types import JsonObject


class _Stops(NamedTuple):
    """The nodes before and after which a graph stops: "*" is all of them."""

    before: Sequence[str] | str
    after: Sequence[str] | str


async def breakpoint_at(run: RunContext, graph: Graph) -> list[JsonObject]:
    """The stop at a node, where nobody asks anything.

    It says which nodes come next, under the id of the checkpoint, and where else the run was asked to stop. There is
    none if no node comes next: then the stop was after the last node, and the graph has come to its end.
    """
    snapshot = await state_at(graph, newest_place(run))
    if not snapshot.next:
        return []
    checkpoint_id = snapshot.config.get("configurable", {}).get("checkpoint_id")
    stops = stops_said({"interrupt_before": run.interrupt_before, "interrupt_after": run.interrupt_after})
    return [{"id": checkpoint_id, "value": None, "next": list(snapshot.next), **stops}]


async def thread_at_stop(run: RunContext, graph: Graph, saver: Saver, before: str) -> StateSnapshot | None:
    """The thread, if the attempt `before` this one had come to a breakpoint, of the graph or of one inside; None if not.

    A graph at a stop must not be called: LangGraph would let it go past. A run stops at each breakpoint that it comes
    to, so if its last checkpoint is at one, that is where the run was, whatever the log says about its end.
    """
    if (saved := await saver.aget_tuple(newest_place(run))) is None:
        return None
    thread = await look(graph, newest_place(run), subgraphs=True)
    if not thread.tasks:  # it had finished
        return None
    stops = _Stops(
        run.interrupt_before or graph.interrupt_before_nodes, run.interrupt_after or graph.interrupt_after_nodes
    )
    if before in noted_at_stop(saved) or await _stands(graph, saver, before, thread, graph, stops):
        return thread
    return None


async def _stands(root: Graph, saver: Saver, run_id: str, thread: StateSnapshot, graph: Graph, stops: _Stops) -> bool:
    """Whether a run has come to a stop in `graph`, which is `root` or one inside it; `thread` is its newest state."""
    metadata = thread.metadata or {}
    if metadata.get("run_id") == run_id:
        source = metadata.get("source")  # a run goes on from a fork that it has made; it does not stop at it
        if source in {"input", "loop"} and _is_among(graph, stops.before, {task.name for task in thread.tasks}):
            return True
        if source == "loop" and stops.after and _is_among(graph, stops.after, await _executed(root, saver, thread)):
            return True
    for task in thread.tasks:
        if not isinstance(task.state, StateSnapshot) or task.result is not None:
            continue
        for inside in graph.nodes[task.name].subgraphs:
            if isinstance(inside, Pregel):
                own = _Stops(inside.interrupt_before_nodes, inside.interrupt_after_nodes)
                if await _stands(root, saver, run_id, task.state, inside, own):
                    return True
    return False


def _is_among(graph: Graph, stops: Sequence[str] | str, nodes: AbstractSet[str]) -> bool:
    """Whether a graph stops at one of these nodes; "*" stands for all nodes but those that LangGraph has added."""
    if stops == "*":
        return any(TAG_HIDDEN not in (graph.nodes[node].tags or ()) for node in nodes & graph.nodes.keys())
    return not nodes.isdisjoint([stops] if isinstance(stops, str) else stops)


async def _executed(root: Graph, saver: Saver, thread: StateSnapshot) -> set[str]:
    """The nodes executed between a checkpoint and the one before it: in one step, unless only the last one is kept.

    A node to which something was sent leaves no other trace than that it was next before that step.
    """
    saved = await saver.aget_tuple(thread.config)
    before = None if thread.parent_config is None else await saver.aget_tuple(thread.parent_config)
    seen = {} if saved is None else saved.checkpoint["versions_seen"]
    if saved is None or before is None or thread.parent_config is None:
        return {*seen}
    seen_before = before.checkpoint["versions_seen"]
    executed = {node for node, versions in seen.items() if versions != seen_before.get(node)}
    if saved.metadata.get("step", 0) == before.metadata.get("step", 0) + 1:
        executed.update(task.name for task in (await look(root, thread.parent_config)).tasks)
    return executed
