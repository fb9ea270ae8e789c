"""How long after a commit 1,000 followers of the log have its event, beside bare `asyncio` waking as many tasks."""

import asyncio
import statistics
import sys
import tempfile
import time
from array import array
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from _report import Budget, Report, figure, options_of, publish, table
from _rounds import Clock, Contender, Effort, Race, Spread, Work, race
from append import events

from trackside.app.storage import Store

sys.path.append(str(Path(__file__).parents[1] / "tests" / "servers"))
from postgres_server import PostgresServer

EFFORT = Effort(rounds=7, seconds=0.3)
FOLLOWERS = 1_000
FOLLOWED, ALONE = f"{FOLLOWERS:,} followers", "nobody follows"
EVENT, CONDITION = "asyncio.Event", "asyncio.Condition"
SQLITE, POSTGRES = "Store.follow, SQLite", "Store.follow, PostgreSQL"
LIMIT = 5.0

type Open = Callable[[], AbstractAsyncContextManager[Work]]

LATENCIES: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
"""Median, 99th percentile and longest, in milliseconds, of the last piece of work that each contender did in a loop."""


class Arrivals:
    """When each of the followers had each event."""

    def __init__(self, followers: int) -> None:
        self._followers = followers
        self._left = 0
        self._all_there = asyncio.Event()
        self.sent_at = 0
        self.took = array("q")

    def one(self) -> None:
        """Note that a follower has the event."""
        self.took.append(time.perf_counter_ns() - self.sent_at)
        self._left -= 1
        if self._left == 0:
            self._all_there.set()

    def work(self, send: Callable[[], Awaitable[object]]) -> Work:
        """Send this many events, each one when every follower has the one before."""

        async def work(number: int) -> None:
            self.took = array("q")
            for _ in range(number):
                self._left = self._followers
                self._all_there.clear()
                await send()
                if self._followers:
                    await self._all_there.wait()

        return work

    def keep(self, name: str) -> None:
        """Keep how long it took."""
        percentiles = statistics.quantiles(self.took, n=100, method="inclusive")
        LATENCIES[name].append((percentiles[49] / 1e6, percentiles[98] / 1e6, max(self.took) / 1e6))


@asynccontextmanager
async def bare_event() -> AsyncGenerator[Work]:
    arrivals, current = Arrivals(FOLLOWERS), asyncio.Event()

    async def follow() -> None:
        while True:
            await current.wait()
            arrivals.one()

    async def send() -> None:
        nonlocal current
        event, current = current, asyncio.Event()
        arrivals.sent_at = time.perf_counter_ns()
        event.set()

    async with followed_by(follow):
        yield arrivals.work(send)
    arrivals.keep(EVENT)


@asynccontextmanager
async def bare_condition() -> AsyncGenerator[Work]:
    arrivals, condition = Arrivals(FOLLOWERS), asyncio.Condition()

    async def follow() -> None:
        async with condition:
            while True:
                await condition.wait()
                arrivals.one()

    async def send() -> None:
        async with condition:
            arrivals.sent_at = time.perf_counter_ns()
            condition.notify_all()

    async with followed_by(follow):
        yield arrivals.work(send)
    arrivals.keep(CONDITION)


@asynccontextmanager
async def stored(name: str, urls: Iterator[str], followers: int) -> AsyncGenerator[Work]:
    arrivals, source = Arrivals(followers), events()
    async with Store.open(next(urls)) as store:
        writer: Any = store._writer
        commit = writer._commit

        def timed(jobs: Sequence[Any]) -> Any:
            committed = commit(jobs)
            arrivals.sent_at = time.perf_counter_ns()
            return committed

        writer._commit = timed

        async def follow() -> None:
            async for _ in store.follow():
                arrivals.one()

        async with followed_by(follow, followers):
            yield arrivals.work(lambda: store.append([next(source)]))
    if followers:
        arrivals.keep(name)


@asynccontextmanager
async def followed_by(follow: Callable[[], Awaitable[None]], followers: int = FOLLOWERS) -> AsyncGenerator[None]:
    tasks = [asyncio.ensure_future(follow()) for _ in range(followers)]
    await asyncio.sleep(0.1)  # until all of them wait
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def delivery(result: Race, name: str, clock: Clock) -> Spread:
    """How many nanoseconds longer an event to all followers takes than an event to nobody."""
    contender = result.contender(name, FOLLOWED)
    if name in {EVENT, CONDITION}:
        return result.cost(contender, clock)
    return result.difference(contender, result.contender(name, ALONE), clock)


def table_of(result: Race, rounds: int) -> str:
    def row(name: str) -> list[str]:
        measured = zip(*LATENCIES[name][-rounds:], strict=True)
        return [
            name,
            *(figure(Spread.of(values), digits=2) for values in measured),
            figure(delivery(result, name, "cpu").scaled(1e-3 / FOLLOWERS), digits=2),
        ]

    header = [FOLLOWED, "median, ms", "99th percentile, ms", "the last, ms", "µs of CPU time for each follower"]
    return table(header, map(row, (EVENT, CONDITION, SQLITE, POSTGRES)))


def budgets_of(result: Race) -> list[Budget]:
    def ratio(name: str, clock: Clock) -> Spread:
        return delivery(result, name, clock).scaled(1 / delivery(result, EVENT, clock).median)

    return [
        Budget.of(
            f"{name}: an event to all followers costs at most {LIMIT:g} times what {EVENT} does",
            LIMIT,
            partial(ratio, name),
            at_most=True,
        )
        for name in (SQLITE, POSTGRES)
    ]


def main() -> None:
    options = options_of(__doc__, EFFORT)
    with tempfile.TemporaryDirectory() as folder, PostgresServer() as server:
        urls = {
            SQLITE: (f"sqlite:///{folder}/{number}.db" for number in count()),
            POSTGRES: (server.create_database(f"follow_{number}") for number in count()),
        }
        ways: list[tuple[str, str, Open]] = [
            (EVENT, FOLLOWED, bare_event),
            (CONDITION, FOLLOWED, bare_condition),
            *((name, FOLLOWED, partial(stored, name, urls[name], FOLLOWERS)) for name in urls),
            *((name, ALONE, partial(stored, name, urls[name], 0)) for name in urls),
        ]
        result = race([Contender(*way) for way in ways], options.effort)
    report = Report(
        name="follow",
        unit="nanoseconds for one event to all followers",
        race=result,
        tables=[table_of(result, options.effort.rounds)],
        budgets=budgets_of(result),
        ours=[SQLITE, POSTGRES],
        packages=["sqlalchemy", "asyncpg"],
        extra={"milliseconds": {name: values[-options.effort.rounds :] for name, values in LATENCIES.items()}},
    )
    publish(report, options)


if __name__ == "__main__":
    main()
