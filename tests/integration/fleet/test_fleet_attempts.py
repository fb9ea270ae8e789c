"""What clients get of a run that goes on as another attempt because its worker left or was lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import pytest
from fleet_here import FleetHere
from log_check import look_into

from trackside import AgentLimits, RunContext
from trackside.app.wiring import open_app


class Patient:
    """An agent whose first attempt waits until its worker ends."""

    def __init__(self) -> None:
        self.waits = asyncio.Event()

    async def agent(self, input: Any, run: RunContext) -> dict[str, Any]:
        if run.attempt == 1:
            self.waits.set()
            await asyncio.Event().wait()
        return {"attempt": run.attempt}


class Parting:
    """A worker that executes a run's first attempt, and how it goes away."""

    def __init__(self, fleet: FleetHere, agents: dict[str, Any], database: str) -> None:
        self._opened: AbstractAsyncContextManager[Any] = open_app(fleet.servers[0].app.settings, agents, role="worker")
        self._store = fleet.servers[0].app.store
        self._database = database

    async def begin(self) -> None:
        await self._opened.__aenter__()

    async def leave(self) -> None:
        """Have the worker end its runs and leave, unless it has left already."""
        opened, self._opened = self._opened, nullcontext()
        await opened.__aexit__(None, None, None)

    async def is_lost(self) -> None:
        """Have the worker taken for dead, as if it had said nothing for longer than a lease."""
        while [run for run in await self._store.runs() if run.attempt == 1 and run.status == "running"]:
            await asyncio.to_thread(self._forget_signs_of_life)
            await self._store.fleet.reap("somebody")  # unless the worker has said something meanwhile

    def _forget_signs_of_life(self) -> None:
        with look_into(self._database) as database:
            database.execute("UPDATE workers SET lease_until = 0 WHERE kind = 'worker'")


@asynccontextmanager
async def asked(have_fleet: Any, database: str) -> AsyncGenerator[tuple[FleetHere, Patient, Parting]]:
    patient = Patient()
    agents = {"patient": patient.agent}
    limits = {"patient": AgentLimits(max_attempts=5)}
    async with have_fleet(agents, workers=0, servers=2, limits=limits, shutdown_grace=0.0) as fleet:
        parting = Parting(fleet, agents, database)
        await parting.begin()
        try:
            yield fleet, patient, parting
        finally:
            await parting.leave()


@pytest.mark.parametrize("how", ["leave", "is_lost"])
async def test_who_waits_for_a_run_gets_what_its_last_attempt_gives(
    have_fleet: Any, postgres_with_tables: str, how: str
) -> None:
    async with asked(have_fleet, postgres_with_tables) as (fleet, patient, parting):
        one, other = fleet.servers
        thread = (await one.client.threads.create())["thread_id"]
        waiting = asyncio.create_task(one.client.runs.wait(thread, "patient", input={}, raise_error=False))
        await patient.waits.wait()
        (run,) = await other.client.runs.list(thread)
        joining = asyncio.create_task(other.client.runs.join(thread, run["run_id"]))
        await getattr(parting, how)()
        async with open_app(one.app.settings, {"patient": patient.agent}, role="worker"):
            async with asyncio.timeout(30):
                answers: list[Any] = [await waiting, await joining, await other.client.runs.join(thread, run["run_id"])]
        assert answers[0]["attempt"] > 1
        assert answers == [answers[0]] * 3


@pytest.mark.parametrize(("how", "event"), [("leave", "end"), ("is_lost", "error")])
async def test_who_follows_a_run_is_told_as_which_one_it_goes_on(
    have_fleet: Any, postgres_with_tables: str, how: str, event: str
) -> None:
    async with asked(have_fleet, postgres_with_tables) as (fleet, patient, parting):
        one, other = fleet.servers
        thread = (await one.client.threads.create())["thread_id"]
        run = await one.client.runs.create(thread, "patient", input={})

        async def follow() -> list[Any]:
            return [part async for part in other.client.runs.join_stream(thread, run["run_id"])]

        following = asyncio.create_task(follow())
        await patient.waits.wait()
        await getattr(parting, how)()
        async with open_app(one.app.settings, {"patient": patient.agent}, role="worker"), asyncio.timeout(30):
            parts = await following
            assert parts[-1].event == event
            again = parts[-1].data["retried_as"]
            assert (await other.client.runs.join(thread, again))["attempt"] > 1


async def test_a_client_who_goes_takes_the_attempt_with_him_as_which_his_run_goes_on(
    have_fleet: Any, postgres_with_tables: str
) -> None:
    async with asked(have_fleet, postgres_with_tables) as (fleet, patient, parting):
        one, other = fleet.servers
        thread = (await one.client.threads.create())["thread_id"]
        asking = one.client.runs.wait(thread, "patient", input={}, on_disconnect="cancel")
        waiting = asyncio.create_task(asking)
        await patient.waits.wait()
        await parting.leave()  # and there is nobody else to begin the second attempt
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(30):
            while not all(run["status"] == "interrupted" for run in await other.client.runs.list(thread)):
                await asyncio.sleep(0.01)
        assert len(await other.client.runs.list(thread)) == 2


@pytest.mark.parametrize("how", ["cancel", "cancel_many"])
async def test_who_cancels_a_run_stops_the_attempt_as_which_it_goes_on(
    have_fleet: Any, postgres_with_tables: str, how: str
) -> None:
    async with asked(have_fleet, postgres_with_tables) as (fleet, patient, parting):
        one, other = fleet.servers
        thread = (await one.client.threads.create())["thread_id"]
        run_id = (await one.client.runs.create(thread, "patient", input={}))["run_id"]
        await patient.waits.wait()
        await parting.leave()  # and there is nobody else to begin the second attempt
        async with asyncio.timeout(30):
            if how == "cancel":
                await other.client.runs.cancel(thread, run_id, wait=True)
            else:
                await other.client.runs.cancel_many(thread_id=thread, run_ids=[run_id])
            runs = await other.client.runs.list(thread)
        assert [run["status"] for run in runs] == ["interrupted", "interrupted"]
