"""Headers of requests that graphs find in their config if the settings name them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypedDict

import httpx
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.models.test import TestModel

from trackside.app.settings import ServerSettings
from trackside.harness import RunContext
from trackside.harness.ids import new_id

DIALECTS = ("sqlite",)
NAMED = {"server": ServerSettings(configurable_headers=("x-*", "!x-secret"))}
SENT = {"x-tenant": "acme", "x-secret": "s3cret", "x-api-key": "s3cret", "authorization": "Bearer s3cret", "y": "no"}


class Seen(TypedDict, total=False):
    headers: dict[str, str]
    tenant: str
    made_for: str
    context: str


def look(state: Seen, config: RunnableConfig, runtime: Runtime[Any]) -> Seen:
    own = {name: value for name, value in config["configurable"].items() if name == "y" or "-" in name}
    found = {name: value for name, value in own.items() if not name.startswith("langgraph")}
    tenant = config["configurable"].get("x-tenant", "nobody")
    return {"headers": found, "tenant": tenant, "context": repr(runtime.context)}


def graph() -> Any:
    return StateGraph(Seen).add_node("look", look).add_edge(START, "look").compile()


def make_graph(config: RunnableConfig) -> Any:
    tenant = config["configurable"].get("x-tenant", "nobody")
    builder: Any = StateGraph(Seen).add_node("look", look).add_node("made", lambda state: {"made_for": tenant})
    return builder.add_edge(START, "look").add_edge(START, "made").compile()


async def plain(input: Any, run: RunContext) -> Any:
    return {"config": dict(run.config)}


async def test_a_graph_finds_the_headers_that_are_named_and_no_others(serve_agents: Any) -> None:
    async with serve_agents({"chat": graph(), "made": make_graph}, **NAMED) as served:
        wait = served.client.runs.wait
        for agent in ("chat", "made"):
            said: Any = await wait(None, agent, input={}, headers=SENT)
            assert said["headers"] == {"x-tenant": "acme"}
            assert said["context"] == "None"
            assert said.get("made_for", "acme") == "acme"
            mine: Any = {"configurable": {"x-tenant": "mine", "x-own": "mine"}}
            said = await wait(None, agent, input={}, config=mine, headers=SENT)
            assert said["headers"] == {"x-tenant": "acme", "x-own": "mine"}
            said = await wait(None, agent, input={}, context={"x-own": "mine"}, headers=SENT)
            assert said["headers"] == {"x-tenant": "acme", "x-own": "mine"}
            assert said["context"] == "{'x-own': 'mine'}"


@dataclass
class Choice:
    model: str = "small"


def graph_of_choice(config: RunnableConfig) -> Any:
    return StateGraph(Seen, context_schema=Choice).add_node("look", look).add_edge(START, "look").compile()


async def test_one_that_replaces_what_is_configured_leaves_the_context_as_it_is(serve_agents: Any) -> None:
    mine: Any = {"configurable": {"x-tenant": "mine", "model": "big"}}
    async with serve_agents({"plain": graph_of_choice({}), "made": graph_of_choice}, **NAMED) as served:
        for agent in ("plain", "made"):
            said: Any = await served.client.runs.wait(None, agent, input={}, config=mine, headers=SENT)
            assert said["headers"] == {"x-tenant": "acme"}
            assert said["context"] == "Choice(model='big')"


async def test_without_the_setting_there_are_none(serve_agents: Any) -> None:
    async with serve_agents({"chat": graph()}) as served:
        said: Any = await served.client.runs.wait(None, "chat", input={}, headers=SENT)
        assert said["tenant"] == "nobody"


async def test_they_are_there_however_a_run_is_started(serve_agents: Any) -> None:
    async with (
        serve_agents({"chat": graph()}, **NAMED) as served,
        httpx.AsyncClient(base_url=served.url, headers=SENT) as http,
    ):
        asked = {"assistant_id": "chat", "input": {}}
        threads = [new_id() for _ in range(3)]
        for thread_id in threads:
            await served.client.threads.create(thread_id=thread_id)
        made = (await http.post(f"/threads/{threads[0]}/runs", json=asked)).json()
        [batched] = (await http.post("/runs/batch", json=[{**asked, "thread_id": threads[1]}])).json()
        start = {"id": 1, "method": "run.start", "params": asked}
        started = (await http.post(f"/threads/{threads[2]}/commands", json=start)).json()["result"]
        runs = zip(threads, (made, batched, started), strict=True)
        said = [await served.client.runs.join(thread_id, run["run_id"]) for thread_id, run in runs]
        again = await served.client.http.post(f"/runs/{made['run_id']}/retry", json=None)
        said.append(await served.client.runs.join(threads[0], again["run_id"]))
        streamed = await http.post("/runs/stream", json=asked)
        kept = await served.client.runs.get(threads[0], made["run_id"])
    assert [values["tenant"] for values in said] == ["acme"] * 4
    assert '"tenant":"acme"' in streamed.text
    assert kept["kwargs"]["config"]["configurable"] == {"x-tenant": "acme"}  # type: ignore[typeddict-item]
    assert "s3cret" not in str(kept)


async def test_agents_of_other_kinds_get_none(serve_agents: Any) -> None:
    agents = {"plain": plain, "pydantic": PydanticAgent(TestModel(custom_output_text="well"))}
    async with serve_agents(agents, **NAMED) as served:
        said: Any = await served.client.runs.wait(None, "plain", input={}, headers=SENT)
        assert "acme" not in str(said)
        await served.client.runs.wait(None, "pydantic", input="hi", headers=SENT)


async def test_a_request_that_is_made_again_is_the_same_with_the_same_headers(serve_agents: Any) -> None:
    async with (
        serve_agents({"chat": graph()}, **NAMED) as served,
        httpx.AsyncClient(base_url=served.url, headers={"idempotency-key": "k"}) as http,
    ):
        asked = {"assistant_id": "chat", "input": {}}
        first, again, other = [
            await http.post("/runs", json=asked, headers={"x-tenant": tenant}) for tenant in ("acme", "acme", "other")
        ]
        assert first.json()["run_id"] == again.json()["run_id"]
        assert other.status_code == 422


async def wait_for_run(served: Any, thread_id: str, cron_id: str) -> Any:
    """Make a cron due, and return what its run on the thread says."""
    changed = asyncio.Event()
    crons = served.app.store.crons
    crons.on_change.append(changed.set)
    cron = await crons.get(cron_id)
    assert await crons.replace(cron, replace(cron, next_run_at=datetime(2026, 1, 1, tzinfo=UTC)))
    while not (runs := await served.client.runs.list(thread_id)):
        await changed.wait()
        changed.clear()
    return await served.client.runs.join(thread_id, runs[0]["run_id"])


@pytest.mark.parametrize("agent", ["chat", "made"])
@pytest.mark.parametrize("stored_before", [False, True])
async def test_a_cron_says_nothing_for_its_runs_by_the_names_of_headers(
    serve_agents: Any, agent: str, stored_before: bool
) -> None:
    theirs: Any = {"configurable": {"x-tenant": "theirs", "x-secret": "mine", "x-api-key": "mine", "y": "mine"}}
    seen = {"x-secret": "mine", "x-api-key": "mine", "y": "mine"}  # no header gets in by one of these names
    async with serve_agents({"chat": graph(), "made": make_graph}, **NAMED) as served:
        crons = served.client.crons
        thread_id = (await served.client.threads.create())["thread_id"]
        asked: Any = {"schedule": "0 0 1 1 *", "input": {}, "headers": SENT}
        cron = await crons.create_for_thread(thread_id, agent, config=theirs, **asked)
        assert cron["payload"]["config"] == {"configurable": seen}
        if stored_before:
            was = await served.app.store.crons.get(cron["cron_id"])
            stored = replace(was, payload={**was.payload, "config": theirs})
            assert await served.app.store.crons.replace(was, stored)
        else:
            changed = await crons.update(cron["cron_id"], config=theirs)
            assert changed["payload"]["config"] == {"configurable": seen}
        said = await wait_for_run(served, thread_id, cron["cron_id"])
    assert said["headers"] == seen
    assert (said["tenant"], said.get("made_for", "nobody")) == ("nobody", "nobody")


class Known(TypedDict, total=False):
    y: str


Tenanted = TypedDict("Tenanted", {"x-tenant": str, "y": str}, total=False)  # a schema with a header's name as a key


async def test_nor_does_its_context_say_it_in_the_config(serve_agents: Any) -> None:
    def of(schema: Any) -> Any:
        return StateGraph(Seen, context_schema=schema).add_node("look", look).add_edge(START, "look").compile()

    async with serve_agents({"known": of(Known), "tenanted": of(Tenanted)}, **NAMED) as served:
        thread_ids = [(await served.client.threads.create())["thread_id"] for _ in range(2)]
        asked: Any = {"schedule": "0 0 1 1 *", "input": {}}
        mine: Any = {"x-tenant": "theirs", "y": "mine"}
        create = served.client.crons.create_for_thread
        by_context = await create(thread_ids[0], "known", context=mine, **asked)
        by_config = await create(thread_ids[1], "tenanted", config={"configurable": mine}, **asked)
        crons = zip(thread_ids, (by_context, by_config), strict=True)
        said = [await wait_for_run(served, thread_id, cron["cron_id"]) for thread_id, cron in crons]
    assert [one["tenant"] for one in said] == ["nobody", "nobody"]
    assert [one["headers"] for one in said] == [{"y": "mine"}, {"y": "mine"}]
    assert said[1]["context"] == "{'y': 'mine'}"


async def test_where_every_header_gets_in_a_cron_can_configure_what_none_is_named_for(serve_agents: Any) -> None:
    every = {"server": ServerSettings(configurable_headers=("*", "x-tenant"))}
    async with serve_agents({"chat": graph()}, **every) as served:
        mine: Any = {"configurable": {"x-tenant": "mine", "model": "big"}}
        cron = await served.client.crons.create("chat", schedule="0 0 1 1 *", input={}, config=mine)
    assert cron["payload"]["config"] == {"configurable": {"model": "big"}}


async def test_an_agent_that_gets_no_headers_has_of_a_cron_all_that_is_configured(serve_agents: Any) -> None:
    async with serve_agents({"plain": plain}, **NAMED) as served:
        mine: Any = {"configurable": {"x-tenant": "mine"}}
        cron = await served.client.crons.create("plain", schedule="0 0 1 1 *", input={}, config=mine)
    assert cron["payload"]["config"] == mine
