"""A project's own app behind the server (`http.app`): what its routes learn about requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, override

import httpx
import pytest
from langgraph_sdk import get_client
from running_server import serving
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser, requires
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trackside.app.server import guarded_protocol
from trackside.app.server.guest import living
from trackside.app.settings import AccessSettings, ServerSettings, Settings
from trackside.app.wiring import App, open_app
from trackside.harness import current_run

DIALECTS = ("sqlite",)

AUTH = """
from dataclasses import dataclass, field
from langgraph_sdk import Auth
from starlette.authentication import SimpleUser

@dataclass
class Person:
    identity: str
    display_name: str
    permissions: list = field(default_factory=lambda: ["tools"])
    org: str = "acme"

class Member(SimpleUser):
    identity = property(lambda self: self.username)
    org = "acme"

auth = Auth()

@auth.authenticate
async def authenticate(headers):
    name = headers.get("x-name")
    if name is None:
        return None
    said = {"identity": name, "display_name": name.title(), "permissions": ["tools"], "org": "acme"}
    return {"mapping": said, "object": Person(name, name.title()), "member": Member(name)}[headers["x-kind"]]
"""


async def me(request: Request) -> JSONResponse:
    user = request.user
    said = [user.identity, user.display_name, user.is_authenticated, getattr(user, "org", None)]
    return JSONResponse([*said, list(request.auth.scopes)])


@requires("tools")
async def tools(request: Request) -> JSONResponse:
    return JSONResponse("tools")


async def around(request: Request) -> JSONResponse:
    return JSONResponse(await get_client().http.get("/me"))


async def way(request: Request) -> JSONResponse:
    return JSONResponse([request.url_for("way", place="here").path, request.app.state.name])


async def upload(request: Request) -> JSONResponse:
    return JSONResponse(sum([len(piece) async for piece in request.stream()]))


async def passed(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


def made_guest() -> Starlette:
    routes = {"/me": me, "/tools": tools, "/around": around, "/ways/{place}": way}
    uploads = Route("/upload", upload, methods=["POST"])
    return Starlette(routes=[uploads, *[Route(path, endpoint) for path, endpoint in routes.items()]])


@asynccontextmanager
async def served_with(
    guest: Any, agents: dict[str, Any], database_url: str, **settings: Any
) -> AsyncIterator[tuple[App, httpx.AsyncClient]]:
    """An app with a guest, and a client of it."""
    async with (
        open_app(Settings(database_url=database_url, **settings), agents) as app,
        living(guest, name="guest") as one,
        serving(app.asgi_before(one)) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        yield app, http


async def echo(input: Any) -> Any:
    return input


@pytest.fixture
def own(tmp_path: Path) -> AccessSettings:
    """A project's own handler identifies callers by the header `x-name`."""
    (tmp_path / "guests_auth.py").write_text(AUTH, encoding="utf-8")
    return AccessSettings(auth=f"{tmp_path}/guests_auth.py:auth")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("mapping", ["ada", "Ada", True, "acme", ["tools"]]),
        ("object", ["ada", "Ada", True, "acme", ["tools"]]),
        ("member", ["ada", "ada", True, "acme", []]),
    ],
)
async def test_a_guests_route_knows_whom_the_projects_handler_knows(
    own: AccessSettings, database_url: str, kind: str, says: list[Any]
) -> None:
    who = {"x-name": "ada", "x-kind": kind}
    async with served_with(made_guest(), {"echo": echo}, database_url, access=own) as (_, http):
        assert (await http.get("/me", headers=who)).json() == says
        assert (await http.get("/around", headers=who)).json()[0] == "ada", "asked by its code in this process"
        assert (await http.get("/tools", headers=who)).status_code == (200 if says[-1] else 403)
        assert (await http.get("/me")).status_code == 401


@pytest.mark.parametrize(
    ("auth", "says"),
    [("keys", ["ada", "ada", True, None, ["run"]]), ("none", ["", "", False, None, []])],
)
async def test_a_guests_route_knows_who_asks_by_a_key_and_that_nobody_is_asked(
    database_url: str, auth: str, says: list[Any]
) -> None:
    access = AccessSettings(auth=auth)
    async with served_with(made_guest(), {"echo": echo}, database_url, access=access) as (app, http):
        key = await app.store.api_keys.create("laptop", owner="ada")
        headers: Mapping[str, str] = {"x-api-key": key.secret} if auth == "keys" else {}
        assert (await http.get("/me", headers=headers)).json() == says


@pytest.mark.parametrize("has_middleware", [False, True])
async def test_a_guests_route_finds_the_ways_to_its_others_and_its_own_app(
    database_url: str, has_middleware: bool
) -> None:
    guest = made_guest()
    guest.state.name = "guest"
    if has_middleware:
        guest.add_middleware(BaseHTTPMiddleware, dispatch=passed)
    async with served_with(guest, {"echo": echo}, database_url) as (_, http):
        assert (await http.get("/ways/there")).json() == ["/ways/here", "guest"]


@pytest.mark.parametrize("order", ["middleware_first", "auth_first"])
@pytest.mark.parametrize("auth", ["none", "keys"])
async def test_whom_the_guests_own_authentication_knows_its_routes_see(
    database_url: str, auth: Any, order: Any
) -> None:
    class Staff(AuthenticationBackend):
        @override
        async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
            name = conn.cookies.get("staff")
            return None if name is None else (AuthCredentials(["staff"]), SimpleUser(name))

    async def signed_in(request: Request) -> JSONResponse:
        return JSONResponse([request.user.display_name, request.user.is_authenticated, request.auth.scopes])

    async def ask(input: Any) -> Any:
        run = current_run()
        assert run is not None
        return [run.owner, await get_client().http.get("/signed-in", headers={"cookie": "staff=bob"})]

    bob, nobody = ["bob", True, ["staff"]], ["", False, []]
    routes, middleware = [Route("/signed-in", signed_in)], [Middleware(AuthenticationMiddleware, backend=Staff())]
    guest = Starlette(routes=routes, middleware=middleware)
    settings = {"access": AccessSettings(auth=auth), "server": ServerSettings(middleware_order=order)}
    async with served_with(guest, {"ask": ask}, database_url, **settings) as (app, http):
        http.headers["x-api-key"] = (await app.store.api_keys.create("laptop", owner="ada")).secret
        assert (await http.get("/signed-in", headers={"cookie": "staff=bob"})).json() == bob
        assert (await http.get("/signed-in")).json() == nobody
        asked = await http.post("/runs/wait", json={"assistant_id": "ask"}, headers={"cookie": "staff=bob"})
        assert asked.json() == {"output": ["ada" if auth == "keys" else None, bob]}, "the API asks for the key"


@pytest.mark.parametrize("order", ["middleware_first", "auth_first"])
@pytest.mark.parametrize("auth", ["none", "keys"])
async def test_who_is_nobody_to_the_guests_own_middleware_is_nobody_to_its_routes(
    database_url: str, auth: Any, order: Any
) -> None:
    class SignedIn:
        """Says who has signed in, and None for others, as middleware from outside Starlette does."""

        def __init__(self, app: Any) -> None:
            self._app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                scope["user"] = HTTPConnection(scope).cookies.get("staff")
            await self._app(scope, receive, send)

    async def signed_in(request: Request) -> JSONResponse:
        return JSONResponse([request.user, request.auth.scopes])

    guest = Starlette(routes=[Route("/signed-in", signed_in)], middleware=[Middleware(SignedIn)])
    settings = {"access": AccessSettings(auth=auth), "server": ServerSettings(middleware_order=order)}
    async with served_with(guest, {"echo": echo}, database_url, **settings) as (app, http):
        http.headers["x-api-key"] = (await app.store.api_keys.create("laptop", owner="ada")).secret
        scopes = ["run"] if auth == "keys" else []
        assert (await http.get("/signed-in")).json() == [None, scopes]
        assert (await http.get("/signed-in", headers={"cookie": "staff=bob"})).json() == ["bob", scopes]


@pytest.mark.parametrize("copied", [False, True])
async def test_whom_others_know_is_found_out_anew_each_time_that_middleware_asks(
    database_url: str, copied: bool
) -> None:
    keys: list[str] = []

    class Twice:
        def __init__(self, app: Any) -> None:
            self._app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def drop(message: Any) -> None:
                pass

            scope = {**scope} if copied else scope
            for key, said in zip(keys, (drop, send), strict=False):
                scope["headers"] = [(b"host", b"localhost"), (b"x-api-key", key.encode())]
                await self._app(scope, receive, said)

    settings = Settings(database_url=database_url, access=AccessSettings(auth="keys"))
    guest = Starlette(routes=[Route("/me", me)], middleware=[Middleware(Twice)])
    async with open_app(settings, {"echo": echo}) as app, living(guest, name="guest") as one:

        async def around(scope: Any, receive: Any, send: Any) -> None:
            await app.asgi_before(one)({**scope, "user": SimpleUser("around"), "auth": None}, receive, send)

        keys += [(await app.store.api_keys.create("laptop", owner=name)).secret for name in ("ada", "bob")]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(around), base_url="http://localhost") as http:
            assert (await http.get("/me")).json() == ["bob", "bob", True, None, ["run"]]


@pytest.mark.parametrize("middleware", [[], [Middleware(BaseHTTPMiddleware, dispatch=passed)]], ids=["bare", "behind"])
async def test_an_upload_may_take_longer_than_a_request_of_ours(
    database_url: str, monkeypatch: pytest.MonkeyPatch, middleware: list[Middleware]
) -> None:
    monkeypatch.setattr(guarded_protocol, "HEAD_SECONDS", 5.0)  # which the head may take on a busy machine
    monkeypatch.setattr(guarded_protocol, "WHOLE_SECONDS", 6.0)  # of silence, which a busy machine may cause
    guest = Starlette(routes=made_guest().routes, middleware=middleware)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(14):
            yield b"piece"
            await asyncio.sleep(0.5)

    async with served_with(guest, {"echo": echo}, database_url) as (_, http):
        assert (await http.post("/upload", content=pieces())).json() == 70
