"""LangGraph's client without an address, in code that the server runs: `get_client()`."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, override

import httpx
import langgraph_sdk._async.client
import langgraph_sdk._shared.utilities
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk import get_client
from running_server import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from tests.integration.server.test_server_fleet import fleet_on

from trackside import RunSpec, RunStatus, run_agent
from trackside.app.server import in_process
from trackside.app.server.guest import Guest
from trackside.app.server.principal import ANYBODY, WITHIN, Permission, Principal
from trackside.app.settings import AccessSettings, ServerSettings, Settings
from trackside.app.wiring import App, open_app
from trackside.app.wiring.errors import AddressNeededError
from trackside.harness.ids import new_id

type ServeAgents = Callable[..., Any]

NONE, KEYS = AccessSettings(), AccessSettings(auth="keys")


DIALECTS = ("sqlite", pytest.param("postgres", marks=pytest.mark.long))  # what is tested is who asks

AUTH = """
from langgraph_sdk import Auth

auth = Auth()
asked = []

@auth.authenticate
async def authenticate(authorization: str):
    return {"identity": authorization, "org": "acme", "permissions": ["tools"], "token": "secret"}

@auth.on.threads
async def mark(ctx, value):
    asked.append((ctx.action, ctx.user.identity, getattr(ctx.user, "org", None), ctx.permissions))
    value["metadata"]["owner"] = ctx.user.identity
    return {"owner": ctx.user.identity}
"""


class Deciding(NamedTuple):
    """A server's handlers, as a project has them in a module, and what they were asked."""

    access: AccessSettings
    asked: list[tuple[Any, ...]]


@pytest.fixture
def deciding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deciding:
    """Handlers that everybody has what is his by, whom the header `authorization` says."""
    (tmp_path / "loopback_auth.py").write_text(AUTH, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "loopback_auth", raising=False)  # another test's
    return Deciding(AccessSettings(auth="loopback_auth:auth"), importlib.import_module("loopback_auth").asked)


class Said(TypedDict, total=False):
    said: Any


def graph_of(node: Callable[..., Any]) -> Any:
    return StateGraph(Said).add_node("node", node).add_edge(START, "node").compile()


early = get_client()
"""Made before there is a server, as a module of a project does."""

SPEAK = {"assistant_id": "speak", "input": 1, "stream_mode": "custom"}

OTHER = graph_of(lambda state: {"said": f"other: {state.get('said')}"})


async def count(state: Said) -> Said:
    return {"said": await get_client().threads.count()}


COUNT = graph_of(count)


@asynccontextmanager
async def client_of(served: Any, owner: str, permission: Any = "run") -> AsyncIterator[Any]:
    made = await served.app.store.api_keys.create("laptop", owner=owner, permission=permission)
    async with get_client(url=served.url, api_key=made.secret) as client:
        yield client


def within(app: App, key: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app.asgi)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers={"x-api-key": key.secret})


@pytest.mark.parametrize("access", [NONE, KEYS], ids=["open", "keys"])
async def test_a_node_asks_its_own_server(serve_agents: ServeAgents, access: AccessSettings) -> None:
    async def ask(state: Said) -> Said:
        said: list[Any] = []
        for client in (early, get_client()):
            thread_id = (await client.threads.create())["thread_id"]
            run = await client.runs.create(thread_id, "other", input={"said": 1})
            said.append(await client.runs.join(thread_id, run["run_id"]))
            said.append(await client.runs.wait(thread_id, "other", input={"said": 2}))
            said.append((await client.threads.get_state(thread_id))["values"])
            said.append([part.event async for part in client.runs.stream(None, "other", input={"said": 3})])
        remote = RemoteGraph("other", client=get_client())
        return {"said": [*said, await remote.ainvoke({"said": 4})]}

    agents = {"ask": graph_of(ask), "other": OTHER}
    async with serve_agents(agents, access=access) as served, client_of(served, "ada") as client:
        values = await client.runs.wait(None, "ask", input={})
        runs = await served.app.store.runs(agent="other")

    once = [{"said": "other: 1"}, {"said": "other: 2"}, {"said": "other: 2"}, ["metadata", "values", "values", "end"]]
    assert values == {"said": [*once, *once, {"said": "other: 4"}]}
    assert {run.status for run in runs} == {RunStatus.success}


async def test_a_run_that_waits_for_another_does_not_keep_the_place_that_it_needs(serve_agents: ServeAgents) -> None:
    async def ask(state: Said) -> Said:
        values = await early.runs.wait(None, "other", input={"said": 1})
        return {"said": [values, [part.event async for part in early.runs.stream(None, "other", input={"said": 2})]]}

    async with serve_agents({"ask": graph_of(ask), "other": OTHER}, max_running=1) as served:
        said = (await served.client.runs.wait(None, "ask", input={}))["said"]

    assert said == [{"said": "other: 1"}, ["metadata", "values", "values", "end"]]


@pytest.mark.parametrize("how", ["wait", "stream", "join", "join_stream"])
async def test_a_node_that_waits_for_a_run_behind_its_own_hears_that_this_would_be_for_ever(
    serve_agents: ServeAgents, how: str
) -> None:
    async def ask(state: Said, config: RunnableConfig) -> Said:
        thread_id, asked = config["configurable"]["thread_id"], early.runs
        run = await asked.create(thread_id, "other", input={"said": 1})
        with pytest.raises(httpx.HTTPStatusError) as refused:
            match how:
                case "wait":
                    await asked.wait(thread_id, "other", input={"said": 2})
                case "join":
                    await asked.join(thread_id, run["run_id"])
                case "stream":
                    [part async for part in asked.stream(thread_id, "other", input={"said": 2})]
                case "join_stream":
                    [part async for part in asked.join_stream(thread_id, run["run_id"])]
        return {"said": refused.value.response.json()["code"]}

    async with serve_agents({"ask": graph_of(ask), "other": OTHER}) as served:
        assert await served.client.runs.wait(None, "ask", input={}) == {"said": "waits-for-itself"}


async def test_a_node_in_a_thread_asks_on_a_loop_of_its_own(serve_agents: ServeAgents) -> None:
    async def ask() -> Any:
        return await early.runs.wait(None, "other", input={"said": 1}), await get_client().threads.count()

    agents = {"ask": graph_of(lambda state: {"said": asyncio.run(ask())}), "other": OTHER}
    async with serve_agents(agents) as served:
        assert await served.client.runs.wait(None, "ask", input={}) == {"said": [{"said": "other: 1"}, 1]}


async def test_who_asks_is_the_owner_of_the_run_and_sees_what_is_his(serve_agents: ServeAgents) -> None:
    hers: list[str] = []

    async def look(state: Said) -> Said:
        client = get_client()
        with pytest.raises(httpx.HTTPStatusError) as refused:
            await client.threads.get(hers[0])
        with pytest.raises(httpx.HTTPStatusError) as forbidden:
            await client.http.get("/subscriptions")
        statuses = [failure.value.response.status_code for failure in (refused, forbidden)]
        run = await client.runs.create(None, "other", input={}, on_completion="keep")
        return {
            "said": [await client.threads.count(), *statuses, (await client.threads.get(run["thread_id"]))["status"]]
        }

    async with serve_agents({"look": graph_of(look), "other": OTHER}, access=KEYS) as served:
        async with client_of(served, "ada") as ada, client_of(served, "bob") as bob:
            hers.append((await ada.threads.create())["thread_id"])
            (seen, *statuses, status) = (await bob.runs.wait(None, "look", input={}))["said"]
        async with client_of(served, "root", "admin") as root:
            assert await root.threads.count() > 1
            admins = (await root.runs.wait(None, "look", input={}))["said"]

    assert (seen, statuses) == (2, [404, 403])  # the thread of his run, and of that which it has started
    assert status in {"busy", "idle"}
    assert admins[:3] == [2, 404, 403]


async def test_a_run_of_nobody_sees_all_and_one_that_another_starts_what_that_one_sees(
    serve_agents: ServeAgents,
) -> None:
    apps: list[App] = []

    async def start(state: Said) -> Said:
        result = await (await apps[0].manager.start(RunSpec("count", {}))).result()
        return {"said": result.output["said"]}

    async with serve_agents({"start": graph_of(start), "count": COUNT}, access=KEYS) as served:
        apps.append(served.app)
        async with client_of(served, "ada") as ada, client_of(served, "bob") as bob:
            for client in (ada, ada, bob):
                await client.threads.create()
            seen = await bob.runs.wait(None, "start", input={})
        result = await (await served.app.manager.start(RunSpec("count", {}))).result()

    assert seen == {"said": 2}  # hers, and that of her run
    assert result.output["said"] >= 4


@pytest.mark.parametrize("access", [NONE, KEYS], ids=["open", "keys"])
async def test_an_agent_that_a_run_calls_in_place_asks_as_that_run(
    serve_agents: ServeAgents, access: AccessSettings
) -> None:
    async def call(state: Said) -> Said:
        async def call_another(input: Any, run: Any) -> Any:
            return [run.owner, (await run_agent(COUNT, {})).output["said"]]

        return {"said": (await run_agent(call_another)).output}

    async with (
        serve_agents({"call": graph_of(call)}, access=access) as served,
        client_of(served, "ada") as ada,
        client_of(served, "bob") as bob,
    ):
        await bob.threads.create()
        seen = await ada.runs.wait(None, "call", input={})

    assert seen == {"said": [None, 2] if access is NONE else ["ada", 1]}


async def test_what_an_agent_in_place_asks_goes_by_what_is_known_of_whose_run_it_is(
    serve_agents: ServeAgents, deciding: Deciding
) -> None:
    async def call(state: Said) -> Said:
        return {"said": (await run_agent(COUNT, {})).output["said"]}

    async with (
        serve_agents({"call": graph_of(call)}, access=deciding.access) as served,
        get_client(url=served.url, api_key=None, headers={"authorization": "ada"}) as ada,
    ):
        assert await ada.runs.wait(None, "call", input={}) == {"said": 1}

    assert ("search", "ada", "acme", ["tools"]) in deciding.asked


async def test_whose_a_run_is_that_another_has_started_is_known_to_whoever_goes_on_with_it(database_url: str) -> None:
    apps: list[App] = []
    started: list[str] = []
    seen: list[tuple[int, str | None, int]] = []
    has_begun, is_over, thread_id = asyncio.Event(), asyncio.Event(), new_id()

    async def helper(input: Any, run: Any) -> None:
        if len(apps) == 1:
            has_begun.set()
            await asyncio.Event().wait()
        seen.append((run.attempt, run.owner, await early.threads.count()))
        if len(seen) == 2:
            is_over.set()

    async def start(input: Any) -> None:
        for _ in range(2):  # the second of them waits for the first, and has not begun when its process ends
            handle = await apps[0].manager.start(RunSpec("helper", thread_id=thread_id, max_attempts=2))
            started.append(handle.run_id)

    agents, settings = {"helper": helper, "start": start}, Settings(database_url=database_url, access=KEYS)
    async with open_app(replace(settings, shutdown_grace=0.0), agents) as app:
        apps.append(app)
        keys = [await app.store.api_keys.create("laptop", owner=name) for name in ("ada", "bob")]
        for key in (*keys, keys[1]):
            async with within(app, key) as http:
                await http.post("/threads", json={})
        async with within(app, keys[0]) as http:
            await http.post("/runs/wait", json={"assistant_id": "start"})
        await has_begun.wait()
    async with open_app(settings, agents) as app:
        apps.append(app)
        admin = await app.store.api_keys.create("laptop", owner="root", permission="admin")
        async with within(app, admin) as http:
            await is_over.wait()
            await http.get(f"/threads/{thread_id}/runs/{started[1]}/join")
            made = (await http.post(f"/runs/{started[1]}/retry")).json()
            await http.get(f"/threads/{thread_id}/runs/{made['run_id']}/join")
        thread = await app.store.thread(thread_id)

    assert sorted(seen) == [(1, "ada", 1), (2, "ada", 1), (2, "ada", 1)]
    assert thread is not None
    assert thread.owner is None  # as of all that is started in nobody's name
    assert "on_behalf_of" not in made["kwargs"]


async def test_nobody_comes_in_by_what_is_sent(serve_agents: ServeAgents) -> None:
    async with serve_agents({"other": OTHER}, access=KEYS) as served:
        headers = {"root_path": "/noauth", "trackside.within": "1", "x-forwarded-prefix": "/noauth", "host": "api"}
        async with httpx.AsyncClient(base_url=served.url, headers=headers) as http:
            for path in ("/threads/search", "/noauth/threads/search", "/%2Fnoauth/threads/search"):
                assert (await http.post(path, json={})).status_code == 401
        asked = {"trackside.principal": ANYBODY, WITHIN: True}
        around = Around(served.app.asgi, {"root_path": "/noauth", **asked})
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=around), base_url="http://api") as http:
            assert (await http.post("/threads/search", json={})).status_code == 401


class Around:
    """An app that says in each scope what a client would like to have there."""

    def __init__(self, app: Any, said: dict[str, Any]) -> None:
        self._app, self._said = app, said

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app({**scope, **self._said}, receive, send)


async def test_a_route_asks_as_whoever_asks_it_and_what_it_leaves_behind_as_nobody(database_url: str) -> None:
    left: list[asyncio.Task[Any]] = []
    answered = asyncio.Event()

    async def later() -> int:
        await answered.wait()
        return await early.threads.count()

    async def mine(request: Request) -> JSONResponse:
        left.append(asyncio.create_task(later()))
        run = await early.runs.wait(None, "count", input={})
        await early.threads.create()
        return JSONResponse([run["said"], await early.threads.count()])

    guest = Guest(Starlette(routes=[Route("/mine", mine)]), {})
    async with open_app(Settings(database_url=database_url, access=KEYS), {"count": COUNT}) as app:
        keys = [await app.store.api_keys.create("laptop", owner=name) for name in ("ada", "bob")]
        async with serving(app.asgi_before(guest)) as url, httpx.AsyncClient(base_url=url) as http:
            seen = [(await http.get("/mine", headers={"x-api-key": keys[who].secret})).json() for who in (0, 0, 1)]
        answered.set()
        whys = [str(failure) for failure in await asyncio.gather(*left, return_exceptions=True)]

    assert seen == [[1, 1], [2, 2], [1, 1]]
    assert all("in nobody's name" in why for why in whys)


async def test_who_is_known_to_an_app_around_this_one_asks_in_his_own_name(database_url: str) -> None:
    left: list[asyncio.Task[Any]] = []
    answered = asyncio.Event()

    async def look(state: Said) -> Said:
        client = get_client()
        with pytest.raises(httpx.HTTPStatusError) as forbidden:
            await client.http.get("/subscriptions")
        return {"said": [await client.threads.count(), forbidden.value.response.status_code]}

    async def later() -> int:
        await answered.wait()
        return await early.threads.count()

    async def mine(request: Request) -> JSONResponse:
        left.append(asyncio.create_task(later()))
        return JSONResponse([await early.threads.count()])

    guest = Guest(Starlette(routes=[Route("/mine", mine)]), {})
    async with open_app(Settings(database_url=database_url), {"look": graph_of(look)}) as app:
        served = app.asgi_before(guest)
        principals = [Principal(identity=name, permission=Permission.run) for name in ("ada", "bob")]
        seen: list[Any] = []
        for who in (*principals, principals[0]):
            around = Around(served, {"trackside.principal": who})
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app=around), base_url="http://localhost"
            ) as http:
                thread_id = (await http.post("/threads", json={})).json()["thread_id"]
                run = {"assistant_id": "look", "input": {}}
                seen += (await http.post(f"/threads/{thread_id}/runs/wait", json=run)).json()["said"]
                seen += (await http.get("/mine")).json()
        answered.set()
        whys = [str(failure) for failure in await asyncio.gather(*left, return_exceptions=True)]

    assert seen == [1, 403, 1, 1, 403, 1, 2, 403, 2]
    assert all("in nobody's name" in why for why in whys)


async def test_what_makes_graphs_asks_as_whoever_looks_at_a_thread(serve_agents: ServeAgents) -> None:
    seen: list[int] = []

    async def make(config: RunnableConfig) -> Any:
        seen.append(await get_client().threads.count())
        return OTHER

    async with serve_agents({"made": make}, access=KEYS) as served, client_of(served, "ada") as ada:
        async with client_of(served, "bob") as bob:
            await bob.threads.create()
        thread_id = (await ada.threads.create())["thread_id"]
        await ada.runs.wait(thread_id, "made", input={})
        await ada.threads.get_state(thread_id)

    assert len(seen) >= 2
    assert set(seen) == {1}


async def test_handlers_decide_on_what_a_run_asks_for_as_on_what_its_owner_asks_for(
    serve_agents: ServeAgents, deciding: Deciding
) -> None:
    async def ask(state: Said) -> Said:
        client = get_client()
        await client.threads.create(metadata={"made": "within"})
        return {"said": [await client.runs.wait(None, "other", input={}), await client.threads.count()]}

    async with serve_agents({"ask": graph_of(ask), "other": OTHER, "count": COUNT}, access=deciding.access) as served:
        clients = [get_client(url=served.url, api_key=None, headers={"authorization": who}) for who in ("ada", "bob")]
        async with clients[0] as ada, clients[1] as bob:
            await bob.threads.create()
            values = await ada.runs.wait(None, "ask", input={})
            (made,) = await ada.threads.search(metadata={"made": "within"})
        result = await (await served.app.manager.start(RunSpec("count", {}))).result()

    assert values == {"said": [{"said": "other: None"}, 2]}  # its own and the one that it has made
    assert made["metadata"]["owner"] == "ada"
    assert ("create", "ada", "acme", ["tools"]) in deciding.asked
    assert result.output["said"] >= 3  # nobody's run, of which nothing is left out


async def test_a_run_in_somebodys_name_asks_with_nothing_of_another_one_whom_its_config_has(
    serve_agents: ServeAgents, deciding: Deciding
) -> None:
    """As where code of a run passes on the config that it got, and starts something for another one with it."""
    ada = {"identity": "ada", "org": "acme", "permissions": ["tools"]}

    async with serve_agents({"count": COUNT}, access=deciding.access) as served:
        async with get_client(url=served.url, api_key=None, headers={"authorization": "ada"}) as client:
            await client.threads.create()
        deciding.asked.clear()
        config = {"configurable": {"langgraph_auth_user": ada, "langgraph_auth_user_id": "ada"}}
        result = await (await served.app.manager.start(RunSpec("count", {}, owner="bob", config=config))).result()

    assert result.output == {"said": 0}
    assert deciding.asked == [("search", "bob", None, [])]


@pytest.mark.parametrize("page", ["/ui/threads", "/ui/agents"])
async def test_a_page_leaves_nothing_out_for_nobodys_run_as_the_api_does(
    serve_agents: ServeAgents, deciding: Deciding, page: str
) -> None:
    async def look(state: Said) -> Said:
        answer = await get_client().http.client.get(page)
        return {"said": [answer.status_code, answer.text]}

    async with serve_agents({"look": graph_of(look)}, access=deciding.access) as served:
        result = await (await served.app.manager.start(RunSpec("look", {}))).result()

    status, text = result.output["said"]
    assert (status, "look" in text) == (200, True)


async def test_what_another_run_says_comes_while_it_runs_and_who_breaks_off_ends_it(serve_agents: ServeAgents) -> None:
    is_heard, was_cancelled = asyncio.Event(), asyncio.Event()

    async def speak(input: Any, run: Any) -> str:
        run.send("hello")
        try:
            await (is_heard if input == "wait" else asyncio.Event()).wait()
        except asyncio.CancelledError:
            was_cancelled.set()
            raise
        return "done"

    async def follow(state: Said) -> Said:
        said: list[Any] = []
        more: Any = {"stream_mode": ["custom"], "on_disconnect": "cancel"}
        async for part in get_client().runs.stream(None, "speak", input="wait", **more):
            said.append(part.data)
            if part.event == "custom":
                is_heard.set()
        async for part in get_client().runs.stream(None, "speak", input="for ever", **more):
            if part.event == "custom":
                break
        await was_cancelled.wait()
        return {"said": said[1]}

    agents = {"follow": graph_of(follow), "speak": speak}
    async with serve_agents(agents, access=KEYS) as served, client_of(served, "ada") as ada:
        assert await ada.runs.wait(None, "follow", input={}) == {"said": "hello"}


async def test_a_stream_that_a_node_does_not_read_is_let_go_and_not_kept(
    serve_agents: ServeAgents, caplog: pytest.LogCaptureFixture
) -> None:
    is_over = asyncio.Event()

    async def speak(input: Any, run: Any) -> None:
        for _ in range(200):
            if "took nothing" in caplog.text:
                break
            run.send("x" * 300_000)
            await asyncio.sleep(0.01)
        is_over.set()

    async def follow(state: Said) -> Said:
        size = 0
        async with get_client().http.client.stream("POST", "/runs/stream", json=SPEAK) as answer:
            await is_over.wait()
            with pytest.raises(httpx.RemoteProtocolError):
                async for part in answer.aiter_bytes():
                    size += len(part)
        return {"said": size}

    async with serve_agents({"follow": graph_of(follow), "speak": speak}) as served:
        object.__setattr__(served.app.parts.options, "patience", 0.2)
        values = await served.client.runs.wait(None, "follow", input={})

    assert caplog.text.count("took nothing") == 1
    assert in_process._ROOM < values["said"] < 2 * in_process._ROOM


async def test_a_node_that_reads_a_little_later_misses_nothing(
    serve_agents: ServeAgents, caplog: pytest.LogCaptureFixture
) -> None:
    is_read = asyncio.Event()

    async def speak(input: Any, run: Any) -> None:
        for number in range(100):
            run.send(number)
            await asyncio.sleep(0.01)  # each is said by itself
        await is_read.wait()

    async def follow(state: Said) -> Said:
        said: list[Any] = []
        async for part in get_client().runs.stream(None, "speak", input=1, stream_mode="custom"):
            if part.event == "custom":
                if not said:
                    await asyncio.sleep(0.5)
                said.append(part.data)
                if len(said) == 100:
                    is_read.set()
        return {"said": said}

    async with serve_agents({"follow": graph_of(follow), "speak": speak}) as served:
        object.__setattr__(served.app.parts.options, "patience", 0.1)
        values = await served.client.runs.wait(None, "follow", input={})

    assert values == {"said": [*range(100)]}
    assert "took nothing" not in caplog.text


async def test_a_client_whose_loop_is_closed_without_a_word_has_gone(
    serve_agents: ServeAgents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_process, "_LOOK", 0.05)
    is_said, was_cancelled = asyncio.Event(), asyncio.Event()

    async def speak(input: Any, run: Any) -> None:
        for _ in range(10):
            run.send("x" * 300_000)
            await asyncio.sleep(0.01)
        is_said.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            was_cancelled.set()
            raise

    async def begin() -> None:
        client = get_client().http.client
        request = client.build_request("POST", "/runs/stream", json=SPEAK | {"on_disconnect": "cancel"})
        await client.send(request, stream=True)
        while not is_said.is_set():
            await asyncio.sleep(0.01)

    async def wait(state: Said) -> Said:
        await was_cancelled.wait()
        return {"said": "cancelled"}

    begun = StateGraph(Said).add_node("begin", lambda _: asyncio.run(begin())).add_node("wait", wait)
    graph = begun.add_edge(START, "begin").add_edge("begin", "wait").compile()
    async with serve_agents({"follow": graph, "speak": speak}) as served:
        assert await served.client.runs.wait(None, "follow", input={}) == {"said": "cancelled"}


async def test_a_stream_goes_on_though_no_key_of_its_run_can_be_looked_at_again(serve_agents: ServeAgents) -> None:
    goes_on = asyncio.Event()

    async def speak(input: Any) -> str:
        await goes_on.wait()
        return "done"

    async def follow(state: Said) -> Said:
        said: list[str] = []
        asked = {"assistant_id": "speak", "input": 1}
        async with get_client().http.client.stream("POST", "/runs/stream", json=asked) as answer:
            async for line in answer.aiter_lines():
                said.append(line)
                if len([one for one in said if one.startswith(":")]) == 3:  # each time keys are looked at again
                    goes_on.set()
        return {"said": said}

    more = {"access": KEYS, "server": ServerSettings(heartbeat=0.05)}
    agents = {"follow": graph_of(follow), "speak": speak}
    async with serve_agents(agents, **more) as served, client_of(served, "ada") as ada:
        values = await ada.runs.wait(None, "follow", input={})

    assert "event: end" in values["said"]


async def test_a_run_that_is_started_and_not_waited_for_stands_by_itself(serve_agents: ServeAgents) -> None:
    async def start(state: Said) -> Said:
        client = get_client()
        await client.runs.create(None, "other", input={}, on_completion="keep")
        await client.runs.wait(None, "count", input={}, on_completion="keep")
        return {}

    agents = {"start": graph_of(start), "other": OTHER, "count": COUNT}
    async with serve_agents(agents) as served:
        run = await served.client.runs.create(None, "start", input={}, on_completion="keep")
        await served.client.runs.join(run["thread_id"], run["run_id"])
        (other,), (waited,) = [await served.app.store.runs(agent=name) for name in ("other", "count")]

    assert other.parent_run_id is None
    assert waited.parent_run_id == run["run_id"]


async def test_where_no_server_answers_the_run_says_what_to_do(database_url: str) -> None:
    async with open_app(Settings(database_url=database_url), {"count": COUNT}) as app:
        result = await (await app.manager.start(RunSpec("count", {}))).result()

    assert result.status is RunStatus.error
    assert "no server answers in this process" in str(result.error)
    assert "get_client(url=" in str(result.error)


LATE = """
import asyncio, sys

import httpx

from trackside.app.settings import AccessSettings, Settings
from trackside.app.wiring import open_app

async def count(input):
    from langgraph_sdk import get_client

    return {"said": await get_client().threads.count()}

async def main(database_url):
    assert "langgraph_sdk" not in sys.modules
    access = AccessSettings(auth="loopback_auth:auth")
    async with open_app(Settings(database_url=database_url, access=access), {"count": count}) as app:
        transport = httpx.ASGITransport(app=app.asgi)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            answer = await http.post(
                "/runs/wait", json={"assistant_id": "count", "input": {}}, headers={"authorization": "ada"}
            )
            print(answer.text)

asyncio.run(main(sys.argv[1]))
"""


def test_a_function_asks_its_server_though_the_module_that_says_who_asks_alone_has_imported_the_sdk(
    deciding: Deciding, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", LATE, f"sqlite:///{tmp_path}/runs.db"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(said.stdout) == {
        "said": 1
    }  # behind lines that say that it is still waited for, on a slow machine


async def leave_waiting(settings: Settings, agents: dict[str, Any], *names: str) -> None:
    """Runs of these agents, each on a thread of its own, which the next process takes over."""
    begun = asyncio.Queue[None]()

    async def stay(input: Any) -> None:
        begun.put_nowait(None)
        await asyncio.Event().wait()

    async with open_app(settings, {**agents, "stay": stay}) as app:
        for name in names:
            before = await app.manager.start(RunSpec("stay"))
            await begun.get()
            await app.manager.start(RunSpec(name, thread_id=before.thread_id))


class Heard(logging.Handler):
    """What the log says, as it comes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._said = asyncio.Queue[str]()

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self._loop.call_soon_threadsafe(self._said.put_nowait, record.getMessage())

    async def until(self, words: str) -> None:
        while words not in await self._said.get():
            pass


@pytest.fixture
async def heard(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Heard]:
    logger, heard = logging.getLogger("trackside.server"), Heard(asyncio.get_running_loop())
    caplog.set_level(logging.INFO, logger.name)
    logger.addHandler(heard)
    yield heard
    logger.removeHandler(heard)


async def test_a_run_that_is_taken_over_waits_until_its_server_answers(database_url: str, heard: Heard) -> None:
    counted = asyncio.Queue[int]()

    async def ask(input: Any) -> None:
        counted.put_nowait(await early.threads.count())

    async def ask_on_its_own_loop() -> int:
        return await get_client().threads.count()

    async def ask_elsewhere(input: Any) -> None:
        counted.put_nowait(await asyncio.to_thread(asyncio.run, ask_on_its_own_loop()))

    async def have_another_ask(input: Any) -> None:
        await (await (await opened).manager.start(RunSpec("ask"))).result()

    opened: asyncio.Future[App] = asyncio.get_running_loop().create_future()
    agents = {"ask": ask, "ask-elsewhere": ask_elsewhere, "have-another-ask": have_another_ask}
    settings = Settings(database_url=database_url, shutdown_grace=0.0)
    await leave_waiting(settings, agents, *agents)
    async with open_app(settings, agents) as app:
        opened.set_result(app)
        for _ in agents:
            await heard.until("asks the server of this process, and waits until it answers")
        assert app.asgi is not None
        assert [await counted.get() for _ in agents] == [4, 4, 4]


async def test_nobody_waits_for_a_server_whose_app_has_been_closed(database_url: str, heard: Heard) -> None:
    left: list[asyncio.Task[int]] = []

    async def ask(input: Any) -> None:
        left.append(asyncio.create_task(early.threads.count()))
        await asyncio.wait(left)

    settings = Settings(database_url=database_url, shutdown_grace=0.0)
    await leave_waiting(settings, {"ask": ask}, "ask")
    async with open_app(settings, {"ask": ask}):
        await heard.until("asks the server of this process, and waits until it answers")
    (ended,) = await asyncio.gather(*left, return_exceptions=True)

    assert isinstance(ended, AddressNeededError)
    assert "has ended before it answered anything" in str(ended)


async def test_a_run_on_a_worker_says_so_too_though_a_server_is_near_that_asks_nobody(postgres_url: str) -> None:
    async with fleet_on(postgres_url, {"count": COUNT}, {"count": COUNT}) as (_, http, _):
        values = (await http.post("/runs/wait", json={"assistant_id": "count", "input": {}}, timeout=30)).json()

    assert values["__error__"]["error"] == "AddressNeededError"
    assert "as in a worker of a fleet" in values["__error__"]["message"]


async def test_each_run_asks_the_app_that_it_is_a_run_of(database_url: str, tmp_path: Path) -> None:
    second = Settings(database_url=f"sqlite:///{tmp_path / 'second.db'}")
    async with (
        open_app(Settings(database_url=database_url), {"count": COUNT}) as one,
        open_app(second, {"count": COUNT}) as two,
        httpx.AsyncClient(transport=httpx.ASGITransport(app=one.asgi), base_url="http://localhost") as first,
        httpx.AsyncClient(transport=httpx.ASGITransport(app=two.asgi), base_url="http://localhost") as other,
    ):
        for http, threads in ((first, 2), (other, 1)):
            for _ in range(threads):
                await http.post("/threads", json={})
        seen = [
            (await http.post("/runs/wait", json={"assistant_id": "count", "input": {}})).json()
            for http in (first, other)
        ]

    assert seen == [{"said": 3}, {"said": 2}]


async def test_what_was_taken_over_of_the_sdk_is_given_back_with_the_last_app(database_url: str) -> None:
    modules = langgraph_sdk._shared.utilities, langgraph_sdk._async.client
    before = [module._registered_transports for module in modules]
    known = list(before[0])
    settings = Settings(database_url=database_url)
    async with open_app(settings, {"count": COUNT}) as app:
        assert app.asgi is not None
        async with open_app(settings, {"count": COUNT}):
            pass
        made = [get_client() for _ in range(3)]
        assert [await client.threads.count() for client in (early, *made)] == [0, 0, 0, 0]
        assert before[0] == known  # else each client that a node makes would stay
        assert os.environ["__LANGGRAPH_DEFER_LOOPBACK_TRANSPORT"] == "true"

    assert [module._registered_transports for module in modules] == before
    assert all("handle_async_request" not in vars(transport) for transport in known)
    assert "__LANGGRAPH_DEFER_LOOPBACK_TRANSPORT" not in os.environ
    with pytest.raises(AddressNeededError):
        await made[0].threads.count()
    async with open_app(settings, {"count": COUNT}) as app:
        assert app.asgi is not None
        assert [await client.threads.count() for client in (early, made[0])] == [0, 0]
