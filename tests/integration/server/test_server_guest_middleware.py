"""The middleware of an app behind the server: it also stands before the server's own routes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client
from running_server import serving
from speaking_agents import Held
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from tests.integration.server.test_server_guests import echo, me

from trackside.app.server.front import Front
from trackside.app.server.guest import GuestError, living
from trackside.app.settings import AccessSettings, ServerSettings, Settings
from trackside.app.wiring import App, open_app

DIALECTS = ("sqlite",)

AUTH_FIRST = ServerSettings(middleware_order="auth_first")
SUSPENDED = {"x-tenant": "suspended"}
RUN = {"assistant_id": "echo", "input": {"n": 1}}
EVENTS = "text/event-stream"


class Policy:
    """Refuses a suspended tenant, and notes whom it has seen: pure ASGI middleware, which copies scopes."""

    def __init__(self, app: Any, seen: list[Any]) -> None:
        self._app = app
        self._seen = seen

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self._seen.append(noted(scope))
        if scope["type"] != "lifespan" and is_suspended(scope):
            await JSONResponse({"detail": "suspended"}, 403)(scope, receive, send)
        else:
            await self._app({**scope}, receive, send)


class BasePolicy(BaseHTTPMiddleware):
    """The same, in Starlette's form."""

    def __init__(self, app: Any, seen: list[Any]) -> None:
        super().__init__(app)
        self._seen = seen

    async def dispatch(self, request: Request, call_next: Callable[[Request], Any]) -> Response:
        self._seen.append(noted(request.scope))
        if is_suspended(request.scope):
            return JSONResponse({"detail": "suspended"}, 403)
        answer: Response = await call_next(request)
        self._seen.append(("after", *noted(request.scope)))
        return answer


def noted(scope: Any) -> tuple[Any, ...]:
    return scope.get("path"), getattr(scope.get("user"), "identity", None)


def is_suspended(scope: Any) -> bool:
    return HTTPConnection(scope).headers.get("x-tenant") == "suspended"


async def hello(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(f"hello {socket.user.identity}")
    await socket.close()


async def fails(request: Request) -> JSONResponse:
    raise LookupError("nothing there")


@pytest.fixture(params=[Policy, BasePolicy], ids=["pure", "base"])
def policy(request: pytest.FixtureRequest) -> type[Any]:
    """Each kind of middleware."""
    kind: type[Any] = request.param
    return kind


def guest_with(policy: type[Any], seen: list[Any], *more: Middleware) -> Starlette:
    routes = [Route("/me", me), Route("/fails", fails), WebSocketRoute("/ws", hello)]
    return Starlette(routes=routes, middleware=[*more, Middleware(policy, seen)])


@asynccontextmanager
async def served_with(
    guest: Any,
    database_url: str,
    agents: dict[str, Any] | None = None,
    note: Callable[[Mapping[str, Any]], None] | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[App, httpx.AsyncClient, Front]]:
    """An app with a guest, a client of it, and the front before it."""
    async with (
        open_app(Settings(database_url=database_url, **settings), agents or {"echo": echo}) as app,
        living(guest, name="guest") as one,
    ):
        front = Front(app.asgi_before(one), note=note)
        async with serving(front) as url, httpx.AsyncClient(base_url=url) as http:
            yield app, http, front


async def test_a_projects_policy_holds_for_the_servers_routes_as_for_its_own(
    database_url: str, policy: type[Any]
) -> None:
    ran: list[Any] = []

    async def running(input: Any) -> Any:
        ran.append(input)
        return input

    async with served_with(guest_with(policy, []), database_url, {"echo": running}) as (_, http, _):
        for path in ("/me", "/nowhere", "/ok", "/info", "/docs", "/metrics", "/ui", "/", "/health/ready"):
            assert (await http.get(path, headers=SUSPENDED)).status_code == 403, path
        for path, body in (("/runs/wait", RUN), ("/threads", {}), ("/store/items/search", {"namespace_prefix": []})):
            refused = await http.post(path, json=body, headers=SUSPENDED)
            assert (refused.status_code, refused.json()) == (403, {"detail": "suspended"}), path
            assert (await http.post(path, json=body)).status_code == 200, path
        assert (await http.get("/me")).status_code == 200
    assert ran == [{"n": 1}]


async def test_middleware_is_made_once_and_sees_the_lifespan_as_well(database_url: str) -> None:
    made: list[Any] = []

    class Counting:
        def __init__(self, app: Any) -> None:
            self._app = app
            self.seen: list[str] = []
            made.append(self)

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            self.seen.append(scope.get("path", scope["type"]))
            await self._app(scope, receive, send)

    async with served_with(guest_with(Policy, [], Middleware(Counting)), database_url) as (_, http, _):
        for path in ("/ok", "/me"):
            await http.get(path)
    assert [one.seen for one in made] == [["lifespan", "/ok", "/me"]]


async def test_middleware_comes_before_it_is_known_who_asks_or_after(database_url: str, policy: type[Any]) -> None:
    class Cookies:
        """Lets a cookie identify the caller, as a project's middleware may."""

        def __init__(self, app: Any) -> None:
            self._app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and (key := HTTPConnection(scope).cookies.get("key")):
                scope["headers"] = [*scope["headers"], (b"x-api-key", key.encode())]
            await self._app(scope, receive, send)

    keys = AccessSettings(auth="keys")
    for server, statuses, knows in (
        (ServerSettings(), [401, 200, 200], [None, None, None]),
        (AUTH_FIRST, [401, 200, 401], ["ada"]),
    ):
        seen: list[Any] = []
        guest = guest_with(policy, seen, Middleware(Cookies))
        async with served_with(guest, database_url, access=keys, server=server) as (app, http, _):
            key = (await app.store.api_keys.create("laptop", owner="ada")).secret
            asked = ({}, {"x-api-key": key}, {"cookie": f"key={key}"})
            answers = [await http.post("/threads/count", json={}, headers=headers) for headers in asked]
        assert [answer.status_code for answer in answers] == statuses
        assert [one[1] for one in seen if one[0] == "/threads/count"] == knows
        if policy is BasePolicy:  # afterwards it knows the caller, in either order
            after = [one[2] for one in seen if one[:2] == ("after", "/threads/count") and one[2] is not None]
            assert after == ["ada"] * statuses.count(200)


async def test_a_stream_comes_through_as_it_is_said_and_its_line_says_whose_it_was(
    database_url: str, policy: type[Any]
) -> None:
    held = Held()
    lines: list[Mapping[str, Any]] = []
    guest, keys = guest_with(policy, []), AccessSettings(auth="keys")
    async with served_with(guest, database_url, {"held": held.agent()}, lines.append, access=keys) as (app, http, _):
        headers = {"x-api-key": (await app.store.api_keys.create("laptop", owner="ada")).secret}
        asked = {"assistant_id": "held", "stream_mode": "custom"}
        async with http.stream("POST", "/runs/stream", json=asked, headers=headers) as answer:
            got = answer.aiter_lines()
            for number in range(3):
                held.say({"n": number})
                while json.dumps({"n": number}).replace(" ", "") not in (await anext(got)).replace(" ", ""):
                    pass
            held.say(None)
            assert "event: end" in [line async for line in got]
    (line,) = [line for line in lines if line["path"] == "/runs/stream"]
    assert (line["principal"], line["status"], line.get("cut")) == ("ada", 200, None)


async def test_what_middleware_puts_into_one_answer_is_in_no_other(database_url: str) -> None:
    async def remembers(request: Request, call_next: Callable[[Request], Any]) -> Response:
        answer: Response = await call_next(request)
        if request.headers.get("x-remember"):
            answer.set_cookie("session", "somebody's")
        return answer

    ours = ("/ui/live", "/ui/log/stream", "/ui/subscription/live", "/ui/workers/live")
    paths = ("/runs/stream", "/events/stream", *ours, "/ok")
    guest = Starlette(middleware=[Middleware(BaseHTTPMiddleware, dispatch=remembers)])
    async with served_with(guest, database_url) as (_, http, _):
        for headers, cookies in (({"x-remember": "1"}, 1), ({}, 0)):
            for path in paths:
                asked = {"method": "POST", "json": RUN} if path == "/runs/stream" else {"method": "GET"}
                async with http.stream(**asked, url=path, headers=headers) as answer:
                    said = (answer.status_code, len(answer.headers.get_list("set-cookie")))
                assert said == (200, cookies), path


async def test_a_run_is_cancelled_when_the_client_goes_who_wanted_that(database_url: str, policy: type[Any]) -> None:
    for way in ("stream", "wait"):
        held = Held()
        async with served_with(guest_with(policy, []), database_url, {"held": held.agent()}) as (_, http, _):
            asked = {"assistant_id": "held", "on_disconnect": "cancel", "stream_mode": "custom"}
            async with http.stream("POST", f"/runs/{way}", json=asked):
                await held.started.wait()
            await asyncio.wait_for(held.cancelled.wait(), 60)


async def test_an_answer_that_we_cut_off_does_not_end_in_order(database_url: str, policy: type[Any]) -> None:
    async with served_with(guest_with(policy, []), database_url) as (app, http, _):
        path = f"/threads/{(await http.post('/threads', json={})).json()['thread_id']}/stream"
        with pytest.raises(httpx.RemoteProtocolError):  # this is how the app ends its streams
            async with http.stream("GET", path, headers={"accept": EVENTS}) as answer:
                app.streams.end_all()
                got = b""
                async for part in answer.aiter_raw():
                    got += part
        assert b": the server closes this stream" in got, "what there was has come"


async def test_a_stream_is_cut_off_when_the_server_stops(database_url: str, policy: type[Any]) -> None:
    held = Held()
    async with served_with(guest_with(policy, []), database_url, {"held": held.agent()}) as (_, http, front):
        asked = {"assistant_id": "held", "stream_mode": "custom"}
        async with http.stream("POST", "/runs/stream", json=asked) as answer:
            await held.started.wait()
            front.begin_ending()
            front.end_streams()
            with pytest.raises(httpx.RemoteProtocolError):  # cut off, so that the client comes back for the rest
                await answer.aread()
        held.say(None)


async def test_bodies_come_through_whole_and_what_is_too_large_is_refused(database_url: str, policy: type[Any]) -> None:
    async def reads(request: Request, call_next: Callable[[Request], Any]) -> Response:
        assert len(await request.body()) == int(request.headers.get("content-length", 0))
        answer: Response = await call_next(request)
        return answer

    guest = guest_with(policy, [], Middleware(BaseHTTPMiddleware, dispatch=reads))
    async with served_with(guest, database_url, server=ServerSettings(max_body=1_000_000)) as (_, http, _):
        text = "x" * 900_000
        said = await http.post("/runs/wait", json={"assistant_id": "echo", "input": {"text": text}})
        large = await http.post("/runs/wait", json={"assistant_id": "echo", "input": {"text": 2 * text}})
    assert said.json() == {"text": text}
    assert large.status_code == 413


async def test_a_socket_of_the_guest_is_behind_its_middleware_and_our_door(
    database_url: str, policy: type[Any]
) -> None:
    for server in (ServerSettings(), AUTH_FIRST):
        seen: list[Any] = []
        settings = Settings(database_url=database_url, access=AccessSettings(auth="keys"), server=server)
        async with open_app(settings, {"echo": echo}) as app, living(guest_with(policy, seen), name="guest") as one:
            asgi = app.asgi_before(one)
            key = (await app.store.api_keys.create("laptop", owner="ada")).secret
            stranger = await said_to_socket(asgi, {})
            ada = await said_to_socket(asgi, {"x-api-key": key})
        assert [message["type"] for message in stranger] == ["websocket.close"]
        assert ada[1]["text"] == "hello ada"
        if policy is Policy:  # Starlette's own middleware does not see sockets
            assert ("/ws", "ada" if server is AUTH_FIRST else None) in seen


@pytest.mark.parametrize("path", ["/info", "/ok"])
async def test_a_socket_of_the_guest_at_a_path_of_ours_that_is_for_everybody_is_behind_our_door(
    database_url: str, path: str
) -> None:
    guest = Starlette(routes=[WebSocketRoute(path, hello)])
    for server in (ServerSettings(), AUTH_FIRST):
        settings = Settings(database_url=database_url, access=AccessSettings(auth="keys"), server=server)
        async with open_app(settings, {"echo": echo}) as app, living(guest, name="guest") as one:
            asgi = app.asgi_before(one)
            key = (await app.store.api_keys.create("laptop", owner="ada")).secret
            stranger = await said_to_socket(asgi, {}, path)
            ada = await said_to_socket(asgi, {"x-api-key": key}, path)
        assert [message["type"] for message in stranger] == ["websocket.close"]
        assert ada[1]["text"] == "hello ada"


async def said_to_socket(asgi: Any, headers: Mapping[str, str], path: str = "/ws") -> list[Any]:
    said: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        said.append(message)

    sent = [(name.encode(), value.encode()) for name, value in {"host": "localhost", **headers}.items()]
    scope = {"type": "websocket", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": ""}
    await asgi({**scope, "scheme": "ws", "headers": sent, "subprotocols": []}, receive, send)
    return said


async def test_code_of_a_run_asks_through_the_middleware_in_its_own_name(database_url: str, policy: type[Any]) -> None:
    async def look(input: Any) -> Any:
        client = get_client()
        refused = 0
        try:
            await client.http.get("/me", headers=SUSPENDED)
        except httpx.HTTPStatusError as exc:
            refused = exc.response.status_code
        return {"threads": await client.threads.count(), "me": await client.http.get("/me"), "refused": refused}

    keys = AccessSettings(auth="keys")
    for server in (ServerSettings(), AUTH_FIRST):
        seen: list[Any] = []
        async with served_with(guest_with(policy, seen), database_url, {"look": look}, access=keys, server=server) as (
            app,
            http,
            _,
        ):
            headers = {"x-api-key": (await app.store.api_keys.create("laptop", owner="ada")).secret}
            asked = {"assistant_id": "look", "input": {}}
            said = (await http.post("/runs/wait", json=asked, headers=headers)).json()
        assert (said["me"][0], said["refused"]) == ("ada", 403)
        assert ("/threads/count", "ada") in seen


@pytest.mark.parametrize("access", ["none", "keys"])
async def test_what_middleware_asks_itself_does_not_pass_it(database_url: str, access: Any) -> None:
    seen: list[str] = []

    class Suspending:
        """Refuses whom an item of the store names. It asks before and after the answer, after it by a guest's route."""

        def __init__(self, app: Any) -> None:
            self._app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                seen.append(scope["path"])
                assert len(seen) < 10, "it asks itself without end"
                item = await get_client().store.get_item(("ada", "policy"), "tenant")
                if item and item["value"]["suspended"] == HTTPConnection(scope).headers.get("x-tenant"):
                    await JSONResponse({"detail": "suspended"}, 403)(scope, receive, send)
                    return
                await self._app(scope, receive, send)
                assert await get_client().http.get("/around") == "around"
            else:
                await self._app(scope, receive, send)

    async def around(request: Request) -> JSONResponse:
        await get_client().threads.count()
        return JSONResponse(request.app.state.name)

    async def ask(input: Any) -> Any:
        return await get_client().http.get("/around")

    guest = Starlette(routes=[Route("/around", around)], middleware=[Middleware(Suspending)])
    guest.state.name = "around"
    settings = {"access": AccessSettings(auth=access), "server": ServerSettings() if access == "none" else AUTH_FIRST}
    async with served_with(guest, database_url, {"ask": ask}, **settings) as (app, http, _):
        http.headers["x-api-key"] = (await app.store.api_keys.create("laptop", owner="ada")).secret
        assert (await http.post("/threads/count", json={})).status_code == 200
        assert seen == ["/threads/count"]
        seen.clear()
        assert (await http.get("/around")).json() == "around"
        answer = await http.post("/runs/wait", json={"assistant_id": "ask", "input": {}})
        assert answer.json() == {"output": "around"}
        asked = ["/around", "/threads/count", "/runs/wait", "/around", "/threads/count"]
        assert seen == asked, "what its routes and runs ask does"
        item = {"namespace": ["ada", "policy"], "key": "tenant", "value": {"suspended": "suspended"}}
        assert (await http.put("/store/items", json=item)).status_code == 204
        refused = await http.post("/threads/count", json={}, headers=SUSPENDED)
        assert (refused.status_code, refused.json()) == (403, {"detail": "suspended"})


async def test_code_of_a_run_asks_from_this_machine_and_its_streams_count_apart(database_url: str) -> None:
    seen: list[Any] = []

    async def noting(request: Request, call_next: Callable[[Request], Any]) -> Response:
        assert request.client is not None
        seen.append((request.url.path, request.client.host))
        answer: Response = await call_next(request)
        return answer

    async def follow(input: Any) -> Any:
        return [part.event async for part in get_client().runs.stream(None, "echo", input=input)]

    guest = Starlette(middleware=[Middleware(BaseHTTPMiddleware, dispatch=noting)])
    agents, access = {"echo": echo, "follow": follow}, AccessSettings(max_streams=1)
    async with served_with(guest, database_url, agents, access=access) as (_, http, _):
        answer = await http.post("/runs/stream", json={"assistant_id": "follow", "input": {"n": 1}})
    assert '["metadata","values","end"]' in answer.text
    assert seen == [("/runs/stream", "127.0.0.1")] * 2


async def test_middleware_sees_what_the_guests_own_routes_fail_with_and_the_guest_as_the_app(database_url: str) -> None:
    apps: list[Any] = []

    async def answers(request: Request, call_next: Callable[[Request], Any]) -> Response:
        try:
            answer: Response = await call_next(request)
        except LookupError as exc:
            answer = JSONResponse({"why": str(exc)}, 418)
        apps.append(request.app)
        return answer

    guest = guest_with(Policy, [], Middleware(BaseHTTPMiddleware, dispatch=answers))
    async with served_with(guest, database_url) as (_, http, _):
        failed, ours = await http.get("/fails"), await http.get("/ok")
    assert (failed.status_code, failed.json()) == (418, {"why": "nothing there"})
    assert ours.json() == {"ok": True}
    assert apps == [guest, guest]


async def test_middleware_that_cannot_be_made_is_said_at_the_start() -> None:
    with pytest.raises(GuestError, match="its middleware cannot be made: TypeError"):
        async with living(Starlette(middleware=[Middleware(Policy)]), name="guest"):  # type: ignore[call-arg]
            pass


async def test_a_client_that_takes_nothing_is_let_go_through_middleware_as_well(
    database_url: str, policy: type[Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trackside.app.server.guest._PATIENCE", 0.1)
    held, ended = Held(), asyncio.Event()
    lines: list[Mapping[str, Any]] = []

    def note(line: Mapping[str, Any]) -> None:
        lines.append(line)
        ended.set()

    guest = guest_with(policy, [])
    async with served_with(guest, database_url, {"held": held.agent()}, note) as (app, http, _):
        object.__setattr__(app.parts.options, "patience", 0.2)
        asked = {"assistant_id": "held", "stream_mode": "custom"}
        async with http.stream("POST", "/runs/stream", json=asked):
            while "took nothing" not in caplog.text:  # until the buffers between server and client are full
                held.say({"text": "x" * 300_000})
                await asyncio.sleep(0.01)
            await asyncio.wait_for(ended.wait(), 60)  # while the client is still there
        held.say(None)
    assert lines[0]["cut"]
