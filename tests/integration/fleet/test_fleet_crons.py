"""Crons in a fleet whose processes have different agents."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from trackside.app.settings import EngineSettings, Settings
from trackside.app.storage.crons import Cron
from trackside.app.wiring import open_app
from trackside.harness.ids import new_id


async def agent(input: Any) -> dict[str, Any]:
    return {}


async def until_duty_is_held(app: Any, name: str) -> str:
    """Who has it."""
    async with asyncio.timeout(30):
        while not (held := [one.holder for one in await app.store.fleet.duties() if one.name == name]):
            await asyncio.sleep(0.01)
    return str(held[0])


async def test_a_server_starts_runs_of_crons_whose_agent_the_scheduler_has_not(postgres_with_tables: str) -> None:
    settings = Settings(database_url=postgres_with_tables, engine=EngineSettings(url="postgres", lease=2.0))
    now = datetime.now(UTC)
    async with open_app(settings, {"other": agent}, role="worker") as worker:
        holder = await until_duty_is_held(worker, "scheduler")
        async with open_app(settings, {"chat": agent, "other": agent}, role="server") as server:
            due = now - timedelta(seconds=1)
            for name in ("chat", "other"):
                # Their runs are looked for: else they are gone with their threads as soon as they have ended.
                fields: dict[str, Any] = {"schedule": "0 0 1 1 *", "created_at": now, "updated_at": now}
                fields |= {"next_run_at": due, "on_run_completed": "keep"}
                await server.store.crons.create(Cron(cron_id=new_id(), agent=name, **fields))
            async with asyncio.timeout(30):
                crons: list[Cron] = []
                while not crons or any(cron.next_run_at == due for cron in crons):
                    await asyncio.sleep(0.01)
                    crons = (await server.store.crons.search()).crons
            assert all(cron.enabled and cron.next_run_at is not None and cron.next_run_at > now for cron in crons)
            found = await server.store.runs()
            assert sorted((run.agent, run.trigger) for run in found) == [("chat", "cron"), ("other", "cron")]
            assert await until_duty_is_held(server, "scheduler") == holder
