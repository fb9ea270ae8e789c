"""How many events a second a subscription delivers in each order, and how soon after a commit, beside a loop by hand."""

import asyncio
import json
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, closing
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import asyncpg
from _report import Budget, Options, Report, figure, options_of, publish, rate_beside, table
from _rounds import Clock, Contender, Effort, Race, Spread, Work, race
from append import events

from trackside import LifecycleEventType, RunLifecycleEvent
from trackside.app.delivery import Order
from trackside.app.storage import Store
from trackside.app.storage.feeding import FeedPolicy, SubscriptionFeed

sys.path.append(str(Path(__file__).parents[1] / "tests" / "servers"))
from postgres_server import PostgresServer

type Observer = Callable[[RunLifecycleEvent], Awaitable[None]]
type Way = Callable[[str, Observer], AbstractAsyncContextManager[Work]]

EFFORT = Effort(rounds=5, seconds=0.5)
LOG = 20_000
PORTION = 1_000
"""Events measured as one piece of work: beside this many, a feed's beginning and end do not matter."""
BATCH = 100
AT_ONCE = 64
SQLITE, POSTGRES = "SQLite", "PostgreSQL"
HERE, ELSEWHERE = "the same process", "another process"
BY_HAND, UNORDERED = "by hand", f"order none, {AT_ONCE} at once"
POLICIES: Mapping[str, FeedPolicy] = {
    "order log": FeedPolicy(),
    f"order run, {AT_ONCE} at once": FeedPolicy(order=Order.run, concurrency=AT_ONCE),
    UNORDERED: FeedPolicy(order=Order.none, concurrency=AT_ONCE),
}
LEAST_RATE = 2_000
MOST_LAG = 20.0  # milliseconds
LOOK_EVERY = 50.0  # milliseconds between two looks at an SQLite file, which tells nobody when another process commits

_IDLE = (0.03, 0.08)  # seconds between two events whose lag is measured: out of step with periodic looks
_COLUMNS = "position, event_id, event_type, run_id, thread_id, sequence, occurred_at, payload"


async def nothing(event: RunLifecycleEvent) -> None:
    pass


async def a_millisecond(event: RunLifecycleEvent) -> None:
    await asyncio.sleep(0.001)


OBSERVERS: Mapping[str, Observer] = {"does nothing": nothing, "awaits 1 ms": a_millisecond}


async def fill(url: str) -> None:
    """Make the log, and a subscription to it for each way."""
    async with Store.open(url) as store:
        source = events()
        for _ in range(0, LOG, 500):
            await store.append(list(islice(source, 500)))
        for name in (BY_HAND, *POLICIES):
            await store.subscriptions.open(name)


def stretches(portions: int) -> list[int]:
    """The positions after which to begin, each time to the log's end, so that this many portions are delivered."""
    whole, rest = divmod(portions * PORTION, LOG)
    return [0] * whole + ([LOG - rest] if rest else [])


def event_of(row: Sequence[Any]) -> RunLifecycleEvent:
    _, event_id, kind, run_id, thread_id, sequence, occurred_at, payload = row
    when = datetime.fromisoformat(occurred_at) if isinstance(occurred_at, str) else occurred_at
    event_type = LifecycleEventType(kind)
    return RunLifecycleEvent(event_id, event_type, run_id, thread_id, sequence, when, json.loads(payload))


@asynccontextmanager
async def by_hand_on_sqlite(url: str, observer: Observer) -> AsyncGenerator[Work]:
    read = f"SELECT {_COLUMNS} FROM events WHERE position > ? ORDER BY position LIMIT {BATCH}"
    path = url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as driver:
        driver.execute("PRAGMA synchronous = FULL")

        async def work(portions: int) -> None:
            for after in stretches(portions):
                cursor = after
                while rows := driver.execute(read, (cursor,)).fetchall():
                    for row in rows:
                        await observer(event_of(row))
                    cursor = rows[-1][0]
                    driver.execute("UPDATE subscriptions SET cursor = ? WHERE name = ?", (cursor, BY_HAND))

        yield work


@asynccontextmanager
async def by_hand_on_postgres(url: str, observer: Observer) -> AsyncGenerator[Work]:
    read = f"SELECT {_COLUMNS} FROM events WHERE position > $1 ORDER BY position LIMIT {BATCH}"
    driver = await asyncpg.connect(url)
    try:

        async def work(portions: int) -> None:
            for after in stretches(portions):
                cursor = after
                while rows := await driver.fetch(read, cursor):
                    for row in rows:
                        await observer(event_of(row))
                    cursor = rows[-1][0]
                    await driver.execute("UPDATE subscriptions SET cursor = $1 WHERE name = $2", cursor, BY_HAND)

        yield work
    finally:
        await driver.close()


@asynccontextmanager
async def fed(url: str, observer: Observer, *, name: str) -> AsyncGenerator[Work]:
    async with Store.open(url) as store:

        async def work(portions: int) -> None:
            for position in stretches(portions):
                await store.subscriptions.seek(name, position)
                async with SubscriptionFeed(store.subscriptions, name, observer, policy=POLICIES[name]) as feed:
                    await feed.reach(LOG)

        yield work


def contenders(urls: Mapping[str, str]) -> list[Contender]:
    by_hand: Mapping[str, Way] = {SQLITE: by_hand_on_sqlite, POSTGRES: by_hand_on_postgres}
    fed_by: dict[str, Way] = {name: partial(fed, name=name) for name in POLICIES}
    return [
        Contender(name, case_of(database, does), partial(way, url, observer))
        for database, url in urls.items()
        for does, observer in OBSERVERS.items()
        for name, way in ({BY_HAND: by_hand[database]} | fed_by).items()
    ]


def case_of(database: str, does: str) -> str:
    return f"{database}, an observer that {does}"


class Commits:
    """When a store committed, by a clock that all processes of a machine share."""

    def __init__(self, store: Store) -> None:
        self.at: list[int] = []
        writer: Any = store._writer
        self._commit = writer._commit
        writer._commit = self._timed

    def _timed(self, jobs: Sequence[Any]) -> Any:
        committed = self._commit(jobs)
        self.at.append(time.monotonic_ns())
        return committed


async def append_when_told(url: str) -> None:
    """Be the other process: append an event for each line, and say when it was committed."""
    source = events()
    async with Store.open(url) as store:
        commits = Commits(store)
        while await asyncio.to_thread(sys.stdin.readline):
            await store.append([next(source)])
            print(commits.at[-1], flush=True)


async def appending_here(store: Store) -> AsyncGenerator[int]:
    source, commits = events(), Commits(store)
    while True:
        before = len(commits.at)
        await store.append([next(source)])
        yield commits.at[before]  # the commits after it are the feed's


async def appending_elsewhere(url: str) -> AsyncGenerator[int]:
    command = [sys.executable, __file__, "--append-to", url]
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        while True:
            process.stdin.write(b"\n")
            yield int(await process.stdout.readline())
    finally:
        process.stdin.close()
        await process.wait()


async def lags(url: str, where: str, number: int) -> list[float]:
    """Milliseconds from commit to hand-over of this many events, one by one, to an observer that waits for each."""
    handed_over: asyncio.Queue[int] = asyncio.Queue()

    async def observer(event: RunLifecycleEvent) -> None:
        handed_over.put_nowait(time.monotonic_ns())

    took: list[float] = []
    async with Store.open(url) as store:
        await store.subscriptions.open("lag")
        async with SubscriptionFeed(store.subscriptions, "lag", observer):
            appending = appending_here(store) if where == HERE else appending_elsewhere(url)
            async with aclosing(appending):
                for _ in range(number + 1):
                    committed_at = await anext(appending)
                    took.append((await handed_over.get() - committed_at) / 1e6)
                    await asyncio.sleep(random.uniform(*_IDLE))
        await store.subscriptions.delete("lag")
    return took[1:]  # the first one pays for whatever has to be opened


def measure_lags(urls: Mapping[str, str], options: Options) -> dict[tuple[str, str], list[tuple[float, float, float]]]:
    """Median, 99th percentile and longest of each round, by database and by where the event was appended."""
    measured: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for _ in range(options.effort.rounds):
        for database, url in urls.items():
            for where in (HERE, ELSEWHERE):
                took = asyncio.run(lags(url, where, 4 if options.quick else 100))
                percentiles = statistics.quantiles(took, n=100, method="inclusive")
                measured.setdefault((database, where), []).append((percentiles[49], percentiles[98], max(took)))
    return measured


def rate(result: Race, way: Contender, clock: Clock) -> Spread:
    """Events a second."""
    return result.rate(way, clock).scaled(PORTION)


def table_of(result: Race, case: str) -> str:
    def row(name: str) -> list[str]:
        way, by_hand = result.contender(name, case), result.contender(BY_HAND, case)
        return [
            name,
            figure(rate(result, way, "wall")),
            figure(result.cost(way, "cpu").scaled(1e-3 / PORTION), digits=1),
            *rate_beside(result, way, by_hand),
        ]

    header = [case, "events/s by wall clock", "µs of CPU time", "× by hand, wall", "CPU"]
    return table(header, map(row, (BY_HAND, *POLICIES)))


def table_of_lags(measured: Mapping[tuple[str, str], Sequence[tuple[float, float, float]]]) -> str:
    return table(
        ["from commit to hand-over, nothing else to do", "median, ms", "99th percentile, ms", "the longest, ms"],
        (
            [
                f"{database}, appended by {where}",
                *(figure(Spread.of(values), digits=2) for values in zip(*rounds, strict=True)),
            ]
            for (database, where), rounds in measured.items()
        ),
    )


def budgets_of(
    result: Race, measured: Mapping[tuple[str, str], Sequence[tuple[float, float, float]]], urls: Mapping[str, str]
) -> list[Budget]:
    rates = [
        Budget.of(
            f"{case}: at least {LEAST_RATE:,} events/s in {UNORDERED}",
            LEAST_RATE,
            partial(rate, result, result.contender(UNORDERED, case)),
        )
        for case in (case_of(database, "awaits 1 ms") for database in urls)
    ]
    lag = []
    for (database, where), rounds in measured.items():
        most = MOST_LAG + (LOOK_EVERY if (database, where) == (SQLITE, ELSEWHERE) else 0)
        what = f"{database}, appended by {where}: 99 of 100 are handed over within {most:g} ms"
        lag.append(Budget(what, most, {"wall": statistics.median(p99 for _, p99, _ in rounds)}, at_most=True))
    return [*rates, *lag]


def main() -> None:
    if sys.argv[1:2] == ["--append-to"]:
        asyncio.run(append_when_told(sys.argv[2]))
        return
    options = options_of(__doc__, EFFORT)
    with tempfile.TemporaryDirectory() as folder, PostgresServer() as server:
        urls = {SQLITE: f"sqlite:///{folder}/log.db", POSTGRES: server.create_database("subscriptions")}
        for url in urls.values():
            asyncio.run(fill(url))
        result = race(contenders(urls), options.effort)
        measured = measure_lags(urls, options)
    report = Report(
        name="subscriptions",
        unit=f"nanoseconds for {PORTION:,} events",
        race=result,
        tables=[
            *(table_of(result, case_of(database, does)) for database in urls for does in OBSERVERS),
            table_of_lags(measured),
        ],
        budgets=budgets_of(result, measured, urls),
        ours=[*POLICIES],
        packages=["sqlalchemy", "asyncpg"],
        extra={"milliseconds": {f"{database}, {where}": rounds for (database, where), rounds in measured.items()}},
    )
    publish(report, options)


if __name__ == "__main__":
    main()
