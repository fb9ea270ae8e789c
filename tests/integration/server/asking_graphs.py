"""Graphs that ask the server that runs them by LangGraph's client without an address, and clients of several owners."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph_sdk import get_client

from trackside.app.settings import AccessSettings

NONE, KEYS = AccessSettings(), AccessSettings(auth="keys")


class Said(TypedDict, total=False):
    said: Any


def graph_of(node: Callable[..., Any]) -> Any:
    return StateGraph(Said).add_node("node", node).add_edge(START, "node").compile()


early = get_client()
"""Made before there is a server, as a module of a project does."""

OTHER = graph_of(lambda state: {"said": f"other: {state.get('said')}"})


async def count(state: Said) -> Said:
    return {"said": await get_client().threads.count()}


COUNT = graph_of(count)


@asynccontextmanager
async def client_of(served: Any, owner: str, permission: Any = "run") -> AsyncIterator[Any]:
    made = await served.app.store.api_keys.create("laptop", owner=owner, permission=permission)
    async with get_client(url=served.url, api_key=made.secret) as client:
        yield client
