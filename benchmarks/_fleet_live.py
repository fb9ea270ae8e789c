"""How soon what runs send on a worker reaches the hub of a server, where clients follow it."""

import asyncio
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from _fleet_place import EngineName, Fleet, Place, fleet
from _fleet_runs import Soon

from trackside import RunHandle, RunSpec
from trackside.app.streams import EndedStream

RUNS: Final = 100
A_SECOND: Final = 5_000
_HEAD_START: Final = 1.5  # seconds for all runs to begin and to be followed


@dataclass(frozen=True, slots=True)
class Live:
    """What became of the parts that were sent: how late each one was, and how many came in a second."""

    late: Soon
    said: int
    seconds: float
    """From sending the first part to the arrival of the last."""

    @property
    def came(self) -> int:
        """How many parts have come."""
        return len(self.late.took)

    @property
    def late_of_all(self) -> Soon:
        """How late each part was; one that has not come counts as infinitely late."""
        return Soon([*self.late.took, *[math.inf] * (self.said - self.came)])


@dataclass(frozen=True, slots=True)
class _Heard:
    at: int
    data: bytes


async def live(where: Place, engine: EngineName, *, seconds: float, burst: int) -> tuple[Live, Live]:
    """Measure a steady pace, then this many parts of each run as fast as possible."""
    places = str(-(-RUNS // 2))
    async with fleet(where, engine, TRACKSIDE_WORKER_CONCURRENCY=places) as it:
        await _say(it, parts=20, pause=0.02)  # to fill caches, and specialise what specialises itself
        a_run = A_SECOND / RUNS
        paced = await _say(it, parts=max(2, round(a_run * seconds)), pause=1 / a_run)
        return paced, await _say(it, parts=burst, pause=0.0)


async def _say(it: Fleet, *, parts: int, pause: float) -> Live:
    begin = time.monotonic_ns() + round(_HEAD_START * 1e9)
    places = it.place.places(RUNS)
    asked = [
        # Not all at the same moment: nobody's runs are.
        {"place": place, "parts": parts, "pause": pause, "begin": begin + round(number / RUNS * pause * 1e9)}
        for number, place in enumerate(places)
    ]
    handles = await asyncio.gather(*(it.app.manager.start(RunSpec("talking", one)) for one in asked))
    async with asyncio.timeout(120):
        heard = await asyncio.gather(*(_follow(it, handle) for handle in handles))
    await it.until_rest()
    return _live_of([part for parts_of_run in heard for part in parts_of_run], said=parts * RUNS)


async def _follow(it: Fleet, handle: RunHandle) -> list[_Heard]:
    """Follow a run to its end, as a client's stream does, noting only what comes and when."""
    assert it.app.membership is not None
    assert it.app.membership.mirrors is not None
    heard: list[_Heard] = []
    with it.app.membership.mirrors.run(handle.thread_id, handle.run_id):
        reader = it.app.streams.read(handle.run_id)
        while not isinstance(batch := await reader.next(), EndedStream):
            now = time.monotonic_ns()
            heard += [_Heard(now, frame.data) for frame in batch]
    return heard


def _live_of(heard: Sequence[_Heard], *, said: int) -> Live:
    times = [(one.at, _said_at(one.data)) for one in heard]
    parts = [(at, begun) for at, begun in times if begun]
    late = Soon([(at - begun) / 1e6 for at, begun in parts])
    seconds = (max(at for at, _ in parts) - min(begun for _, begun in parts)) / 1e9
    return Live(late, said, seconds)


def _said_at(data: bytes) -> int:
    """When a part was sent; 0 if it is not one of the agent's."""
    found = json.loads(data)
    return int(found["at"]) if isinstance(found, dict) and "at" in found else 0
