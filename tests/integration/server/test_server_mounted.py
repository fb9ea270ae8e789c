"""The server inside another app, and another app behind the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client
from running_server import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from trackside import RunContext
from trackside.app.settings import Settings
from trackside.app.wiring import App, open_app

DIALECTS = ("sqlite",)


async def slow(input: Any, run: RunContext) -> dict[str, Any]:
    await asyncio.sleep(0.5)  # longer than an answer in one piece may take
    return {"given": input}


async def of_mine(request: Request) -> PlainTextResponse:
    return PlainTextResponse("mine")


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[App]:
    async with open_app(Settings(database_url=database_url), {"slow": slow}) as opened:
        yield opened


async def test_it_answers_where_it_is_mounted(app: App) -> None:
    whole = Starlette(routes=[Route("/mine", of_mine), Mount("/agents", app.asgi)])
    async with serving(whole) as url, get_client(url=f"{url}/agents", api_key=None) as client:
        values = await client.runs.wait(None, "slow", input=1)
        async with httpx.AsyncClient(base_url=url) as plain:
            mine = await plain.get("/mine")
            missing = await plain.get("/agents/nowhere")

    assert values == {"given": 1}
    assert mine.text == "mine"
    assert missing.status_code == 404
    assert "detail" in missing.json()


@pytest.mark.parametrize("path", ["/agents/threads/x/stream/events", "/agents/nowhere"])
async def test_a_websocket_is_closed_where_it_is_mounted(app: App, path: str) -> None:
    said: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        said.append(message)

    scope = {"type": "websocket", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": ""}
    whole = Starlette(routes=[Mount("/agents", app.asgi)])
    await whole({**scope, "scheme": "ws", "headers": [(b"host", b"localhost")], "subprotocols": []}, receive, send)

    assert [message["type"] for message in said] == ["websocket.close"]


@pytest.mark.parametrize(
    ("asked", "place"),
    [
        ("/threads/", "/threads"),
        ("/threads/search/?limit=1&q=%2F%20ü", "/threads/search?limit=1&q=%2F%20%C3%BC"),
        ("/assistants/a%20b%C3%BC/", "/assistants/a%20b%C3%BC"),
        ("/docs/", "/docs"),
    ],
)
async def test_a_slash_too_many_leads_on_at_the_address_that_was_asked(app: App, asked: str, place: str) -> None:
    """Even behind a proxy that ends TLS without the app hearing of it, and that may remove a prefix."""
    transports = {
        "": httpx.ASGITransport(app=without_tls(app.asgi)),
        "/taken/away": httpx.ASGITransport(app=without_tls(app.asgi, prefix="/taken/away")),
        "/mounted": httpx.ASGITransport(app=without_tls(Starlette(routes=[Mount("/mounted", app.asgi)]))),
    }
    for prefix, transport in transports.items():
        async with httpx.AsyncClient(transport=transport, base_url="https://localhost") as http:
            answer = await http.post(f"{prefix}{asked}", json={})
        assert answer.status_code == 307
        assert str(answer.next_request and answer.next_request.url) == f"https://localhost{prefix}{place}"


@pytest.mark.parametrize("root", ["", "/ai"])
async def test_several_slashes_too_many_lead_on_as_well(app: App, root: str) -> None:
    transport = httpx.ASGITransport(app=without_tls(app.asgi, root=root))
    async with httpx.AsyncClient(transport=transport, base_url="https://localhost") as http:
        answer = await http.post(f"{root}/runs/wait//", json={})
    assert str(answer.next_request and answer.next_request.url) == f"https://localhost{root}/runs/wait"


@pytest.mark.parametrize("path", ["/nowhere/", "//elsewhere.test/", "//elsewhere.test/threads/", "///"])
async def test_a_slash_too_many_behind_what_there_is_not_leads_nowhere(app: App, path: str) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app.asgi), base_url="http://localhost") as http:
        assert (await http.get(f"http://localhost{path}")).status_code == 404


async def test_the_root_of_a_prefix_is_found_without_its_slash(app: App) -> None:
    transport = httpx.ASGITransport(app=without_tls(app.asgi, root="/ai"))
    async with httpx.AsyncClient(transport=transport, base_url="https://localhost") as http:
        answer = await http.get("/ai")
    assert str(answer.next_request and answer.next_request.url) == "https://localhost/ai/"


def without_tls(app: Any, *, prefix: str = "", root: str = "") -> Any:
    """Change requests as a proxy in front of the app does."""

    async def passed_on(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"].removeprefix(prefix)
        at = {"scheme": "http", "root_path": root, "path": path, "raw_path": path.encode()}
        await app({**scope, **at}, receive, send)

    return passed_on


async def test_an_app_that_begins_again_is_answered_by_the_server_it_opens_then(database_url: str) -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_app(Settings(database_url=database_url), {"slow": slow}) as opened:
            app.state.trackside = opened
            yield

    async def agents(scope: Any, receive: Any, send: Any) -> None:
        await scope["app"].state.trackside.asgi(scope, receive, send)

    whole = Starlette(routes=[Mount("/agents", agents)], lifespan=lifespan)
    transport = httpx.ASGITransport(app=whole)
    answers = []
    for _ in range(2):
        async with (
            whole.router.lifespan_context(whole),
            httpx.AsyncClient(transport=transport, base_url="http://localhost/agents") as http,
        ):
            answers.append((await http.post("/runs/wait", json={"assistant_id": "slow", "input": 1})).json())

    assert answers == [{"given": 1}, {"given": 1}]


async def test_a_client_that_is_cut_off_finds_its_run_where_the_server_is_mounted(database_url: str) -> None:
    """LangGraph's client appends a `Location` to the URL that it was given."""
    is_cut = asyncio.Event()

    async def held(input: Any, run: RunContext) -> dict[str, Any]:
        await is_cut.wait()
        return {"given": input}

    async with open_app(Settings(database_url=database_url), {"held": held}) as app:
        cut = CutOnce(app.asgi, is_cut)
        async with (
            serving(Starlette(routes=[Mount("/agents", cut)])) as url,
            get_client(url=f"{url}/agents", api_key=None) as client,
        ):
            with pytest.warns(UserWarning, match="attempting reconnect"):
                values = await client.runs.wait(None, "held", input=1, on_completion="keep")

    assert values == {"given": 1}
    assert [path.partition("/runs")[0] for path in cut.paths] == ["/agents", f"/agents/threads/{cut.thread_id}"]


class CutOnce:
    """Cuts off the first answer after its first byte, as a stopping proxy does."""

    def __init__(self, app: Any, is_cut: asyncio.Event) -> None:
        self.paths: list[str] = []
        self._app = app
        self._is_cut = is_cut

    @property
    def thread_id(self) -> str:
        return self.paths[-1].split("/")[3]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        await self._app(scope, receive, send if len(self.paths) > 1 else self._cutting(send))

    def _cutting(self, send: Any) -> Any:
        async def cutting(message: Any) -> None:
            await send(message)
            if message["type"] == "http.response.body":
                self._is_cut.set()
                raise ConnectionResetError("the proxy is stopped")

        return cutting
