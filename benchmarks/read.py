"""How many pages a second a store reads on SQLite, beside the same rows fetched by hand on `sqlite3`."""

import asyncio
import json
import sqlite3
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from _long_log import fill
from _report import Report, figure, options_of, publish, table, times
from _rounds import Contender, Effort, Race, Work, race

from trackside.app.storage import Store

EFFORT = Effort(rounds=11, seconds=0.3)
EVENTS = 100_000
QUICK_EVENTS = 2_000
PAGE = 50
BY_HAND, READ = "by hand, on `sqlite3`", "Store"


@dataclass(frozen=True, slots=True)
class Case:
    """A page: how the store is asked for it, and the SQL that fetches the same rows, with columns of times and JSON."""

    ask: Callable[[Store], Awaitable[object]]
    sql: str
    times: Sequence[int]
    jsons: Sequence[int]


_EVENT = {"times": (6,), "jsons": (7,)}
_RUN = {"times": (4, 5, 6), "jsons": (13, 14)}


def cases_of(place: int) -> dict[str, Case]:
    """What to ask for; of events, those after a position."""
    return {
        f"{PAGE} events after a position": Case(
            lambda store: store.events(place, limit=PAGE),
            f"SELECT * FROM events WHERE position > {place} ORDER BY position LIMIT {PAGE}",
            **_EVENT,
        ),
        f"{PAGE} events of a type": Case(
            lambda store: store.events(place, types="run_failed", limit=PAGE),
            "SELECT * FROM events WHERE event_type IN ('run_cancelled', 'run_failed') AND event_type = 'run_failed'"
            f" AND position > {place} ORDER BY position LIMIT {PAGE}",
            **_EVENT,
        ),
        f"{PAGE} runs of a status": Case(
            lambda store: store.runs(status="error", limit=PAGE),
            f"SELECT * FROM runs WHERE status = 'error' ORDER BY created_at DESC, run_id DESC LIMIT {PAGE}",
            **_RUN,
        ),
        f"{PAGE} runs of an agent and status": Case(
            lambda store: store.runs(agent="coder", status="success", limit=PAGE),
            "SELECT * FROM runs WHERE agent = 'coder' AND status = 'success'"
            f" ORDER BY created_at DESC, run_id DESC LIMIT {PAGE}",
            **_RUN,
        ),
        f"{PAGE} threads of a status": Case(
            lambda store: store.threads(status="idle", limit=PAGE),
            f"SELECT * FROM threads WHERE status = 'idle' ORDER BY updated_at DESC, thread_id DESC LIMIT {PAGE}",
            times=(3, 4),
            jsons=(),
        ),
    }


@contextmanager
def filled(count: int) -> Generator[Path]:
    """A log for all contenders."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "read.db"

        async def make() -> None:
            async with Store.open(f"sqlite:///{path}", synchronous="NORMAL") as store:
                await fill(store, count)

        asyncio.run(make())
        yield path


@asynccontextmanager
async def by_hand(path: Path, case: Case) -> AsyncGenerator[Work]:
    """Read in a thread, too, so that the loop does not wait; parse times and JSON, but make no objects of the rows."""
    with closing(sqlite3.connect(path, check_same_thread=False)) as connection:

        def fetch() -> list[list[Any]]:
            rows = [[*row] for row in connection.execute(case.sql)]
            for row in rows:
                for column in case.times:
                    row[column] = row[column] and datetime.fromisoformat(row[column])
                for column in case.jsons:
                    row[column] = row[column] and json.loads(row[column])
            return rows

        async def work(count: int) -> None:
            for _ in range(count):
                await asyncio.to_thread(fetch)

        yield work


@asynccontextmanager
async def by_store(path: Path, case: Case) -> AsyncGenerator[Work]:
    async with Store.open(f"sqlite:///{path}", read_only=True) as store:

        async def work(count: int) -> None:
            for _ in range(count):
                await case.ask(store)

        yield work


WAYS: Mapping[str, Callable[[Path, Case], AbstractAsyncContextManager[Work]]] = {BY_HAND: by_hand, READ: by_store}


def table_of(result: Race, cases: Iterable[str]) -> str:
    def row(name: str) -> list[str]:
        hand, store = result.contender(BY_HAND, name), result.contender(READ, name)
        return [
            name,
            *(figure(result.cost(way, "wall").scaled(1e-3)) for way in (hand, store)),
            *(times(result.ratio(store, hand, clock).median) for clock in ("wall", "cpu")),
        ]

    return table(["a page", f"{BY_HAND}, µs", "Store, µs", "× by hand, wall", "CPU"], map(row, cases))


def main() -> None:
    options = options_of(__doc__, EFFORT)
    count = QUICK_EVENTS if options.quick else EVENTS
    cases = cases_of(count // 2)
    with filled(count) as path:
        result = race(
            [Contender(name, case, partial(way, path, cases[case])) for case in cases for name, way in WAYS.items()],
            options.effort,
        )
    report = Report(
        name="read",
        unit="nanoseconds for one page",
        race=result,
        tables=[table_of(result, cases)],
        ours=[READ],
        packages=["sqlalchemy"],
    )
    publish(report, options)


if __name__ == "__main__":
    main()
