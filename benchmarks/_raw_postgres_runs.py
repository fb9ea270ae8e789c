"""Complete runs written by hand on asyncpg, with group commit: durable runs on PostgreSQL are measured beside it.

It writes the rows that the store writes, in the three transactions that a run waits for, and checks nothing.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Self

import asyncpg
from _raw_postgres_log import EVENTS, write
from _raw_runs import COMPLETION, PERIODS, REQUEST, SAYS

from trackside.harness.ids import new_id

_ADMIT_THREAD = """
    INSERT INTO threads (thread_id, status, created_at, updated_at)
    SELECT thread_id, 'idle', at, at FROM unnest($1::text[], $2::text[]) AS new (thread_id, at)
    ON CONFLICT (thread_id) DO NOTHING"""
_ADMIT_RUN = """
    INSERT INTO runs (run_id, thread_id, agent, status, created_at, last_sequence, metadata, request)
    SELECT run_id, thread_id, 'agent', 'pending', at, 0, '{}', request
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS new (run_id, thread_id, at, request)"""
_ADMIT_ACTIVE = """
    INSERT INTO active_runs (run_id, thread_id, state, multitask, holds, owner)
    SELECT run_id, thread_id, 'pending', 'enqueue', true, 'me'
    FROM unnest($1::text[], $2::text[]) AS new (run_id, thread_id)"""
_START_RUN = """
    UPDATE runs SET status = 'running', started_at = new.at, last_sequence = 2
    FROM unnest($1::text[], $2::text[]) AS new (at, run_id) WHERE runs.run_id = new.run_id"""
_START_ACTIVE = "UPDATE active_runs SET state = 'claimed' WHERE run_id = ANY($1::text[])"
_THREAD = """
    UPDATE threads SET status = new.status, updated_at = new.at, last_run_id = new.run_id
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS new (status, at, run_id, thread_id)
    WHERE threads.thread_id = new.thread_id"""
_END_RUN = """
    UPDATE runs SET status = 'success', ended_at = new.at, last_sequence = 4, completion_data = new.data,
        duration_seconds = 0.001
    FROM unnest($1::text[], $2::text[], $3::text[]) AS new (at, data, run_id) WHERE runs.run_id = new.run_id"""
_END_ACTIVE = "DELETE FROM active_runs WHERE run_id = ANY($1::text[])"
_TOTALS = """
    INSERT INTO run_totals
    SELECT seconds, start, 'agent', 'success', runs, 0, 0, 0, 0, 0, 0, 0
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS new (seconds, start, runs)
    ON CONFLICT (seconds, start, agent, status) DO UPDATE SET runs = run_totals.runs + excluded.runs"""
_DURATIONS = """
    INSERT INTO duration_totals
    SELECT seconds, start, 'agent', 'success', 1, runs
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS new (seconds, start, runs)
    ON CONFLICT (seconds, start, agent, status, bin) DO UPDATE SET runs = duration_totals.runs + excluded.runs"""

type _Job = tuple[str, str, str, asyncio.Future[None]]


_EVENTS_OF = {"start": (1, ("run_started", "busy")), "end": (3, ("run_completed", "idle"))}


class RawPostgresRuns:
    """A task and a queue; one transaction takes everything that waits: one statement for the rows of each kind."""

    steps: Sequence[str] = ("admit", "start", "end")
    """The steps of a run, in order; each has a method `_STEP`."""
    admit_active = _ADMIT_ACTIVE
    """How a run gets into the queue."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._driver = connection
        self._jobs: asyncio.Queue[_Job | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._run())

    @classmethod
    @asynccontextmanager
    async def at(cls, url: str) -> AsyncGenerator[Self]:
        """Open on this database, which has the store's tables."""
        connection = await asyncpg.connect(url)
        runs = cls(connection)
        yield runs
        runs._jobs.put_nowait(None)
        await runs._task
        await connection.close()

    async def run(self) -> None:
        """One run on a thread of its own: admitted, started, ended, each durable before the next."""
        run_id, thread_id = new_id(), new_id()
        for step in self.steps:
            await self.do(step, run_id, thread_id)

    async def do(self, step: str, run_id: str, thread_id: str) -> None:
        """Have a step of a run written; returns after its commit."""
        done = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait((step, run_id, thread_id, done))
        await done

    async def _run(self) -> None:
        while (first := await self._jobs.get()) is not None:
            jobs = [first]
            while not self._jobs.empty() and (job := self._jobs.get_nowait()) is not None:
                jobs.append(job)
            when = datetime.now(UTC).isoformat()
            async with self._driver.transaction():
                await self._begin({step for step, *_ in jobs})
                for step in self.steps:
                    if runs := [(run_id, thread_id) for name, run_id, thread_id, _ in jobs if name == step]:
                        await getattr(self, f"_{step}")(runs, when)
                await self._add_up(sum(step == "end" for step, *_ in jobs))
                await self._write_events(jobs, when)
            for *_, done in jobs:
                done.set_result(None)

    async def _begin(self, steps: set[str]) -> None:
        """Do what a transaction of these steps begins with."""

    async def _admit(self, runs: Sequence[tuple[str, str]], when: str) -> None:
        await self._write(_ADMIT_THREAD, [(thread_id, when) for _, thread_id in runs])
        await self._write(_ADMIT_RUN, [(run_id, thread_id, when, REQUEST) for run_id, thread_id in runs])
        await self._write(self.admit_active, runs)

    async def _start(self, runs: Sequence[tuple[str, str]], when: str) -> None:
        await self._write(_THREAD, [("busy", when, run_id, thread_id) for run_id, thread_id in runs])
        await self._write(_START_RUN, [(when, run_id) for run_id, _ in runs])
        await self._write(_START_ACTIVE, [(run_id,) for run_id, _ in runs])

    async def _end(self, runs: Sequence[tuple[str, str]], when: str) -> None:
        await self._write(_THREAD, [("idle", when, run_id, thread_id) for run_id, thread_id in runs])
        await self._write(_END_RUN, [(when, COMPLETION, run_id) for run_id, _ in runs])
        await self._write(_END_ACTIVE, [(run_id,) for run_id, _ in runs])

    async def _write_events(self, jobs: Sequence[_Job], when: str) -> None:
        rows: list[tuple[Any, ...]] = []
        for step, run_id, thread_id, _ in jobs:
            first, kinds = _EVENTS_OF.get(step, (0, ()))
            for sequence, kind in enumerate(kinds, first):
                event_type = kind if kind.startswith("run") else "thread_status_updated"
                rows.append((new_id(), run_id, thread_id, sequence, event_type, when, SAYS[kind]))
        await self._write(EVENTS, rows)

    async def _add_up(self, ended: int) -> None:
        if ended:
            starts = [(seconds, int(time.time()) // seconds, ended) for seconds in PERIODS]
            await self._write(_TOTALS, starts)
            await self._write(_DURATIONS, starts)

    async def _write(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        await write(self._driver, statement, rows)
