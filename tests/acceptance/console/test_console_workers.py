"""The console's page of workers: of a lone server, and of a fleet of real processes; what runs say in both cases."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from fleet import SHORT_LEASE, Fleet, FleetProcess
from forking import Forkery
from playwright.async_api import expect

pytestmark = pytest.mark.asyncio(loop_scope="session")

POOLS = '\n[pools]\ntries = "gpu"\n'


def row_of(page: Any, process: FleetProcess) -> Any:
    """The row of a process, whose name ends with its pid."""
    return page.locator("#workers tr[data-row]", has=page.get_by_text(re.compile(rf":{process.pid}$")))


async def begin(fleet: Fleet, agent: str, **input: Any) -> str:
    """Start a run on a thread that stays; gives the run's id."""
    (client, *_) = fleet.clients
    thread = await client.threads.create()
    run = await client.runs.create(thread["thread_id"], agent, input={"token": agent, **input})
    return str(run["run_id"])


async def test_a_server_that_is_alone_says_what_a_fleet_is_and_what_starts_one(serve: Any, visit: Any) -> None:
    server = await serve()
    async with visit(server.url, permissions=["clipboard-read", "clipboard-write"]) as seen:
        page = await seen.go("/ui")
        await page.get_by_role("navigation", name="Pages").get_by_role("link", name="Workers").click()
        await expect(page.get_by_role("heading", name="This server executes its runs itself")).to_be_visible()
        await expect(page.locator("#liveness")).to_have_text("live")
        commands = await page.locator("#no-fleet .command code").all_inner_texts()
        assert [command.split()[:2] for command in commands] == [["trackside", "serve"], ["trackside", "worker"]]
        await page.locator("#no-fleet").get_by_role("button", name="Copy").last.click()
        assert await page.evaluate("navigator.clipboard.readText()") == commands[1]
        rows = page.locator("#workers tr[data-row]")
        await expect(rows).to_have_count(1)
        await expect(rows).to_contain_text("this one")
        await expect(rows).to_contain_text("inline")
        await expect(page.get_by_role("button", name="Drain")).to_have_count(0)
        await expect(page.locator("#pools, #duties, #engine, #unserved")).to_have_count(0)
        assert await seen.violations() == []
        await seen.picture("workers-inline")


async def test_who_is_no_admin_is_told_what_he_would_need(serve: Any, visit: Any, trackside: Any) -> None:
    server = await serve('[agents]\ntalks = "console_agents.py:talks"\n[server]\nauth = "keys"\n')
    made = await asyncio.to_thread(
        trackside, "auth", "create", "ada", "--owner", "ada", "--permission", "run", "--json", "-d", "sqlite:///runs.db"
    )
    async with visit(server.url) as seen:
        page = await seen.go("/ui/workers")
        await page.get_by_label("API key or token").fill(json.loads(made.stdout)["secret"])
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_text("Workers are for admins")).to_be_visible()
        await expect(page.locator("#workers, #fleet")).to_have_count(0)
        assert await seen.violations() == []


async def test_a_fleet_shows_who_is_there_what_waits_and_what_no_worker_can_take(
    postgres_server: Any, visit: Any, tmp_path: Path, forkery: Forkery
) -> None:
    async with Fleet(
        tmp_path, postgres_server, forkery=forkery, engine="postgres", servers=1, workers=1, settings=POOLS
    ) as fleet:
        (server,), (worker,) = fleet.servers, fleet.workers
        async with visit(server.url) as seen:
            page = await seen.go("/ui/workers")
            await expect(page.locator("#liveness")).to_have_text("live")
            await expect(row_of(page, server)).to_contain_text("this one")
            await expect(row_of(page, worker)).to_contain_text("0 / 8")
            await expect(page.locator("#duties")).to_contain_text("sweeper")
            await expect(page.locator("#duties .bad")).to_have_count(0)
            await expect(page.locator("#engine")).to_contain_text("is connected")

            running = await begin(fleet, "talks", parts=3_000, pause=0.1)
            await fleet.until_entered(running)
            await expect(row_of(page, worker)).to_contain_text("1 / 8")
            await expect(page.locator("#pools tr", has_text="default")).to_contain_text("1 / 8")
            unserved = await begin(fleet, "tries")
            link = page.locator("#unserved").get_by_role("link", name="1 run of tries")
            await expect(link).to_be_visible()
            assert await seen.violations() == []
            await seen.picture("workers-fleet")

            await link.click()
            await expect(page.locator("[data-row]")).to_have_count(1)
            await page.locator(f'[data-row] a[href$="{unserved}"]').first.click()
            await expect(page.locator("#waiting-for")).to_contain_text("no live worker takes runs of the pool 'gpu'")
            assert await seen.violations() == []
            await seen.picture("run-unserved")
            await seen.go(f"/ui/runs/{running}")
            await expect(page.locator("#executed-by")).to_have_text(re.compile(rf":{worker.pid}$"))

            await seen.go("/ui/workers")
            await expect(page.locator("#unserved")).to_be_visible()
            other = await fleet.add_worker(TRACKSIDE_WORKER_POOLS="gpu")
            await expect(row_of(page, other)).to_contain_text("gpu")
            await expect(page.locator("#unserved")).to_have_count(0)  # without anybody reloading it
            await fleet.clients[0].runs.cancel(await thread_of(server.url, running), running)


async def test_a_worker_is_drained_by_a_button_and_leaves_when_it_has_finished(
    postgres_server: Any, visit: Any, tmp_path: Path, forkery: Forkery
) -> None:
    options: Any = {
        "engine": "postgres",
        "servers": 1,
        "workers": 2,
        "lease": SHORT_LEASE,
    }  # it hears thrice in a lease
    async with Fleet(tmp_path, postgres_server, forkery=forkery, **options) as fleet:
        run_id = await begin(fleet, "talks", parts=3_000, pause=0.1)
        busy = await fleet.executor_of(run_id)
        (idle,) = [worker for worker in fleet.workers if worker is not busy]
        (server,) = fleet.servers
        async with visit(server.url) as seen:
            page = await seen.go("/ui/workers")
            await row_of(page, busy).get_by_role("button", name="Drain").click()
            await expect(page.locator("#confirm")).to_contain_text("It finishes what it has")
            await page.get_by_role("button", name="Back").click()
            await row_of(page, busy).get_by_role("button", name="Drain").click()
            await page.locator("#confirm [value=yes]").click()
            await expect(page.locator("#toasts")).to_contain_text("takes no more runs")
            await expect(row_of(page, busy)).to_contain_text("draining")
            await expect(row_of(page, busy).get_by_role("button")).to_have_count(0)
            await fleet.clients[0].runs.cancel(await thread_of(server.url, run_id), run_id)
            await expect(row_of(page, busy)).to_have_count(0)
            await expect(row_of(page, idle)).to_contain_text("alive")
        await fleet.until(lambda: not busy.is_up, "the process has ended")


async def test_a_fleet_without_its_broker_says_so_and_a_balancer_may_send_requests_on(
    postgres_server: Any, visit: Any, tmp_path: Path, forkery: Forkery
) -> None:
    async with Fleet(tmp_path, postgres_server, forkery=forkery, engine="nats", servers=1, workers=1) as fleet:
        (server,) = fleet.servers
        async with visit(server.url) as seen, httpx.AsyncClient(base_url=server.url) as http:
            page = await seen.go("/ui/workers")
            await expect(page.locator("#engine")).to_contain_text("is connected")
            await fleet.kill_nats()
            await expect(page.locator("#engine")).to_contain_text("is cut off")
            await expect(page.get_by_role("alert").filter(has_text="nats is cut off")).to_be_visible()
            ready = await http.get("/health/ready")
            assert (ready.status_code, ready.json()["status"]) == (200, "ready")
            assert [one["check"] for one in ready.json()["degraded"]] == ["engine"]
            assert "127.0.0.1" not in ready.text, "it is for everybody"
            assert await seen.violations() == []
            await seen.picture("workers-cut-off")
            run_id = await begin(fleet, "talks")
            await fleet.until_entered(run_id)
            await fleet.start_nats()
            await expect(page.locator("#engine")).to_contain_text("is connected")
            await expect(page.get_by_role("alert")).to_have_count(0)


async def thread_of(url: str, run_id: str) -> str:
    async with httpx.AsyncClient(base_url=url) as http:
        return str((await http.get(f"/runs/{run_id}")).json()["thread_id"])
