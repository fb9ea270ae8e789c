"""Requests that follow each other on one connection: none is affected by what another was in the middle of."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from langgraph_sdk import get_client
from raw_connection import connected
from running_server import serving
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from trackside.app.server.guest import living
from trackside.app.settings import AccessSettings, Settings
from trackside.app.wiring import App, open_app

DIALECTS = ("sqlite",)

SUSPENDED = {"x-tenant": "suspended"}


class Policy:
    """Refuses a suspended tenant once it has read the whole body: pure ASGI middleware."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan" and HTTPConnection(scope).headers.get("x-tenant") == "suspended":
            while (await receive()).get("more_body"):
                pass
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})
                return
            await JSONResponse({"detail": "suspended"}, 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class BasePolicy(BaseHTTPMiddleware):
    """The same, in Starlette's form."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        if request.headers.get("x-tenant") == "suspended":
            await request.body()
            return JSONResponse({"detail": "suspended"}, 403)
        return await call_next(request)


@asynccontextmanager
async def served_with(
    guest: Any, database_url: str, agents: dict[str, Any], **settings: Any
) -> AsyncIterator[tuple[App, str]]:
    async with (
        open_app(Settings(database_url=database_url, **settings), agents) as app,
        living(guest, name="guest") as one,
        serving(app.asgi_before(one), websockets=True) as url,
    ):
        yield app, url


def request(method: str, path: str, headers: Mapping[str, str] = {}, body: Any = None) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    fields = {"host": "localhost", "content-type": "application/json", "content-length": str(len(content)), **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + content


@pytest.mark.parametrize("first", [{}, SUSPENDED], ids=["let_in", "refused"])
@pytest.mark.parametrize("is_pipelined", [True, False], ids=["at_once", "one_by_one"])
@pytest.mark.parametrize("policy", [Policy, BasePolicy], ids=["pure", "base"])
async def test_middleware_stands_before_each_request_of_a_connection(
    database_url: str, policy: Any, is_pipelined: bool, first: Mapping[str, str]
) -> None:
    ran: list[Any] = []

    async def running(input: Any) -> Any:
        ran.append(input)
        return input

    guest = Starlette(middleware=[Middleware(policy)])
    async with served_with(guest, database_url, {"running": running}) as (_, url), connected(url) as connection:
        body = {"assistant_id": "running", "input": {"text": "x" * 500_000}}  # too large to be read in one go
        before = request("POST", "/runs/wait", first, body)
        refused = request("POST", "/runs/wait", SUSPENDED, {**body, "input": {"by": "suspended"}})
        await connection.send(before + refused if is_pipelined else before)
        assert (await connection.answer())[0] == (403 if first else 200)
        if not is_pipelined:
            await connection.send(refused)
        assert await connection.answer() == (403, b'{"detail":"suspended"}')
    assert [said for said in ran if "by" in said] == []


async def test_middleware_stands_before_a_socket_on_a_connection_that_was_used_before(database_url: str) -> None:
    async def opened(socket: WebSocket) -> None:
        await socket.accept()

    async def echo(input: Any) -> Any:
        return input

    guest = Starlette(routes=[WebSocketRoute("/ws", opened)], middleware=[Middleware(Policy)])
    async with served_with(guest, database_url, {"echo": echo}) as (_, url), connected(url) as connection:
        await connection.send(request("POST", "/ok", SUSPENDED, "x" * 500_000))
        assert (await connection.answer())[0] == 403
        upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        key = {"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}  # as in RFC 6455
        await connection.send(request("GET", "/ws", {**SUSPENDED, **upgrade, **key}))
        assert (await connection.answer())[0] == 403


async def test_code_before_it_is_known_who_asks_asks_in_nobodys_name_behind_another_request(database_url: str) -> None:
    asked: list[Any] = []
    answered = asyncio.Event()

    class Asking:
        """Asks the server before the caller is known."""

        def __init__(self, app: Any) -> None:
            self._app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                try:
                    asked.append(await get_client().threads.count())
                except Exception as exc:
                    asked.append(type(exc).__name__)
            await self._app(scope, receive, send)

    async def goes_on(request: Request) -> Response:
        return JSONResponse("answered", background=BackgroundTask(answered.wait))

    guest = Starlette(routes=[Route("/goes-on", goes_on)], middleware=[Middleware(Asking)])

    async def echo(input: Any) -> Any:
        return input

    keys = AccessSettings(auth="keys")
    async with (
        served_with(guest, database_url, {"echo": echo}, access=keys) as (app, url),
        connected(url) as connection,
    ):
        ada = {"x-api-key": (await app.store.api_keys.create("laptop", owner="ada")).secret}
        await connection.send(request("GET", "/goes-on", ada) + request("GET", "/goes-on"))
        assert (await connection.answer())[0] == 200
        assert (await connection.answer())[0] == 401
        answered.set()
    assert asked == ["AddressNeededError"] * 2


@pytest.mark.parametrize("policy", [[], [Middleware(Policy)]], ids=["bare", "behind_middleware"])
async def test_a_route_that_fails_behind_its_whole_answer_ends_no_other_request_of_the_connection(
    database_url: str, policy: list[Middleware], caplog: pytest.LogCaptureFixture
) -> None:
    failing = asyncio.Event()

    async def fails(request: Request) -> Response:  # Starlette answers this before it raises it
        raise LookupError("nothing there")

    async def task() -> None:
        await failing.wait()
        raise LookupError("nothing done")

    async def fails_later(request: Request) -> Response:
        return JSONResponse("so far", background=BackgroundTask(task))

    async def running(input: Any) -> Any:
        failing.set()
        while "nothing done" not in caplog.text:
            await asyncio.sleep(0)
        return input

    guest = Starlette(routes=[Route("/fails", fails), Route("/fails-later", fails_later)], middleware=policy)
    async with served_with(guest, database_url, {"running": running}) as (_, url), connected(url) as connection:
        await connection.send(request("GET", "/fails"))
        assert await connection.answer() == (500, b"Internal Server Error")
        await connection.send(request("GET", "/fails-later"))
        assert await connection.answer() == (200, b'"so far"')
        await connection.send(request("POST", "/runs/wait", body={"assistant_id": "running", "input": {"n": 1}}))
        assert await connection.answer() == (200, b'{"n":1}')
    assert "nothing there" in caplog.text


async def test_an_answer_that_stays_shorter_than_it_was_to_be_is_cut_off(database_url: str) -> None:
    async def short(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            await send({"type": "http.response.body", "body": b"so far"})

    async def echo(input: Any) -> Any:
        return input

    async with served_with(short, database_url, {"echo": echo}) as (_, url), connected(url) as connection:
        await connection.send(request("GET", "/short"))
        with pytest.raises(asyncio.IncompleteReadError):
            await connection.answer()
