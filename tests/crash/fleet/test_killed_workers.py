"""SIGKILL of a worker at each named step, from the offer of a run to its own end: all runs end, none is executed twice."""

from __future__ import annotations

import asyncio
import random
import signal
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest
from fleet import SHORT_LEASE, Fleet, FleetProcess
from fleet_asking import started
from fleet_check import Words
from fleet_points import VARIABLE, parting_points, points

type OpenFleet = Callable[..., Any]
type Point = tuple[str, str]

SURE: Final[Sequence[Point]] = (
    ("before", "take"),
    ("after", "take"),
    ("after", "say live"),
    ("committed", "end"),
    ("before", "acknowledge"),
)
"""Between offer and take; taken and not started; while it streams; between the end's commit and its acknowledgement."""
AT_ONCE: Final = 5  # workers that die in one fleet
RUNS: Final = 6  # runs that are under way at a time
PATIENCE: Final = 120.0  # seconds


async def feed(fleet: Fleet, words: Words, doomed: Sequence[FleetProcess]) -> None:
    """Keep runs under way until all of these workers are dead."""

    async def keep_on() -> None:
        thread_id = str(uuid.uuid4())
        while any(worker.is_up for worker in doomed):
            asked = await started(fleet, "tries", words, parts=3, pause=0.02, thread_id=thread_id)
            await fleet.clients[0].runs.join(asked.thread_id, asked.run_id)

    try:
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            for _ in range(RUNS):
                group.create_task(keep_on())
    except TimeoutError:
        left = [worker.name for worker in doomed if worker.is_up]
        raise AssertionError(f"{left} did not come to their points\n{fleet.logs()}") from None


async def perish(fleet: Fleet, words: Words, dying: Sequence[Point], chance: random.Random) -> None:
    """Have a worker die at each of these points, while another one lives."""
    numbers = [chance.choice([1, 2, 3]) for _ in dying]
    doomed = await asyncio.gather(
        *(
            fleet.add_worker(**{VARIABLE: f"{moment}|{name}|{number}"})
            for (moment, name), number in zip(dying, numbers, strict=True)
        )
    )
    await feed(fleet, words, doomed)
    await fleet.check(words)
    for worker, point in zip(doomed, dying, strict=True):
        assert await asyncio.to_thread(worker.process.wait) == -signal.SIGKILL, (point, worker.log)


async def test_workers_may_be_killed_wherever_a_run_is_on_its_way(engine: str, open_fleet: OpenFleet) -> None:
    fleet = await open_fleet(engine=engine, servers=1, workers=1, concurrency=2, lease=SHORT_LEASE, attempts=30)
    await perish(fleet, Words(), SURE, random.Random(8))


@pytest.mark.long
async def test_workers_may_be_killed_at_each_step_of_a_run(engine: str, open_fleet: OpenFleet) -> None:
    fleet, words = (
        await open_fleet(engine=engine, servers=1, workers=1, concurrency=2, lease=SHORT_LEASE, attempts=30),
        Words(),
    )
    chance = random.Random(88)
    dying = points(engine)
    for first in range(0, len(dying), AT_ONCE):
        await perish(fleet, words, dying[first : first + AT_ONCE], chance)


async def part(fleet: Fleet, words: Words, point: Point) -> None:
    """Have a worker die as it leaves, while it has runs."""
    moment, name = point
    worker = await fleet.add_worker(**{VARIABLE: f"{moment}|{name}|1"})

    def has_some() -> bool:
        return any(entry.pid == worker.pid and entry.what == "enter" for entry in fleet.journal.entries())

    async def has_some_by_now() -> bool:
        await started(fleet, "tries", words, parts=20, pause=0.02)
        return has_some()

    await fleet.until(has_some_by_now, f"{worker.name} has a run")
    assert await worker.terminate() == -signal.SIGKILL, (point, worker.log)


async def test_a_worker_may_be_killed_as_it_leaves(engine: str, open_fleet: OpenFleet) -> None:
    fleet, words = (
        await open_fleet(engine=engine, servers=1, workers=1, concurrency=2, lease=SHORT_LEASE, attempts=30),
        Words(),
    )
    await part(fleet, words, ("after", "take no more") if engine == "nats" else ("committed", "Leave"))
    await fleet.check(words)


@pytest.mark.long
async def test_a_worker_may_be_killed_at_each_step_of_its_parting(engine: str, open_fleet: OpenFleet) -> None:
    fleet, words = (
        await open_fleet(engine=engine, servers=1, workers=1, concurrency=2, lease=SHORT_LEASE, attempts=30),
        Words(),
    )
    for point in parting_points():
        await part(fleet, words, point)
        await fleet.check(words)
