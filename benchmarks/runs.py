"""How many complete durable runs a second the manager does on a store, beside the same rows written by hand."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from _databases import Databases, Way, beside_by_hand, race_on_each
from _dbos import dbos
from _orm_rows import OrmRows
from _raw_postgres_runs import RawPostgresRuns
from _raw_runs import RawRuns
from _report import Report, options_of, publish, rate_and_cpu, rate_beside, table
from _rounds import Effort, Race, Work

from trackside import ObserverBinding, RunManager, RunSpec
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store

EFFORT = Effort(rounds=5, seconds=0.7)
CONCURRENT = (1, 32, 256)
BY_HAND, ROW_BY_ROW, DURABLE = "by hand, the same rows", "SQLAlchemy ORM, row by row", "RunManager on a store"
IN_MEMORY = "RunManager in memory, its agent writes them by hand"
BUDGET = 0.6


def at_once(run: Callable[[], Awaitable[object]], concurrent: int) -> Work:
    """Run as this many callers, each of which waits for its run to end before it starts the next."""

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


@asynccontextmanager
async def in_memory(databases: Databases, concurrent: int) -> AsyncGenerator[Work]:
    """What is left if reading, judging and encoding what is written cost nothing: a run, and the rows by hand."""
    async with databases.new(with_tables=True) as url, RAW_RUNS[databases.name].at(url) as runs:

        async def agent(input: Any) -> None:
            await runs.run()

        async with RunManager({"agent": agent}) as manager:
            yield at_once(start_and_wait(manager), concurrent)


@asynccontextmanager
async def row_by_row(databases: Databases, concurrent: int) -> AsyncGenerator[Work]:
    async with databases.new(with_tables=False) as url, OrmRows.at(url) as rows:
        yield at_once(rows.run, concurrent)


async def agent(input: Any) -> None:
    """Do nothing."""


@asynccontextmanager
async def durable_manager(
    databases: Databases, agent: Callable[[Any], Awaitable[object]] = agent
) -> AsyncGenerator[RunManager]:
    """A manager of this agent, on a store that is its observer and its coordinator."""
    async with (
        databases.new(with_tables=True) as url,
        Store.open(url) as store,
        RunManager(
            {"agent": agent},
            observers=[ObserverBinding(StorageObserver(store), required=True)],
            coordinator=store.coordinator(),
        ) as manager,
    ):
        yield manager


def start_and_wait(manager: RunManager) -> Callable[[], Awaitable[object]]:
    """One run, from its start to its result."""

    async def run() -> object:
        return await (await manager.start(RunSpec("agent"))).result()

    return run


@asynccontextmanager
async def durable(databases: Databases, concurrent: int) -> AsyncGenerator[Work]:
    async with durable_manager(databases) as manager:
        yield at_once(start_and_wait(manager), concurrent)


RAW_RUNS: Mapping[str, type[RawRuns | RawPostgresRuns]] = {"SQLite": RawRuns, "PostgreSQL": RawPostgresRuns}
WAYS: Mapping[str, Way] = {
    BY_HAND: by_hand,
    IN_MEMORY: in_memory,
    ROW_BY_ROW: row_by_row,
    DURABLE: durable,
}


def case_of(database: str, concurrent: int) -> str:
    return f"{database}, one at a time" if concurrent == 1 else f"{database}, {concurrent} at once"


def table_of(result: Race, case: str) -> str:
    hand = result.contender(BY_HAND, case)

    rows = [
        [way.name, *rate_and_cpu(result, way), *rate_beside(result, way, hand)]
        for way in result.costs
        if way.case == case
    ]
    return table([case, "runs/s by wall clock", "µs of CPU time", "× same rows, wall", "CPU"], rows)


def main() -> None:
    options = options_of(__doc__, EFFORT)
    peers, notes = ([], []) if options.quick else dbos()
    result, cases = race_on_each(WAYS, CONCURRENT, case_of, options, peers)
    report = Report(
        name="runs",
        unit="nanoseconds for one run",
        race=result,
        tables=[*(table_of(result, case) for case in cases), *(f"* {note}" for note in notes)],
        budgets=beside_by_hand(result, cases, by_hand=BY_HAND, ours=DURABLE, least=BUDGET),
        ours=[DURABLE, IN_MEMORY],
        packages=["sqlalchemy", "asyncpg"],
        extra={"notes": notes},
    )
    publish(report, options)


if __name__ == "__main__":
    main()
