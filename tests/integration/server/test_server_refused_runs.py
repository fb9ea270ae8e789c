"""Runs that ask for what their agent does not have are refused before they start, and told what there is."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict


class State(TypedDict):
    log: str


def graph() -> Any:
    builder = StateGraph(State)
    builder.add_node("look", lambda state: {"log": "looked"})
    builder.add_edge(START, "look")
    builder.add_edge("look", END)
    return builder.compile(name="looking")


async def plain(input: Any) -> Any:
    return input


@pytest.mark.parametrize(
    ("agent", "asked", "said"),
    [
        ("plain", {"interrupt_before": ["look"]}, "interrupt_before = ['look'] does not fit a run: that is for graphs"),
        (
            "plain",
            {"stream_mode": ["values", "tasks"]},
            "stream_mode = tasks: the agent 'plain' streams custom, messages, ",
        ),
        ("plain", {"command": {"goto": "look"}}, "command.goto = 'look' does not fit a run: that is for graphs"),
        (
            "looking",
            {"interrupt_after": "lok"},
            "interrupt_after = ['lok'] does not fit a run: the graph's nodes are look",
        ),
        (
            "looking",
            {"config": {"recursion_limt": 5}},
            "config.recursion_limt = 5 does not fit a run: LangGraph's config",
        ),
        (
            "looking",
            {"config": {"configurable": {"thread_id": "x"}}},
            "config.configurable.thread_id = 'x' does not fit",
        ),
        (
            "looking",
            {"config": {"recursion_limit": "x"}},
            "config.recursion_limit = 'x' does not fit a run: it is a whole number from 1 up",
        ),
        (
            "looking",
            {"config": {"recursion_limit": 0}},
            "config.recursion_limit = 0 does not fit a run: it is a whole number",
        ),
        ("looking", {"config": {"tags": 5}}, "config.tags = 5 does not fit a run: it is a list of texts"),
        ("looking", {"config": {"tags": [5]}}, "config.tags = [5] does not fit a run: it is a list of texts"),
        (
            "looking",
            {"config": {"max_concurrency": -1}},
            "config.max_concurrency = -1 does not fit a run: it is a whole number from 0 up",
        ),
        ("looking", {"config": {"run_name": 5}}, "config.run_name = 5 does not fit a run: it is a text"),
        ("looking", {"config": {"metadata": 5}}, "config.metadata = 5 does not fit a run: it is an object"),
    ],
)
async def test_what_an_agent_does_not_have_is_refused_before_the_run_starts(
    serve_agents: Any, agent: str, asked: dict[str, Any], said: str
) -> None:
    async with (
        serve_agents({"plain": plain, "looking": graph()}) as served,
        httpx.AsyncClient(base_url=served.url) as http,
    ):
        thread = (await http.post("/threads", json={})).json()["thread_id"]
        answer = await http.post(f"/threads/{thread}/runs", json={"assistant_id": agent, "input": None, **asked})
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith(said)
        assert (await http.get(f"/threads/{thread}/runs")).json() == []


async def test_what_clients_ask_of_every_agent_is_not_refused(serve_agents: Any) -> None:
    modes = ["values", "updates", "messages-tuple", "custom"]
    async with serve_agents({"plain": plain, "looking": graph()}) as served:
        for agent in ("plain", "looking"):
            parts = [
                part async for part in served.client.runs.stream(None, agent, input={"log": ""}, stream_mode=modes)
            ]
            assert not [part for part in parts if part.event == "error"]


async def test_a_batch_of_more_runs_than_may_be_asked_for_at_once_starts_none(serve_agents: Any) -> None:
    async with serve_agents({"plain": plain}) as served, httpx.AsyncClient(base_url=served.url) as http:
        refused = await http.post("/runs/batch", json=[{"assistant_id": "plain", "input": {}}] * 1_001)
        assert refused.status_code == 422
        assert "1000" in refused.json()["detail"]
        assert (await http.get("/runs")).json() == []
