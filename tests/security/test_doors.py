"""Without a good key a client gets nothing but what is for everybody, whatever way its request comes.

The ways are the routes of the served app, with its console. `tests/integration/server/test_server_walk.py` walks the
endpoints' bodies and queries; this module tests the doors.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from trackside.app.settings import AccessSettings, Settings
from trackside.app.wiring import open_app

PUBLIC = {
    "/",
    "/docs",
    "/health/live",
    "/health/ready",
    "/info",
    "/ok",
    "/openapi.json",
    "/ui/sign-in",
    "/ui/sign-out",
}
"""What is open to everybody, besides the console's files: each line here is a decision."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
BAD_KEYS: list[dict[str, str]] = [
    {},
    {"x-api-key": ""},
    {"x-api-key": "ts_" + "0" * 12 + "_" + "0" * 64},
    {"authorization": "Bearer null"},
    {"authorization": "Basic YWRtaW46YWRtaW4="},
    {"cookie": "trackside_session=ts_000000000000_" + "0" * 64},
    {"x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1", "forwarded": "for=127.0.0.1", "host": "localhost"},
    {"x-original-url": "/ok", "x-rewrite-url": "/ok"},
]


async def echo(input: Any) -> Any:
    return input


@pytest.fixture
async def app(tmp_path: Path, sqlite_with_tables: Path) -> AsyncIterator[Any]:
    path = tmp_path / "runs.db"
    path.write_bytes(sqlite_with_tables.read_bytes())
    settings = Settings(database_url=f"sqlite:///{path}", access=AccessSettings(auth="keys"))
    async with open_app(settings, {"echo": echo}) as opened:
        yield opened.asgi


def paths_of(app: Any) -> list[str]:
    return [re.sub(r"{[^}]+}", "x", route.path) for route in app.routes]


def is_closed(answer: httpx.Response) -> bool:
    """A refusal, or for people a redirect to the sign-in page."""
    to_sign_in = answer.status_code == 303 and answer.headers["location"].startswith("/ui/sign-in")
    by_cookie = (
        "cookie" in answer.request.headers and answer.status_code == 403
    )  # a cookie means nothing without a page of ours
    return answer.status_code == 401 or by_cookie or (to_sign_in and not answer.content)


async def test_every_route_is_closed_to_whoever_brings_no_good_key(app: Any) -> None:
    paths = paths_of(app)
    assert len(paths) > 100
    assert any(path.startswith("/ui/runs") for path in paths), "the console is among them"
    assert {"/metrics", "/workers", "/system"} <= set(paths), "and what is for admins"
    opened: list[str] = []
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
        for path in [*paths, "/nothing", "/ui/nothing", "/.env", "/debug"]:
            if path in PUBLIC or path.startswith("/ui/static/"):
                continue
            for method in METHODS:
                for headers in BAD_KEYS if method in {"GET", "POST"} else BAD_KEYS[:1]:
                    answer = await http.request(method, path, headers=headers)
                    if not is_closed(answer):
                        opened.append(f"{method} {path} {headers}: {answer.status_code} {answer.text[:100]}")
    assert not opened, "\n".join(opened)


async def test_what_is_for_everybody_is_what_was_meant(app: Any) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://server") as http:
        found = {path for path in paths_of(app) if not is_closed(await http.get(path))}
    assert {path for path in found if not path.startswith("/ui/static/")} == PUBLIC


@pytest.mark.parametrize(
    "path",
    [
        "/ok/../threads/x",
        "/ok/..%2fthreads/x",
        "/ok%2f..%2fthreads/x",
        "/ok;/threads/x",
        "//threads/x",
        "/./threads/x",
        "/THREADS/x",
        "/threads/x/",
        "/threads/x%00",
        "/threads/x%2e",
        "/ui/static/../../threads/x",
        "/ui/static/..%2f..%2fthreads%2fx",
        "/ui/sign-in/../runs",
        "/ui/sign-in%2f..%2fruns",
        "/ui//runs",
        "/docs/../metrics",
        "/openapi.json/../metrics",
        "/health/live/../../metrics",
    ],
)
async def test_no_other_spelling_of_a_path_opens_a_door(app: Any, path: str) -> None:
    """The path goes to the app as it stands, because clients would change it."""
    sent: list[Any] = []
    raw = path.encode()
    decoded = httpx.URL(f"http://server{path}").path if "%" in path else path
    await app(
        {
            "type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": decoded, "raw_path": raw,
            "query_string": b"", "root_path": "", "headers": [(b"host", b"server")], "server": ("server", 80),
            "client": ("198.51.100.7", 1),
        },
        _nothing_more,
        _into(sent),
    )  # fmt: skip
    assert sent[0]["status"] in {303, 401}, sent


@pytest.mark.parametrize("path", ["/threads/x/stream", "/ok", "/", "/ui/live", "/nothing"])
async def test_no_websocket_is_opened_by_a_stranger(app: Any, path: str) -> None:
    """A mounted app may have some; the door stands before all of them."""
    sent: list[Any] = []
    scope = {"type": "websocket", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
             "headers": [(b"host", b"server")], "subprotocols": [], "scheme": "ws"}  # fmt: skip
    try:
        await app(scope, _connects, _into(sent))
    except AssertionError:  # how Starlette's routes say that they are for HTTP alone
        assert path in PUBLIC
    assert "websocket.accept" not in [message["type"] for message in sent]
    assert path in PUBLIC or sent[0]["type"] == "websocket.close"


def _into(sent: list[Any]) -> Any:
    async def send(message: Any) -> None:
        sent.append(message)

    return send


async def _nothing_more() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _connects() -> Any:
    return {"type": "websocket.connect"}
