"""Complete runs written by hand on the `sqlite3` module, with group commit: durable runs are measured beside it.

It writes the rows that the store writes, in the three transactions that a run waits for, and checks nothing.
"""

import asyncio
import json
import queue
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from trackside.harness.ids import new_id

_ADMIT_THREAD = """
    INSERT INTO threads (thread_id, status, created_at, updated_at) VALUES (?, 'idle', ?, ?)
    ON CONFLICT (thread_id) DO NOTHING"""
_ADMIT_RUN = """
    INSERT INTO runs (run_id, thread_id, agent, status, created_at, last_sequence, metadata, request)
    VALUES (?, ?, 'agent', 'pending', ?, 0, '{}', ?)"""
_ADMIT_ACTIVE = """
    INSERT INTO active_runs (run_id, thread_id, state, multitask, holds, owner)
    VALUES (?, ?, 'pending', 'enqueue', 1, 'me')"""
_START_RUN = "UPDATE runs SET status = 'running', started_at = ?, last_sequence = 2 WHERE run_id = ?"
_START_ACTIVE = "UPDATE active_runs SET state = 'claimed' WHERE run_id = ?"
_THREAD = "UPDATE threads SET status = ?, updated_at = ?, last_run_id = ? WHERE thread_id = ?"
_END_RUN = """
    UPDATE runs SET status = 'success', ended_at = ?, last_sequence = 4, completion_data = ?, duration_seconds = ?
    WHERE run_id = ?"""
_END_ACTIVE = "DELETE FROM active_runs WHERE run_id = ?"
_EVENT = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_TOTALS = """
    INSERT INTO run_totals VALUES (?, ?, 'agent', 'success', ?, 0, 0, 0, 0, 0, 0, 0)
    ON CONFLICT DO UPDATE SET runs = runs + excluded.runs"""
_DURATIONS = """
    INSERT INTO duration_totals VALUES (?, ?, 'agent', 'success', 1, ?)
    ON CONFLICT DO UPDATE SET runs = runs + excluded.runs"""

PERIODS = (60, 3_600, 86_400)
REQUEST = json.dumps({"agent": "agent"})
COMPLETION = json.dumps({"total_input_tokens": 0, "total_output_tokens": 0, "total_tokens": 0, "message_count": 0})
SAYS = {
    "run_started": json.dumps({"agent": "agent", "metadata": {}}),
    "busy": json.dumps({"status": "busy", "previous": "idle"}),
    "run_completed": json.dumps(
        {"status": "success", "title": None, "completion_data": json.loads(COMPLETION) | {"duration_seconds": 0.001}}
    ),
    "idle": json.dumps({"status": "idle", "previous": "busy"}),
}

type _Job = tuple[str, str, str, asyncio.Future[None]]


class RawRuns:
    """A thread and a queue; one transaction takes everything that waits, with `executemany`."""

    def __init__(self, path: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._driver = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._driver.execute("PRAGMA journal_mode = WAL")
        self._driver.execute("PRAGMA synchronous = FULL")
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @classmethod
    @asynccontextmanager
    async def at(cls, url: str) -> AsyncGenerator["RawRuns"]:
        """Open on this file, which has the store's tables."""
        runs = cls(url.removeprefix("sqlite:///"))
        yield runs
        runs._jobs.put(None)
        await asyncio.to_thread(runs._thread.join)

    async def run(self) -> None:
        """One run on a thread of its own: admitted, started, ended, each durable before the next."""
        run_id, thread_id = new_id(), new_id()
        for step in ("admit", "start", "end"):
            done = self._loop.create_future()
            self._jobs.put((step, run_id, thread_id, done))
            await done

    def _run(self) -> None:
        while (first := self._jobs.get()) is not None:
            jobs = [first]
            while not self._jobs.empty() and (job := self._jobs.get()) is not None:
                jobs.append(job)
            self._driver.execute("BEGIN IMMEDIATE")
            when = datetime.now(UTC).isoformat()
            for step, write in (("admit", self._admit), ("start", self._start), ("end", self._end)):
                if runs := [(run_id, thread_id) for name, run_id, thread_id, _ in jobs if name == step]:
                    write(runs, when)
            self._add_up(sum(step == "end" for step, *_ in jobs))
            self._driver.execute("COMMIT")
            self._loop.call_soon_threadsafe(_answer, [done for *_, done in jobs])
        self._driver.close()

    def _admit(self, runs: Sequence[tuple[str, str]], when: str) -> None:
        many = self._driver.executemany
        many(_ADMIT_THREAD, [(thread_id, when, when) for _, thread_id in runs])
        many(_ADMIT_RUN, [(run_id, thread_id, when, REQUEST) for run_id, thread_id in runs])
        many(_ADMIT_ACTIVE, runs)

    def _start(self, runs: Sequence[tuple[str, str]], when: str) -> None:
        many = self._driver.executemany
        many(_THREAD, [("busy", when, run_id, thread_id) for run_id, thread_id in runs])
        many(_START_RUN, [(when, run_id) for run_id, _ in runs])
        many(_START_ACTIVE, [(run_id,) for run_id, _ in runs])
        self._write_events(runs, when, 1, ("run_started", "busy"))

    def _end(self, runs: Sequence[tuple[str, str]], when: str) -> None:
        many = self._driver.executemany
        many(_THREAD, [("idle", when, run_id, thread_id) for run_id, thread_id in runs])
        many(_END_RUN, [(when, COMPLETION, 0.001, run_id) for run_id, _ in runs])
        many(_END_ACTIVE, [(run_id,) for run_id, _ in runs])
        self._write_events(runs, when, 3, ("run_completed", "idle"))

    def _write_events(self, runs: Sequence[tuple[str, str]], when: str, first: int, kinds: Sequence[str]) -> None:
        count = len(runs) * len(kinds)
        self._driver.execute("UPDATE counters SET value = value + ? WHERE name = 'position'", (count,))
        (last,) = self._driver.execute("SELECT value FROM counters WHERE name = 'position'").fetchone()
        rows: list[tuple[Any, ...]] = []
        for run_id, thread_id in runs:
            for sequence, kind in enumerate(kinds, first):
                event_type = kind if kind.startswith("run") else "thread_status_updated"
                position = last - count + len(rows) + 1
                rows.append((position, new_id(), run_id, thread_id, sequence, event_type, when, SAYS[kind]))
        self._driver.executemany(_EVENT, rows)

    def _add_up(self, ended: int) -> None:
        if ended:
            starts = [(seconds, int(time.time()) // seconds, ended) for seconds in PERIODS]
            self._driver.executemany(_TOTALS, starts)
            self._driver.executemany(_DURATIONS, starts)


def _answer(futures: Sequence[asyncio.Future[None]]) -> None:
    for done in futures:
        done.set_result(None)
