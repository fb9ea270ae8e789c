"""A server whose event loop's executor is full: as many plain functions run in it as it has threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypedDict

import httpx
import pytest
from langgraph.graph import START, StateGraph
from langgraph_sdk import get_client

from trackside.app.settings import AccessSettings

AUTH = """
def by_key(headers):
    return "ada"
"""
PATIENCE = 30.0


async def chat(text: str) -> str:
    return text


class Said(TypedDict, total=False):
    said: str
    waits: bool


@pytest.fixture
async def go_on() -> AsyncIterator[threading.Event]:
    """The event for which a graph's plain node waits, in the only thread of the loop's executor."""
    event = threading.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    yield event
    event.set()


@asynccontextmanager
async def full(serve_agents: Any, folder: Path, go_on: threading.Event) -> AsyncIterator[Any]:
    """The address of a server and the id of a thread with a state, while a run waits in a plain node."""
    begun = threading.Event()

    def say(state: Said) -> Said:
        if state.get("waits"):
            begun.set()
            go_on.wait()
        return {"said": "it"}

    (folder / "my_auth.py").write_text(AUTH, encoding="utf-8")
    graph = StateGraph(Said).add_node("say", say).add_edge(START, "say").compile()
    agents, access = {"graph": graph, "chat": chat}, AccessSettings(auth=f"{folder}/my_auth.py:by_key")
    async with (
        serve_agents(agents, access=access) as served,
        get_client(url=served.url, api_key=None) as client,
    ):
        thread = await client.threads.create()
        await client.runs.wait(thread["thread_id"], "graph", input={"waits": False})
        await client.runs.create(None, "graph", input={"waits": True})
        while not begun.is_set():  # the node sets it in a thread
            await asyncio.sleep(0.01)
        try:
            async with asyncio.timeout(PATIENCE):
                yield served.url, thread["thread_id"]
        finally:
            go_on.set()


@pytest.mark.usefixtures("any_pace")
async def test_who_asks_how_it_is_and_what_it_has_is_not_kept_waiting_by_plain_nodes(
    serve_agents: Any, tmp_path: Path, go_on: threading.Event
) -> None:
    # Not by the SDK's client: it also reads what it gets in the loop's executor.
    async with full(serve_agents, tmp_path, go_on) as (url, thread_id), httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/health/ready")).status_code == 200
        assert (await http.get(f"/threads/{thread_id}/state")).json()["values"]["said"] == "it"
        assert len((await http.get(f"/threads/{thread_id}/history")).json()) == 3
        assert (await http.get("/assistants/graph/graph")).json()["edges"]
        cron = {"assistant_id": "graph", "schedule": "0 0 1 1 *", "input": {}}
        assert (await http.post("/runs/crons", json=cron)).status_code == 200


@pytest.mark.usefixtures("any_pace")
async def test_who_looks_at_the_console_or_looks_something_up_is_not_kept_waiting_by_plain_nodes(
    serve_agents: Any, tmp_path: Path, go_on: threading.Event
) -> None:
    async with full(serve_agents, tmp_path, go_on) as (url, thread_id), httpx.AsyncClient(base_url=url) as http:
        for path in ("/info", "/ui/sign-in?gone=1", "/ui/static/console.js", "/ui/static/console.css"):
            assert (await http.get(path)).status_code == 200, path
        found = (await http.post("/threads/search", json={"values": {"said": "it"}})).json()
        assert [thread["thread_id"] for thread in found] == [thread_id]
        assert (await http.get("/assistants/chat/schemas")).json()["input_schema"] == {"type": "string"}
