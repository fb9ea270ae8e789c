"""What a server says of the fleet to operators, and of what keeps a run waiting to whoever has asked for it."""

from __future__ import annotations

import asyncio
import os
from typing import Any
from uuid import uuid4

import httpx
from tests.integration.server.test_server_walk import keys_of

from trackside.app.settings import AccessSettings
from trackside.harness import RunContext


async def echo(input: Any) -> Any:
    return input


class Held:
    """An agent whose runs go on until they are let go."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.let_go = asyncio.Event()

    async def __call__(self, input: Any, run: RunContext) -> Any:
        self.begun.set()
        await self.let_go.wait()
        return input


async def test_a_server_that_executes_its_runs_itself_is_the_only_process_and_no_pool_waits(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served, httpx.AsyncClient(base_url=served.url) as http:
        await http.post("/runs/wait", json={"assistant_id": "echo", "input": 1})
        (worker,) = (await http.get("/workers")).json()
        queue = (await http.get("/queue")).json()
        missing = await http.post(f"/workers/{uuid4()}/drain")
        nonsense = await http.post("/workers/no%20such%00one/drain")

    assert worker["name"].endswith(f":{os.getpid()}")
    assert worker.items() >= {"kind": "inline", "is_this": True, "draining": False, "pools": []}.items()
    assert 0 < worker["seconds_left"] <= 60
    assert worker["started_at"] <= worker["last_seen_at"]
    assert [pool for pool in queue["pools"] if pool["ready"] or pool["workers"]] == []
    assert queue["unserved"] == queue["duties"] == []
    assert (missing.status_code, nonsense.status_code) == (404, 422)
    assert "no live worker has the id" in missing.json()["detail"]


async def test_only_admins_see_processes_and_have_them_leave(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}, access=AccessSettings(auth="keys")) as served:
        keys = await keys_of(served.app.store.api_keys)
        async with httpx.AsyncClient(base_url=served.url) as http:
            asks = [("GET", "/workers"), ("GET", "/queue"), ("POST", f"/workers/{uuid4()}/drain")]
            said = {
                who: [
                    (await http.request(method, path, headers={"x-api-key": keys[who]})).status_code
                    for method, path in asks
                ]
                for who in ("root", "ada", "reader")
            }

    assert said == {"root": [200, 200, 404], "ada": [403, 403, 403], "reader": [403, 403, 403]}


async def test_a_run_says_what_it_waits_for_and_who_executes_it(serve_agents: Any) -> None:
    held = Held()
    async with (
        serve_agents({"held": held, "echo": echo}, max_running=1) as served,
        httpx.AsyncClient(base_url=served.url) as http,
    ):
        thread = (await http.post("/threads", json={})).json()["thread_id"]

        async def begin(path: str, **body: Any) -> str:
            return str((await http.post(path, json={"assistant_id": "held", "input": 1, **body})).json()["run_id"])

        first = await begin(f"/threads/{thread}/runs")
        await held.begun.wait()
        behind = await begin(f"/threads/{thread}/runs")
        full = await begin("/runs", assistant_id="echo")
        later = await begin("/runs", after_seconds=3_600)
        runs = {
            name: (await http.get(f"/runs/{run_id}")).json()
            for name, run_id in (("first", first), ("behind", behind), ("full", full), ("later", later))
        }
        (worker,) = (await http.get("/workers")).json()
        held.let_go.set()
        await http.get(f"/threads/{thread}/runs/{behind}/join")
        over = (await http.get(f"/runs/{behind}")).json()

    waits = {name: run["waiting_for"] and run["waiting_for"]["what"] for name, run in runs.items()}
    assert waits == {"first": None, "behind": "thread", "full": "place", "later": "time"}
    assert worker["running"] == 1
    assert runs["first"]["executed_by"] == {"worker_id": worker["worker_id"], "name": worker["name"]}
    assert [runs[name]["executed_by"] for name in ("behind", "full", "later")] == [None] * 3
    assert (over["status"], over["waiting_for"], over["executed_by"]) == ("success", None, None)


async def test_who_is_no_admin_does_not_see_where_his_run_is_executed(serve_agents: Any) -> None:
    held = Held()
    async with serve_agents({"held": held}, access=AccessSettings(auth="keys"), max_running=1) as served:
        keys = await keys_of(served.app.store.api_keys)
        async with httpx.AsyncClient(base_url=served.url, headers={"x-api-key": keys["ada"]}) as http:
            runs = [
                (await http.post("/runs", json={"assistant_id": "held", "input": 1})).json()["run_id"] for _ in "ab"
            ]
            await held.begun.wait()
            running, waiting = [(await http.get(f"/runs/{run_id}")).json() for run_id in runs]
            held.let_go.set()

    assert (running["status"], running["executed_by"]) == ("running", None)
    assert waiting["waiting_for"]["what"] == "place"
