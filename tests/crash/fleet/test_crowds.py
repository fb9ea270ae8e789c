"""Many at once: workers that connect, runs that wait for workers, runs that are cancelled."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import fleet_agents
import pytest
from fleet import SHORT_LEASE, Fleet
from fleet_check import Asked, Words
from postgres_server import PostgresServer

type OpenFleet = Callable[..., Any]

CROWD: Final = Path(fleet_agents.__file__).with_name("crowd.py")
PROCESSES: Final = 4
PATIENCE: Final = 300.0  # seconds; some hundred workers share a few cores here
MOST_CONNECTIONS: Final = 6
"""Connections that a process has to PostgreSQL; docs/fleet.md says so."""


@pytest.fixture(scope="session")
def large_postgres() -> Iterator[PostgresServer]:
    """A server for very many connections."""
    with PostgresServer(fsync=False, settings={"max_connections": "1400", "shared_buffers": "64MB"}) as server:
        yield server


class Crowd:
    """Workers in a few processes."""

    def __init__(self, fleet: Fleet, processes: list[Process]) -> None:
        self._fleet = fleet
        self._processes = processes

    async def ask(self) -> tuple[int, int]:
        """How many workers their engine serves now, and how much memory they have, in all."""
        told = [0, 0]
        for process in self._processes:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"?\n")
            line = (await process.stdout.readline()).split()
            assert len(line) == 2, f"a process of the crowd has ended: {process.returncode}"
            told = [told[0] + int(line[0]), told[1] + int(line[1])]
        return told[0], told[1]

    async def until_all_are_back(self, count: int) -> int:
        """Wait until the engine serves all, and the database knows all of them; returns the bytes of their memory."""

        async def look() -> int | None:
            served, memory = await self.ask()
            now = "extract(epoch FROM clock_timestamp())"
            [(alive,)] = self._fleet.ask(f"SELECT count(*) FROM workers WHERE kind = 'worker' AND lease_until > {now}")
            return memory if served == count and alive == count else None

        return await self._fleet.until(look, f"all {count} are back", PATIENCE)


@asynccontextmanager
async def crowd_of(fleet: Fleet, count: int) -> AsyncIterator[Crowd]:
    """Run this many workers, which begin at once."""
    engine = "postgres" if fleet.nats is None else fleet.nats.url
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "FLEET_JOURNAL": str(fleet.folder)}
    processes: list[Process] = []
    with (fleet.folder / "crowd.log").open("wb") as log:
        try:
            for _ in range(PROCESSES):
                arguments = (str(CROWD), str(count // PROCESSES), fleet.database, engine)
                processes.append(
                    await asyncio.create_subprocess_exec(
                        sys.executable, *arguments, cwd=fleet.folder, env=env, stdin=PIPE, stdout=PIPE, stderr=log
                    )
                )
            async with asyncio.timeout(PATIENCE):
                for process in processes:
                    assert process.stdout is not None
                    said = await process.stdout.readline()
                    assert said == b"ready\n", (fleet.folder / "crowd.log").read_text()[-4_000:]
            yield Crowd(fleet, processes)
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                await process.wait()


async def let_in(fleet: Fleet, words: Words, count: int, **work: Any) -> list[Asked]:
    """Start this many runs, each on a thread of its own."""
    asked: list[Asked] = []
    for first in range(0, count, 100):
        places = [(str(uuid.uuid4()), uuid.uuid4().hex) for _ in range(first, min(first + 100, count))]
        runs = await asyncio.gather(
            *[
                fleet.clients[0].runs.create(
                    thread_id, "talks", input={"token": token, "parts": 1, **work}, if_not_exists="create"
                )
                for thread_id, token in places
            ]
        )
        for run, (thread_id, token) in zip(runs, places, strict=True):
            words.asked[run["run_id"]] = one = Asked(run["run_id"], thread_id, token)
            asked.append(one)
    return asked


def holders(fleet: Fleet) -> list[tuple[str, int]]:
    """How many holders each duty has by the database's clock."""
    now = "extract(epoch FROM clock_timestamp())"
    return [*fleet.ask(f"SELECT name, count(*) FROM duties WHERE lease_until > {now} GROUP BY name ORDER BY name")]


@pytest.mark.parametrize("count", [16, pytest.param(200, marks=pytest.mark.long)])
async def test_many_workers_are_back_after_a_restart_of_the_broker_and_of_the_database(
    engine: str, count: int, large_postgres: PostgresServer, tmp_path: Path
) -> None:
    """All return at once each time; each run is executed once, each duty has one holder, and no process grows."""
    words = Words()
    async with AsyncExitStack() as stack:
        fleet = Fleet(tmp_path, large_postgres, engine=engine, servers=1, workers=0, lease=SHORT_LEASE)
        await stack.enter_async_context(fleet)
        crowd = await stack.enter_async_context(crowd_of(fleet, count))
        first = await crowd.until_all_are_back(count)
        await let_in(fleet, words, 2 * count)
        await fleet.until_rest()
        if fleet.nats is not None:
            await fleet.kill_nats()
            await fleet.start_nats()
            await let_in(fleet, words, 2 * count)
            await crowd.until_all_are_back(count)
        await fleet.until_rest()
        await fleet.restart_postgres("immediate")
        await crowd.until_all_are_back(count)
        await let_in(fleet, words, 2 * count)
        await fleet.until_rest()
        connected = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'trackside'"
        most = MOST_CONNECTIONS * (count + 1)  # at rest: a closed connection counts until its backend has noticed
        connections = await fleet.until(
            lambda: n if (n := fleet.ask(connected)[0][0]) <= most else None, "all are at rest"
        )
        print(f"{count} workers and a server have {connections} connections")
        duties = await fleet.until(lambda: found if len(found := holders(fleet)) == 3 else None, "all duties are held")
        assert {held for _, held in duties} == {1}
        last = await crowd.until_all_are_back(count)
        assert last < 1.5 * first + 64 * 2**20
        counts = await fleet.check(words)
        assert (counts.runs, counts.lost, counts.doubles) == (len(words.asked), 0, 0)


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.long)])
async def test_runs_that_were_let_in_while_there_was_no_worker_are_executed_when_some_come(
    engine: str, count: int, open_fleet: OpenFleet
) -> None:
    fleet, words = await open_fleet(engine=engine, servers=1, workers=0, concurrency=32), Words()
    await let_in(fleet, words, count)
    await asyncio.gather(fleet.add_worker(), fleet.add_worker())
    await fleet.until_rest()
    counts = await fleet.check(words)
    assert (counts.runs, counts.by_status) == (count, {"success": count})


@pytest.mark.parametrize("count", [200, pytest.param(2_000, marks=pytest.mark.long)])
async def test_a_burst_of_cancels_stops_what_runs_and_what_waits(
    engine: str, count: int, open_fleet: OpenFleet
) -> None:
    fleet, words = await open_fleet(engine=engine, servers=2, workers=2, concurrency=16), Words()
    asked = await let_in(fleet, words, count, parts=2, gate="never")
    begun = "SELECT run_id FROM active_runs WHERE state = 'claimed'"
    await fleet.until(lambda: len(fleet.ask(begun)) == 32, "all places are taken")
    for first in range(0, count, 100):
        some = asked[first : first + 100]
        for one in some:
            one.may_be_cancelled = True
        cancels = [fleet.clients[number % 2].runs.cancel(one.thread_id, one.run_id) for number, one in enumerate(some)]
        await asyncio.gather(*cancels)
    await fleet.until_rest()
    counts = await fleet.check(words)
    assert (counts.runs, counts.by_status) == (count, {"cancelled": count})
    [later] = await let_in(fleet, words, 1)
    assert (await fleet.clients[1].runs.join(later.thread_id, later.run_id))["token"] == later.token
