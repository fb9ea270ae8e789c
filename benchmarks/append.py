"""Durable events per second on SQLite, beside the same group commit written by hand on the `sqlite3` module."""

import argparse
import asyncio
import contextlib
import json
import queue
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from trackside.app.storage import Store
from trackside.harness.ids import new_id
from trackside.harness.observer import LifecycleEventType, RunLifecycleEvent

type AppendOne = Callable[[RunLifecycleEvent], Awaitable[object]]

_RAW_SCHEMA = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO counters VALUES ('position', 0);
    CREATE TABLE events (
        position INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, run_id TEXT NOT NULL, thread_id TEXT NOT NULL,
        sequence INTEGER NOT NULL, event_type TEXT NOT NULL, occurred_at TEXT NOT NULL, payload TEXT NOT NULL,
        UNIQUE (run_id, sequence)
    );
"""


class RawLog:
    """What anybody would write: a thread, a queue, one transaction for all that waits, `executemany`. No checks at all."""

    def __init__(self, path: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[tuple[tuple[object, ...], asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._driver = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._driver.executescript(_RAW_SCHEMA)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    async def append(self, event: RunLifecycleEvent) -> None:
        """Queue one event and wait for its commit."""
        row = (
            event.event_id,
            event.run_id,
            event.thread_id,
            event.sequence,
            event.event_type.value,
            event.occurred_at.isoformat(),
            json.dumps(event.payload),
        )
        done = self._loop.create_future()
        self._jobs.put((row, done))
        await done

    def _run(self) -> None:
        execute = self._driver.execute
        while (first := self._jobs.get()) is not None:
            jobs = [first]
            with contextlib.suppress(queue.Empty):
                while (job := self._jobs.get_nowait()) is not None:
                    jobs.append(job)
            execute("BEGIN IMMEDIATE")
            execute("UPDATE counters SET value = value + ? WHERE name = 'position'", (len(jobs),))
            (last,) = execute("SELECT value FROM counters WHERE name = 'position'").fetchone()
            rows = [(last - len(jobs) + i, *row) for i, (row, _) in enumerate(jobs, 1)]
            self._driver.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            execute("COMMIT")
            self._loop.call_soon_threadsafe(_answer, [done for _, done in jobs])
        self._driver.close()

    async def aclose(self) -> None:
        """Stop the thread."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)


def _answer(futures: list[asyncio.Future[None]]) -> None:
    for done in futures:
        done.set_result(None)


async def produce(append: AppendOne, seconds: float) -> int:
    """One run after another of six events each, one event at a time, until the time is over; how many were stored."""
    count = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        run_id = new_id()
        for sequence, (event_type, payload) in enumerate(_RUN, 1):
            await append(RunLifecycleEvent(new_id(), event_type, run_id, run_id, sequence, datetime.now(UTC), payload))
            count += 1
    return count


_MESSAGE = {"message": {"id": "1", "type": "human", "content": "What stands in the README of this package? " * 3}}
_RUN = [
    (LifecycleEventType.RUN_STARTED, {"agent": "bench", "metadata": {"user": "somebody"}}),
    *[(LifecycleEventType.HUMAN_MESSAGE, _MESSAGE)] * 58,
    (LifecycleEventType.RUN_COMPLETED, {"status": "success", "title": None, "completion_data": {"message_count": 58}}),
]


async def measure(append: AppendOne, producers: int, seconds: float) -> float:
    """Events per second."""
    start = time.perf_counter()
    counts = await asyncio.gather(*(produce(append, seconds) for _ in range(producers)))
    return sum(counts) / (time.perf_counter() - start)


async def measure_raw(folder: Path, producers: int, seconds: float) -> float:
    """The loop written by hand."""
    log = RawLog(folder / "raw.db")
    try:
        return await measure(log.append, producers, seconds)
    finally:
        await log.aclose()


async def measure_store(folder: Path, producers: int, seconds: float) -> float:
    """Ours."""
    async with Store.open(f"sqlite:///{folder}/store.db") as store:
        return await measure(lambda event: store.append((event,)), producers, seconds)


async def main() -> None:
    """Measure both by turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--producers", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--seconds", type=float, default=2.0, help="for one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where the databases are made; a real disk, or it measures nothing")
    options = parser.parse_args()

    results = []
    print(f"{'producers':>9} {'sqlite3 by hand':>16} {'Store':>10}   ratio")
    for producers in options.producers:
        raw, ours = [], []
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                raw.append(await measure_raw(Path(folder), producers, options.seconds))
                ours.append(await measure_store(Path(folder), producers, options.seconds))
        by_hand, store = statistics.median(raw), statistics.median(ours)
        print(f"{producers:9} {by_hand:12,.0f} /s  {store:8,.0f} /s   {store / by_hand:.2f}")
        results.append({"producers": producers, "sqlite3": by_hand, "store": store})
    json.dump({"sqlite": sqlite3.sqlite_version, "python": sys.version, "results": results}, sys.stderr)


if __name__ == "__main__":
    asyncio.run(main())
