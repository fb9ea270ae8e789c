"""How many complete durable runs a second the manager does on a store, beside the same rows written by hand."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

from _databases import Databases, PostgresDatabases, SqliteFiles
from _raw_postgres_runs import RawPostgresRuns
from _raw_runs import RawRuns
from _report import Budget, Report, figure, options_of, publish, table, times
from _rounds import Contender, Effort, Race, Work, race

from trackside import ObserverBinding, RunManager, RunSpec
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store

EFFORT = Effort(rounds=11, seconds=0.7)
CONCURRENT = (1, 32, 256)
BY_HAND, DURABLE = "by hand, the same rows", "RunManager on a store"
BUDGET = 0.6


def at_once(run: Callable[[], Awaitable[object]], concurrent: int) -> Work:
    """So many callers, each of which waits for its run to end before it starts the next."""

    async def one(count: int) -> None:
        for _ in range(count):
            await run()

    async def work(count: int) -> None:
        each, more = divmod(count, concurrent)
        await asyncio.gather(*(one(each + (number < more)) for number in range(concurrent)))

    return work


@asynccontextmanager
async def by_hand(databases: Databases, concurrent: int) -> AsyncGenerator[Work]:
    async with databases.new(with_tables=True) as url, RAW_RUNS[databases.name].at(url) as runs:
        yield at_once(runs.run, concurrent)


async def agent(input: Any) -> None:
    """Do nothing."""


@asynccontextmanager
async def durable(databases: Databases, concurrent: int) -> AsyncGenerator[Work]:
    async with (
        databases.new(with_tables=True) as url,
        Store.open(url) as store,
        RunManager(
            {"agent": agent},
            observers=[ObserverBinding(StorageObserver(store), required=True)],
            coordinator=store.coordinator(),
        ) as manager,
    ):

        async def run() -> None:
            await (await manager.start(RunSpec("agent"))).result()

        yield at_once(run, concurrent)


RAW_RUNS: Mapping[str, type[RawRuns | RawPostgresRuns]] = {"SQLite": RawRuns, "PostgreSQL": RawPostgresRuns}
WAYS: Mapping[str, Callable[[Databases, int], AbstractAsyncContextManager[Work]]] = {
    BY_HAND: by_hand,
    DURABLE: durable,
}


def case_of(database: str, concurrent: int) -> str:
    return f"{database}, one at a time" if concurrent == 1 else f"{database}, {concurrent} at once"


def table_of(result: Race, case: str) -> str:
    hand = result.contender(BY_HAND, case)

    def row(name: str) -> list[str]:
        way = result.contender(name, case)
        return [
            name,
            figure(result.rate(way, "wall")),
            figure(result.cost(way, "cpu").scaled(1e-3), digits=1),
            *(times(result.ratio(hand, way, clock).median) for clock in ("wall", "cpu")),
        ]

    return table([case, "runs/s by wall clock", "µs of CPU time", "× same rows, wall", "CPU"], map(row, WAYS))


def budgets_of(result: Race, cases: Iterable[str]) -> list[Budget]:
    return [
        Budget.of(
            f"{case}: at least {BUDGET} of the rate of the same rows by hand",
            BUDGET,
            partial(result.ratio, result.contender(BY_HAND, case), result.contender(DURABLE, case)),
        )
        for case in cases
    ]


def main() -> None:
    options = options_of(__doc__, EFFORT)
    sizes = CONCURRENT[:1] if options.quick else CONCURRENT
    with PostgresDatabases() as server:
        cases = {case_of(of.name, n): (of, n) for of in (SqliteFiles(), server) for n in sizes}
        contenders = [
            Contender(name, case, partial(way, of, number), server_cpu_ns=of.cpu_ns)
            for case, (of, number) in cases.items()
            for name, way in WAYS.items()
        ]
        result = race(contenders, options.effort)
    report = Report(
        name="runs",
        unit="nanoseconds for one run",
        race=result,
        tables=[table_of(result, case) for case in cases],
        budgets=budgets_of(result, cases),
        packages=["sqlalchemy", "asyncpg"],
    )
    publish(report, options)


if __name__ == "__main__":
    main()
