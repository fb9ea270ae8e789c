"""What one process does for a whole fleet, when it is killed or stands still at that moment: each thing once."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from fleet import SHORT_LEASE, Fleet, FleetProcess
from fleet_asking import answered, next_attempt, noted, started
from fleet_check import Words

type OpenFleet = Callable[..., Any]


def holder_of(fleet: Fleet, duty: str) -> FleetProcess | None:
    """The process that has a duty now."""
    found = fleet.ask(f"SELECT w.name FROM duties d JOIN workers w ON w.worker_id = d.holder WHERE d.name = '{duty}'")
    pid = int(found[0][0].rpartition(":")[2]) if found else None
    return next((process for process in fleet.processes if process.pid == pid), None)


async def until_held(fleet: Fleet, duty: str, *, but: FleetProcess | None = None) -> FleetProcess:
    """Wait until a process other than `but` has a duty."""

    def look() -> FleetProcess | None:
        found = holder_of(fleet, duty)
        return None if found is but else found

    return await fleet.until(look, f"somebody is the {duty}")


async def test_delayed_runs_start_once_though_the_scheduler_is_killed_as_they_are_due(
    engine: str, open_fleet: OpenFleet
) -> None:
    fleet, words = await open_fleet(engine=engine, lease=SHORT_LEASE), Words()
    scheduler = await until_held(fleet, "scheduler")
    at = next(number for number, one in enumerate(fleet.servers) if one is not scheduler)
    tokens = [uuid.uuid4().hex for _ in range(20)]
    for token in tokens:
        run = await fleet.clients[at].runs.create(
            thread := str(uuid.uuid4()),
            "tries",
            input={"token": token, "parts": 1},
            if_not_exists="create",
            after_seconds=2,
        )
        noted(words, run["run_id"], thread, token)
    await fleet.until(lambda: bool(fleet.journal.entries()), "the first is started")
    await scheduler.kill()
    for asked in [*words.asked.values()]:
        answer = await answered(fleet, asked, at=at)
        if "__error__" in answer:  # the scheduler was a worker, and had this run
            answer = await answered(fleet, await next_attempt(fleet, asked, words), at=at)
        assert answer["token"] == asked.token
    counts = await fleet.check(words)
    assert counts.runs - counts.anew == len(tokens)


@pytest.mark.long
async def test_a_cron_starts_once_at_a_time_though_schedulers_are_killed(engine: str, open_fleet: OpenFleet) -> None:
    """It starts every minute, and each time the scheduler dies just before."""
    fleet, words = await open_fleet(engine=engine, workers=1, lease=SHORT_LEASE), Words()
    # On no thread, so that the test does not look at the scheduler's death as a worker.
    await fleet.clients[0].crons.create("talks", schedule="* * * * *", input={"token": "tick", "parts": 1})
    for _ in range(2):
        ticks = len(fleet.ask("SELECT run_id FROM runs"))
        scheduler = await until_held(fleet, "scheduler")
        await asyncio.sleep(60 - time.time() % 60)  # when it is due
        await scheduler.kill()
        await fleet.until(lambda ticks=ticks: len(fleet.ask("SELECT run_id FROM runs")) > ticks, "it ticks", seconds=30)
        await scheduler.start()
    starts = fleet.ask("SELECT created_at FROM runs WHERE retry_of IS NULL")
    minutes = [str(when)[:16] for (when,) in starts]
    assert len(minutes) == len(set(minutes)), "one run for each moment"
    await fleet.check(words)


async def test_two_schedulers_of_which_one_stood_still_start_everything_once(
    engine: str, open_fleet: OpenFleet
) -> None:
    """The one that stood still past its lease still believes for a moment that it has the duty."""
    fleet, words = await open_fleet(engine=engine, servers=2, workers=1, lease=6.0), Words()
    first = await until_held(fleet, "scheduler")
    at = next(number for number, one in enumerate(fleet.servers) if one is not first)
    first.stop()
    try:
        for _ in range(10):
            await started(fleet, "talks", words, parts=1, at=at, after_seconds=1)
        second = await until_held(fleet, "scheduler", but=first)
    finally:
        first.resume()
    for _ in range(10):
        await started(fleet, "talks", words, parts=1, at=at, after_seconds=1)
    for asked in words.asked.values():
        assert (await answered(fleet, asked, at=at))["token"] == asked.token
    assert second is not first
    counts = await fleet.check(words)
    assert counts.runs == 20
