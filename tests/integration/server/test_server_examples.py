"""The examples of the OpenAPI document work as written, except for the names that are placeholders."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from dialects import BOTH

from trackside.app.server.examples import AGENT, example_of
from trackside.app.server.routes import GROUPS
from trackside.app.server.routing import Endpoint, all_endpoints

DIALECTS = BOTH

# States first: they are changed while no other example's run is going on.
WITH_BODY = sorted(
    (one for one in all_endpoints(GROUPS) if one.body is not None and one.refuses is None),
    key=lambda one: "state" not in one.path,
)
STREAMS_FOR_EVER = ("/threads/{thread_id}/stream/events",)


async def agent(input: Any) -> Any:
    return input


def named(endpoint: Endpoint) -> str:
    return f"{endpoint.method} {endpoint.path}"


@pytest.fixture
async def names(serve_agents: Any) -> Any:
    """A server, and the values for the placeholders in its paths."""
    async with serve_agents({AGENT: agent}) as served, httpx.AsyncClient(base_url=served.url) as http:
        thread = "11111111-1111-4111-8111-111111111111"
        await served.client.runs.wait(thread, AGENT, input={"a": 1}, if_not_exists="create")
        (run,) = (await http.get("/runs")).json()
        await http.post("/subscriptions", json={"name": "letters"})
        found = {"thread_id": thread, "run_id": run["run_id"], "name": "letters", "assistant_id": AGENT}
        if any(endpoint.path == "/runs/crons" for endpoint in WITH_BODY):
            cron = await served.client.crons.create(AGENT, schedule="0 0 1 1 *", input={})
            found["cron_id"] = cron["cron_id"]
        yield http, found


async def test_every_example_is_taken(names: Any) -> None:
    http, found = names
    refused = {}
    for endpoint in WITH_BODY:
        if endpoint.path in STREAMS_FOR_EVER:
            continue
        path = re.sub(r"\{(\w+)(?::\w+)?\}", lambda name: found[name[1]], endpoint.path)
        answer = await http.request(endpoint.method, path, json=example_of(endpoint))
        if answer.status_code >= 300:
            refused[named(endpoint)] = (answer.status_code, answer.text)
    assert not refused


async def test_what_is_refused_says_why_whoever_asks_for_whatever(names: Any) -> None:
    http, found = names
    for endpoint in all_endpoints(GROUPS):
        if endpoint.refuses is not None:
            path = re.sub(r"\{(\w+)(?::\w+)?\}", lambda name: found.get(name[1], "x"), endpoint.path)
            answer = await http.request(endpoint.method, path)
            assert answer.status_code == 501
            assert answer.json() == {"detail": endpoint.refuses, "code": "not-implemented"}
