"""The console's endpoints, servers with something of Ada's to show, and browsers that go there and fill in its forms."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin
from urllib.parse import quote
from uuid import uuid4

import httpx
import limits  # noqa: F401  # the server imports it in its event loop, and it reads files then
import msgspec
from langgraph.graph import END, START, StateGraph

from trackside.app import dashboard
from trackside.app.server.routing import Endpoint, all_endpoints
from trackside.app.settings import AccessSettings
from trackside.harness import RunContext

type ServeAgents = Callable[..., Any]

ENDPOINTS = all_endpoints(dashboard.GROUPS)
PAGES = [one for one in ENDPOINTS if one.method == "GET" and not one.path.startswith("/ui/static/")]
ACTIONS = [one for one in ENDPOINTS if one.method != "GET"]
FOREIGN = "not sent by a page of this server"
SECRET = "known-to-nobody-but-ada"


def state(values: dict[str, Any]) -> dict[str, Any]:
    return values


def graph() -> Any:
    builder = StateGraph(dict)
    builder.add_node("state", state)
    builder.add_edge(START, "state")
    builder.add_edge("state", END)
    return builder.compile()


async def chat(input: Any, run: RunContext) -> Any:
    run.set_title(str(input))
    return input


async def fails(input: Any, run: RunContext) -> Any:
    raise ValueError(str(input))


AGENTS = {"chat": chat, "fails": fails, "graph": graph()}


class Browser:
    """Somebody's browser, which keeps cookies and knows the token of its pages."""

    def __init__(self, url: str, **options: Any) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=30, **options)

    async def token(self, page: str = "/ui/sign-in?gone=1") -> str:  # which is shown whoever has signed in
        found = re.search(r'name="trackside-token" content="([^"]+)"', (await self.http.get(page)).text)
        assert found is not None
        return html.unescape(found[1])

    async def sign_in(self, key: str, to: str = "/ui", **headers: str) -> httpx.Response:
        form = {"key": key, "next": to, "csrf": await self.token()}
        return await self.http.post("/ui/sign-in", data=form, headers=headers)


@asynccontextmanager
async def browsing(url: str, key: str | None = None) -> AsyncIterator[Browser]:
    browser = Browser(url)
    async with browser.http:
        if key is not None:
            assert (await browser.sign_in(key)).status_code == 303
        yield browser


@asynccontextmanager
async def served_with_keys(serve_agents: ServeAgents, **settings: Any) -> AsyncIterator[tuple[Any, dict[str, str]]]:
    settings = {"access": AccessSettings(auth="keys"), **settings}
    async with serve_agents(AGENTS, **settings) as served:
        made = served.app.store.api_keys
        keys = {
            name: (await made.create("k", owner=owner, permission=permission)).secret
            for name, owner, permission in (
                ("root", "root", "admin"), ("ada", "ada", "run"), ("reader", "ada", "read"), ("bob", "bob", "run")
            )
        }  # fmt: skip
        yield served, keys


async def things_of_ada(url: str, key: str) -> dict[str, Any]:
    """A run that ended and one that failed, on threads, with her secret wherever one may be."""
    async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30) as http:
        metadata = {"note": SECRET, "owner": "ada"}
        thread_id = (await http.post("/threads", json={"metadata": metadata})).json()["thread_id"]
        made = []
        for agent in ("graph", "chat", "fails"):
            body = {"assistant_id": agent, "input": {"text": SECRET}, "metadata": metadata}
            answer = await http.post(f"/threads/{thread_id}/runs", json=body)
            assert answer.status_code == 200, answer.text
            made.append(answer.json()["run_id"])
            await http.get(f"/threads/{thread_id}/runs/{made[-1]}/join")
        return {"thread_id": thread_id, "run_id": made[-1], "run_ids": made}


def filled(endpoint: Endpoint, things: dict[str, Any]) -> str:
    """The path of an endpoint with things in it."""

    def value(found: re.Match[str]) -> str:
        name = found[1].partition(":")[0]
        return quote(str(things.get(name, uuid4() if name.endswith("_id") else "mail")), safe="")

    return re.sub(r"{([^}]+)}", value, endpoint.path)


def form_of(endpoint: Endpoint, things: dict[str, Any]) -> dict[str, Any]:
    """A form that fits, of what has to be in it."""
    form: dict[str, Any] = {}
    for one in msgspec.structs.fields(endpoint.body):
        if one.encode_name in things:
            form[one.encode_name] = things[one.encode_name]
        elif one.required:
            form[one.encode_name] = sample(one.type)
    form.pop("csrf", None)
    return form


def sample(kind: Any) -> Any:
    if get_origin(kind) is Literal:
        return get_args(kind)[0]
    if get_origin(kind) in {Union, UnionType}:
        return sample(next(one for one in get_args(kind) if one is not type(None)))
    if get_origin(kind) is list:
        return [sample(get_args(kind)[0])]
    return {int: 1, float: 1.0, bool: "true"}.get(kind, "x")


async def inventory(store: Any) -> Any:
    """All that actions might change, as it is stored."""
    return (
        [stored.event.event_id for stored in await store.events(limit=1_000)],
        [(one.name, one.state, one.cursor, one.parked) for one in await store.subscriptions.all()],
        sorted(one.run_id for one in await store.runs(limit=100)),
    )


OWN = """
from langgraph_sdk import Auth

auth = Auth()

@auth.authenticate
async def authenticate(authorization: str | None):
    name = (authorization or "").removeprefix("Bearer ")
    if name == "blocked":
        raise Auth.exceptions.HTTPException(status_code=403, detail="You are blocked.")
    assert name.startswith("user-"), "nobody knows you"
    return {"identity": name.removeprefix("user-")}

@auth.on
async def owners(ctx, value):
    filters = {"owner": ctx.user.identity}
    value.setdefault("metadata", {}).update(filters)
    return filters
"""
