"""How many durable events a second the store appends, beside group commit written by hand on the database's driver."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from _databases import Databases, Way, beside_by_hand, race_on_each
from _orm_rows import OrmRows
from _raw_log import RawLog
from _raw_postgres_log import RawPostgresLog
from _report import Report, options_of, publish, rate_and_cpu, rate_beside, table
from _rounds import Effort, Race, Work

from trackside import LifecycleEventType, RunLifecycleEvent
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.harness.ids import new_id

type AppendOne = Callable[[RunLifecycleEvent], Awaitable[object]]

EFFORT = Effort(rounds=5, seconds=0.5)
PRODUCERS = (1, 16, 64, 256)
EVENTS_BY_HAND, ROWS_BY_HAND = "by hand, events alone", "by hand, the same rows"
ROW_BY_ROW, STORED = "SQLAlchemy ORM, row by row", "Store.append"
BUDGET = 0.6

_USAGE = {"input_tokens": 812, "output_tokens": 64, "total_tokens": 876}
_RUN: list[tuple[LifecycleEventType, dict[str, Any]]] = [
    (LifecycleEventType.RUN_STARTED, {"agent": "research", "metadata": {"user": "somebody"}}),
    (LifecycleEventType.THREAD_STATUS_UPDATED, {"status": "busy", "previous": "idle"}),
    (
        LifecycleEventType.HUMAN_MESSAGE,
        {"message": {"id": "1", "type": "human", "content": "What is in the README? " * 5}},
    ),
    (
        LifecycleEventType.RUN_COMPLETED,
        {
            "status": "success",
            "title": None,
            "completion_data": {
                "total_input_tokens": 812,
                "total_output_tokens": 64,
                "message_count": 2,
                "all": _USAGE,
            },
        },
    ),
    (LifecycleEventType.THREAD_STATUS_UPDATED, {"status": "idle", "previous": "busy"}),
]


def events() -> Iterator[RunLifecycleEvent]:
    """One run after another, each on a thread of its own."""
    while True:
        run_id, thread_id = new_id(), new_id()
        for sequence, (event_type, payload) in enumerate(_RUN, 1):
            yield RunLifecycleEvent(new_id(), event_type, run_id, thread_id, sequence, datetime.now(UTC), payload)


def produce(append: AppendOne, producers: int) -> Work:
    """Append as this many producers, each of which waits until its event is durable before it makes the next."""
    streams = [events() for _ in range(producers)]

    async def one(stream: Iterator[RunLifecycleEvent], count: int) -> None:
        for _ in range(count):
            await append(next(stream))

    async def work(count: int) -> None:
        each, more = divmod(count, producers)
        await asyncio.gather(*(one(stream, each + (number < more)) for number, stream in enumerate(streams)))

    return work


@asynccontextmanager
async def by_hand(databases: Databases, producers: int, *, with_rows: bool) -> AsyncGenerator[Work]:
    async with (
        databases.new(with_tables=with_rows) as url,
        RAW_LOGS[databases.name].at(url, with_rows=with_rows) as log,
    ):
        yield produce(log.append, producers)


@asynccontextmanager
async def row_by_row(databases: Databases, producers: int) -> AsyncGenerator[Work]:
    async with databases.new(with_tables=False) as url, OrmRows.at(url) as rows:
        yield produce(rows.append, producers)


@asynccontextmanager
async def stored(databases: Databases, producers: int) -> AsyncGenerator[Work]:
    async with databases.new(with_tables=True) as url, Store.open(url) as store:
        yield produce(StorageObserver(store).on_event, producers)


RAW_LOGS: Mapping[str, type[RawLog | RawPostgresLog]] = {"SQLite": RawLog, "PostgreSQL": RawPostgresLog}
WAYS: Mapping[str, Way] = {
    EVENTS_BY_HAND: partial(by_hand, with_rows=False),
    ROWS_BY_HAND: partial(by_hand, with_rows=True),
    ROW_BY_ROW: row_by_row,
    STORED: stored,
}


def case_of(database: str, producers: int) -> str:
    return f"{database}, {producers} producer{'s' if producers > 1 else ''}"


def table_of(result: Race, case: str) -> str:
    by_hand = [result.contender(name, case) for name in (EVENTS_BY_HAND, ROWS_BY_HAND)]

    def row(name: str) -> list[str]:
        way = result.contender(name, case)
        return [
            name,
            *rate_and_cpu(result, way),
            *(cell for hand in by_hand for cell in rate_beside(result, way, hand)),
        ]

    return table(
        [case, "events/s by wall clock", "µs of CPU time", "× events alone, wall", "CPU", "× same rows, wall", "CPU"],
        map(row, WAYS),
    )


def main() -> None:
    options = options_of(__doc__, EFFORT)
    result, cases = race_on_each(WAYS, PRODUCERS, case_of, options)
    report = Report(
        name="append",
        unit="nanoseconds for one event",
        race=result,
        tables=[table_of(result, case) for case in cases],
        budgets=beside_by_hand(result, cases, by_hand=ROWS_BY_HAND, ours=STORED, least=BUDGET),
        ours=[STORED],
        packages=["sqlalchemy", "asyncpg"],
    )
    publish(report, options)


if __name__ == "__main__":
    main()
