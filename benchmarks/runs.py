"""How many complete durable runs a second the manager does on SQLite, beside the same rows written by hand."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

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
async def by_hand(concurrent: int) -> AsyncGenerator[Work]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "raw.db"
        async with Store.open(f"sqlite:///{path}"):
            pass  # for its tables
        runs = RawRuns(path)
        yield at_once(runs.run, concurrent)
        await runs.aclose()


async def agent(input: Any) -> None:
    """Do nothing."""


@asynccontextmanager
async def durable(concurrent: int) -> AsyncGenerator[Work]:
    with tempfile.TemporaryDirectory() as folder:
        async with (
            Store.open(f"sqlite:///{folder}/store.db") as store,
            RunManager(
                {"agent": agent},
                observers=[ObserverBinding(StorageObserver(store), required=True)],
                coordinator=store.coordinator(),
            ) as manager,
        ):

            async def run() -> None:
                await (await manager.start(RunSpec("agent"))).result()

            yield at_once(run, concurrent)


WAYS: dict[str, Callable[[int], AbstractAsyncContextManager[Work]]] = {BY_HAND: by_hand, DURABLE: durable}


def case_of(concurrent: int) -> str:
    return "one at a time" if concurrent == 1 else f"{concurrent} at once"


def table_of(result: Race, concurrent: int) -> str:
    case = case_of(concurrent)
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


def budgets_of(result: Race) -> list[Budget]:
    return [
        Budget.of(
            f"{case}: at least {BUDGET} of the rate of the same rows by hand",
            BUDGET,
            partial(result.ratio, result.contender(BY_HAND, case), result.contender(DURABLE, case)),
        )
        for case in map(case_of, CONCURRENT)
    ]


def main() -> None:
    options = options_of(__doc__, EFFORT)
    contenders = [Contender(name, case_of(n), partial(way, n)) for n in CONCURRENT for name, way in WAYS.items()]
    result = race(contenders, options.effort)
    report = Report(
        name="runs",
        unit="nanoseconds for one run",
        race=result,
        tables=[table_of(result, concurrent) for concurrent in CONCURRENT],
        budgets=budgets_of(result),
        packages=["sqlalchemy"],
    )
    publish(report, options)


if __name__ == "__main__":
    main()
