"""How soon a run of a fleet begins, how many runs there are in a second, and what more workers bring."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from _fleet_place import Fleet, Place, Runs, fleet
from _rounds import Cost

from trackside import RunSpec

GAP = 0.02  # seconds between two runs when only one is there at a time
WAVES = 4  # runs of a second, one after the other at each place
PLACES = 16  # that a worker has by default


type Start = Callable[[int], Awaitable[object]]
"""Lets a run in; the run's agent notes at this place of the book when it was called."""


@dataclass(frozen=True, slots=True)
class Soon:
    """Milliseconds from the request for a run until its agent was called."""

    took: Sequence[float]

    def of_100(self, number: int) -> float:
        """The time within which this many of a hundred began."""
        return sorted(self.took)[min(len(self.took) - 1, len(self.took) * number // 100)]


async def one_at_a_time(it: Runs, start: Start, runs: int) -> Soon:
    """Do runs that have the fleet to themselves: requested, begun, ended, then a moment in which all is idle."""
    took: list[float] = []
    for place in it.place.places(runs):
        begun = time.monotonic_ns()
        await start(place)
        # Its agent has been called already, or will be in a moment.
        await it.until_noted([place], 30.0)
        took.append((it.place.book.at(place) - begun) / 1e6)
        await asyncio.sleep(GAP)
    return Soon(took)


async def many(it: Runs, start: Start, *, runs: int, at_once: int, cpu: Callable[[], float]) -> Cost:
    """Let runs in as this many callers, each one after another, until all have ended; gives what a run took."""
    places = it.place.places(runs)
    left = iter(places)

    async def caller() -> None:
        for place in left:
            await start(place)

    used, begun = cpu(), time.monotonic_ns()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(caller())
    await it.until_noted(places)
    await it.until_rest()
    took = time.monotonic_ns() - begun
    return Cost((cpu() - used) * 1e9 / runs, took / runs)


def ours(it: Fleet) -> Start:
    """How to let a run in on a fleet of ours."""

    async def start(place: int) -> None:
        await it.app.manager.start(RunSpec("noop", place))

    return start


@dataclass(frozen=True, slots=True)
class Makespan:
    """How long all waves took with this many workers."""

    workers: int
    seconds: float

    @property
    def places_used(self) -> float:
        """Which share of all the places' time was used."""
        return WAVES / self.seconds


async def sleepers(where: Place, numbers: Sequence[int]) -> list[Makespan]:
    """Do runs of a second, enough to fill all places four times, with more and more workers."""
    found: list[Makespan] = []
    async with fleet(where, "nats", workers=0) as it:
        for number in numbers:
            await it.add_workers(number - len(it.workers))
            await one_at_a_time(it, ours(it), 4 * number)  # all of them are there, and warm
            places = where.places(WAVES * PLACES * number)
            begun = time.monotonic()
            async with asyncio.TaskGroup() as group:
                for place in places:
                    group.create_task(it.app.manager.start(RunSpec("sleeping", {"place": place})))
            await it.until_noted(places)
            await it.until_rest()
            found.append(Makespan(number, time.monotonic() - begun))
    return found
