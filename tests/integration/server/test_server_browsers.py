"""Web pages: this machine's may use a server that checks no callers, others may not, whatever their names mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from trackside.app.settings import AccessSettings, load_settings

DIALECTS = ("sqlite",)

type ServeAgents = Callable[..., Any]


async def echo(input: Any) -> Any:
    return input


RUN = {"assistant_id": "echo", "input": {"a": 1}}


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://localhost.evil.example", "null", "http://127.0.0.1.evil.example", "file://", "",
     "chrome-extension://abc", "http://evil.example:2024", "https://[::1].evil.example", "http://user@evil.example"],
)  # fmt: skip
async def test_a_page_of_elsewhere_drives_nothing(serve_agents: ServeAgents, origin: str) -> None:
    async with serve_agents({"echo": echo}) as served, httpx.AsyncClient(base_url=served.url) as http:
        for method, path, body in (("POST", "/runs", RUN), ("GET", "/events", None), ("GET", "/ok", None)):
            answer = await http.request(method, path, json=body, headers={"origin": origin})
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers
        preflight = {"origin": origin, "access-control-request-method": "POST"}
        assert "access-control-allow-origin" not in (await http.options("/runs", headers=preflight)).headers
        assert await served.app.store.events() == []


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:2024", "169.254.0.1", "localhost.evil.example", "[::2]", "a b"]
)
async def test_a_name_that_was_made_to_mean_this_machine_gets_nowhere(serve_agents: ServeAgents, host: str) -> None:
    async with serve_agents({"echo": echo}) as served, httpx.AsyncClient(base_url=served.url) as http:
        answer = await http.post("/runs", json=RUN, headers={"host": host})
        assert answer.status_code == 403
        assert "server.hosts" in answer.json()["detail"]
        assert await served.app.store.events() == []


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "http://127.0.0.1:5173", "http://[::1]", "https://app.localhost"]
)
async def test_a_page_of_this_machine_uses_it_as_any_client(serve_agents: ServeAgents, origin: str) -> None:
    async with serve_agents({"echo": echo}) as served, httpx.AsyncClient(base_url=served.url) as http:
        preflight = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type,x-api-key,last-event-id",
        }
        allowed = await http.options("/runs/wait", headers=preflight)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == origin
        assert "last-event-id" in allowed.headers["access-control-allow-headers"]
        answer = await http.post("/runs/wait", json=RUN, headers={"origin": origin})
        assert answer.json() == {"a": 1}
        assert answer.headers["access-control-allow-origin"] == origin
        exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
        assert exposed >= {"Location", "Content-Location", "X-Pagination-Next", "X-Pagination-Total"}
        assert "access-control-allow-credentials" not in answer.headers


async def test_other_names_and_pages_are_let_in_by_name(serve_agents: ServeAgents) -> None:
    access = AccessSettings(hosts=("agents.example",), origins=("https://app.example",))
    async with serve_agents({"echo": echo}, access=access) as served, httpx.AsyncClient(base_url=served.url) as http:
        headers = {"host": "agents.example:8000", "origin": "https://app.example"}
        answer = await http.post("/runs/wait", json=RUN, headers=headers)
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert (await http.get("/ok", headers={"origin": "https://other.example"})).status_code == 403


async def test_a_page_of_the_servers_own_is_let_in_under_each_name_that_it_goes_by(serve_agents: ServeAgents) -> None:
    named, any_name = AccessSettings(hosts=("agents.example", "[fd00::5]")), AccessSettings(hosts=("*",))
    for access, host, origin, status in (
        (named, "agents.example", "https://agents.example", 200),
        (named, "Agents.example:8443", "https://agents.example:8443", 200),
        (named, "[fd00:0::5]:80", "http://[fd00::5]", 200),
        (named, "agents.example:443", "https://agents.example", 200),
        (named, "agents.example:80", "https://agents.example", 403),
        (named, "agents.example", "https://agents.example:8443", 403),
        (named, "agents.example", "https://other.example", 403),
        (named, "localhost", "https://agents.example", 403),
        (any_name, "rebound.example", "http://rebound.example", 403),
    ):
        async with (
            serve_agents({"echo": echo}, access=access) as served,
            httpx.AsyncClient(base_url=served.url) as http,
        ):
            answer = await http.post("/runs/wait", json=RUN, headers={"host": host, "origin": origin})
            assert answer.status_code == status, (host, origin)


@pytest.mark.parametrize("host", ["[fd00::5]", "[fd00::5]:2024", "[FD00:0::5]:80"])
async def test_a_server_goes_by_an_address_too(serve_agents: ServeAgents, host: str) -> None:
    access = AccessSettings(hosts=("[fd00::5]",))
    async with serve_agents({"echo": echo}, access=access) as served, httpx.AsyncClient(base_url=served.url) as http:
        assert (await http.get("/ok", headers={"host": host})).status_code == 200
        assert (await http.get("/ok", headers={"host": "[fd00::6]"})).status_code == 403


async def test_a_page_is_let_in_however_its_origin_is_typed(serve_agents: ServeAgents, tmp_path: Path) -> None:
    typed = {"TRACKSIDE_SERVER_ORIGINS": "https://App.Example:443, http://10.0.0.7:3000"}
    access = load_settings(environ=typed, folder=tmp_path).access
    async with serve_agents({"echo": echo}, access=access) as served, httpx.AsyncClient(base_url=served.url) as http:
        for origin in ("https://app.example", "http://10.0.0.7:3000"):  # as browsers write it
            preflight = {"origin": origin, "access-control-request-method": "POST"}
            for answer in (await http.options("/runs", headers=preflight), await http.get("/ok", headers=preflight)):
                assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)


async def test_with_keys_pages_share_nothing_unless_they_are_named(serve_agents: ServeAgents) -> None:
    access = AccessSettings(auth="keys", origins=("https://app.example",))
    async with serve_agents({"echo": echo}, access=access) as served, httpx.AsyncClient(base_url=served.url) as http:
        key = (await served.app.store.api_keys.create("k", owner="ada")).secret
        for origin, shared in (
            ("https://app.example", True),
            ("https://other.example", False),
            ("http://localhost", False),
        ):
            answer = await http.post("/runs/wait", json=RUN, headers={"origin": origin, "x-api-key": key})
            assert ("access-control-allow-origin" in answer.headers) is shared
            refused = await http.post("/runs/wait", json=RUN, headers={"origin": origin})
            assert refused.status_code == 401
            assert ("access-control-allow-origin" in refused.headers) is shared


async def test_what_is_answered_is_nothing_else(serve_agents: ServeAgents) -> None:
    async with serve_agents({"echo": echo}) as served, httpx.AsyncClient(base_url=served.url) as http:
        for path, status in (("/ok", 200), ("/nothing", 404), ("/runs/wait", 405), ("/threads/x", 422)):
            answer = await http.get(path)
            assert answer.status_code == status
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
            assert "server" not in answer.headers or answer.headers["server"] == "uvicorn"
        page = await http.get("/docs")
        assert page.headers["content-security-policy"].count("default-src") == 1
        assert page.headers["content-security-policy"] != answer.headers["content-security-policy"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
async def test_what_a_form_may_send_without_being_asked_is_no_request(serve_agents: ServeAgents, kind: str) -> None:
    async with serve_agents({"echo": echo}) as served, httpx.AsyncClient(base_url=served.url) as http:
        body = b'{"assistant_id": "echo", "input": {"a": 1}}'
        answer = await http.post("/runs", content=body, headers={"content-type": kind})
        assert answer.status_code == 415
        assert await served.app.store.events() == []
        assert (await http.post("/runs/wait", content=body)).status_code == 200
        assert len(await served.app.store.events()) > 0


async def test_a_text_that_no_page_of_elsewhere_can_send_is_a_request(serve_agents: ServeAgents) -> None:
    """`langgraph-nextjs-api-passthrough`, a proxy between one's own page and the server, sends requests like this."""
    plain = {"content-type": "text/plain;charset=UTF-8", "x-api-key": ""}
    async with serve_agents({"echo": echo}) as served, httpx.AsyncClient(base_url=served.url, headers=plain) as http:
        assert (await http.post("/runs/wait", content=b'{"assistant_id": "echo", "input": {"a": 1}}')).json() == {
            "a": 1
        }
        for kind in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            assert (await http.post("/runs/wait", content=b"{}", headers={"content-type": kind})).status_code == 415
        asked = {"origin": "https://other.example", "access-control-request-method": "POST"}
        may = await http.options("/runs/wait", headers={**asked, "access-control-request-headers": "x-api-key"})
        assert "access-control-allow-origin" not in may.headers
