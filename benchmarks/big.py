"""What a store with ten million events costs: appending to it, every page of it, and totals over it."""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from _long_log import BUSY_THREAD, DAYS, fill
from _report import Bars, Budget, Report, figure, options_of, publish, rate_beside, table
from _rounds import Contender, Effort, Race, Work, race
from append import produce

from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store

EFFORT = Effort(rounds=11, seconds=1.0)
EVENTS = 10_000_000
QUICK_EVENTS = 2_000
CALLS = 200
"""How often each page is asked for, each time at another place."""
PAGE = 50
PRODUCERS = 64
EMPTY, FULL = "an empty store", "the full store"
APPEND = f"append, {PRODUCERS} producers"

PAGE_LIMIT_MS, DAY_LIMIT_MS, APPEND_LIMIT = 10, 100, 0.9


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere in the log: a position, the run and the thread that it belongs to, and their places in listings."""

    position: int
    run_id: str
    thread_id: str
    run: str
    thread: str


type Ask = Callable[[Store, Place], Awaitable[object]]

PAGES: Mapping[str, Ask] = {
    "events after a position": lambda s, p: s.events(p.position, limit=PAGE),
    "events before a position": lambda s, p: s.events(before=p.position, newest_first=True, limit=PAGE),
    "events the newest": lambda s, _: s.events(newest_first=True, limit=PAGE),
    "events of a run": lambda s, p: s.events(run_id=p.run_id, limit=PAGE),
    "events of a thread": lambda s, p: s.events(thread_id=p.thread_id, limit=PAGE),
    "events of a thread with 1 % of the runs": lambda s, p: s.events(p.position, thread_id=BUSY_THREAD, limit=PAGE),
    "events of an agent with 10 % of the runs": lambda s, p: s.events(p.position, agent="coder", limit=PAGE),
    "events of an agent with 0.1 %": lambda s, p: s.events(p.position, agent="audit", limit=PAGE),
    "events of an agent with 0.01 %": lambda s, p: s.events(p.position, agent="rare", limit=PAGE),
    "events of runs that failed (4 %)": lambda s, p: s.events(p.position, status="error", limit=PAGE),
    "events of runs that timed out (0.5 %)": lambda s, p: s.events(p.position, status="timeout", limit=PAGE),
    "events of type run_failed": lambda s, p: s.events(p.position, types="run_failed", limit=PAGE),
    "events of two rare types, backwards": lambda s, p: s.events(
        before=p.position, types=["run_failed", "run_cancelled"], newest_first=True, limit=PAGE
    ),
    "events since an hour ago, the newest": lambda s, _: s.events(since=_ago(hours=1), newest_first=True, limit=PAGE),
    "a run with its events": lambda s, p: s.run_with_events(p.run_id),
    "runs, the first page": lambda s, _: s.runs(limit=PAGE),
    "runs before a cursor": lambda s, p: s.runs(before=p.run, limit=PAGE),
    "runs after a cursor": lambda s, p: s.runs(after=p.run, limit=PAGE),
    "runs by status": lambda s, p: s.runs(status="error", before=p.run, limit=PAGE),
    "runs by several statuses": lambda s, p: s.runs(status=["timeout", "cancelled"], after=p.run, limit=PAGE),
    "runs by agent": lambda s, p: s.runs(agent="coder", before=p.run, limit=PAGE),
    "runs by agent with 0.01 %": lambda s, p: s.runs(agent="rare", before=p.run, limit=PAGE),
    "runs by agent and status": lambda s, p: s.runs(agent="audit", status="timeout", before=p.run, limit=PAGE),
    "runs by thread": lambda s, p: s.runs(thread_id=p.thread_id, limit=PAGE),
    "runs by a busy thread and status": lambda s, p: s.runs(
        thread_id=BUSY_THREAD, status="error", before=p.run, limit=PAGE
    ),
    "runs by metadata (0.1 % of the runs)": lambda s, p: s.runs(metadata={"user": "user 7"}, before=p.run, limit=PAGE),
    "runs by metadata and status": lambda s, _: s.runs(metadata={"user": "user 7"}, status="error", limit=PAGE),
    "runs by two metadata": lambda s, _: s.runs(metadata={"user": "user 7", "experiment": True}, limit=PAGE),
    "runs of a day": lambda s, _: s.runs(since=_ago(days=50), until=_ago(days=49), limit=PAGE),
    "runs by the beginning of their id": lambda s, p: s.runs(id_prefix=p.run_id[:18], limit=PAGE),
    "runs by a text that none has": lambda s, p: s.search_runs(text="no run says this", before=p.run, limit=PAGE),
    "runs by a text that a tenth has": lambda s, p: s.search_runs(text="CODER", before=p.run, limit=PAGE),
    "runs by the end of their id": lambda s, p: s.search_runs(text=p.run_id[-6:], limit=PAGE),
    "runs above a cost that none has": lambda s, p: s.search_runs(min_cost=1e6, before=p.run, limit=PAGE),
    "runs longer than any": lambda s, p: s.search_runs(min_duration=1e6, after=p.run, limit=PAGE),
    "threads, the first page": lambda s, _: s.threads(limit=PAGE),
    "threads before a cursor": lambda s, p: s.threads(before=p.thread, limit=PAGE),
    "threads after a cursor": lambda s, p: s.threads(after=p.thread, limit=PAGE),
    "threads by status": lambda s, p: s.threads(status="idle", before=p.thread, limit=PAGE),
    "threads by status, and there are none": lambda s, _: s.threads(status="interrupted", limit=PAGE),
    "threads by agent": lambda s, p: s.threads(agent="coder", before=p.thread, limit=PAGE),
    "threads by agent with 0.1 %": lambda s, _: s.threads(agent="audit", limit=PAGE),
    "threads by agent with 0.01 %": lambda s, _: s.threads(agent="rare", limit=PAGE),
    "threads by metadata (0.1 % of the runs)": lambda s, _: s.threads(metadata={"user": "user 7"}, limit=PAGE),
}
"""What users of a long log ask for: first pages and deep ones."""

TOTALS: Mapping[str, Ask] = {
    "stats of the last hour": lambda s, _: s.stats(_ago(hours=1)),
    "stats of the last day": lambda s, _: s.stats(_ago(days=1)),
    "stats of the last 30 days": lambda s, _: s.stats(_ago(days=30)),
    "stats of all": lambda s, _: s.stats(),
    "stats of an agent": lambda s, _: s.stats(agent="coder"),
    "timeline of a day, by the hour": lambda s, _: s.timeline(_ago(days=1)),
    "timeline of 30 days, by the hour": lambda s, _: s.timeline(_ago(days=30)),
    "timeline of 30 days, by the day": lambda s, _: s.timeline(_ago(days=30), width=timedelta(days=1)),
}
LAST_DAY = "stats of the last day"


@dataclass(frozen=True, slots=True)
class Latency:
    """How long something took, in milliseconds."""

    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Latency":
        """The percentiles, by the nearest rank."""
        ordered = sorted(seconds)
        return cls(*(ordered[-(-len(ordered) * percent // 100) - 1] * 1e3 for percent in (50, 99)))


def _ago(**length: float) -> datetime:
    return datetime.now(UTC) - timedelta(**length)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--events", type=int, metavar="N", help=f"fill it with so many instead of {EVENTS:,}")
    parser.add_argument(
        "--database", metavar="URL", help="an empty database to fill, instead of a temporary SQLite file"
    )
    parser.add_argument("--filled", action="store_true", help="the database is full already, from a run before")
    parser.add_argument("--empty", metavar="URL", help="another empty database, to compare appends with (PostgreSQL)")


async def places(store: Store, count: int) -> list[Place]:
    """This many places, spread over the whole log."""
    (last,) = await store.events(newest_first=True, limit=1)
    chance = random.Random(1)
    found = []
    for _ in range(count):
        (stored,) = await store.events(chance.randrange(last.position), limit=1)
        run, thread = await store.run(stored.event.run_id), await store.thread(stored.event.thread_id)
        assert run is not None
        assert thread is not None
        found.append(Place(stored.position, run.run_id, thread.thread_id, run.cursor, thread.cursor))
    return found


async def latencies(store: Store, asked: Mapping[str, Ask], at: Sequence[Place]) -> dict[str, Latency]:
    """How long each takes, asked for once at each place."""
    found = {}
    for name, ask in asked.items():
        taken = []
        for place in at:
            begin = time.perf_counter()
            await ask(store, place)
            taken.append(time.perf_counter() - begin)
        found[name] = Latency.of(taken)
    return found


async def measure(url: str, calls: int) -> tuple[dict[str, Latency], dict[str, Latency]]:
    """Measure pages and totals."""
    async with Store.open(url) as store:
        at = await places(store, calls)
        return await latencies(store, PAGES, at), await latencies(store, TOTALS, at[: max(2, calls // 10)])


async def fill_up(url: str, count: int) -> float:
    """Fill a database; returns how many seconds that took."""
    begin = time.perf_counter()
    # Whatever a power cut loses is filled in again.
    async with Store.open(url, synchronous="NORMAL") as store:
        await fill(store, count)
    return time.perf_counter() - begin


def read_once(path: Path) -> None:
    """Read a file from end to end, so that the memory has it, as it has that of a store in use."""
    part = bytearray(1 << 24)
    with path.open("rb", buffering=0) as file:
        while file.readinto(part):
            pass


@asynccontextmanager
async def appending(url: str | None) -> AsyncGenerator[Work]:
    """Appends to a database, or to a new one."""
    with tempfile.TemporaryDirectory() as folder:
        async with Store.open(url or f"sqlite:///{folder}/empty.db") as store:
            yield produce(StorageObserver(store).on_event, PRODUCERS)


@contextmanager
def database_of(given: str | None) -> Generator[tuple[str, Path | None]]:
    """The address of the database, and its file if it is one of ours."""
    if given is not None:
        path = Path(given.removeprefix("sqlite:///")) if given.startswith("sqlite") else None
        yield given, path
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "big.db"
        yield f"sqlite:///{path}", path


def latency_table(header: str, found: Mapping[str, Latency]) -> str:
    rows = [[name, f"{latency.p50:.1f}", f"{latency.p99:.1f}"] for name, latency in found.items()]
    return table([header, "p50, ms", "p99, ms"], rows)


def append_table(result: Race) -> str:
    empty = result.contender(EMPTY, APPEND)
    rows = [
        [
            way.name,
            figure(result.rate(way, "wall")),
            *rate_beside(result, way, empty),
        ]
        for way in result.costs
    ]
    return table([APPEND, "events/s by wall clock", "× empty, wall", "CPU"], rows)


def plots_of(result: Race, pages: Mapping[str, Latency], totals: Mapping[str, Latency]) -> list[Bars]:
    appends = {way.name: result.rate(way, "wall") for way in result.costs}
    return [
        Bars(APPEND, "events/s", {name: (one.low, one.median, one.high) for name, one in appends.items()}),
        Bars(f"a page of {PAGE}", "ms, p50 and up to p99", _up_to_p99(pages), PAGE_LIMIT_MS),
        Bars("totals", "ms, p50 and up to p99", _up_to_p99(totals), DAY_LIMIT_MS),
    ]


def _up_to_p99(found: Mapping[str, Latency]) -> dict[str, tuple[float, float, float]]:
    return {name: (latency.p50, latency.p50, latency.p99) for name, latency in found.items()}


def budgets_of(result: Race, pages: Mapping[str, Latency], totals: Mapping[str, Latency]) -> list[Budget]:
    name, slowest = max(pages.items(), key=lambda page: page[1].p99)
    fast = sum(latency.p99 <= PAGE_LIMIT_MS for latency in pages.values())
    ratio = partial(result.ratio, result.contender(EMPTY, APPEND), result.contender(FULL, APPEND))
    return [
        Budget.of(f"append at least {APPEND_LIMIT} of the rate of an empty store", APPEND_LIMIT, ratio),
        Budget(
            f"any page at most {PAGE_LIMIT_MS} ms (p99); the slowest is “{name}”",
            PAGE_LIMIT_MS,
            {"wall": slowest.p99},
            at_most=True,
        ),
        Budget(f"all {len(pages)} kinds of pages within that", len(pages), {"wall": fast}),
        Budget(
            f"{LAST_DAY} at most {DAY_LIMIT_MS} ms (p99)", DAY_LIMIT_MS, {"wall": totals[LAST_DAY].p99}, at_most=True
        ),
    ]


def main() -> None:
    options = options_of(__doc__, EFFORT, more=add_arguments)
    given = options.given
    if given.filled and not given.events:
        sys.exit("big: --filled: say how many events it has, with --events N")
    count = given.events or (QUICK_EVENTS if options.quick else EVENTS)
    with database_of(given.database) as (url, path):
        seconds = None if given.filled else asyncio.run(fill_up(url, count))
        size = None
        if path is not None:
            size = path.stat().st_size / count
            read_once(path)
        pages, totals = asyncio.run(measure(url, 2 if options.quick else CALLS))
        result = race(
            [
                Contender(EMPTY, APPEND, partial(appending, given.empty)),
                Contender(FULL, APPEND, partial(appending, url)),
            ],
            options.effort,
        )
    facts = [
        ["events", f"{count:,}"],
        ["of the last … days", f"{DAYS}"],
        *([] if size is None else [["bytes in the file for each", f"{size:,.0f}"]]),
        *([] if seconds is None else [["filled in, s", f"{seconds:,.0f}"]]),
    ]
    report = Report(
        name="big",
        unit="nanoseconds for one event appended",
        race=result,
        tables=[
            table(["the log", ""], facts),
            append_table(result),
            latency_table(f"a page of {PAGE}", pages),
            latency_table("totals", totals),
        ],
        budgets=budgets_of(result, pages, totals),
        ours=[FULL, *PAGES, *TOTALS],
        plots=plots_of(result, pages, totals),
        packages=["sqlalchemy"],
        extra={
            "events": count,
            "bytes_per_event": size,
            "fill_seconds": seconds,
            "milliseconds": {
                name: {"p50": latency.p50, "p99": latency.p99} for name, latency in {**pages, **totals}.items()
            },
        },
    )
    publish(report, options)


if __name__ == "__main__":
    main()
