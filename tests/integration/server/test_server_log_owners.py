"""Only the owner sees what is recorded of his runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from dialects import BOTH
from langgraph_sdk import get_client
from running_server import serving

from trackside.app.server.principal import Permission, Principal
from trackside.app.storage._reading import owner_stats

DIALECTS = BOTH


async def echo(input: Any) -> Any:
    return input


AGENTS = {"echo": echo}


async def first_position(http: httpx.AsyncClient) -> int:
    """The position of the first event that a caller sees who follows everything."""
    async with http.stream("GET", "/events/stream", params={"after": 0}) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                return int(json.loads(line.removeprefix("data: "))["position"])
    raise AssertionError("the stream has ended")


class AskedBy:
    """The app, as if this caller made every request."""

    def __init__(self, app: Any, who: str) -> None:
        self._app = app
        self._who = Principal(identity=who, permission=Permission.run)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app({**scope, "trackside.principal": self._who}, receive, send)


@asynccontextmanager
async def asking(served: Any, who: str) -> AsyncGenerator[tuple[httpx.AsyncClient, Any]]:
    """Two clients of one caller: a plain one, and LangGraph's."""
    async with (
        serving(AskedBy(served.app.asgi, who)) as url,
        httpx.AsyncClient(base_url=url) as http,
        get_client(url=url, api_key=None) as client,
    ):
        yield http, client


async def test_nobody_sees_events_runs_or_totals_of_others(serve_agents: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        serve_agents(AGENTS) as served,
        asking(served, "ann") as (of_ann, ann),
        asking(served, "bob") as (of_bob, bob),
    ):
        await ann.runs.wait(None, "echo", input={"secret": 1}, on_completion="keep")
        (run,) = (await of_ann.get("/runs")).json()
        following = asyncio.create_task(first_position(of_bob))
        await bob.runs.wait(None, "echo", input={}, on_completion="keep")
        first = await following
        mine, theirs = (await of_ann.get("/events")).json(), (await of_bob.get("/events")).json()
        refused = {
            path: (await of_bob.get(path)).status_code
            for path in (
                f"/runs/{run['run_id']}",
                f"/events?run_id={run['run_id']}",
                f"/events?thread_id={run['thread_id']}",
                f"/events/stream?run_id={run['run_id']}",
                f"/events/stream?thread_id={run['thread_id']}",
                f"/stats?thread_id={run['thread_id']}",
            )
        }
        totals = await of_bob.get("/stats")
        over_time = await of_bob.get("/stats/timeline", params={"since": theirs[0]["occurred_at"], "width": 86_400})
        monkeypatch.setattr(owner_stats, "MOST_OWNED", 0)
        too_many = await of_bob.get("/stats")
        admins_only = await of_bob.get("/subscriptions")

    assert {event["run_id"] for event in mine} == {run["run_id"]}
    assert run["run_id"] not in {event["run_id"] for event in theirs}
    assert first == theirs[0]["position"]
    assert set(refused.values()) == {404}, refused
    assert totals.json()["total"]["by_status"] == {"success": 1}
    assert [bucket["total"]["runs"] for bucket in over_time.json()] == [1]
    assert (too_many.status_code, admins_only.status_code) == (403, 403)
    assert "name a shorter time" in too_many.json()["detail"]
