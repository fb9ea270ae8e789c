"""A soak: systems are used for a long time and not disturbed, and nothing may grow except what is kept: the log.

It measures memory, file descriptors, threads and tasks of each process, the size of SQLite's write-ahead log, and those
tables of PostgreSQL that are small by their nature. It fits a line to each one's samples after the warm-up (least
squares); what that line gains in an hour has to be within a tolerance.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, median
from typing import Any, Final

from tests.torture import counted_tasks, report
from tests.torture.ordeal import Ordeal, Plan, Result, new_folder
from tests.torture.people import People
from tests.torture.systems import System
from tests.torture.watch import sizes_of

MINUTES: Final = 60.0
WARM_UP: Final = 0.3
"""The part of the time in which caches fill."""
_EVERY: Final = 2.0  # seconds
_MEGABYTE: Final = 1_000_000
_HOUR: Final = 3_600.0
TOLERANCES: Final = {
    "memory": 32 * _MEGABYTE,
    "descriptors": 12.0,
    "threads": 8.0,
    "tasks": 40.0,
    "WAL": 16 * _MEGABYTE,
    "table": 8 * _MEGABYTE,
}
"""What each may gain while it is used: in an hour, or in the whole time if that is shorter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """How a size developed after the warm-up."""

    what: str
    first: float
    last: float
    """Medians of the first and the last fifth of the samples."""
    gain: float
    """What the fitted line gains in an hour, or over the time of the samples if that is shorter."""
    most: float

    @property
    def is_flat(self) -> bool:
        """Whether the gain is within the tolerance."""
        return self.gain <= self.most


def trend_of(what: str, samples: Sequence[tuple[float, float]]) -> Trend:
    """The trend of samples, each a time in seconds and how much there was."""
    warm = samples[int(len(samples) * WARM_UP) :]
    times, values = [at for at, _ in warm], [value for _, value in warm]
    span = times[-1] - times[0]
    slope = linear_regression(times, values).slope if span else 0.0
    fifth = max(1, len(values) // 5)
    return Trend(
        what=what,
        first=median(values[:fifth]),
        last=median(values[-fifth:]),
        gain=slope * min(span, _HOUR),
        most=next(most for word, most in TOLERANCES.items() if word in what),
    )


class Soak(Ordeal):
    """An ordeal without faults, during which sizes are measured."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        super().__init__(plan, folder, print)
        os.environ[counted_tasks.VARIABLE] = str(folder)  # for all processes that start from here on
        self.trends: list[Trend] = []

    def _system(self) -> System:
        system = super()._system()
        system.small_disk = False  # the log of an hour would fill it
        return system

    async def _hurt(self, system: System, people: People) -> None:
        samples: dict[str, list[tuple[float, float]]] = {}
        began = time.monotonic()
        while (at := time.monotonic() - began) < self._plan.seconds:
            for what, size in (await asyncio.to_thread(sizes_of, system)).items():
                samples.setdefault(what, []).append((at, size))
            await asyncio.sleep(_EVERY)
        self.trends = [trend_of(what, taken) for what, taken in samples.items()]


def run(options: argparse.Namespace, seed: int, plans: Sequence[Plan]) -> int:
    """Soak each system; the exit code is 0 if nothing grows, and nothing is wrong with what they have done."""
    began = time.monotonic()
    results: list[Result] = []
    trends: dict[str, list[Trend]] = {}
    for plan in plans:
        print(f"{plan.system}: {plan.seconds:.0f} s, seed {plan.seed}", flush=True)
        soak = Soak(plan, new_folder(plan.system))
        results.append(asyncio.run(soak.go_through()))
        trends[plan.system] = soak.trends
        print("\n".join(table(plan.system, soak.trends)), flush=True)
    said: dict[str, Any] = report.as_json(results, seed, time.monotonic() - began)
    said["trends"] = {system: [_as_json(trend) for trend in found] for system, found in trends.items()}
    print("\n".join(report.lines(said)), flush=True)
    if options.report is not None:
        report.write(options.report, said)
    is_flat = all(trend.is_flat for found in trends.values() for trend in found)
    return 0 if is_flat and report.is_sound(results) else 1


def table(system: str, trends: Sequence[Trend]) -> Iterator[str]:
    """The trends for the screen."""
    yield f"{system:<28}{'first':>12}{'last':>12}{'gain':>12}{'at most':>12}"
    for trend in trends:
        numbers = "".join(f"{_shown(value):>12}" for value in (trend.first, trend.last, trend.gain, trend.most))
        yield f"  {trend.what:<26}{numbers}{'' if trend.is_flat else '   GROWS'}"


def _shown(value: float) -> str:
    return f"{value / _MEGABYTE:.2f} MB" if abs(value) >= 10_000 else f"{value:.1f}"


def _as_json(trend: Trend) -> dict[str, Any]:
    names = ("what", "first", "last", "gain", "most", "is_flat")
    return {name: getattr(trend, name) for name in names}
