"""More than there is room for: ten thousand runs at once, and a disk that takes nothing while the database is away."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from fleet import SHORT_LEASE
from fleet_asking import answered, noted, started
from fleet_check import Words

type OpenFleet = Callable[..., Any]

MANY: Final = 10_000
CLIENTS: Final = 50  # of each server
MEMORY: Final = 512 * 1_048_576


@pytest.mark.long
async def test_ten_thousand_runs_at_once_all_end_in_bounded_memory(engine: str, open_fleet: OpenFleet) -> None:
    fleet, words = await open_fleet(engine=engine, concurrency=64, lease=10.0), Words()
    threads = [str(uuid.uuid4()) for _ in range(MANY)]
    left = iter(threads)

    async def ask(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=120) as http:
            for thread_id in left:
                token = uuid.uuid4().hex
                body = {"assistant_id": "talks", "input": {"token": token, "parts": 1}, "if_not_exists": "create"}
                answer = await http.post(f"/threads/{thread_id}/runs", json=body)
                assert answer.status_code == httpx.codes.OK, answer.text
                noted(words, answer.json()["run_id"], thread_id, token)

    async with asyncio.TaskGroup() as group:
        for server in fleet.servers:
            for _ in range(CLIENTS):
                group.create_task(ask(server.url))
    await fleet.until_rest()
    for process in fleet.processes:
        assert process.process.memory() < MEMORY, process.name
    counts = await fleet.check(words)
    assert (counts.runs, counts.by_status) == (MANY, {"success": MANY})


@pytest.mark.long
async def test_no_thread_is_stuck_though_a_run_could_be_told_nowhere(
    engine: str, open_fleet: OpenFleet, tmp_path: Path
) -> None:
    """The database is away as a run ends, and the spool's disk takes nothing: the run is lost, its thread is free."""
    (full := tmp_path / "full").touch()  # where nothing can be made, as on a full disk
    env = {"TRACKSIDE_DATABASE_SPOOL": str(full / "spool")}
    fleet, words = await open_fleet(engine=engine, lease=SHORT_LEASE, env=env), Words()
    asked = await started(
        fleet, "tries", words, parts=2, gate="go", breaks=True
    )  # so that its thread has nothing to remember
    asked.may_be_cancelled = True
    worker = await fleet.executor_of(asked.run_id)
    await asyncio.to_thread(fleet.postgres.stop, "immediate")
    try:
        fleet.open("go")
        # Each step of an end waits for the database for a while.
        await fleet.until(lambda: "could not keep" in worker.log, "the end of the run is kept nowhere", seconds=150)
    finally:
        await asyncio.to_thread(fleet.postgres.start)
    await fleet.until(
        lambda: not fleet.ask("SELECT run_id FROM active_runs"), "the run has ended, and its next attempt"
    )
    after = await started(fleet, "talks", words, parts=1, thread_id=asked.thread_id)
    assert (await answered(fleet, after, at=1))["token"] == after.token
    await answered(fleet, asked, at=0)
    await fleet.check()
    assert worker.is_up
