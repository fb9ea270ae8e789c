"""Who looks after runs: being a worker, until the lease ends, and ceasing to be one (I7)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, override

from sqlalchemy import and_, or_, select, update

from trackside.app.storage._coordination.fleet_reads import READY_COLUMNS, RunKind, agent_of_active, has_not_begun
from trackside.app.storage._rows.encoding import json_of
from trackside.app.storage._rows.leases import LeaseClock, TrustsLeases, has_ended
from trackside.app.storage._rows.processes import this_process
from trackside.app.storage._rows.queue import Standing
from trackside.app.storage._rows.tables import active_runs, workers
from trackside.app.storage._writing.work import UnitOfWork, Work
from trackside.app.storage.fleet import ReadyRun

_MOST_KINDS: Final = 100
"""For how many kinds of runs versions are loosened at once."""


@dataclass(slots=True, eq=False, kw_only=True)
class Register(Work):
    """Become or remain a worker, until the lease ends; the result says whether somebody has asked it to drain.

    A worker whose lease had ended learns from a look what was lost. `says` is what a member of a fleet says about
    itself once, `now` what it says each time.
    """

    worker_id: str
    name: str
    started_at: str
    lease_seconds: float
    says: Mapping[str, Any] = field(default_factory=dict)
    now: Mapping[str, Any] = field(default_factory=dict)
    written_at: float = 0.0
    """When it was written, by the monotonic clock."""
    clock: LeaseClock | None = None
    """What the clock of the leases said then."""

    may_be_forgotten = True

    @property
    @override
    def alone(self) -> bool:
        # Beside something that takes long, the lease would have ended by the commit, with its row locked until then.
        return True

    @override
    def apply(self, unit: UnitOfWork) -> bool:
        self.clock = now = unit.session.clock()
        self.written_at = monotonic()
        lease = {**now.lease(self.lease_seconds), **self.now}
        renewal = update(workers).where(workers.c.worker_id == self.worker_id).values(lease)
        renewed = unit.session.execute(renewal.returning(workers.c.draining))
        if not renewed:
            row = {
                "worker_id": self.worker_id,
                "name": self.name,
                "process": this_process(),
                "started_at": self.started_at,
            }
            unit.session.execute(workers.insert().values({**row, **self.says, **lease}))
        return bool(renewed and renewed[0][0])


@dataclass(slots=True, eq=False, kw_only=True)
class Vouch(Work):
    """Renew the leases of these workers: somebody else knows that their processes are there, whatever keeps them busy."""

    worker_ids: Sequence[str]
    lease_seconds: float

    may_be_forgotten = True

    @override
    def apply(self, unit: UnitOfWork) -> None:
        now = unit.session.clock()
        vouched = update(workers).where(workers.c.worker_id.in_(self.worker_ids))
        unit.session.execute(vouched.values(now.lease(self.lease_seconds)))


@dataclass(slots=True, eq=False, kw_only=True)
class Leave(Work):
    """Stop being a worker: runs that have not started wait for another; what is left is for the next reaper."""

    worker_id: str

    @override
    def apply(self, unit: UnitOfWork) -> None:
        waits = and_(
            active_runs.c.state.in_([Standing.pending.value, Standing.delayed.value]),
            active_runs.c.cancel_requested.is_(None),
        )
        own = and_(active_runs.c.owner == self.worker_id, waits, active_runs.c.portable)
        freed = update(active_runs).where(own).values(owner=None)
        columns = (*READY_COLUMNS, active_runs.c.state, active_runs.c.holds)
        unit.queue.made_ready += ready_among(unit.session.execute(freed.returning(*columns)))
        unit.session.execute(workers.delete().where(workers.c.worker_id == self.worker_id))


@dataclass(slots=True, eq=False, kw_only=True)
class AskToDrain(Work):
    """Have a worker take no more runs, and leave when it has finished; False: there is no such live worker of a fleet."""

    worker_id: str

    @override
    def apply(self, unit: UnitOfWork) -> bool:
        ended = has_ended(workers, unit.session.clock())
        is_there = (workers.c.worker_id == self.worker_id, workers.c.kind == "worker", ~ended)
        asked = update(workers).where(*is_there).values(draining=True)
        return bool(unit.session.execute(asked.returning(workers.c.worker_id)))


@dataclass(slots=True, eq=False, kw_only=True)
class LoosenVersions(Work):
    """Let workers with another version of the agents take runs whose version no live worker has; the result: how many.

    These are the first `limit` of the `unserved` runs that nobody has locked at this moment. Runs for which there is no
    worker at all, of whatever version, stay as they are: one of their own version may come back first.
    """

    unserved: Sequence[RunKind]
    limit: int
    trusts_leases: TrustsLeases | None = None

    @override
    def apply(self, unit: UnitOfWork) -> int:
        if self.trusts_leases is not None and not self.trusts_leases(unit.session.clock()):
            return 0
        takers = _takers(unit)
        unfit = [
            one for one in self.unserved if any(one.pool in pools and one.agent in agents for pools, agents in takers)
        ]
        if not unfit:
            return 0
        of_these = or_(
            *(
                and_(active_runs.c.pool == one.pool, active_runs.c.version == one.version, agent_of_active == one.agent)
                for one in unfit[:_MOST_KINDS]
            )
        )
        columns = (*READY_COLUMNS, active_runs.c.state, active_runs.c.holds)
        some = select(active_runs.c.run_id).where(has_not_begun, of_these)
        some = some.order_by(active_runs.c.ordinal).limit(self.limit).with_for_update(skip_locked=True)
        # Found once, before any is changed: PostgreSQL may look for a mere subquery again and again, and find others.
        found = some.cte("found")
        loosen = update(active_runs).where(active_runs.c.run_id.in_(select(found.c.run_id))).values(version=None)
        loosened = unit.session.execute(loosen.returning(*columns))
        unit.queue.made_ready += ready_among(loosened)
        return len(loosened)


def _takers(unit: UnitOfWork) -> list[tuple[Collection[str], Collection[str]]]:
    """The pools and the agents of each worker that takes runs."""
    ended = has_ended(workers, unit.session.clock())
    takes = (workers.c.kind == "worker", workers.c.isolated_in.is_(None), ~workers.c.draining, ~ended)
    found = unit.session.execute(select(workers.c.pools, workers.c.agents).where(*takes))
    return [(json_of(pools), json_of(agents)) for pools, agents in found]


def ready_among(rows: Iterable[tuple[Any, ...]]) -> Iterator[ReadyRun]:
    """Those of these ownerless runs (`READY_COLUMNS`, state, whether they hold their threads) that a worker may take."""
    return (ReadyRun(*run) for *run, state, holds in rows if state == Standing.pending and holds)
