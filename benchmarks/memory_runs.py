"""How many runs a second `RunManager` does in memory, of an agent that does nothing, beside a naive loop."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from itertools import batched

import uvloop
from _naive_manager import NaiveManager, random_id
from _report import Budget, Report, options_of, publish, rate_and_cpu, rate_beside, table
from _rounds import Contender, Effort, Race, Work, race

from trackside import (
    ObserverBinding,
    RunLifecycleEvent,
    RunManager,
    RunObserver,
    RunResult,
    RunSpec,
    RunStatus,
    run_agent,
)
from trackside.harness.ids import new_id

EFFORT = Effort(rounds=11, seconds=0.2)
LOOPS = {"asyncio": None, "uvloop": uvloop.new_event_loop}
AT_ONCE = (1, 32, 256)
JUDGED_AT_ONCE = 32  # as the server's figures are
NAIVE = "naive loop"
EMBEDDED = "run_agent, 1 observer"
MANAGED = "RunManager, no observer", "RunManager, 1 required observer", "RunManager, 1 optional observer"


class NoOp:
    """An observer that does nothing."""

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Do nothing."""


async def agent(value: object) -> None:
    """Do nothing."""


@asynccontextmanager
async def naive(at_once: int, *, new_id: Callable[[], str] = random_id) -> AsyncGenerator[Work]:
    manager = NaiveManager(agent, NoOp(), new_id)

    async def work(count: int) -> None:
        for wave in batched(range(count), at_once):
            for outcome in [manager.start() for _ in wave]:
                assert (await outcome).status == "success"

    yield work


@asynccontextmanager
async def managed(
    at_once: int, *, observers: Callable[[], Sequence[RunObserver | ObserverBinding]]
) -> AsyncGenerator[Work]:
    async with RunManager({"agent": agent}, observers=observers()) as manager:

        async def work(count: int) -> None:
            for wave in batched(range(count), at_once):
                for handle in [await manager.start(RunSpec("agent")) for _ in wave]:
                    assert (await handle.result()).status is RunStatus.success
            # An optional observer is told behind the run's back; the cost of that is part of the work.
            for flushed in await manager.observers.flush(60.0):
                assert flushed.complete
                assert not flushed.dropped

        yield work


@asynccontextmanager
async def embedded(at_once: int) -> AsyncGenerator[Work]:
    observer = NoOp()

    async def work(count: int) -> None:
        for wave in batched(range(count), at_once):
            runs: list[Awaitable[RunResult]] = [run_agent(agent, observer=observer) for _ in wave]
            for result in await asyncio.gather(*runs):
                assert result.status is RunStatus.success

    yield work


WAYS: dict[str, Callable[[int], AbstractAsyncContextManager[Work]]] = {
    NAIVE: naive,
    "naive loop with Trackside's ids": partial(naive, new_id=new_id),
    MANAGED[0]: partial(managed, observers=list),
    MANAGED[1]: partial(managed, observers=lambda: [ObserverBinding(NoOp(), required=True)]),
    MANAGED[2]: partial(managed, observers=lambda: [NoOp()]),
    EMBEDDED: embedded,
}


def case_of(loop: str, at_once: int) -> str:
    return f"{loop}, {'one at a time' if at_once == 1 else f'{at_once} at once'}"


def contenders() -> list[Contender]:
    return [
        Contender(name, case_of(loop, at_once), partial(way, at_once), factory)
        for loop, factory in LOOPS.items()
        for at_once in AT_ONCE
        for name, way in WAYS.items()
    ]


def table_of(result: Race, case: str) -> str:
    beside = result.contender(NAIVE, case)

    def row(name: str) -> list[str]:
        way = result.contender(name, case)
        return [name, *rate_and_cpu(result, way), *rate_beside(result, way, beside)]

    header = [case, "runs/s by wall clock", "µs of CPU time", "× naive rate, wall", "× naive rate, CPU"]
    return table(header, map(row, WAYS))


def budgets_of(result: Race) -> list[Budget]:
    budgets = []
    case = case_of("asyncio", JUDGED_AT_ONCE)
    naive_way = result.contender(NAIVE, case)
    for name in MANAGED:
        way = result.contender(name, case)
        beside_naive, rate = partial(result.ratio, naive_way, way), partial(result.rate, way)
        budgets += [
            Budget.of(f"{name}: at least 0.4 of the naive loop's rate ({case})", 0.4, beside_naive),
            Budget.of(f"{name}: at least 25,000 runs/s ({case})", 25_000, rate),
        ]
    return budgets


def main() -> None:
    options = options_of(__doc__, EFFORT)
    result = race(contenders(), options.effort)
    report = Report(
        name="memory_runs",
        unit="nanoseconds for one run",
        race=result,
        tables=[table_of(result, case_of(loop, at_once)) for loop in LOOPS for at_once in AT_ONCE],
        budgets=budgets_of(result),
        ours=[*MANAGED, EMBEDDED],
        packages=["uvloop"],
    )
    publish(report, options)


if __name__ == "__main__":
    main()
