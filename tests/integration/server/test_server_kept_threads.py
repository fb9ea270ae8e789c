"""Threads of an agent that keeps them in its own way, without a checkpointer: nobody else copies or prunes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import pytest
from langgraph.graph import START, StateGraph

from trackside import AgentResult, RunContext
from trackside.harness.ids import new_id
from trackside.harness.states import KeepsThreads, StateSnapshot, ThreadPlace

DIALECTS = ("sqlite",)


class Notebook:
    """Has a page for each thread, with what the thread's runs were given."""

    name = "notebook"

    def __init__(self) -> None:
        self.pages: dict[str, list[Any]] = {}

    async def human_messages(self, run: RunContext) -> Sequence[Mapping[str, Any]]:
        return []

    async def run(self, run: RunContext) -> AgentResult:
        page = self.pages.setdefault(run.thread_id, [])
        page.append(run.input)
        return AgentResult(output={"page": page})

    async def rollback(self, run: RunContext) -> str | None:
        return None

    async def state(self, place: ThreadPlace, *, subgraphs: bool = False) -> StateSnapshot | None:
        page = self.pages.get(place.thread_id)
        return None if page is None else StateSnapshot(values={"page": page})

    async def history(self, place: ThreadPlace, **asked: Any) -> Sequence[StateSnapshot]:
        newest = await self.state(place)
        return [] if newest is None else [newest]

    async def update_state(self, place: ThreadPlace, values: Any, *, as_node: str | None = None) -> Any:
        raise NotImplementedError

    async def replay(self, place: ThreadPlace, steps: Any) -> Any:
        raise NotImplementedError


def graph() -> Any:
    return StateGraph(dict).add_node("say", lambda state: {"said": True}).add_edge(START, "say").compile()


@pytest.mark.parametrize("beside", [{}, {"graph": graph()}], ids=["alone", "beside a graph"])
async def test_what_an_agent_keeps_in_its_own_way_is_neither_copied_nor_pruned_here(
    serve_agents: Any, beside: dict[str, Any]
) -> None:
    notebook = Notebook()
    assert isinstance(notebook, KeepsThreads)
    async with (
        serve_agents({"notebook": notebook, **beside}) as served,
        httpx.AsyncClient(base_url=served.url, timeout=30) as http,
    ):
        client, thread_id = served.client, new_id()
        await client.runs.wait(thread_id, "notebook", input="kept", if_not_exists="create")
        keep = {"thread_ids": [thread_id], "strategy": "keep_latest"}
        for path, body in ((f"/threads/{thread_id}/copy", None), ("/threads/prune", keep)):
            answer = await http.post(path, json=body)
            assert (answer.status_code, "keeps them itself" in answer.text) == (501, True), answer.text
        assert await client.threads.count() == 1
        assert (await client.threads.get_state(thread_id))["values"] == {"page": ["kept"]}
