"""What reaches a graph as its context and as its configuration; the SDK's clients send one of them or neither."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NotRequired, TypedDict

import httpx
from dialects import BOTH
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph_sdk import get_client
from langgraph_sdk.runtime import ServerRuntime
from pydantic import BaseModel, Field
from running_server import serving

from trackside.app.settings import AccessSettings, EngineSettings, Settings
from trackside.app.wiring import open_app
from trackside.harness.ids import new_id

DIALECTS = BOTH

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class Seen(TypedDict, total=False):
    context: str
    configured: list[str]
    made_with: str


@dataclass
class Choice:
    model: str = "small"
    depth: int = 1


class Checked(BaseModel):
    model: str = "small"


class Aliased(BaseModel):
    model: str = Field(alias="the-model")


class Named(TypedDict):
    model: NotRequired[str]


@dataclass
class Tenant:
    name: str


class CheckedTenant(BaseModel):
    name: str


def look(state: Seen, config: RunnableConfig, runtime: Runtime[Any]) -> Seen:
    configured = config["configurable"]
    shown = sorted(f"{key}={configured[key]}" for key in ("model", "name", "else") if key in configured)
    return {"context": repr(runtime.context), "configured": shown}


def seeing(schema: Any) -> Any:
    builder: Any = StateGraph(Seen, context_schema=schema)
    builder.add_node("look", look)
    return builder.add_edge(START, "look").compile()


def making(runtime: ServerRuntime[Choice]) -> Any:
    execution = runtime.execution_runtime
    made_with = repr(None if execution is None else execution.context)
    builder: Any = StateGraph(Seen, context_schema=Choice)
    builder.add_node("made", lambda state: {"made_with": made_with})
    return builder.add_node("look", look).add_edge(START, "made").add_edge(START, "look").compile()


def making_tenants(config: RunnableConfig) -> Any:
    return seeing(Tenant)


def agents() -> dict[str, Any]:
    schemas = {
        "choice": Choice,
        "checked": Checked,
        "named": Named,
        "aliased": Aliased,
        "tenant": Tenant,
        "checked-tenant": CheckedTenant,
    }
    made = {"making": making, "making-tenants": making_tenants}
    return {**{name: seeing(schema) for name, schema in schemas.items()}, "plain": seeing(None), **made}


def configured(**values: Any) -> dict[str, Any]:
    return {"config": {"configurable": values}}


CASES: list[tuple[str, dict[str, Any], str, list[str]]] = [
    ("choice", {}, "Choice(model='small', depth=1)", []),
    ("checked", {}, "Checked(model='small')", []),
    ("named", {}, "None", []),  # LangGraph passes an empty context to no node
    ("named", {"context": {"model": "big"}}, "{'model': 'big'}", ["model=big"]),
    ("named", configured(model="big"), "{'model': 'big'}", ["model=big"]),
    ("aliased", configured(**{"the-model": "big"}), "Aliased(model='big')", []),
    ("aliased", configured(model="big"), "None", ["model=big"]),
    ("making", {}, "Choice(model='small', depth=1)", []),
    ("tenant", {}, "None", []),
    ("checked-tenant", {}, "None", []),
    ("making-tenants", {}, "None", []),
    ("plain", {}, "None", []),
    ("choice", {"context": {}}, "Choice(model='small', depth=1)", []),
    ("choice", {"context": {"model": "big"}}, "Choice(model='big', depth=1)", ["model=big"]),
    ("choice", {"context": {"model": "big", "else": 1}}, "Choice(model='big', depth=1)", ["model=big"]),
    ("tenant", {"context": {"name": "ada"}}, "Tenant(name='ada')", ["name=ada"]),
    ("plain", {"context": {"model": "big"}}, "{'model': 'big'}", ["model=big"]),
    ("choice", configured(model="big"), "Choice(model='big', depth=1)", ["model=big"]),
    ("making", configured(model="big"), "Choice(model='big', depth=1)", ["model=big"]),
    (
        "checked",
        {"config": {"configurable": {"model": "big", "else": 1}}},
        "Checked(model='big')",
        ["else=1", "model=big"],
    ),
    ("making-tenants", configured(name="ada", model="big"), "Tenant(name='ada')", ["model=big", "name=ada"]),
    ("tenant", configured(model="big"), "None", ["model=big"]),
    ("plain", configured(model="big"), "{'model': 'big'}", ["model=big"]),
    (
        "choice",
        {"context": {"depth": 2}, **configured(model="big")},
        "Choice(model='small', depth=2)",
        ["model=big"],
    ),
]


async def test_what_was_said_once_is_there_as_context_and_as_configured(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        runs = served.client.runs
        seen: list[Any] = [await runs.wait(None, agent, input={}, **asked) for agent, asked, *_ in CASES]

    expected = [(agent, asked, context, shown) for agent, asked, context, shown in CASES]
    assert expected == [
        (agent, asked, said["context"], said["configured"])
        for (agent, asked, *_), said in zip(CASES, seen, strict=True)
    ]
    assert {said["made_with"] for said in seen if "made_with" in said} == {
        "Choice(model='small', depth=1)",
        "Choice(model='big', depth=1)",
    }


async def test_batches_and_runs_of_the_second_protocol_have_their_context_too(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served, httpx.AsyncClient(base_url=served.url) as http:
        batch: list[Any] = [
            {"assistant_id": "choice", "input": {}, "thread_id": new_id(), "if_not_exists": "create", **asked}
            for asked in ({}, {"context": {"model": "big"}})
        ]
        started = await served.client.runs.create_batch(batch)
        ids = [(run["thread_id"], run["run_id"]) for run in started]
        for asked in ({}, configured(model="big")):
            start = {"id": 1, "method": "run.start", "params": {"assistant_id": "choice", "input": {}, **asked}}
            said = (await http.post(f"/threads/{(thread_id := new_id())}/commands", json=start)).json()
            ids.append((thread_id, said["result"]["run_id"]))
        seen = [await served.client.runs.join(*run) for run in ids]

    assert [said["context"] for said in seen] == [
        f"Choice(model='{model}', depth=1)" for model in ("small", "big", "small", "big")
    ]


async def test_what_a_run_was_asked_for_is_kept_with_its_context_and_done_again_with_it(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served, httpx.AsyncClient(base_url=served.url) as http:
        thread_id = (await served.client.threads.create())["thread_id"]
        await served.client.runs.wait(thread_id, "choice", input={}, context={"model": "big"})
        [run] = await served.client.runs.list(thread_id)
        kept = (await served.client.runs.get(thread_id, run["run_id"]))["kwargs"]
        again = (await http.post(f"/runs/{run['run_id']}/retry")).json()
        seen = await served.client.runs.join(thread_id, again["run_id"])

    assert (kept["context"], kept["config"]["configurable"]) == ({"model": "big"}, {"model": "big"})
    assert seen["context"] == "Choice(model='big', depth=1)"


async def test_a_context_does_not_say_who_asks_or_which_thread_it_is(serve_agents: Any) -> None:
    def who(state: Seen, config: RunnableConfig) -> Seen:
        return {"configured": sorted(key for key, value in config["configurable"].items() if value == "mallory")}

    graph = StateGraph(Seen).add_node("who", who).add_edge(START, "who").compile()
    names = ("langgraph_auth_user", "langgraph_auth_user_id", "thread_id", "run_id", "checkpoint_id", "__x", "own")
    async with serve_agents({"who": graph}, access=AccessSettings(auth="none")) as served:
        said = await served.client.runs.wait(None, "who", input={}, context=dict.fromkeys(names, "mallory"))

    assert said == {"configured": ["own"]}


async def test_runs_of_a_cron_have_their_context(serve_agents: Any) -> None:
    seen: asyncio.Queue[Any] = asyncio.Queue()

    async def note(state: Seen, runtime: Runtime[Choice]) -> Seen:
        seen.put_nowait(runtime.context)
        return {}

    graph = StateGraph(Seen, context_schema=Choice).add_node("note", note).add_edge(START, "note").compile()
    async with serve_agents({"noting": graph}) as served:
        for asked in ({}, configured(model="big")):
            cron = await served.client.crons.create("noting", schedule="0 0 29 2 *", input={}, **asked)
            kept = await served.app.store.crons.get(cron["cron_id"])
            assert await served.app.store.crons.replace(kept, replace(kept, next_run_at=LONG_AGO))
            async with asyncio.timeout(60):
                assert await seen.get() == Choice(model="big" if asked else "small")


async def test_runs_that_a_worker_executes_have_their_context(postgres_url: str) -> None:
    settings = Settings(database_url=postgres_url, engine=EngineSettings(url="postgres"))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(open_app(settings, agents(), role="worker"))
        app = await stack.enter_async_context(open_app(settings, agents()))
        url = await stack.enter_async_context(serving(app.asgi))
        client = await stack.enter_async_context(get_client(url=url, api_key=None))
        seen: list[Any] = [await client.runs.wait(None, agent, input={}, **asked) for agent, asked, *_ in CASES]

    assert [said["context"] for said in seen] == [context for _, _, context, _ in CASES]
