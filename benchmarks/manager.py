"""What `RunManager` does with many runs: their rate beside raw appends, what a long queue takes, what they leave behind."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from itertools import batched
from pathlib import Path

from _databases import Databases, SqliteFiles, Way, beside_by_hand
from _raw_log import RawLog
from _report import Budget, Report, options_of, publish, rate_and_cpu, table, times
from _rounds import Contender, Cost, Effort, Race, Work, race
from append import events
from runs import BUDGET, BY_HAND, CONCURRENT, DURABLE, at_once, by_hand, case_of, durable, durable_manager

from trackside import LifecycleEventType, RunHandle, RunManager, RunSpec, RunStatus

type Opened = Callable[[Callable[[int], Awaitable[None]]], AbstractAsyncContextManager[RunManager]]
"""Opens a manager of this agent."""

EFFORT = Effort(rounds=5, seconds=0.7)
EVENTS_BY_HAND = "by hand, the events alone"
QUEUE, QUICK_QUEUE = 10_000, 100
AT_THE_DOOR = 256
"""This many are let in at once, in order."""

QUEUE_LIMIT = 1_000  # runs/s
MANY, QUICK_MANY = 100_000, 1_000
GROWTH_LIMIT = 5  # MB
PLACES = {"memory": "in memory", "sqlite": "on SQLite"}


@asynccontextmanager
async def events_by_hand(databases: Databases, concurrent: int) -> AsyncGenerator[Work]:
    """The four events of runs that do nothing, in the two commits that they take, and nothing else."""
    async with databases.new(with_tables=False) as url, RawLog.at(url, with_rows=False) as log:
        stream = (event for event in events() if event.event_type is not LifecycleEventType.HUMAN_MESSAGE)

        async def run() -> None:
            first, second, third, fourth = (next(stream) for _ in range(4))
            await asyncio.gather(log.append(first), log.append(second))
            await asyncio.gather(log.append(third), log.append(fourth))

        yield at_once(run, concurrent)


WAYS: Mapping[str, Way] = {EVENTS_BY_HAND: events_by_hand, BY_HAND: by_hand, DURABLE: durable}


@asynccontextmanager
async def queue(open_manager: Opened, length: int) -> AsyncGenerator[Work]:
    """This many runs on one thread, which wait for each other: letting all in and seeing all end counts as one."""
    order: list[int] = []

    async def agent(place: int) -> None:
        order.append(place)

    async with open_manager(agent) as manager:

        async def work(count: int) -> None:
            for _ in range(count):
                specs = [RunSpec("agent", place, thread_id="queue") for place in range(length)]
                handles: list[RunHandle] = []
                for some in batched(specs, AT_THE_DOOR):
                    handles += await asyncio.gather(*map(manager.start, some))
                for handle in handles:
                    assert (await handle.result()).status is RunStatus.success
                assert order == [*range(length)], "the runs of a thread come in the order in which they were let in"
                order.clear()

        yield work


def queues(length: int) -> list[Contender]:
    ways: Mapping[str, Opened] = {
        "memory": lambda agent: RunManager({"agent": agent}),
        "sqlite": partial(durable_manager, SqliteFiles()),
    }
    case = queue_case(length)
    return [Contender(f"RunManager {PLACES[name]}", case, partial(queue, way, length)) for name, way in ways.items()]


def queue_case(length: int) -> str:
    return f"{length:,} runs enqueued on one thread"


def by_the_run(result: Race, length: int) -> Race:
    """What a queue cost for each of its runs."""
    return Race({way: [Cost(c.cpu / length, c.wall / length) for c in costs] for way, costs in result.costs.items()})


def memory_of(place: str, count: int) -> list[float]:
    """The MB that a process of its own has after each tenth of this many runs."""
    script = Path(__file__).with_name("_many_runs.py")
    done = subprocess.run([sys.executable, script, place, str(count)], check=True, stdout=subprocess.PIPE, text=True)
    return [float(line) for line in done.stdout.split()]


def growth_of(resident: Sequence[float]) -> float:
    """The MB added after the first tenth."""
    return max(resident) - resident[0]


def rate_table(result: Race, case: str) -> str:
    ways = [way for way in result.costs if way.case == case]

    def row(way: Contender) -> list[str]:
        beside = [times(result.ratio(other, way, "wall").median) for other in ways[:-1]]
        return [way.name, *rate_and_cpu(result, way), *beside]

    return table([case, "runs/s by wall clock", "µs of CPU time", "× events alone", "× same rows"], map(row, ways))


def queue_table(result: Race, case: str) -> str:
    rows = [[way.name, *rate_and_cpu(result, way)] for way in result.costs if way.case == case]
    return table([case, "runs/s by wall clock", "µs of CPU time"], rows)


def memory_table(resident: Mapping[str, Sequence[float]], count: int) -> str:
    header = [f"{count:,} runs", "MB after the first tenth", "after half", "after all", "grown by at most"]
    rows = [
        [f"RunManager {PLACES[place]}", *(f"{mb:.1f}" for mb in (found[0], found[4], found[-1], growth_of(found)))]
        for place, found in resident.items()
    ]
    return table(header, rows)


def budgets_of(
    result: Race, cases: Sequence[str], queued: str, resident: Mapping[str, Sequence[float]]
) -> list[Budget]:
    rates = [
        Budget.of(
            f"{way.name}: {queued} drain at {QUEUE_LIMIT:,} runs/s at least", QUEUE_LIMIT, partial(result.rate, way)
        )
        for way in result.costs
        if way.case == queued
    ]
    growth = [
        Budget(
            f"RunManager {PLACES[place]}: at most {GROWTH_LIMIT} MB more after all runs than after the first tenth",
            GROWTH_LIMIT,
            {"memory": growth_of(found)},
            at_most=True,
        )
        for place, found in resident.items()
    ]
    return [*beside_by_hand(result, cases, by_hand=BY_HAND, ours=DURABLE, least=BUDGET), *rates, *growth]


def main() -> None:
    options = options_of(__doc__, EFFORT)
    many, length = (QUICK_MANY, QUICK_QUEUE) if options.quick else (MANY, QUEUE)
    resident = {place: memory_of(place, many) for place in PLACES}
    widths = CONCURRENT[:1] if options.quick else CONCURRENT
    cases = {case_of("SQLite", width): width for width in widths}
    runs = [
        Contender(name, case, partial(way, SqliteFiles(), width))
        for case, width in cases.items()
        for name, way in WAYS.items()
    ]
    queued = by_the_run(race(queues(length), options.effort), length)
    result = Race({**race(runs, options.effort).costs, **queued.costs})
    report = Report(
        name="manager",
        unit="nanoseconds for one run",
        race=result,
        tables=[
            *(rate_table(result, case) for case in cases),
            queue_table(result, queue_case(length)),
            memory_table(resident, many),
        ],
        budgets=budgets_of(result, [*cases], queue_case(length), resident),
        ours=[DURABLE, *(f"RunManager {where}" for where in PLACES.values())],
        packages=["sqlalchemy"],
        extra={"runs": many, "resident_mb": resident},
    )
    publish(report, options)


if __name__ == "__main__":
    main()
