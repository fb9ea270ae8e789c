"""Group commit written by hand on asyncpg: the store on PostgreSQL is measured beside it. It checks nothing."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from trackside import LifecycleEventType, RunLifecycleEvent

EVENTS_ALONE = """
    CREATE TABLE counters (name text PRIMARY KEY, value bigint NOT NULL);
    INSERT INTO counters VALUES ('position', 0);
    CREATE TABLE events (
        position bigint PRIMARY KEY, event_id text NOT NULL UNIQUE, run_id text NOT NULL, thread_id text NOT NULL,
        sequence bigint NOT NULL, event_type text NOT NULL, occurred_at text NOT NULL, payload text NOT NULL,
        UNIQUE (run_id, sequence)
    );
"""
"""The least that a log needs when it has no rows of runs and threads."""

EVENTS = """
    WITH taken AS (
        UPDATE counters SET value = value + cardinality($1::text[]) WHERE name = 'position' RETURNING value
    )
    INSERT INTO events (position, event_id, run_id, thread_id, sequence, event_type, occurred_at, payload)
    SELECT taken.value - cardinality($1::text[]) + new.ordinality, event_id, run_id, thread_id, sequence, event_type,
        occurred_at, payload
    FROM taken, unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[])
        WITH ORDINALITY AS new (event_id, run_id, thread_id, sequence, event_type, occurred_at, payload)"""
"""All events of a transaction, after those already there; a writer that takes positions makes the others wait."""

_STARTED = """
    INSERT INTO runs (run_id, thread_id, agent, status, created_at, started_at, last_sequence, metadata)
    SELECT run_id, thread_id, agent, 'running', started_at, started_at, 1, metadata
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
        AS new (run_id, thread_id, agent, started_at, metadata)"""
_ADVANCED = """
    UPDATE runs SET last_sequence = new.last_sequence
    FROM unnest($1::bigint[], $2::text[]) AS new (last_sequence, run_id) WHERE runs.run_id = new.run_id"""
_ENDED = """
    UPDATE runs SET status = new.status, last_sequence = new.last_sequence, ended_at = new.ended_at,
        completion_data = new.completion_data
    FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[])
        AS new (status, last_sequence, ended_at, completion_data, run_id)
    WHERE runs.run_id = new.run_id"""
_THREAD = """
    INSERT INTO threads (thread_id, status, created_at, updated_at, last_run_id)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
    ON CONFLICT (thread_id) DO UPDATE SET status = excluded.status, updated_at = excluded.updated_at"""

type _Job = tuple[RunLifecycleEvent, str, str, asyncio.Future[None]]


class RawPostgresLog:
    """A task and a queue; one transaction takes everything that waits: one statement for the rows of each kind.

    Args:
        connection: to a database that has the tables.
        with_rows: also keep the rows of runs and threads, as the store does.
    """

    def __init__(self, connection: asyncpg.Connection, *, with_rows: bool) -> None:
        self._with_rows = with_rows
        self._driver = connection
        self._jobs: asyncio.Queue[_Job | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._run())

    @classmethod
    @asynccontextmanager
    async def at(cls, url: str, *, with_rows: bool) -> AsyncGenerator["RawPostgresLog"]:
        """Open a log in this database, with tables of its own if it keeps only events."""
        connection = await asyncpg.connect(url)
        if not with_rows:
            await connection.execute(EVENTS_ALONE)
        log = cls(connection, with_rows=with_rows)
        yield log
        log._jobs.put_nowait(None)
        await log._task
        await connection.close()

    async def append(self, event: RunLifecycleEvent) -> None:
        """Queue one event and wait for its commit."""
        done = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait((event, event.occurred_at.isoformat(), json.dumps(event.payload), done))
        await done

    async def _run(self) -> None:
        while (first := await self._jobs.get()) is not None:
            jobs = [first]
            while not self._jobs.empty() and (job := self._jobs.get_nowait()) is not None:
                jobs.append(job)
            if self._with_rows:
                async with self._driver.transaction():
                    await self._write_rows(jobs)
                    await self._write_events(jobs)
            else:
                await self._write_events(jobs)
            for *_, done in jobs:
                done.set_result(None)

    async def _write_events(self, jobs: Sequence[_Job]) -> None:
        rows = [
            (e.event_id, e.run_id, e.thread_id, e.sequence, e.event_type.value, when, payload)
            for e, when, payload, _ in jobs
        ]
        await write(self._driver, EVENTS, rows)

    async def _write_rows(self, jobs: Sequence[_Job]) -> None:
        started, advanced, ended, threads = [], [], [], []
        for e, when, _, _ in jobs:
            if e.event_type is LifecycleEventType.RUN_STARTED:
                threads.append((e.thread_id, "idle", when, when, e.run_id))
                started.append((e.run_id, e.thread_id, e.payload["agent"], when, json.dumps(e.payload["metadata"])))
            elif e.event_type is LifecycleEventType.RUN_COMPLETED:
                data = json.dumps(e.payload["completion_data"])
                ended.append((e.payload["status"], e.sequence, when, data, e.run_id))
            else:
                advanced.append((e.sequence, e.run_id))
                if e.event_type is LifecycleEventType.THREAD_STATUS_UPDATED:
                    threads.append((e.thread_id, e.payload["status"], when, when, e.run_id))
        for statement, rows in ((_THREAD, threads), (_STARTED, started), (_ADVANCED, advanced), (_ENDED, ended)):
            await write(self._driver, statement, rows)


async def write(connection: asyncpg.Connection, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    """Run a statement that takes rows as one array for each column, if there are any rows."""
    if rows:
        await connection.execute(statement, *map(list, zip(*rows, strict=True)))
