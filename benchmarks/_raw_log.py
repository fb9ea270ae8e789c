"""Group commit written by hand on the `sqlite3` module: the store is measured beside it. It checks nothing."""

import asyncio
import json
import queue
import sqlite3
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from trackside import LifecycleEventType, RunLifecycleEvent

EVENTS_ALONE = """
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO counters VALUES ('position', 0);
    CREATE TABLE events (
        position INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, run_id TEXT NOT NULL, thread_id TEXT NOT NULL,
        sequence INTEGER NOT NULL, event_type TEXT NOT NULL, occurred_at TEXT NOT NULL, payload TEXT NOT NULL,
        UNIQUE (run_id, sequence)
    );
"""
"""The least that a log needs when it has no rows of runs and threads."""

_STARTED = """
    INSERT INTO runs (run_id, thread_id, agent, status, created_at, started_at, last_sequence, metadata)
    VALUES (?, ?, ?, 'running', ?, ?, 1, ?)"""
_ADVANCED = "UPDATE runs SET last_sequence = ? WHERE run_id = ?"
_ENDED = "UPDATE runs SET status = ?, last_sequence = ?, ended_at = ?, completion_data = ? WHERE run_id = ?"
_THREAD = """
    INSERT INTO threads (thread_id, status, created_at, updated_at, last_run_id) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (thread_id) DO UPDATE SET status = excluded.status, updated_at = excluded.updated_at"""

type _Job = tuple[RunLifecycleEvent, str, str, asyncio.Future[None]]


class RawLog:
    """A thread and a queue; one transaction takes everything that waits, with `executemany`.

    Args:
        path: of a database that has the tables, or has none if this log keeps only events.
        with_rows: also keep the rows of runs and threads, as the store does.
    """

    def __init__(self, path: str, *, with_rows: bool) -> None:
        self._with_rows = with_rows
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._driver = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._driver.execute("PRAGMA journal_mode = WAL")
        self._driver.execute("PRAGMA synchronous = FULL")
        if not with_rows:
            self._driver.executescript(EVENTS_ALONE)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @classmethod
    @asynccontextmanager
    async def at(cls, url: str, *, with_rows: bool) -> AsyncGenerator["RawLog"]:
        """Open a log in this file, with tables of its own if it keeps only events."""
        log = cls(url.removeprefix("sqlite:///"), with_rows=with_rows)
        yield log
        log._jobs.put(None)
        await asyncio.to_thread(log._thread.join)

    async def append(self, event: RunLifecycleEvent) -> None:
        """Queue one event and wait for its commit."""
        done = self._loop.create_future()
        self._jobs.put((event, event.occurred_at.isoformat(), json.dumps(event.payload), done))
        await done

    def _run(self) -> None:
        while (first := self._jobs.get()) is not None:
            jobs = [first]
            while not self._jobs.empty() and (job := self._jobs.get()) is not None:
                jobs.append(job)
            self._driver.execute("BEGIN IMMEDIATE")
            if self._with_rows:
                self._write_rows(jobs)
            self._write_events(jobs)
            self._driver.execute("COMMIT")
            self._loop.call_soon_threadsafe(_answer, [done for *_, done in jobs])
        self._driver.close()

    def _write_events(self, jobs: Sequence[_Job]) -> None:
        self._driver.execute("UPDATE counters SET value = value + ? WHERE name = 'position'", (len(jobs),))
        (last,) = self._driver.execute("SELECT value FROM counters WHERE name = 'position'").fetchone()
        rows = [
            (position, e.event_id, e.run_id, e.thread_id, e.sequence, e.event_type.value, when, payload)
            for position, (e, when, payload, _) in enumerate(jobs, last - len(jobs) + 1)
        ]
        self._driver.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def _write_rows(self, jobs: Sequence[_Job]) -> None:
        started, advanced, ended, threads = [], [], [], []
        for e, when, _, _ in jobs:
            if e.event_type is LifecycleEventType.RUN_STARTED:
                threads.append((e.thread_id, "idle", when, when, e.run_id))
                started.append(
                    (e.run_id, e.thread_id, e.payload["agent"], when, when, json.dumps(e.payload["metadata"]))
                )
            elif e.event_type is LifecycleEventType.RUN_COMPLETED:
                data = json.dumps(e.payload["completion_data"])
                ended.append((e.payload["status"], e.sequence, when, data, e.run_id))
            else:
                advanced.append((e.sequence, e.run_id))
                if e.event_type is LifecycleEventType.THREAD_STATUS_UPDATED:
                    threads.append((e.thread_id, e.payload["status"], when, when, e.run_id))
        for statement, rows in ((_THREAD, threads), (_STARTED, started), (_ADVANCED, advanced), (_ENDED, ended)):
            self._driver.executemany(statement, rows)


def _answer(futures: Sequence[asyncio.Future[None]]) -> None:
    for done in futures:
        done.set_result(None)
