"""Who asks, where code that the server runs asks it by `get_client()`: the owner of the run, or of the request."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph_sdk import get_client
from running_server import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from tests.integration.server.asking_graphs import COUNT, KEYS, NONE, OTHER, Said, client_of, early, graph_of

from trackside import RunSpec, run_agent
from trackside.app.server.guest import Guest
from trackside.app.server.principal import ANYBODY, WITHIN, Permission, Principal
from trackside.app.settings import AccessSettings, Settings
from trackside.app.wiring import App, open_app
from trackside.harness.ids import new_id

type ServeAgents = Callable[..., Any]


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
    """Handlers that give everybody only what is his; the header `authorization` says who asks."""
    (tmp_path / "loopback_auth.py").write_text(AUTH, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "loopback_auth", raising=False)  # another test's
    return Deciding(AccessSettings(auth="loopback_auth:auth"), importlib.import_module("loopback_auth").asked)


def within(app: App, key: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app.asgi)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers={"x-api-key": key.secret})


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
