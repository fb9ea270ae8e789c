"""Crons in a fleet whose processes have different agents."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from log_check import look_into

from trackside import RunSpec
from trackside.app.cli.serving.process_life import ProcessLife
from trackside.app.settings import EngineSettings, Settings
from trackside.app.storage.crons import Cron
from trackside.app.wiring import open_app
from trackside.harness.ids import new_id


async def agent(input: Any) -> dict[str, Any]:
    return {}


async def make_due(app: Any, *agents: str) -> None:
    """Make a cron for each of these agents, whose first run is due."""
    now = datetime.now(UTC)
    for name in agents:
        # The tests look for the runs: without "keep" they go with their threads as soon as they end.
        fields: dict[str, Any] = {"schedule": "0 0 1 1 *", "created_at": now, "updated_at": now}
        fields |= {"next_run_at": now - timedelta(seconds=1), "on_run_completed": "keep"}
        await app.store.crons.create(Cron(cron_id=new_id(), agent=name, **fields))


async def until_started(app: Any) -> list[Cron]:
    """Wait until all crons have started the runs that were due, and return the crons."""
    async with asyncio.timeout(30):
        while True:
            crons: list[Cron] = (await app.store.crons.search()).crons
            if crons and all(cron.next_run_at is None or cron.next_run_at > datetime.now(UTC) for cron in crons):
                return crons
            await asyncio.sleep(0.01)


async def until_duty_is_held(app: Any, name: str) -> str:
    """Wait until a process has the duty, and return its worker id."""
    async with asyncio.timeout(30):
        while not (held := [one.holder for one in await app.store.fleet.duties() if one.name == name]):
            await asyncio.sleep(0.01)
    return str(held[0])


def is_waited_for(database: Any) -> bool:
    """Whether a session waits for a lock on the table of runs."""
    asked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'runs'::regclass"
    return bool(database.execute(asked).fetchone()[0])


async def test_a_server_starts_runs_of_crons_whose_agent_the_scheduler_has_not(postgres_with_tables: str) -> None:
    settings = Settings(database_url=postgres_with_tables, engine=EngineSettings(url="postgres", lease=2.0))
    async with open_app(settings, {"other": agent}, role="worker") as worker:
        holder = await until_duty_is_held(worker, "scheduler")
        async with open_app(settings, {"chat": agent, "other": agent}, role="server") as server:
            await make_due(server, "chat", "other")
            assert all(cron.enabled and cron.next_run_at is not None for cron in await until_started(server))
            found = await server.store.runs()
            assert sorted((run.agent, run.trigger) for run in found) == [("chat", "cron"), ("other", "cron")]
            assert await until_duty_is_held(server, "scheduler") == holder


async def test_a_worker_that_still_finishes_its_runs_leaves_crons_to_others(postgres_with_tables: str) -> None:
    running, go = asyncio.Event(), asyncio.Event()

    async def slow(input: Any) -> dict[str, Any]:
        running.set()
        await go.wait()
        return {}

    agents, engine = {"chat": agent, "slow": slow}, EngineSettings(url="postgres", lease=2.0)
    settings = Settings(database_url=postgres_with_tables, engine=engine)
    async with open_app(settings, agents, role="worker") as worker:
        holder = await until_duty_is_held(worker, "scheduler")
        async with open_app(settings, agents, role="server") as server:
            assert worker.worker is not None
            assert holder == worker.worker.worker_id
            await server.manager.start(RunSpec("slow"))
            async with asyncio.timeout(30):
                await running.wait()
            await worker.worker.stop()
            closing = asyncio.create_task(ProcessLife(3_600.0, lambda *_, **__: None).close_runs(worker))
            async with asyncio.timeout(30):
                while await until_duty_is_held(server, "scheduler") == holder:
                    await asyncio.sleep(0.01)

            await make_due(server, "chat")
            await until_started(server)
            assert not closing.done()
            go.set()
            await closing


async def test_a_run_that_is_started_while_its_process_leaves_its_duties_is_executed(postgres_with_tables: str) -> None:
    settings = Settings(database_url=postgres_with_tables, engine=EngineSettings(url="postgres", lease=2.0))
    async with open_app(settings, {"chat": agent}, role="worker") as leaving:
        await until_duty_is_held(leaving, "scheduler")
        assert leaving.worker is not None
        await leaving.worker.stop()
        with look_into(postgres_with_tables) as database:
            await asyncio.to_thread(database.execute, "BEGIN")
            await asyncio.to_thread(database.execute, "LOCK TABLE runs IN SHARE MODE")
            await make_due(leaving, "chat")
            async with asyncio.timeout(30):
                while not await asyncio.to_thread(is_waited_for, database):
                    await asyncio.sleep(0.01)
            retiring = asyncio.create_task(leaving.retire())
            await asyncio.sleep(0)
            await asyncio.to_thread(database.execute, "ROLLBACK")
            await retiring
        (cron,) = (await leaving.store.crons.search()).crons
        assert cron.next_run_at is not None
        assert cron.next_run_at > datetime.now(UTC)

        async with open_app(settings, {"chat": agent}, role="worker") as other, asyncio.timeout(30):
            while not (found := await other.store.runs()) or found[0].ended_at is None:
                await asyncio.sleep(0.01)
        assert [(run.trigger, run.status) for run in found] == [("cron", "success")]
