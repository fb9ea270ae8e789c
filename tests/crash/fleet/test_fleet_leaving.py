"""Workers that leave, stand still, or differ in version: what they had goes on, and what they say late is not taken."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fleet import SHORT_LEASE, Fleet, FleetProcess
from fleet_asking import answered, next_attempt, started
from fleet_check import LOST, Words

type OpenFleet = Callable[..., Any]
SPOOL = "TRACKSIDE_DATABASE_SPOOL"
UNHURRIED = {"TRACKSIDE_WORKER_DRAIN": "1h"}
"""For workers that leave when their runs have ended, however long a busy machine takes for that."""


def spooled(folder: Path) -> str:
    """What is in a spool, as text."""
    return "".join(path.read_text("utf-8", errors="replace") for path in folder.rglob("*") if path.is_file())


@pytest.mark.long
async def test_the_end_of_a_run_is_kept_as_its_worker_leaves_in_a_hurry_without_a_database(
    engine: str, open_fleet: OpenFleet, tmp_path: Path
) -> None:
    """I14: told to leave twice while the database is away, it leaves once the ends of its runs are in the spool."""
    spool = tmp_path / "spool"
    fleet, words = await open_fleet(engine=engine, servers=1, workers=1, env={SPOOL: str(spool)}), Words()
    asked = await started(fleet, "talks", words, parts=3, gate="never")
    asked.may_be_cancelled = True
    worker = await fleet.executor_of(asked.run_id)
    await fleet.servers[0].kill()  # so that nobody ends the run before the spooled end is told
    await asyncio.to_thread(fleet.postgres.stop, "immediate")
    try:
        worker.process.signal(signal.SIGTERM)
        await fleet.until(lambda: '"stopping"' in worker.log, "the worker has heard it")
        worker.process.signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.process.wait) == 0, worker.log
        assert "run_cancelled" in spooled(spool), worker.log
    finally:
        await asyncio.to_thread(fleet.postgres.start)
    await worker.start()  # first it tells what is in the spool
    await fleet.servers[0].start()
    after = await started(fleet, "talks", words, parts=1, thread_id=asked.thread_id)
    assert (await answered(fleet, after, at=0))["token"] == after.token
    row = await fleet.run_row(asked.run_id)
    assert row is not None
    assert row["status"] == "cancelled"
    assert spooled(spool) == ""
    await fleet.check(words)


async def test_a_worker_that_stood_still_stops_its_agents_and_works_on(engine: str, open_fleet: OpenFleet) -> None:
    """Its runs were executed elsewhere meanwhile: it notices, even if they say nothing, and has their places again."""
    fleet, words = await open_fleet(engine=engine, workers=1, concurrency=1, lease=SHORT_LEASE), Words()
    asked = await started(fleet, "tries", words, parts=2, gate="never")
    worker = await fleet.executor_of(asked.run_id)
    other = await fleet.add_worker()
    worker.stop()
    following = await next_attempt(fleet, asked, words)
    assert (await answered(fleet, following, at=0))["attempt"] == 2
    worker.resume()

    def has_stopped_it() -> bool:
        own = (one for one in fleet.journal.entries() if one.run_id == asked.run_id)
        return any((one.what, one.detail) == ("refused", "leave CancelledError") for one in own)

    await fleet.until(has_stopped_it, "its agent is stopped")
    assert await other.terminate() == 0
    again = await started(fleet, "talks", words, parts=1)
    assert (await answered(fleet, again, at=1))["token"] == again.token
    assert await fleet.executor_of(again.run_id) is worker
    await fleet.check(words)


async def drained(fleet: Fleet, worker: FleetProcess) -> None:
    """Have a worker leave as `trackside workers drain` does, and wait until it has."""
    (row,) = fleet.ask(f"SELECT worker_id FROM workers WHERE name LIKE '%:{worker.pid}'")
    await fleet.command("workers", "drain", row[0], "--yes")


async def test_a_worker_is_drained_while_runs_wait(engine: str, open_fleet: OpenFleet) -> None:
    """It finishes what it has, though a signal would give it no time, and its successor executes what waited."""
    # No process that is only slow may be taken for lost.
    env = {**UNHURRIED, "TRACKSIDE_WORKER_DRAIN": "0"}
    fleet, words = await open_fleet(engine=engine, servers=1, workers=1, concurrency=1, lease=60.0, env=env), Words()
    first = await started(fleet, "talks", words, parts=2, gate="go")
    worker = await fleet.executor_of(first.run_id)
    waiting = [await started(fleet, "talks", words, parts=1) for _ in range(5)]
    await drained(fleet, worker)
    await fleet.until(lambda: "waiting for 1 run, however long" in worker.log, "the worker has heard it")
    fleet.open("go")
    assert await asyncio.to_thread(worker.process.wait) == 0
    assert (await answered(fleet, first, at=0))["token"] == first.token
    entered = {entry.run_id for entry in fleet.journal.entries()}
    assert entered == {first.run_id}
    other = await fleet.add_worker()
    for asked in waiting:
        assert (await answered(fleet, asked, at=0))["token"] == asked.token
        assert await fleet.executor_of(asked.run_id) is other
    await fleet.check(words)


async def test_all_workers_may_be_gone_and_come_back(engine: str, open_fleet: OpenFleet) -> None:
    fleet, words = await open_fleet(engine=engine, servers=1, lease=SHORT_LEASE), Words()
    lost = await started(fleet, "tries", words, parts=2, gate="never")
    await fleet.until_entered(lost.run_id)
    await asyncio.gather(*(worker.kill() for worker in fleet.workers))
    waiting = [await started(fleet, "talks", words, parts=1) for _ in range(10)]
    failed = f"SELECT 1 FROM runs WHERE run_id = '{lost.run_id}' AND error_type = '{LOST}'"
    await fleet.until(lambda: fleet.ask(failed), "it is lost")
    await asyncio.gather(*(worker.start() for worker in fleet.workers))
    assert (await answered(fleet, lost, at=0))["attempt"] == 2
    for asked in waiting:
        assert (await answered(fleet, asked, at=0))["token"] == asked.token
    following = await next_attempt(fleet, lost, words)
    assert (await answered(fleet, following, at=0))["attempt"] == 2
    await fleet.check(words)


async def test_runs_of_a_version_wait_for_its_workers_as_long_as_there_are_any(
    engine: str, open_fleet: OpenFleet
) -> None:
    version = "TRACKSIDE_ENGINE_AGENTS_VERSION"
    options = {"servers": 1, "workers": 0, "concurrency": 1, "lease": SHORT_LEASE, "env": {version: "one"}}
    fleet, words = await open_fleet(engine=engine, **options), Words()
    one = await fleet.add_worker()
    two = await fleet.add_worker(**{version: "two"})
    held = await started(fleet, "talks", words, parts=2, gate="go")
    assert await fleet.executor_of(held.run_id) is one
    waiting = [await started(fleet, "talks", words, parts=1) for _ in range(3)]
    await two.restart()  # it looks for what it could take
    assert {entry.run_id for entry in fleet.journal.entries()} == {held.run_id}
    fleet.open("go")
    for asked in (held, *waiting):
        assert (await answered(fleet, asked, at=0))["token"] == asked.token
        assert await fleet.executor_of(asked.run_id) is one
    await one.kill()
    orphan = await started(fleet, "talks", words, parts=1)
    assert (await answered(fleet, orphan, at=0))["token"] == orphan.token
    assert await fleet.executor_of(orphan.run_id) is two
    await fleet.check(words)


@pytest.mark.parametrize("isolation", ["none", "process"])
async def test_a_worker_of_an_older_schema_claims_nothing_more_and_ends_with_what_it_has(
    engine: str, isolation: str, open_fleet: OpenFleet
) -> None:
    """Nobody waits for that end: its runs have all the time they need, whatever a signal would leave them."""
    env = {"TRACKSIDE_WORKER_DRAIN": "0s", "TRACKSIDE_WORKER_ISOLATION": isolation}
    fleet, words = await open_fleet(engine=engine, servers=1, workers=1, concurrency=2, env=env), Words()
    held = await started(fleet, "talks", words, parts=2, gate="go")
    worker = await fleet.executor_of(held.run_id)
    (known,) = fleet.ask("SELECT version_num FROM alembic_version")[0]
    fleet.change("UPDATE alembic_version SET version_num = 'newer'")
    waiting = await started(fleet, "talks", words, parts=1)
    await fleet.until(lambda: "waiting for 1 run, however long that takes" in worker.log, "the worker has seen it")
    fleet.open("go")
    assert await asyncio.to_thread(worker.process.wait) == 0, worker.log
    assert "stopping" in worker.log
    assert {entry.run_id for entry in fleet.journal.entries()} == {held.run_id}
    fleet.change(f"UPDATE alembic_version SET version_num = '{known}'")
    await worker.start()
    for asked in (held, waiting):
        assert (await answered(fleet, asked, at=0))["token"] == asked.token
    await fleet.check(words)
