"""What a database is and holds, and which processes look after runs in it, without counting what may be many."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Select, func, select, text

from trackside.app.storage._databases.readers import Readers
from trackside.app.storage._rows.leases import LeaseClock, read_clock
from trackside.app.storage._rows.processes import last_seen_at, seconds_alive
from trackside.app.storage._rows.queue import Standing
from trackside.app.storage._rows.tables import (
    POSITION,
    active_runs,
    counters,
    events,
    run_totals,
    runs,
    threads,
    workers,
)
from trackside.app.storage._rows.totals import DAY
from trackside.harness.lifecycle import is_final
from trackside.harness.threads import in_own_thread
from trackside.harness.types import RunStatus, ThreadStatus

claimed_by_worker = (
    select(func.count())
    .where(active_runs.c.owner == workers.c.worker_id, active_runs.c.state == Standing.claimed.value)
    .scalar_subquery()
)
"""How many runs the process of a row of `workers` executes, by the queue."""

MOST_THREADS: Final = 100_000
"""At most this many threads are counted, which takes some milliseconds."""

_OPEN: Final = [status.value for status in RunStatus if not is_final(status)]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """A process that looks after runs, and how many of them it executes. `last_seen_at` is about when it gave a sign."""

    id: str
    host: str
    pid: int | None
    started_at: datetime
    last_seen_at: datetime
    alive: bool
    running: int
    is_this: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFacts:
    """What a database is and holds.

    `schema` is the revision of its tables. `events` is the position of the last event: how many there ever were.
    `threads` are counted up to `MOST_THREADS`.
    """

    kind: str
    schema: str
    size_bytes: int
    events: int
    runs: int
    threads: int
    oldest_event_at: datetime | None
    workers: Sequence[WorkerFacts]


class _Found(NamedTuple):
    """What was read. It is told once it is known which processes still live, which is in files of their machine."""

    facts: StoreFacts
    workers: Sequence[Row[*tuple[Any, ...]]]
    clock: LeaseClock

    def told(self, *, own: Collection[str]) -> StoreFacts:
        """The facts with the workers; `own` are the ids of this process's. Blocks."""
        workers = [_worker(row, self.clock, is_this=row.worker_id in own) for row in self.workers]
        return replace(self.facts, workers=workers)


async def facts_of(readers: Readers, *, own: Collection[str]) -> StoreFacts:
    """What a database is and holds, and its workers; `own` are the ids of this process's.

    Raises:
        StorageError: the database failed.
    """
    found = await readers.run(_read)
    return await in_own_thread(found.told, own=own)


def _read(connection: Connection) -> _Found:
    """Read what a database is and holds."""
    # Names every status: so an index finds them without going past those that were removed.
    there = (threads.c.status.in_([*ThreadStatus]), threads.c.removed_at.is_(None))
    some = select(threads.c.thread_id).where(*there).limit(MOST_THREADS).subquery()
    facts = StoreFacts(
        kind=connection.dialect.name,
        schema=str(connection.scalar(text("SELECT version_num FROM alembic_version"))),
        size_bytes=_size(connection),
        events=connection.execute(select(counters.c.value).where(counters.c.name == POSITION)).scalar_one(),
        runs=_runs(connection),
        threads=connection.execute(select(func.count()).select_from(some)).scalar_one(),
        oldest_event_at=connection.scalar(select(events.c.occurred_at).order_by(events.c.position).limit(1)),
        workers=(),
    )
    return _Found(facts, connection.execute(select_workers(claimed_by_worker)).all(), read_clock(connection))


def select_workers(running: ColumnElement[int]) -> Select[*tuple[Any, ...]]:
    """All processes in the order in which they started, with this for how many runs each executes."""
    known = [column for column in workers.c if column is not workers.c.running]
    return select(*known, running.label("running")).order_by(workers.c.started_at)


def _size(connection: Connection) -> int:
    if connection.dialect.name == "postgresql":
        return int(connection.scalar(text("SELECT pg_database_size(current_database())")) or 0)
    pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    return int(pages * connection.exec_driver_sql("PRAGMA page_size").scalar_one())


def _runs(connection: Connection) -> int:
    """How many runs there are; the ended ones come from their sums."""
    ended = connection.scalar(select(func.sum(run_totals.c.runs)).where(run_totals.c.seconds == DAY)) or 0
    open_ones = connection.scalar(select(func.count()).select_from(runs).where(runs.c.status.in_(_OPEN))) or 0
    return int(ended) + int(open_ones)


def _worker(row: Row[*tuple[Any, ...]], clock: LeaseClock, *, is_this: bool) -> WorkerFacts:
    host, _, pid = row.name.rpartition(":")
    return WorkerFacts(
        id=row.worker_id,
        host=host or row.name,
        pid=int(pid) if pid.isdigit() else None,
        started_at=row.started_at,
        last_seen_at=last_seen_at(row, clock),
        alive=seconds_alive(row, clock) > 0,
        running=row.running,
        is_this=is_this,
    )
