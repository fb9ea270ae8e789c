"""How many durable events a second the store appends on SQLite, beside group commit written by hand on `sqlite3`."""

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from _raw_log import EVENTS_ALONE, RawLog
from _report import Budget, Report, figure, options_of, publish, table, times
from _rounds import Contender, Effort, Race, Work, race

from trackside import LifecycleEventType, RunLifecycleEvent
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.harness.ids import new_id

type AppendOne = Callable[[RunLifecycleEvent], Awaitable[object]]

EFFORT = Effort(rounds=11, seconds=0.5)
PRODUCERS = (1, 16, 64, 256)
EVENTS_BY_HAND, ROWS_BY_HAND = "by hand, events alone", "by hand, the same rows"
STORED = "Store.append"

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
    """So many producers, each of which waits for its event to be durable before it makes the next."""
    streams = [events() for _ in range(producers)]

    async def one(stream: Iterator[RunLifecycleEvent], count: int) -> None:
        for _ in range(count):
            await append(next(stream))

    async def work(count: int) -> None:
        each, more = divmod(count, producers)
        await asyncio.gather(*(one(stream, each + (number < more)) for number, stream in enumerate(streams)))

    return work


@asynccontextmanager
async def events_by_hand(producers: int) -> AsyncGenerator[Work]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "raw.db"
        with closing(sqlite3.connect(path)) as database:
            database.executescript(EVENTS_ALONE)
        log = RawLog(path, with_rows=False)
        yield produce(log.append, producers)
        await log.aclose()


@asynccontextmanager
async def rows_by_hand(producers: int) -> AsyncGenerator[Work]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "raw.db"
        async with Store.open(f"sqlite:///{path}"):
            pass  # for its tables
        log = RawLog(path, with_rows=True)
        yield produce(log.append, producers)
        await log.aclose()


@asynccontextmanager
async def stored(producers: int) -> AsyncGenerator[Work]:
    with tempfile.TemporaryDirectory() as folder:
        async with Store.open(f"sqlite:///{folder}/store.db") as store:
            yield produce(StorageObserver(store).on_event, producers)


WAYS: dict[str, Callable[[int], AbstractAsyncContextManager[Work]]] = {
    EVENTS_BY_HAND: events_by_hand,
    ROWS_BY_HAND: rows_by_hand,
    STORED: stored,
}


def case_of(producers: int) -> str:
    return f"{producers} producer{'s' if producers > 1 else ''}"


def table_of(result: Race, producers: int) -> str:
    case = case_of(producers)

    def row(name: str) -> list[str]:
        way = result.contender(name, case)
        return [
            name,
            figure(result.rate(way, "wall")),
            figure(result.cost(way, "cpu").scaled(1e-3), digits=1),
            *(
                times(result.ratio(result.contender(beside, case), way, clock).median)
                for beside in (EVENTS_BY_HAND, ROWS_BY_HAND)
                for clock in ("wall", "cpu")
            ),
        ]

    return table(
        [case, "events/s by wall clock", "µs of CPU time", "× events alone, wall", "CPU", "× same rows, wall", "CPU"],
        map(row, WAYS),
    )


def budgets_of(result: Race) -> list[Budget]:
    return [
        Budget.of(
            f"{case}: at least 0.6 of the rate of the same rows by hand",
            0.6,
            partial(result.ratio, result.contender(ROWS_BY_HAND, case), result.contender(STORED, case)),
        )
        for case in map(case_of, PRODUCERS)
    ]


def main() -> None:
    options = options_of(__doc__, EFFORT)
    contenders = [Contender(name, case_of(n), partial(way, n)) for n in PRODUCERS for name, way in WAYS.items()]
    result = race(contenders, options.effort)
    report = Report(
        name="append",
        unit="nanoseconds for one event",
        race=result,
        tables=[table_of(result, producers) for producers in PRODUCERS],
        budgets=budgets_of(result),
        packages=["sqlalchemy"],
    )
    publish(report, options)


if __name__ == "__main__":
    main()
