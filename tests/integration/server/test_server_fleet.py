"""What a server tells operators about the fleet, and tells a run's client about what keeps the run waiting."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from running_server import serving
from tests.integration.server.endpoint_walk import keys_of

from trackside.app.settings import AccessSettings, EngineSettings, Settings, WorkerSettings
from trackside.app.storage._coordination import enrolment
from trackside.app.storage.errors import ServerUnreachableError
from trackside.app.storage.fleet import QueueDepth
from trackside.app.vitals import QueueStats
from trackside.app.wiring import App, open_app
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


@asynccontextmanager
async def fleet_on(
    database: str, server_agents: dict[str, Any], worker_agents: dict[str, Any], **worker: Any
) -> AsyncIterator[tuple[App, httpx.AsyncClient, App]]:
    """A server and a worker of a fleet, both in this process, with a client of the server.

    No machine stands still for so long that their leases end. They give two signs of life a second nevertheless.
    """
    engine = EngineSettings(url="postgres", lease=60.0, agents_version="2")
    settings = Settings(database_url=database, engine=engine, pools={"draw": "gpu"})
    async with AsyncExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(enrolment, "BEATS_PER_LEASE", 120)
        of_worker = replace(settings, worker=WorkerSettings(concurrency=2, **worker))
        works = await stack.enter_async_context(open_app(of_worker, worker_agents, role="worker"))
        app = await stack.enter_async_context(open_app(settings, server_agents))
        url = await stack.enter_async_context(serving(app.asgi))
        yield app, await stack.enter_async_context(httpx.AsyncClient(base_url=url)), works


async def until(http: httpx.AsyncClient, path: str, seen: Callable[[Any], bool]) -> Any:
    """Wait until the answer of this path is as it should be, and return it."""
    async with asyncio.timeout(60):
        while not seen(said := (await http.get(path)).json()):
            await asyncio.sleep(0.02)
    return said


async def test_operators_of_a_fleet_see_who_is_there_what_waits_and_what_nobody_can_take(postgres_url: str) -> None:
    held = Held()
    agents = {"held": held, "echo": echo, "draw": echo}
    async with fleet_on(postgres_url, agents, {"held": held, "draw": echo}) as (app, http, works):

        async def begin(agent: str) -> str:
            return str((await http.post("/runs", json={"assistant_id": agent, "input": 1})).json()["run_id"])

        first = await begin("held")
        await held.begun.wait()
        taken = [first, await begin("held")]
        full, unserved, nowhere = await begin("held"), await begin("echo"), await begin("draw")
        queue = await until(
            http,
            "/queue",
            lambda said: len(said["duties"]) == 3 and len(said["unserved"]) == 2 and said["pools"][0]["ready"] == 2,
        )
        workers = {
            one["kind"]: one
            for one in await until(http, "/workers", lambda said: sum(one["running"] for one in said) == 2)
        }
        runs = {run_id: (await http.get(f"/runs/{run_id}")).json() for run_id in (*taken, full, unserved, nowhere)}
        system = (await http.get("/system")).json()
        numbers = await until_swept(app, works, ready={"default": 2, "gpu": 1})
        held.let_go.set()
        for run_id in (*taken, full):
            await http.get(f"/runs/{run_id}/join")

    default, gpu = queue["pools"]
    assert default.items() >= {"pool": "default", "ready": 2, "running": 2, "workers": 1, "places": 2}.items()
    assert gpu.items() >= {"pool": "gpu", "ready": 1, "workers": 0, "places": 0, "free": 0}.items()
    assert default["oldest_ready_at"] is not None
    assert [(one["agent"], one["version"], one["count"]) for one in queue["unserved"]] == [
        ("echo", "2", 1),
        ("draw", "2", 1),
    ]
    assert {duty["name"] for duty in queue["duties"]} == {"scheduler", "reaper", "sweeper"}
    assert {duty["holder"] for duty in queue["duties"]} <= {one["worker_id"] for one in workers.values()}
    worker = workers["worker"]
    assert worker.items() >= {"pools": ["default"], "agents": ["held"], "version": "2", "capacity": 2}.items()
    assert (worker["is_this"], workers["server"]["is_this"]) == (False, True)
    said = {run_id: run["waiting_for"] for run_id, run in runs.items()}
    assert [said[run_id] for run_id in taken] == [None, None]
    assert runs[first]["executed_by"] == {"worker_id": worker["worker_id"], "name": worker["name"]}
    assert said[full]["what"] == "place"
    assert said[unserved] == {"what": "worker", "why": "no live worker of the pool 'default' has the agent 'echo'"}
    assert said[nowhere] == {"what": "worker", "why": "no live worker takes runs of the pool 'gpu'"}
    assert (system["engine"]["name"], system["engine"]["connected"]) == ("postgres", True)
    assert system["engine"]["counts"]["announced_total"] >= 1
    assert {pool.pool: (pool.ready, pool.places) for pool in numbers.pools} == {"default": (2, 2), "gpu": (1, 0)}
    assert numbers.unserved == {"echo": 1, "draw": 1}
    assert sum(sum(one.vitals.duties().values()) for one in (app, works)) <= 3
    assert (app.vitals.worker(), works.vitals.worker().taken_total) == (None, 3)


async def test_a_worker_that_is_to_leave_counts_for_nobody_who_waits(postgres_url: str) -> None:
    held = Held()
    async with fleet_on(postgres_url, {"held": held}, {"held": held}) as (_, http, _):
        body = {"assistant_id": "held", "input": 1}
        taken = [(await http.post("/runs", json=body)).json()["run_id"] for _ in range(2)]
        await until(http, "/workers", lambda said: sum(one["running"] for one in said) == 2)
        (worker,) = [one for one in (await http.get("/workers")).json() if one["kind"] == "worker"]
        asked = await http.post(f"/workers/{worker['worker_id']}/drain")
        again = await http.post(f"/workers/{worker['worker_id']}/drain")
        workers = await until(http, "/workers", lambda said: any(one["draining"] for one in said))
        late = (await http.post("/runs", json=body)).json()["run_id"]
        waits = (await http.get(f"/runs/{late}")).json()["waiting_for"]
        queue = (await http.get("/queue")).json()
        held.let_go.set()
        for run_id in taken:
            await http.get(f"/runs/{run_id}/join")

    assert (asked.status_code, asked.json()) == (202, {"worker_id": worker["worker_id"], "draining": True})
    assert again.status_code == 202
    assert [one["kind"] for one in workers if one["draining"]] == ["worker"]
    assert waits == {"what": "worker", "why": "all live workers that have the agent 'held' are being drained"}
    assert [(pool["workers"], pool["places"]) for pool in queue["pools"]] == [(0, 0)]
    assert [(one["agent"], one["count"]) for one in queue["unserved"]] == [("held", 1)]


async def until_swept(*apps: App, ready: dict[str, int]) -> QueueStats:
    """What the app that sweeps has seen, as soon as it has seen so many runs ready in these pools."""
    async with asyncio.timeout(60):
        while True:
            for found in (app.vitals.queue() for app in apps):
                if found is not None and {pool.pool: pool.ready for pool in found.pools} == ready:
                    return found
            await asyncio.sleep(0.02)


async def test_the_page_of_workers_shows_hostile_names_as_text_and_what_is_missing_as_missing(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = "<img src=x onerror=alert(1)>\u202e"
    async with fleet_on(postgres_url, {hostile: echo, "draw": echo}, {hostile: echo}) as (app, http, _):
        await until(http, "/workers", lambda said: any(one["agents"] == [hostile] for one in said))
        await http.post("/runs", json={"assistant_id": "draw", "input": 1})
        await until(http, "/queue", lambda said: said["unserved"])
        page = await http.get("/ui/workers")

        async def away() -> QueueDepth:
            raise ServerUnreachableError(database="postgresql://db.example/runs", why="it takes no connections")

        monkeypatch.setattr(app.store.fleet, "queue", away)
        half = await http.get("/ui/workers")

    assert "<img src=x" not in page.text
    assert "&lt;img src=x" in page.text
    assert "\u202e" not in page.text
    assert "Runs that no worker can take" in page.text
    assert half.status_code == 200
    assert "Part of this page is missing" in half.text
    assert 'id="workers"' in half.text
