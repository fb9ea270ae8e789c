"""What the processes of a fleet count together: each run that ends, even where its own process cannot count it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from trackside import AgentLimits, RunContext
from trackside.app.observers.metrics import MetricsObserver
from trackside.app.settings import ObserverSettings
from trackside.app.wiring import App

METRICS = ObserverSettings(type="metrics", name="metrics", where="observers[1] (metrics)")


def counted(apps: list[App], name: str) -> dict[tuple[str, ...], float]:
    """The sums over all processes that are not 0, by all their labels."""
    sums: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for app in apps:
        (metrics,) = [one.observer for one in app.observers if isinstance(one.observer, MetricsObserver)]
        for family in text_string_to_metric_families(metrics.render()[0].decode()):
            for sample in family.samples:
                if sample.name == name:
                    sums[tuple(sample.labels.values())] += sample.value
    return {labels: value for labels, value in sums.items() if value}


async def until_counted(apps: list[App], name: str, wanted: dict[tuple[str, ...], float]) -> None:
    """Wait until the processes count this; an observer is told a moment after others."""
    async with asyncio.timeout(30):
        while counted(apps, name) != wanted:
            await asyncio.sleep(0.01)


async def test_a_run_that_is_cancelled_before_any_worker_has_it_is_counted_once(have_fleet: Any) -> None:
    async def agent(input: Any, run: RunContext) -> None: ...

    async with have_fleet({"agent": agent}, workers=0, servers=2, observers=[METRICS]) as fleet:
        client = fleet.servers[0].client
        thread = (await client.threads.create())["thread_id"]
        run = await client.runs.create(thread, "agent", input={})
        await client.runs.cancel(thread, run["run_id"], wait=True)
        await until_counted([one.app for one in fleet.servers], "trackside_runs_total", {("agent", "cancelled"): 1})


async def test_a_run_whose_worker_is_killed_is_counted_as_lost_by_whoever_ends_it(
    have_fleet: Any, postgres_with_tables: str, tmp_path: Path
) -> None:
    async def waits(input: Any, run: RunContext) -> dict[str, Any]:
        return {"attempt": run.attempt}

    (tmp_path / "agents.py").write_text("import asyncio\nasync def waits(input):\n    await asyncio.Event().wait()\n")
    limits = {"waits": AgentLimits(max_attempts=2)}
    async with have_fleet({"waits": waits}, workers=0, servers=1, observers=[METRICS], limits=limits) as fleet:
        (server,) = fleet.servers
        environment = os.environ | {"TRACKSIDE_ENGINE_LEASE": "2s", "TRACKSIDE_LIMITS_MAX_ATTEMPTS": "2"}
        engine, database = server.app.settings.engine.url, postgres_with_tables
        command = ["-m", "trackside", "worker", "agents.py:waits", "--engine", engine, "--database", database]
        killed = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=tmp_path, env=environment)
        try:
            thread = (await server.client.threads.create())["thread_id"]
            run = await server.client.runs.create(thread, "waits", input={})
            async for _ in server.app.store.follow(run_id=run["run_id"], types="run_started"):
                break
        finally:
            killed.send_signal(signal.SIGKILL)
            await killed.wait()
        await until_counted([server.app], "trackside_runs_total", {("waits", "error"): 1})
        await until_counted([server.app], "trackside_run_failures_total", {("worker_lost",): 1})
