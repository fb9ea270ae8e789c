"""A graph whose only node says what it finds out about its run."""

from __future__ import annotations

from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime

from trackside.harness.ids import assistant_id_of

NAMES = ("assistant_id", "graph_id", "run_id", "thread_id", "user_id")


class Seen(TypedDict, total=False):
    own: dict[str, Any]
    said: dict[str, Any]
    server: dict[str, Any] | None
    given: str


class Empty(TypedDict, total=False):
    """A context that has nothing."""


async def look(state: Seen, config: RunnableConfig, runtime: Runtime[Any]) -> Seen:
    server = runtime.server_info
    known: dict[str, Any] | None = (
        None if server is None else {"assistant_id": server.assistant_id, "graph_id": server.graph_id}
    )
    if known is not None and server is not None and server.user is not None:
        user = config["configurable"]["langgraph_auth_user"]
        assert user["identity"] == user.identity == server.user.identity
        known = {**known, "user": dict(user)}
    return {
        "own": {name: config["configurable"].get(name) for name in NAMES},
        "said": {name: config["metadata"].get(name) for name in NAMES[:4]},
        "server": known,
        "given": str(runtime.context),
    }


def looking() -> Any:
    """The graph."""
    graph: Any = StateGraph(Seen, context_schema=Empty)  # its types know no node that takes all three
    return graph.add_node("look", look).add_edge(START, "look").compile()


def ids(agent: str, run_id: str, thread_id: str) -> dict[str, str]:
    """What the node of an agent of this name should find."""
    return {"assistant_id": assistant_id_of(agent), "graph_id": agent, "run_id": run_id, "thread_id": thread_id}
