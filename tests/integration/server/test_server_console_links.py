"""The links and forms of the console lead to where they should, wherever it is mounted: the tests follow each."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

import httpx
import pytest
from langgraph.graph import END, START, StateGraph
from running_server import serving
from starlette.applications import Starlette
from starlette.routing import Mount

from trackside.app import dashboard
from trackside.app.server.routing import EVENT_STREAM, all_endpoints
from trackside.app.settings import Settings
from trackside.app.storage import Store
from trackside.app.wiring import open_app
from trackside.harness import RunContext
from trackside.harness.ids import new_id
from trackside.harness.lifecycle import is_terminal
from trackside.testing import make_run

DIALECTS = ("sqlite",)
ROOT = "/some/where"
STREAMS = [one.path for one in all_endpoints(dashboard.GROUPS) if one.media_type == EVENT_STREAM]
ACTIONS = [
    re.compile(re.sub(r"{[^}]+}", "[^/]+", one.path)) for one in all_endpoints(dashboard.GROUPS) if one.method == "POST"
]
STRANGE = "a?b#c%20d&e=<f>"
"""A name that has to be escaped in addresses."""


def state(values: dict[str, Any]) -> dict[str, Any]:
    return values


def graph() -> Any:
    builder = StateGraph(dict)
    builder.add_node("state", state)
    builder.add_edge(START, "state")
    builder.add_edge("state", END)
    return builder.compile()


async def chat(input: Any, run: RunContext) -> Any:
    return input


async def fails(input: Any, run: RunContext) -> Any:
    raise ValueError(str(input))


AGENTS = {"graph": graph(), "chat": chat, "fails": fails}


def mounted(app: Any) -> Any:
    """Inside another app."""
    return Starlette(routes=[Mount(ROOT, app)])


def behind_a_proxy(app: Any) -> Any:
    """Behind a proxy that says where the app is, whether or not it removes that from the path."""

    async def proxied(scope: Any, receive: Any, send: Any) -> None:
        assert scope["path"].startswith(ROOT), scope["path"]
        await app({**scope, "root_path": ROOT}, receive, send)

    return proxied


@asynccontextmanager
async def visiting(database_url: str, around: Callable[[Any], Any]) -> AsyncIterator[httpx.AsyncClient]:
    async with open_app(Settings(database_url=database_url), AGENTS) as app:
        await app.store.subscriptions.open(STRANGE, start="beginning")
        async with serving(around(app.asgi)) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
            for agent in AGENTS:
                thread_id = (await http.post(f"{ROOT}/threads", json={})).json()["thread_id"]
                for _ in range(2):
                    body = {"assistant_id": agent, "input": {"text": "hello"}}
                    run_id = (await http.post(f"{ROOT}/threads/{thread_id}/runs", json=body)).json()["run_id"]
                    await http.get(f"{ROOT}/threads/{thread_id}/runs/{run_id}/join")
            yield http


def like(address: str) -> str:
    """An address without the ids and names that tell pages of one kind apart, and without the values of filters."""
    path, _, query = address.partition("?")
    names = sorted({pair.partition("=")[0] for pair in query.split("&")})
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|graph|chat|fails", "*", path) + "?" + "&".join(names)


@pytest.mark.parametrize("around", [mounted, behind_a_proxy])
async def test_every_link_and_every_form_leads_somewhere(database_url: str, around: Callable[[Any], Any]) -> None:
    async with visiting(database_url, around) as http:
        waiting, seen, wrong = [(f"{ROOT}/ui", "")], set[str](), list[str]()
        while waiting:
            address, whence = waiting.pop(0)
            if like(address) in seen:
                continue
            seen.add(like(address))
            answer = await http.get(address)
            if answer.status_code != 200:
                wrong.append(f"{address} (on {whence}): {answer.status_code} {answer.text[:200]}")
            if not answer.headers["content-type"].startswith("text/html") or not address.startswith(f"{ROOT}/ui"):
                continue
            text = re.sub(r"<template.*?</template>", "", answer.text, flags=re.DOTALL)  # scripts fill these in
            for found in re.findall(r'\s(?:action|formaction|data-hx-post)="([^"]+)"', text):
                target = html.unescape(found).partition("?")[0]
                posts = any(one.fullmatch(target.removeprefix(ROOT)) for one in ACTIONS)
                gets = target.removeprefix(ROOT) in {"/ui", "/ui/runs", "/ui/threads", "/ui/log"}
                if not target.startswith(f"{ROOT}/") or not (posts or gets or "/ui/threads/" in target):
                    wrong.append(f"a form on {address} goes to {target}")
            live = re.search(r'data-live="([^"]*)"', text)
            if live is not None and live[1].strip() and html.unescape(live[1]).strip().partition("?")[0] not in STREAMS:
                wrong.append(f"{address} follows {live[1]}")
            for found in re.findall(r'\s(?:href|src)="([^"]*)"', text):
                target = urldefrag(urljoin(address, html.unescape(found))).url
                if not target.startswith(f"{ROOT}/"):
                    wrong.append(f"a link on {address} leads to {found}")
                elif "/static/" not in target and target.partition("?")[0] != f"{ROOT}/metrics":
                    waiting.append((target, address))
        assert not wrong, "\n".join(wrong)
        paths = {one.partition("?")[0].removeprefix(ROOT) for one in seen}
        assert {
            "/ui/runs/*",
            "/ui/threads/*",
            "/ui/agents/*",
            "/ui/log",
            "/ui/system",
            "/events",
            "/threads/*/state",
        } <= paths
        assert any(path.startswith("/ui/subscriptions/") for path in paths)


@pytest.mark.parametrize("name", ["order 7", "acme/42", "/acme//42/", "01A21687-8CBE-7000-8B6D-14A2352DFE24"])
async def test_a_thread_has_a_page_however_it_is_called(database_url: str, name: str) -> None:
    async with visiting(database_url, mounted) as http, Store.open(database_url) as store:
        # A name that differs only by its capitals is another thread, which the API serves.
        of_it, of_another = new_id(), new_id()
        events = make_run(of_it, thread_id=name)
        end = next(event for event in events if is_terminal(event.event_type))
        end.payload["completion_data"]["last_ai_message"] = "It is done."
        await store.append(events)
        if name != name.lower():
            await store.append(make_run(of_another, thread_id=name.lower()))
        listed = (await http.get(f"{ROOT}/ui/threads")).text
        links = re.findall(rf'href="({ROOT}/ui/threads/[^"?]+)" title="{re.escape(name)}"', listed)
        page = await http.get(links[0])
        run = (await http.get(f"{ROOT}/ui/runs/{of_it}")).text

        assert (page.status_code, len(links)) == (200, 1)
        assert f"Thread <bdi>{name}</bdi>" in page.text
        assert of_it in page.text
        assert of_another not in page.text
        assert f"trackside delete run {of_it}" in run
        assert "It is done." in run
        of_api = re.compile(rf'href="({ROOT}/(?!ui)[^"]*)"')
        twins = {html.unescape(link) for link in of_api.findall(run)}
        assert twins >= {f"{ROOT}/runs/{of_it}", f"{ROOT}/events?run_id={of_it}"}
        assert {twin: (await http.get(twin)).status_code for twin in twins} == dict.fromkeys(twins, 200)
        assert "/threads/" not in "".join(re.findall(r"<pre[^>]*Commands.*?</pre>", run, re.DOTALL))

        gone = await http.get(f"{ROOT}/ui/threads/acme/43")
        slash = await http.get(f"{ROOT}/ui/threads/acme/")
        assert (gone.status_code, slash.status_code, slash.headers["location"]) == (404, 308, f"{ROOT}/ui/threads/acme")


async def test_numbers_lead_to_as_many_runs_as_they_say(database_url: str) -> None:
    """Totals include runs that were deleted since, and no agent's list has runs that never started."""
    async with visiting(database_url, mounted) as http:
        deleted = (await http.get(f"{ROOT}/runs", params={"agent": "fails"})).json()[0]
        await http.delete(f"{ROOT}/threads/{deleted['thread_id']}/runs/{deleted['run_id']}")
        for agent in ("chat", "graph"):
            thread_id = (await http.post(f"{ROOT}/threads", json={})).json()["thread_id"]
            body = {"assistant_id": agent, "after_seconds": 3_600}
            run_id = (await http.post(f"{ROOT}/threads/{thread_id}/runs", json=body)).json()["run_id"]
        await http.post(f"{ROOT}/threads/{thread_id}/runs/{run_id}/cancel", params={"wait": True})
        link = rf'href="({ROOT}/ui/runs[?][^"]*)">'
        numbers = {
            "/ui/agents": [link + r"([0-9]+)</a>"],
            "/ui": [
                link + r'<b data-figure="(?:runs|failed|queued|running)">([0-9]+)<',
                link + r"([0-9]+)</a></td>\s*<td><svg",
            ],
        }
        found = {page: list[int]() for page in numbers}
        for page, patterns in numbers.items():
            text = (await http.get(ROOT + page)).text
            for href, said in [match for pattern in patterns for match in re.findall(pattern, text)]:
                query = urlsplit(html.unescape(href)).query
                behind = (await http.get(f"{ROOT}/runs?{query}&limit=1000")).json()
                assert len(behind) == int(said), (page, query, said)
                found[page].append(int(said))
        assert sorted(found["/ui/agents"]) == [2, 2, 3, 3], "the runs of each agent, and both that failed"
        assert sorted(found["/ui"]) == [0, 1, 2, 2, 3, 3, 8], "running, queued, failed, runs of agents, and all runs"


@pytest.mark.parametrize("around", [mounted, behind_a_proxy])
async def test_a_slash_too_many_leads_to_the_page(database_url: str, around: Callable[[Any], Any]) -> None:
    async with visiting(database_url, around) as http:
        for page in ("/ui", "/ui/runs", "/ui/subscriptions", "/ui/subscriptions/mail"):
            answer = await http.get(f"{ROOT}{page}/")
            assert answer.headers["location"] == ROOT + page
            filtered = await http.get(f"{ROOT}{page}/?status=error&agent=a%26b%20%C3%A9")
            assert filtered.headers["location"] == f"{ROOT}{page}?status=error&agent=a%26b%20%C3%A9"
        assert (await http.get(f"{ROOT}/ui//evil.example//")).headers["location"] == f"{ROOT}/ui//evil.example"

        async with Store.open(database_url) as store:
            await store.subscriptions.open("mail/", start="beginning")
        named = await http.get(f"{ROOT}/ui/subscriptions/mail/")
        assert named.status_code == 200, "one that is called so has a page"


async def test_agents_have_a_page_whatever_they_are_called(database_url: str) -> None:
    """A name is one segment of an address's path: browsers take `a/b` for two segments, and `..` for none."""
    names = ["plain", "team/chat", "src/agents.py:ask", ".", "..", "a b", STRANGE, "é中🙂"]
    async with (
        open_app(Settings(database_url=database_url), dict.fromkeys(names, chat)) as app,
        serving(app.asgi) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as http,
    ):
        for name in names:
            thread_id = (await http.post("/threads", json={})).json()["thread_id"]
            await http.post(f"/threads/{thread_id}/runs/wait", json={"assistant_id": name, "input": {"text": "hello"}})
            for page in ("/ui/agents", "/ui/threads", f"/ui/threads/{thread_id}"):
                shown = (await http.get(page)).text
                links = re.findall(r'href="(/ui/agents/[^"#]+)[^"]*"[^>]*>(?:<bdi>([^<]*)</bdi>)?', shown)
                named = [href for href, text in links if html.unescape(text) in {name, ""}]
                assert named, (page, name)
                for href in named:
                    answer = await http.get(urljoin(f"{url}{page}", html.unescape(href)))
                    assert (answer.status_code, f"<h1><bdi>{html.escape(name)}</bdi></h1>" in answer.text) == (
                        200,
                        True,
                    ), href
