"""A fleet: how soon a run begins on a worker, how many there are, what workers cost and bring, what it takes to lose one."""

import argparse
import asyncio
import statistics
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Final

from _fleet_capacity import LARGE, QUICK, measured
from _fleet_crowd import Idle, idle
from _fleet_failover import WHAT, Failures, failures
from _fleet_live import A_SECOND, Live, live
from _fleet_place import EngineName, Place, Runs, fleet, place
from _fleet_raw import raw_fleet
from _fleet_runs import PLACES, WAVES, Makespan, Soon, Start, many, one_at_a_time, ours, sleepers
from _report import Budget, Options, Report, figure, options_of, publish, rate_beside, table
from _rounds import Contender, Cost, Effort, Race

EFFORT: Final = Effort(rounds=5, seconds=2.0)
ENGINES: Final[Sequence[EngineName]] = ("nats", "postgres")
OURS, RAW = "trackside on NATS", "by hand on PostgreSQL and NATS"
CROWD: Final = 64

BEGIN_P50, BEGIN_P95 = 4.0, 8.0  # ms
RATE: Final = 0.6  # of the rate by hand
LINEAR: Final = 0.95
OF_A_RUN: Final = 2.0  # ms of CPU time
LATE_P99: Final = 5.0  # ms


@dataclass(slots=True)
class Found:
    """All that was measured."""

    soon: dict[str, list[Soon]] = field(default_factory=dict)
    race: dict[Contender, list[Cost]] = field(default_factory=dict)
    makespans: list[Makespan] = field(default_factory=list)
    idle: dict[EngineName, Idle] = field(default_factory=dict)
    live: dict[EngineName, tuple[Live, Live]] = field(default_factory=dict)
    failures: Failures = field(default_factory=Failures)
    missing: list[str] = field(default_factory=list)
    """What could not be measured, and why."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much is measured of each."""

    rounds: int
    samples: int
    runs: Mapping[int, int]
    """How many runs, by the number of callers that let them in."""
    workers: Sequence[int]
    crowd: int
    crowd_runs: int
    live_seconds: float
    burst: int
    failures: int
    frozen: bool

    @classmethod
    def of(cls, options: Options) -> "Amounts":
        """The amounts for a quick look, or for figures to be written down."""
        rounds = options.effort.rounds
        if options.quick:
            return cls(rounds, 5, {32: 64}, (1, 2), 4, 8, 0.2, 5, 1, frozen=False)
        return cls(rounds, 60, {32: 1_200, 256: 1_600}, (1, 2, 4, 8), CROWD, 200, 5.0, 500, 3, frozen=True)


def case_of(callers: int) -> str:
    return f"2 workers, let in by {callers} at once"


async def measure(amounts: Amounts) -> Found:
    """Measure everything, one thing after another: there are only two cores."""
    found = Found()
    async with place() as where:
        await _part(found, "runs", _beside_each_other(where, amounts, found))
        await _part(found, "more workers", _more_workers(where, amounts, found))
        for engine in ENGINES:
            await _part(found, f"live output on {engine}", _live(where, engine, amounts, found))
            await _part(found, f"idle workers on {engine}", _idle(where, engine, amounts, found))
        await _part(found, "what is gone", failures(where, found.failures, amounts.failures, frozen=amounts.frozen))
    return found


async def _part(found: Found, what: str, measuring: Awaitable[None]) -> None:
    """Measure one part; if it fails, the others still go on."""
    print(f"{what} …", file=sys.stderr)
    try:
        await measuring
    except Exception as exc:  # noqa: BLE001  # whatever a part of the fleet did: it is said in the place of its figures
        traceback.print_exception(exc)
        found.missing.append(f"{what}: {type(exc).__name__}: {exc}")


async def _more_workers(where: Place, amounts: Amounts, found: Found) -> None:
    found.makespans = await sleepers(where, amounts.workers)


async def _live(where: Place, engine: EngineName, amounts: Amounts, found: Found) -> None:
    found.live[engine] = await live(where, engine, seconds=amounts.live_seconds, burst=amounts.burst)


async def _idle(where: Place, engine: EngineName, amounts: Amounts, found: Found) -> None:
    found.idle[engine] = await idle(where, engine, workers=amounts.crowd, runs=amounts.crowd_runs)


async def _beside_each_other(where: Place, amounts: Amounts, found: Found) -> None:
    """Measure both engines, and the loop by hand, in rounds."""
    async with (
        fleet(where, "nats") as on_nats,
        fleet(where, "postgres") as on_postgres,
        raw_fleet(where, workers=2) as raw,
    ):
        alone: dict[str, tuple[Runs, Start]] = {
            "nats": (on_nats, ours(on_nats)),
            "postgres": (on_postgres, ours(on_postgres)),
            RAW: (raw, raw.start),
        }
        contenders: dict[str, tuple[Runs, Start, Callable[[], float]]] = {
            OURS: (on_nats, ours(on_nats), lambda: sum(on_nats.cpu().values())),
            RAW: (raw, raw.start, raw.cpu),
        }
        for it, start in alone.values():
            await one_at_a_time(it, start, max(2, amounts.samples // 3))
        for it, start, cpu in contenders.values():
            await many(it, start, runs=min(amounts.runs.values()) // 2, at_once=32, cpu=cpu)
        for number in range(amounts.rounds):
            for name, (it, start) in _turned(alone, number):
                found.soon.setdefault(name, []).append(await one_at_a_time(it, start, amounts.samples))
            for callers, runs in amounts.runs.items():
                for name, (it, start, cpu) in _turned(contenders, number):
                    cost = await many(it, start, runs=runs, at_once=callers, cpu=cpu)
                    found.race.setdefault(Contender(name, case_of(callers)), []).append(cost)


def race_of(found: Found) -> Race:
    """What both ways took in the rounds that were completed."""
    rounds = min(map(len, found.race.values()), default=0)
    return Race({way: costs[:rounds] for way, costs in found.race.items()} if rounds > 1 else {})


def _turned[T](these: Mapping[str, T], number: int) -> list[tuple[str, T]]:
    """The same, with another one first in each round."""
    first = number % len(these)
    return [*these.items()][first:] + [*these.items()][:first]


def soon_table(found: Found) -> str:
    names = {"nats": "trackside on NATS", "postgres": "trackside on PostgreSQL alone", RAW: RAW}
    rows = [[names[name], *(f"{_of_rounds(some, of):.1f}" for of in (50, 95, 99))] for name, some in found.soon.items()]
    return table(["one run at a time, 2 workers", "begins after p50, ms", "p95, ms", "p99, ms"], rows)


def _of_rounds(some: Sequence[Soon], of: int) -> float:
    """The median over the rounds."""
    return statistics.median(one.of_100(of) for one in some)


def rate_table(race: Race, case: str) -> str:
    hand = race.contender(RAW, case)

    def row(way: Contender) -> list[str]:
        return [
            way.name,
            figure(race.rate(way, "wall")),
            figure(race.cost(way, "cpu").scaled(1e-6), digits=2),
            *rate_beside(race, way, hand),
        ]

    header = [case, "runs/s by wall clock", "ms of CPU time, everything", "× by hand, wall", "CPU"]
    return table(header, [row(way) for way in race.costs if way.case == case])


def makespan_table(found: Found) -> str:
    one = found.makespans[0]
    rows = [
        [
            str(this.workers),
            f"{WAVES * PLACES * this.workers:,}",
            f"{this.seconds:.2f}",
            f"{this.places_used:.3f}",
            f"{one.seconds / this.seconds:.3f}",
        ]
        for this in found.makespans
    ]
    header = ["workers", "runs of 1 s", "all have ended after, s", "of what the places could do", "of linear"]
    return table(header, rows, words=())


def idle_table(found: Found) -> str:
    kinds = ("PostgreSQL", "NATS", "server", "workers")
    rows = [
        [
            engine,
            f"{this.soon.of_100(50):.1f}",
            f"{this.soon.of_100(95):.1f}",
            f"{this.of_all:.1f}",
            *(f"{this.of_a_run[kind]:.1f}" for kind in kinds),
            f"{this.at_rest:.2f}",
            str(this.connections),
        ]
        for engine, this in found.idle.items()
    ]
    workers = next(iter(found.idle.values())).workers
    header = [
        f"{workers} idle workers",
        "begins after p50, ms",
        "p95, ms",
        "CPU of a run, ms",
        *kinds,
        "cores at rest",
        "connections",
    ]
    return table(header, rows)


def live_table(found: Found) -> str:
    rows = [
        [
            engine,
            f"{paced.late.of_100(50):.2f}",
            f"{paced.late.of_100(99):.2f}",
            f"{paced.came / paced.said:.2%}",
            f"{burst.came / burst.seconds:,.0f}",
            f"{burst.came / burst.said:.2%}",
        ]
        for engine, (paced, burst) in found.live.items()
    ]
    header = [f"{A_SECOND:,} parts/s of 100 runs", "late by p50, ms", "p99, ms", "came", "burst, parts/s", "came"]
    return table(header, rows)


def failure_table(found: Found) -> str:
    took = found.failures.took
    rows = [[what, f"{statistics.median(took[what]):.2f}", f"{max(took[what]):.2f}"] for what in WHAT if what in took]
    return table(["what is gone, and what is waited for", "seconds", "at most"], rows)


def tables_of(found: Found, race: Race) -> list[str]:
    """The tables of all that was measured, and what was not."""
    tables = [rate_table(race, case) for case in dict.fromkeys(way.case for way in race.costs)]
    for what, table_of in (
        (found.soon, soon_table),
        (found.makespans, makespan_table),
        (found.idle, idle_table),
        (found.live, live_table),
        (found.failures.took, failure_table),
    ):
        if what:
            tables.append(table_of(found))
    return [*tables, *(f"**not measured**: {missing}" for missing in found.missing)]


def budgets_of(found: Found, race: Race) -> list[Budget]:
    return [*_budgets_of_runs(found, race), *_budgets_of_workers(found)]


def _budgets_of_runs(found: Found, race: Race) -> list[Budget]:
    soon = found.soon.get("nats", [])
    begins = [
        Budget(
            f"on NATS a run begins within {limit:g} ms (p{of}), one at a time",
            limit,
            {"wall": _of_rounds(soon, of)},
            at_most=True,
        )
        for of, limit in ((50, BEGIN_P50), (95, BEGIN_P95))
        if soon
    ]
    rates = [
        Budget.of(
            f"{case}: at least {RATE} of the rate by hand",
            RATE,
            partial(race.ratio, race.contender(RAW, case), race.contender(OURS, case)),
        )
        for case in dict.fromkeys(way.case for way in race.costs)
    ]
    return [*begins, *rates]


def _budgets_of_workers(found: Found) -> list[Budget]:
    budgets: list[Budget] = []
    if found.makespans:
        one, last = found.makespans[0], found.makespans[-1]
        what = f"{last.workers} workers: at least {LINEAR} of {last.workers} times what one does"
        budgets.append(Budget(what, LINEAR, {"wall": one.seconds / last.seconds}))
    if (crowd := found.idle.get("nats")) is not None:
        what = f"{crowd.workers} idle workers: at most {OF_A_RUN:g} ms of CPU time for a run, of everything together"
        budgets.append(Budget(what, OF_A_RUN, {"cpu": crowd.of_all}, at_most=True))
    if "nats" in found.live:
        late = found.live["nats"][0].late_of_all.of_100(99)
        what = f"on NATS a part is with the server within {LATE_P99:g} ms (p99)"
        budgets.append(Budget(what, LATE_P99, {"wall": late}, at_most=True))
    return budgets


def extra_of(found: Found) -> dict[str, object]:
    """What the tables are made from, without single runs and parts."""
    points = (50, 95, 99)
    return {
        "begins_after_ms": {
            name: [{of: one.of_100(of) for of in points} for one in some] for name, some in found.soon.items()
        },
        "makespans": [asdict(one) for one in found.makespans],
        "idle": {
            engine: {"of_a_run_ms": this.of_a_run, "cores_at_rest": this.at_rest, "connections": this.connections}
            for engine, this in found.idle.items()
        },
        "live": {
            engine: {
                "late_ms": {of: paced.late.of_100(of) for of in points},
                "burst_a_second": burst.came / burst.seconds,
            }
            for engine, (paced, burst) in found.live.items()
        },
        "failures_s": found.failures.took,
    }


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--capacity", action="store_true", help="only what 10,000 workers and 1,000,000 queued runs ask of the database"
    )


def main() -> None:
    options = options_of(__doc__, EFFORT, more=_more)
    if options.given.capacity:
        print("\n\n".join(measured(QUICK if options.quick else LARGE)))
        return
    found = asyncio.run(measure(Amounts.of(options)))
    race = race_of(found)
    report = Report(
        name="fleet",
        unit="nanoseconds for one run",
        race=race,
        tables=tables_of(found, race),
        budgets=budgets_of(found, race),
        ours=[OURS],
        packages=["sqlalchemy", "asyncpg", "nats-py"],
        extra=extra_of(found),
    )
    publish(report, options)


if __name__ == "__main__":
    main()
