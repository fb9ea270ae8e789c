"""What is read about a fleet: ready runs, workers, what waits in each pool, who has which duty."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, Final, NamedTuple, Self

from sqlalchemy import Connection, Row, Select, and_, case, func, literal_column, or_, select

from trackside.app.storage._reading.facts import claimed_by_worker, select_workers
from trackside.app.storage._rows.conditions import holds_mostly
from trackside.app.storage._rows.fleet_tables import FORGETTING, duties
from trackside.app.storage._rows.leases import LeaseClock, read_clock, seconds_left, wall_time
from trackside.app.storage._rows.processes import last_seen_at, seconds_alive
from trackside.app.storage._rows.queue import Standing
from trackside.app.storage._rows.tables import active_runs, runs, workers
from trackside.app.storage.fleet import (
    HeldDuty,
    HeldRun,
    QueueDepth,
    ReadyRun,
    StoredWorker,
    UnservedRuns,
)
from trackside.app.vitals import PoolDepth
from trackside.harness.types import CancelAction

MOST_EXAMINED: Final = 10_000
"""For how many ready runs, the first of each pool, it is told whether somebody serves them."""

_MOST_DATED: Final = 1_000
"""Among how many ready runs of a pool, the first ones, the one that has waited longest is looked for."""

_agent_of_run = select(runs.c.agent).where(runs.c.run_id == active_runs.c.run_id).scalar_subquery()
agent_of_active = case((active_runs.c.agent == "", _agent_of_run), else_=active_runs.c.agent)
"""The agent of an active run; where it is not noted there, the run itself says it."""

READY_COLUMNS: Final = (active_runs.c.run_id, active_runs.c.pool, active_runs.c.agent, active_runs.c.version)
"""What there is of a `ReadyRun` in its row, in this order."""

has_not_begun = and_(
    active_runs.c.owner.is_(None), active_runs.c.state.in_([Standing.pending.value, Standing.delayed.value])
)
"""That no process has the run, nor has begun it."""

_IS_READY: Final = (
    holds_mostly(active_runs.c.owner.is_(None)),
    active_runs.c.state == literal_column(f"'{Standing.pending.value}'"),  # as it stands in the index
    active_runs.c.holds,
    active_runs.c.portable,
    active_runs.c.cancel_requested.is_(None),
)


def read_ready(
    pools: Sequence[str], agents: Collection[str] | None, older_than: float, limit: int
) -> Callable[[Connection], list[ReadyRun]]:
    """Reads which runs of pools, and of agents, are ready and have no owner, those that came first.

    A run from the future, too, counts as `older_than` so many seconds: its host's clock is ahead of the database's.
    """

    def read(connection: Connection) -> list[ReadyRun]:
        query = select(active_runs.c.ordinal, *READY_COLUMNS)
        if older_than > 0:
            now = wall_time(read_clock(connection))
            created_at = runs.c.created_at
            query = query.join(runs, runs.c.run_id == active_runs.c.run_id)
            query = query.where(or_(created_at <= now - timedelta(seconds=older_than), created_at > now))
        names: list[str | None] = (
            [None] if agents is None else [*agents, ""]
        )  # without a name: only the run itself says whose it is
        queries = [_of_pool(query, pool, name) for pool in pools for name in names]
        found = sorted((row for one in queries for row in connection.execute(one.limit(limit))), key=itemgetter(0))
        return [ReadyRun(*row) for _, *row in found[:limit]]

    return read


def _of_pool(query: Select[*tuple[Any, ...]], pool: str, agent: str | None = None) -> Select[*tuple[Any, ...]]:
    """The same for what is ready in a pool, of one agent or of all, in the order in which it came.

    Giving the last name as a range, and sorting by it, leaves only one index that has this order. Otherwise the table's
    key would have it, too, and by that all claimed runs would be read first.
    """
    of, name = (active_runs.c.pool, pool) if agent is None else (active_runs.c.agent, agent)
    query = query.where(*_IS_READY, of >= name, of <= name).order_by(of, active_runs.c.ordinal)
    return query if agent is None else query.where(active_runs.c.pool == pool)


class FoundWorkers(NamedTuple):
    """What was read about workers; `told` finds out which processes still live: their machine says so, in files."""

    rows: Sequence[Row[*tuple[Any, ...]]]
    clock: LeaseClock

    def told(self) -> list[StoredWorker]:
        """The workers. Blocks."""
        return [_worker(row, self.clock) for row in self.rows]


def read_workers(connection: Connection) -> FoundWorkers:
    """Reads which processes there are, in the order in which they started.

    A worker says how many of its places are occupied; of a process outside a fleet only the queue knows what it has.
    """
    running = case((workers.c.kind == "inline", claimed_by_worker), else_=workers.c.running)
    return FoundWorkers(connection.execute(select_workers(running)).all(), read_clock(connection))


def _worker(row: Row[*tuple[Any, ...]], clock: LeaseClock) -> StoredWorker:
    return StoredWorker(
        worker_id=row.worker_id,
        name=row.name,
        kind=row.kind,
        pools=tuple(row.pools),
        agents=tuple(row.agents),
        version=row.version,
        capacity=row.capacity,
        running=row.running,
        draining=row.draining,
        started_at=row.started_at,
        last_seen_at=last_seen_at(row, clock),
        seconds_left=seconds_alive(row, clock),
        address=row.address,
        isolated_in=row.isolated_in,
        release=row.release,
    )


@dataclass(frozen=True, slots=True)
class _Group:
    """Ready runs of one kind."""

    pool: str
    agent: str | None
    version: str | None
    count: int
    oldest_at: datetime

    @classmethod
    def of(cls, pool: str, agent: str | None, version: str | None, count: int, *times: datetime | None) -> Self:
        return cls(pool, agent, version, count, _ready_since(*times))


class _Counts(NamedTuple):
    """How many runs there are in a pool."""

    ready: int = 0
    waiting: int = 0
    delayed: int = 0
    running: int = 0


_is_delayed = active_runs.c.state == Standing.delayed.value
_waits_for_thread = and_(active_runs.c.state == Standing.pending.value, ~active_runs.c.holds)
_is_nobodys = active_runs.c.owner.is_(None)
_has_thread = ~or_(_is_delayed, _waits_for_thread)
# As conditions of the counts: grouping by them takes longer than reading everything.
_COUNTS: Final = tuple(
    func.count().filter(condition).label(name)
    for name, condition in (
        ("ready", and_(_has_thread, _is_nobodys)),
        ("waiting", _waits_for_thread),
        ("delayed", _is_delayed),
        ("running", and_(_has_thread, ~_is_nobodys)),
    )
)


class FoundQueue(NamedTuple):
    """What was read about the queue; `told` combines it with the workers that are alive."""

    counts: Mapping[str, _Counts]
    oldest: Mapping[str, datetime]
    groups: Sequence[_Group]

    def told(self, there: Iterable[StoredWorker]) -> QueueDepth:
        """What waits, and who is there for it."""
        takers = [one for one in there if one.takes_runs]
        names = {*self.counts, *(pool for worker in takers for pool in worker.pools)}
        by_pool = {name: [worker for worker in takers if name in worker.pools] for name in sorted(names)}
        return QueueDepth(
            pools=tuple(self._pool(name, theirs) for name, theirs in by_pool.items()),
            agents={
                name: frozenset(agent for one in theirs for agent in one.agents) for name, theirs in by_pool.items()
            },
            unserved=tuple(
                UnservedRuns(
                    agent=group.agent or "",
                    version=group.version,
                    count=group.count,
                    oldest_at=group.oldest_at,
                    pool=group.pool,
                )
                for group in self.groups
                if not any(one.serves(group.pool, group.agent, group.version) for one in takers)
            ),
        )

    def _pool(self, name: str, takers: Sequence[StoredWorker]) -> PoolDepth:
        return PoolDepth(
            pool=name,
            **self.counts.get(name, _Counts())._asdict(),
            oldest_ready_at=self.oldest.get(name),
            workers=len(takers),
            places=sum(worker.capacity for worker in takers),
            free=sum(max(0, worker.capacity - worker.running) for worker in takers),
        )


def read_queue(connection: Connection) -> FoundQueue:
    """Reads what waits in each pool."""
    rows = connection.execute(select(active_runs.c.pool, *_COUNTS).group_by(active_runs.c.pool))
    counts = {row.pool: _Counts(row.ready, row.waiting, row.delayed, row.running) for row in rows}
    oldest: dict[str, datetime] = {}
    for pool in counts:
        since = [_ready_since(*times) for times in connection.execute(_times_of_first(pool))]
        if since:
            oldest[pool] = min(since)
    groups = [_Group.of(*row) for pool in sorted(oldest) for row in connection.execute(_groups(pool, of=len(oldest)))]
    return FoundQueue(counts, oldest, groups)


_before = runs.alias()
_end_before = (
    select(_before.c.ended_at)
    .where(_before.c.thread_id == active_runs.c.thread_id, _before.c.started_at.is_not(None))
    .order_by(_before.c.created_at.desc())
    .limit(1)
    .correlate(active_runs)
    .scalar_subquery()
)
"""When the run before a ready one ended, of those that had started: others may have been cancelled behind this one."""
_READY_SINCE: Final = (runs.c.created_at, active_runs.c.due_at, _end_before)
"""When an active run was let in, was due and got its thread, if it had to wait for that: the last of these counts."""


def _ready_since(*times: datetime | None) -> datetime:
    return max([when for when in times if when is not None])


def _times_of_first(pool: str) -> Select[*tuple[Any, ...]]:
    """Since when each of the first ready runs of a pool may have been ready."""
    first = _of_pool(select(active_runs.c.ordinal), pool).limit(_MOST_DATED).subquery()
    dated = select(*_READY_SINCE).join_from(first, active_runs, active_runs.c.ordinal == first.c.ordinal)
    return dated.join(runs, runs.c.run_id == active_runs.c.run_id)


def _groups(pool: str, *, of: int) -> Select[*tuple[Any, ...]]:
    """The ready runs of a pool, which is one `of` so many, grouped by what a worker needs for them."""
    columns = (active_runs.c.ordinal, active_runs.c.pool, agent_of_active.label("agent"), active_runs.c.version)
    some = _of_pool(select(*columns), pool).limit(max(1, MOST_EXAMINED // of)).subquery()
    keys = (some.c.pool, some.c.agent, some.c.version)
    count, first = func.count().label("count"), func.min(some.c.ordinal).label("first")
    groups = select(*keys, count, first).group_by(*keys).subquery()
    named = (groups.c.pool, groups.c.agent, groups.c.version)
    dated = select(*named, groups.c.count, *_READY_SINCE)
    dated = dated.join_from(groups, active_runs, active_runs.c.ordinal == groups.c.first)
    return dated.join(runs, runs.c.run_id == active_runs.c.run_id).order_by(*named)


class RunKind(NamedTuple):
    """What a worker has to have for runs of this kind."""

    pool: str
    agent: str | None
    version: str


def read_versioned(connection: Connection) -> list[RunKind]:
    """Reads which kinds of ownerless runs are for one version of their agents alone, however many precede them."""
    kind = (active_runs.c.pool, agent_of_active.label("agent"), active_runs.c.version)
    found = select(*kind).where(has_not_begun, active_runs.c.version.is_not(None)).distinct()
    return [RunKind(*row) for row in connection.execute(found)]


def read_held(worker_ids: Sequence[str]) -> Callable[[Connection], list[HeldRun]]:
    """Reads which runs these workers execute."""
    columns = (
        active_runs.c.run_id,
        active_runs.c.owner,
        runs.c.agent,
        runs.c.request,
        active_runs.c.cancel_requested,
        active_runs.c.stuck_since,
    )
    query = select(*columns).join_from(active_runs, runs, runs.c.run_id == active_runs.c.run_id)
    held = query.where(active_runs.c.owner.in_(worker_ids), active_runs.c.state == Standing.claimed.value)

    def read(connection: Connection) -> list[HeldRun]:
        return [_held(*row) for row in connection.execute(held)]

    return read


def _held(
    run_id: str, worker_id: str, agent: str | None, request: Any, cancel_requested: str | None, stuck_since: Any
) -> HeldRun:
    timeout = request.get("timeout") if isinstance(request, dict) else None
    action = None if cancel_requested is None else CancelAction(cancel_requested)
    return HeldRun(run_id, worker_id, agent, timeout, action, is_stuck=stuck_since is not None)


def read_duties(connection: Connection) -> list[HeldDuty]:
    """Reads who has which duty."""
    clock = read_clock(connection)
    rows = connection.execute(select(duties).where(duties.c.name != FORGETTING).order_by(duties.c.name))
    held = [HeldDuty(row.name, row.holder, row.since, seconds_left(row, clock)) for row in rows]
    return [duty for duty in held if duty.seconds_left > 0]
