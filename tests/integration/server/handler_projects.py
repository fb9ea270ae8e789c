"""Projects with authorization handlers: what these say, graphs that tell what they got, and clients of several people."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypedDict

import httpx
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from langgraph_sdk import get_client

from trackside.app.server.crons import CronScheduler

NOWHERE = "11111111-1111-4111-8111-111111111111"

AUTH = """
from langgraph_sdk import Auth

auth = Auth()

@auth.authenticate
async def authenticate(authorization: str):
    name, _, permissions = authorization.removeprefix("Bearer ").partition(":")
    return {"identity": name, "permissions": permissions.split(",") if permissions else [], "api_token": "t-" + name}

"""

OWNERS = (
    AUTH
    + """
@auth.on
async def add_owner(ctx, value):
    filters = {"owner": ctx.user.identity}
    value.setdefault("metadata", {}).update(filters)
    return filters
"""
)
"""The one handler of LangGraph's tutorial."""

EACH = (
    AUTH
    + """
@auth.on
async def deny_all(ctx, value):
    return False

@auth.on.threads.create
async def create(ctx, value):
    value.setdefault("metadata", {})["owner"] = ctx.user.identity

@auth.on.threads.create_run
async def start(ctx, value):
    value.setdefault("metadata", {})["owner"] = ctx.user.identity
    return {"owner": ctx.user.identity}

@auth.on.threads.read
async def read(ctx, value):
    return {"owner": ctx.user.identity}

@auth.on.threads.search
async def search(ctx, value):
    return {"owner": {"$eq": ctx.user.identity}}

@auth.on.store
async def scope_store(ctx, value):
    namespace = tuple(value["namespace"]) if value.get("namespace") else ()
    if not namespace or namespace[0] != ctx.user.identity:
        namespace = (ctx.user.identity, *namespace)
    value["namespace"] = namespace
"""
)
"""The example of the SDK's docstring."""

SHARED = (
    AUTH
    + """
@auth.on.threads
async def members(ctx, value):
    if "admin" in ctx.permissions:
        return True
    if ctx.action in ("create", "create_run"):
        value["metadata"].setdefault("members", [ctx.user.identity])
    if ctx.action in ("update", "delete", "create_run") and "reader" in ctx.permissions:
        return False
    return {"members": {"$contains": ctx.user.identity}}

@auth.on.crons
async def crons(ctx, value):
    value["metadata"]["made_by"] = ctx.user["identity"]
    return {"made_by": ctx.user.identity}
"""
)
"""Threads of several people, some of whom only look."""


class Text(TypedDict):
    text: str


def graph() -> Any:
    builder = StateGraph(Text)
    builder.add_node("say", lambda state: {"text": state["text"] + "!"})
    builder.add_edge(START, "say")
    builder.add_edge("say", END)
    return builder.compile()


class Tenant(TypedDict, total=False):
    tenant: str


def telling() -> Any:
    """Asks the tenant for whom it runs, and tells what he has answered."""

    def note(state: Text, runtime: Runtime[Tenant]) -> Text:
        return {"text": f"{state['text']}, {(runtime.context or {}).get('tenant')}?"}

    def ask(state: Text, runtime: Runtime[Tenant]) -> Text:
        return {"text": f"{(runtime.context or {}).get('tenant')}: {interrupt(state['text'])}"}

    builder = StateGraph(Text, context_schema=Tenant).add_node("note", note).add_node("ask", ask)
    return builder.add_edge(START, "note").add_edge("note", "ask").compile()


class Place:
    """A server whose clients say who they are."""

    def __init__(self, served: Any) -> None:
        self.served = served

    @asynccontextmanager
    async def clients(self, *names: str) -> AsyncIterator[list[Any]]:
        made = [
            get_client(url=self.served.url, api_key=None, headers={"Authorization": f"Bearer {name}"}) for name in names
        ]
        try:
            yield made
        finally:
            for client in made:
                await client.aclose()

    def http(self, name: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.served.url, headers={"Authorization": f"Bearer {name}"}, timeout=30)


def spec_for(app: Any, cron: Any) -> Any:
    """What the scheduler starts for a cron."""
    return CronScheduler(app.store.crons, app.manager)._spec(cron, datetime.now(UTC))


async def refused(asked: Any) -> int:
    with pytest.raises(httpx.HTTPStatusError) as failure:
        await asked
    return failure.value.response.status_code


async def command(client: Any, thread_id: str, method: str, **params: Any) -> Any:
    return await client.http.post(f"/threads/{thread_id}/commands", json={"id": 1, "method": method, "params": params})


async def done(client: Any, thread_id: str, method: str, **params: Any) -> str:
    """Until the run that a command starts is over; which one it is."""
    run_id: str = (await command(client, thread_id, method, **params))["result"]["run_id"]
    await client.runs.join(thread_id, run_id)
    return run_id
