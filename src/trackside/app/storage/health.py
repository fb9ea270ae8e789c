"""How the runs in a database are doing: who looks after them, and which of them somebody should look at.

Only looks. These functions block: they are for commands, and for threads of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, Select, func, select

from trackside.app.storage._databases.backends import backend_at
from trackside.app.storage._databases.postgres.url import PostgresAddress
from trackside.app.storage._rows.conditions import heard_last, is_unattended
from trackside.app.storage._rows.leases import DATABASE_CLOCK, DATABASE_SECONDS, LeaseClock, read_clock
from trackside.app.storage._rows.processes import seconds_alive
from trackside.app.storage._rows.queue import Standing
from trackside.app.storage._rows.tables import active_runs, runs, threads, workers
from trackside.app.storage._subscriptions.reads import read_standing
from trackside.app.storage._subscriptions.records import Subscription
from trackside.app.storage._transfer.left_busy import is_left_busy
from trackside.app.storage.errors import DatabaseUrlError
from trackside.app.storage.maintenance import BUSY_TIMEOUT
from trackside.harness.lifecycle import is_final
from trackside.harness.types import RunStatus

MOST: Final = 100
"""How many runs or threads of one kind are reported at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHealth:
    """A process that looks after runs. `seconds_left` of its lease is 0 once it has ended: then the process is gone."""

    name: str
    kind: str
    """What it is: a `worker` or `server` of a fleet, or `inline`, which executes what it lets in."""
    started_at: datetime
    seconds_left: float
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHealth:
    """A run that has not ended, and since when it has been as it is. `worker` owns it; None: nobody does."""

    run_id: str
    thread_id: str
    agent: str
    since: datetime
    worker: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What was found, at one moment.

    `stuck` runs were cancelled and go on, `abandoned` ones are said to run in a process that is gone, `unclaimed` ones could
    start and nobody takes them, `unattended` ones were recorded without a coordinator, or imported, and have said nothing
    since. `clock_ahead` says by how many seconds a server's clock is ahead of this machine's.
    """

    workers: Sequence[WorkerHealth]
    stuck: Sequence[RunHealth]
    abandoned: Sequence[RunHealth]
    unclaimed: Sequence[RunHealth]
    left_busy: Sequence[str]
    subscriptions: Sequence[Subscription]
    damage: Sequence[str]
    clock_ahead: float
    unattended: Sequence[RunHealth] = ()


def database_health(url: str, *, now: datetime, sound: bool = True) -> Health | None:
    """How the runs of a database whose tables are up to date are doing; None if there is no database yet.

    Args:
        url: as for `Store.open`.
        now: the time.
        sound: whether to read the whole of an SQLite file once, to see whether it is sound.

    Raises:
        StorageError: it cannot be read.
    """
    found = backend_at(url, synchronous="FULL", busy_timeout=BUSY_TIMEOUT).look(partial(_read, sound=sound))
    return None if found is None else _health(found, now)


def check_writable(url: str) -> None:
    """See that this user may write to a database, as far as that can be told without writing.

    Raises:
        StorageError: something keeps the user from it.
    """
    backend_at(url, synchronous="FULL", busy_timeout=BUSY_TIMEOUT).check_writable()


def database_file(url: str) -> Path | None:
    """The file of a database, if it is one."""
    prefix, _, path = url.partition(":///")
    return Path(path).absolute() if prefix == "sqlite" else None


class ServerDatabase(NamedTuple):
    """A database on a server: its name, and a text that no other has, whoever connects to it and however."""

    name: str
    place: str


def server_database(url: str) -> ServerDatabase | None:
    """The database on a server that has this address; None if it is not such an address."""
    try:
        address = PostgresAddress.from_url(url)
    except DatabaseUrlError:
        return None
    return ServerDatabase(address.database or "", address.place)


class _Found(NamedTuple):
    """What was read, at one moment."""

    workers: Sequence[Row[Any]]
    active: Sequence[Row[Any]]
    unattended: Sequence[Row[Any]]
    left_busy: Sequence[str]
    subscriptions: Sequence[Subscription]
    damage: Sequence[str]
    clock: LeaseClock
    clock_ahead: float


def _read(connection: Connection, *, sound: bool) -> _Found:
    clock = read_clock(connection)
    return _Found(
        workers=connection.execute(_owners()).all(),
        active=connection.execute(_active()).all(),
        unattended=connection.execute(_unattended()).all(),
        left_busy=connection.scalars(select(threads.c.thread_id).where(is_left_busy()).limit(MOST)).all(),
        subscriptions=read_standing(None)(connection),
        damage=_damage(connection) if sound else [],
        clock=clock,
        clock_ahead=_clock_ahead(connection, clock),
    )


def _health(found: _Found, now: datetime) -> Health:
    left = {row.worker_id: seconds_alive(row, found.clock) for row in found.workers}
    lost = [row for row in found.active if _is_lost(row, left)]
    return Health(
        workers=[
            WorkerHealth(
                name=row.name,
                kind=row.kind,
                started_at=row.started_at,
                seconds_left=left[row.worker_id],
                runs=row.owned,
            )
            for row in found.workers
        ],
        stuck=[_run_of(row) for row in found.active if row.stuck_since is not None][:MOST],
        abandoned=[_run_of(row) for row in lost if row.state == Standing.claimed][:MOST],
        unclaimed=[_run_of(row) for row in lost if _could_start(row, now)][:MOST],
        left_busy=found.left_busy,
        subscriptions=found.subscriptions,
        damage=found.damage,
        clock_ahead=found.clock_ahead,
        unattended=[
            RunHealth(run_id=row.run_id, thread_id=row.thread_id, agent=row.agent or "?", since=row.since, worker=None)
            for row in found.unattended
        ],
    )


def _owners() -> Select[Any]:
    owned = select(func.count()).where(active_runs.c.owner == workers.c.worker_id).scalar_subquery()
    return select(workers, owned.label("owned")).order_by(workers.c.started_at)


def _active() -> Select[Any]:
    described = (runs.c.agent, runs.c.created_at, runs.c.started_at, workers.c.name)
    joined = active_runs.join(runs, runs.c.run_id == active_runs.c.run_id).outerjoin(
        workers, workers.c.worker_id == active_runs.c.owner
    )
    return select(active_runs, *described).select_from(joined).order_by(active_runs.c.ordinal)


def _unattended() -> Select[*tuple[Any, ...]]:
    goes_on = runs.c.status.in_([status.value for status in RunStatus if not is_final(status)])
    described = (runs.c.run_id, runs.c.thread_id, runs.c.agent, heard_last().label("since"))
    return select(*described).where(goes_on, is_unattended()).order_by(runs.c.created_at).limit(MOST)


def _run_of(row: Row[Any]) -> RunHealth:
    begun = row.started_at or max(row.created_at, row.due_at or row.created_at)
    return RunHealth(
        run_id=row.run_id,
        thread_id=row.thread_id,
        agent=row.agent or "?",
        since=row.stuck_since or begun,
        worker=row.name,
    )


def _is_lost(row: Row[Any], left: Mapping[str, float]) -> bool:
    """Whether nobody looks after a run: it was left for others, or whoever had it is gone, with or without a trace."""
    return row.owner is None or not left.get(row.owner)


def _could_start(row: Row[Any], now: datetime) -> bool:
    if row.state == Standing.delayed:
        return row.due_at is not None and row.due_at <= now
    return row.state == Standing.pending and bool(row.holds)


def _damage(connection: Connection) -> list[str]:
    if connection.dialect.name != "sqlite":
        return []
    return [str(said) for (said,) in connection.exec_driver_sql("PRAGMA quick_check(10)") if said != "ok"]


def _clock_ahead(connection: Connection, clock: LeaseClock) -> float:
    if clock.clock != DATABASE_CLOCK:
        return 0.0
    before = datetime.now(UTC).timestamp()
    told = float(connection.execute(DATABASE_SECONDS).scalar_one())
    after = datetime.now(UTC).timestamp()
    return told - (before + after) / 2
