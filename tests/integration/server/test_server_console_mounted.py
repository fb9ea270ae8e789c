"""The console of an app that is mounted, stands before another or has none, and beside a server with sessions of its own."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any

import httpx
from running_server import serving
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from tests.integration.server.console_visits import (
    AGENTS,
    ENDPOINTS,
    PAGES,
    Browser,
    browsing,
    filled,
    served_with_keys,
    things_of_ada,
)

from trackside.app.server.guest import living
from trackside.app.server.routing import EVENT_STREAM
from trackside.app.settings import AccessSettings, ServerSettings, Settings
from trackside.app.wiring import open_app

DIALECTS = ("sqlite",)

type ServeAgents = Callable[..., Any]


async def test_it_is_there_where_it_is_mounted(database_url: str) -> None:
    settings = Settings(database_url=database_url, access=AccessSettings(auth="keys"))
    async with open_app(settings, AGENTS) as app:
        key = (await app.store.api_keys.create("k", owner="root", permission="admin")).secret
        whole = Starlette(routes=[Route("/", lambda _: PlainTextResponse("mine")), Mount("/agents", app.asgi)])
        async with serving(whole) as url:
            things = await things_of_ada(f"{url}/agents", key)
            browser = Browser(url)
            async with browser.http as http:
                assert (await http.get("/")).text == "mine"
                assert (await http.get("/agents/")).headers["location"] == "/agents/ui"
                first = await http.get("/agents/ui")
                assert first.headers["location"] == "/agents/ui/sign-in?next=%2Fui"
                refused = await http.post("/agents/ui/runs/cancel", headers={"referer": f"{url}/agents/ui/threads"})
                assert refused.headers["location"] == "/agents/ui/sign-in?next=%2Fui%2Fthreads"
                token = await browser.token("/agents/ui/sign-in")
                form = {"key": key, "next": "/ui/runs", "csrf": token}
                done = await http.post("/agents/ui/sign-in", data=form)
                assert done.headers["location"] == "/agents/ui/runs"
                assert "Path=/agents" in done.headers["set-cookie"].split("; ")
                for endpoint in PAGES:
                    if endpoint.media_type == EVENT_STREAM:
                        continue
                    page = await http.get("/agents" + filled(endpoint, things))
                    if endpoint.path == "/ui/sign-in":  # he has signed in already
                        assert (page.status_code, page.headers["location"]) == (303, "/agents/ui")
                        continue
                    assert page.status_code in {200, 404}, (endpoint.path, page.text[-500:])
                    links = re.findall(r'(?:href|src|action|data-hx-get|data-hx-post)="([^"]*)"', page.text)
                    assert links or "<html" not in page.text
                    for link in links:
                        assert link == "" or link.startswith(("/agents/", "#", "?")), (endpoint.path, link)
                    for link in {link for link in links if "/static/" in link}:
                        assert (await http.get(html.unescape(link))).status_code == 200
                assert (await http.post("/agents/threads", json={})).status_code == 403
                headers = {"x-csrf-token": await browser.token("/agents/ui")}
                assert (await http.post("/agents/threads", json={}, headers=headers)).status_code == 200
                ours = {name: http.cookies[name] for name in ("trackside_session", "trackside_token")}
            # Another app of ours at `/` has cookies of the same names, which browsers send behind those of the longer path.
            both = "; ".join(f"{name}={value}" for pair in ours.items() for name, value in (pair, (pair[0], "theirs")))
            async with httpx.AsyncClient(base_url=url, headers={"cookie": both}) as http:
                assert (await http.get("/agents/ui")).status_code == 200
                assert (await http.post("/agents/threads", json={}, headers=headers)).status_code == 200


async def test_an_app_behind_ours_keeps_what_is_its_own(database_url: str) -> None:
    async def mine(request: Any) -> PlainTextResponse:
        return PlainTextResponse(f"mine: {request.url.path}")

    theirs = Starlette(
        routes=[Route("/", mine), Route("/ui", mine), Route("/ui/{rest:path}", mine), Route("/me", mine)]
    )
    for console in (True, False):
        settings = Settings(database_url=database_url, server=ServerSettings(console=console))
        async with (
            open_app(settings, AGENTS) as app,
            living(theirs, name="theirs") as guest,
            serving(app.asgi_before(guest)) as url,
            httpx.AsyncClient(base_url=url) as http,
        ):
            assert (await http.get("/")).text == "mine: /"
            assert (await http.get("/me")).text == "mine: /me"
            ours = await http.get("/ui/runs")
            assert ("mine" in ours.text) is not console
            assert ("Trackside" in ours.text) is console


async def test_where_nobody_is_asked_the_session_of_another_server_counts_for_nothing(database_url: str) -> None:
    """Browsers send cookies to all ports of a host."""

    async def order(request: Any) -> PlainTextResponse:
        return PlainTextResponse(f"ordered with {request.headers.get('x-api-key')}")

    theirs = Starlette(routes=[Route("/order", order, methods=["GET", "POST"])])
    async with (
        open_app(Settings(database_url=database_url), AGENTS) as app,
        living(theirs, name="theirs") as guest,
        serving(app.asgi_before(guest)) as url,
        browsing(url) as browser,
    ):
        browser.http.cookies.set("trackside_session", "of-another-server")
        ours = {"origin": url, "sec-fetch-site": "same-origin"}
        form = await browser.http.post("/order", data={"what": "tea"}, headers=ours)
        made = await browser.http.post("/threads", json={}, headers=ours)
        looked = await browser.http.get("/order", headers={"sec-fetch-site": "same-site"})
        page = await browser.http.get("/ui")
        without = await browser.http.post("/ui/runs/cancel", data={"run_ids": ["x"]}, headers=ours)
        token = await browser.token("/ui")
        with_it = await browser.http.post("/ui/runs/cancel", data={"run_ids": ["x"], "csrf": token}, headers=ours)

    assert (form.status_code, form.text, made.status_code) == (200, "ordered with None", 200)
    assert (looked.status_code, looked.text) == (200, "ordered with None")
    assert (page.status_code, "Sign out" in page.text) == (200, False)
    assert (without.status_code, with_it.status_code) == (403, 303), "pages of ours have tokens all the same"


async def test_without_the_console_there_is_no_page(serve_agents: ServeAgents) -> None:
    async with served_with_keys(serve_agents, server=ServerSettings(console=False)) as (served, keys):
        async with httpx.AsyncClient(base_url=served.url, headers={"x-api-key": keys["root"]}) as http:
            for endpoint in ENDPOINTS:
                answer = await http.request(endpoint.method, filled(endpoint, {}))
                assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
            assert (await http.get("/")).headers["location"] == "/docs"
        cookies = {"trackside_session": keys["root"]}
        async with httpx.AsyncClient(base_url=served.url, cookies=cookies) as http:
            assert (await http.get("/runs")).status_code == 401, "then no cookie says who asks"
