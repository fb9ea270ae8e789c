"""Who looks after runs, and what becomes of the runs of workers that are gone: leases, reaping, adoption, leaving (I7)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple, override

from sqlalchemy import Select, and_, exists, or_, select, update

from trackside.app.storage._encoding import json_of, time_of
from trackside.app.storage._endings import announce_rest, cancel_in_place, lose
from trackside.app.storage._leases import has_ended
from trackside.app.storage._processes import is_gone, this_process
from trackside.app.storage._queue import ActiveRun, Standing
from trackside.app.storage._tables import active_runs, runs, workers
from trackside.app.storage._work import UnitOfWork, Work
from trackside.harness.admission import spec_of
from trackside.harness.errors import InvalidSpecError
from trackside.harness.ids import new_id
from trackside.harness.types import CancelAction, MultitaskStrategy, RunRecord, RunSpec, RunStatus, ThreadStatus

_ASKED: Final = (
    runs.c.request,
    runs.c.agent,
    runs.c.created_at,
    runs.c.metadata,
    runs.c.parent_run_id,
    runs.c.trigger,
    runs.c.attempt,
    runs.c.retry_of,
)
"""What the row of a run says of what was asked for."""

ROW_BYTES = 600
"""About what a run takes in the queue besides what was asked for."""


class Owned(NamedTuple):
    """An active run, as its owner asks for it."""

    run_id: str
    ready: bool
    cancel_requested: CancelAction | None
    thread_status: ThreadStatus


@dataclass(slots=True, eq=False, kw_only=True)
class Register(Work):
    """Begin, or go on, to be a worker, until the lease ends. Whose lease had ended learns from a look what was lost."""

    worker_id: str
    name: str
    started_at: str
    lease_seconds: float

    @property
    @override
    def size(self) -> int:
        return ROW_BYTES

    @override
    def apply(self, unit: UnitOfWork) -> None:
        now = unit.session.clock()
        lease = {"clock": now.clock, "lease_until": now.seconds + self.lease_seconds}
        renewal = update(workers).where(workers.c.worker_id == self.worker_id).values(lease)
        if not unit.session.execute(renewal.returning(workers.c.worker_id)):
            row = {
                "worker_id": self.worker_id,
                "name": self.name,
                "process": this_process(),
                "started_at": self.started_at,
            }
            unit.session.execute(workers.insert().values(row | lease))


@dataclass(slots=True, eq=False, kw_only=True)
class ListOwned(Work):
    """All active runs of one owner, as they are in the database."""

    owner: str

    @property
    @override
    def size(self) -> int:
        return 0

    @override
    def apply(self, unit: UnitOfWork) -> list[Owned]:
        columns = ("run_id", "thread_id", "state", "holds", "cancel_requested")
        query = select(*(active_runs.c[name] for name in columns)).where(active_runs.c.owner == self.owner)
        rows = unit.session.execute(query)
        held = {thread_id for _, thread_id, state, holds, _ in rows if holds and state == Standing.pending}
        unit.load(run_ids=(), thread_ids=(), queues=held)
        return [
            Owned(
                run_id,
                ready=thread_id in held and bool(holds),
                cancel_requested=None if cancel_requested is None else CancelAction(cancel_requested),
                thread_status=unit.thread_status(thread_id) if thread_id in held else ThreadStatus.idle,
            )
            for run_id, thread_id, _, holds, cancel_requested in rows
        ]


class Reaped(NamedTuple):
    """What was found of workers that are gone: runs that were ended, runs that wait for another worker.

    `retries` are the runs as which some of those that were ended go on. `is_all` says that there is no more to be found.
    """

    ended: Sequence[str]
    orphaned: Sequence[str]
    is_all: bool = True
    retries: Mapping[str, str] = MappingProxyType({})


@dataclass(slots=True, eq=False, kw_only=True)
class Reap(Work):
    """End the runs of workers that are gone, and leave those that have not started to others (I7).

    `reaper` is not gone, whatever its lease says: it is here. Of its own runs those are announced as resting that are not
    `known` to it any more: they have ended, and it did not hear that nobody has announced that yet.
    """

    reaper: str
    known: Collection[str] = ()
    limit: int = 256
    retry_ids: dict[str, str] = field(default_factory=dict)
    """Under which ids runs go on: a transaction that is repeated gives them no others."""

    @property
    @override
    def size(self) -> int:
        return self.limit * ROW_BYTES

    @override
    def apply(self, unit: UnitOfWork) -> Reaped:
        session = unit.session
        gone = _workers_gone(unit, but=self.reaper)
        unowned = ~exists().where(workers.c.worker_id == active_runs.c.owner)
        query = (
            select(active_runs.c.run_id, active_runs.c.thread_id, active_runs.c.owner)
            .where(
                or_(
                    and_(active_runs.c.owner != self.reaper, or_(active_runs.c.owner.in_(gone), unowned)),
                    and_(active_runs.c.owner == self.reaper, active_runs.c.state == Standing.ended.value),
                )
            )
            .order_by(active_runs.c.ordinal)
            .limit(self.limit)
        )
        rows = [row for row in session.execute(query) if row[2] != self.reaper or row[0] not in self.known]
        threads = {thread_id for _, thread_id, _ in rows}
        unit.load(run_ids=[run_id for run_id, _, _ in rows], thread_ids=threads, queues=threads)
        ended: list[str] = []
        orphaned: list[str] = []
        retries: dict[str, str] = {}
        for run_id, _, owner in rows:
            active = unit.queue.find(run_id)
            if active is None or active.owner != owner:  # somebody was faster, before its rows could be locked
                continue
            if active.portable and active.waits_for_worker:
                active.owner = None
                unit.queue.change(active)
                orphaned.append(run_id)
            else:
                retry_id = self.retry_ids.setdefault(run_id, new_id())
                if _bury(unit, active, retry_id):
                    retries[run_id] = retry_id
                if owner != self.reaper:
                    ended.append(run_id)
        if gone and len(rows) < self.limit:
            session.execute(workers.delete().where(workers.c.worker_id.in_(gone)))
        return Reaped(ended, orphaned, is_all=len(rows) < self.limit or not (ended or orphaned), retries=retries)


def _workers_gone(unit: UnitOfWork, *, but: str) -> list[str]:
    """Workers whose lease has ended, or whose process has."""
    processes = select(workers.c.worker_id, workers.c.process).where(workers.c.process.is_not(None))
    known = [worker_id for worker_id, process in unit.session.execute(processes) if is_gone(process)]
    ended = has_ended(workers.c.clock, workers.c.lease_until, unit.session.clock())
    # One reaper at a time, and before a renewal that comes too late: that one will find no row.
    lost = select(workers.c.worker_id).where(workers.c.worker_id != but, or_(ended, workers.c.worker_id.in_(known)))
    return [worker_id for (worker_id,) in unit.session.execute(lost.with_for_update(skip_locked=True))]


def _bury(unit: UnitOfWork, active: ActiveRun, retry_id: str) -> bool:
    """Announce of a run what its worker did not live to announce; whether it goes on, under that id."""
    match active.state:
        case Standing.pending | Standing.delayed | Standing.withdrawn if active.cancel_requested is not None:
            cancel_in_place(unit, active, active.cancel_requested)
        case Standing.claimed:
            why = "the process that executed the run went away before the run had ended"
            return lose(unit, active, why, retried_as=retry_id)
        case Standing.pending | Standing.delayed:
            lose(unit, active, "the process that had the run's agent went away before the run had started")
        case Standing.withdrawn:
            cancel_in_place(unit, active, CancelAction.interrupt)
        case Standing.ended:
            announce_rest(unit, active)
    return False


class Adopted(NamedTuple):
    """A run that has a new owner, and what was asked for."""

    record: RunRecord
    spec: RunSpec
    ready: bool
    thread_status: ThreadStatus


class Adoption(NamedTuple):
    """Runs that have a new owner, and those that another version of Trackside has to execute, with the reason."""

    adopted: Sequence[Adopted]
    unfit: Mapping[str, str]
    is_all: bool


def left_to_others(agents: Collection[str], unfit: Collection[str]) -> Select[Any]:
    """The ids of runs of these agents that have no owner, but for those that are known to be unfit."""
    waits = (active_runs.c.owner.is_(None), active_runs.c.portable, active_runs.c.run_id.not_in(unfit))
    of_agents = runs.c.agent.in_(agents)
    return select(active_runs.c.run_id).join(runs, runs.c.run_id == active_runs.c.run_id).where(*waits, of_agents)


@dataclass(slots=True, eq=False, kw_only=True)
class Adopt(Work):
    """Take over runs that wait for a worker, first come first, as far as they are of these agents.

    `unfit` are known to be for another version of Trackside.
    """

    owner: str
    agents: Sequence[str]
    unfit: Collection[str] = ()
    limit: int = 256
    taken: list[str] = field(default_factory=list)
    """What it has taken over: a transaction whose reply was lost is repeated, and finds that done."""

    @property
    @override
    def size(self) -> int:
        return self.limit * ROW_BYTES

    @override
    def apply(self, unit: UnitOfWork) -> Adoption:
        query = (
            select(active_runs.c.run_id, active_runs.c.thread_id, *_ASKED)
            .join(runs, runs.c.run_id == active_runs.c.run_id)
            .where(
                or_(
                    active_runs.c.owner.is_(None),
                    and_(active_runs.c.owner == self.owner, active_runs.c.run_id.in_(self.taken)),
                ),
                active_runs.c.portable,
                active_runs.c.run_id.not_in(self.unfit),
                runs.c.agent.in_(self.agents),
            )
            .order_by(active_runs.c.ordinal)
            .limit(self.limit)
        )
        rows = unit.session.execute(query)
        threads = {thread_id for _, thread_id, *_ in rows}
        unit.load(run_ids=[run_id for run_id, *_ in rows], thread_ids=threads, queues=threads)
        adopted: list[Adopted] = []
        unfit: dict[str, str] = {}
        for run_id, thread_id, request, *facts in rows:
            active = unit.queue.find(run_id)
            if active is None or not active.waits_for_worker or active.owner not in {None, self.owner}:
                continue
            try:
                spec = spec_of(json_of(request))
            except InvalidSpecError as exc:
                unfit[run_id] = str(exc)
                continue
            active.owner = self.owner
            unit.queue.change(active)
            record = _record_of(active, *facts)
            adopted.append(Adopted(record, spec, active.holds, unit.thread_status(thread_id)))
        self.taken += [run.record.run_id for run in adopted]
        return Adoption(adopted, unfit, is_all=len(rows) < self.limit or not (adopted or unfit))


def _record_of(
    active: ActiveRun,
    agent: str,
    created_at: str,
    metadata: str,
    parent_run_id: str | None,
    trigger: str | None,
    attempt: int,
    retry_of: str | None,
) -> RunRecord:
    """What is known of a run that has not started."""
    return RunRecord(
        run_id=active.run_id,
        thread_id=active.thread_id,
        agent=agent,
        status=RunStatus.pending,
        created_at=time_of(created_at),
        metadata=json_of(metadata),
        multitask=MultitaskStrategy(active.multitask),
        due_at=None if active.due_at is None else time_of(active.due_at),
        parent_run_id=parent_run_id,
        trigger=trigger,
        attempt=attempt,
        retry_of=retry_of,
    )


@dataclass(slots=True, eq=False, kw_only=True)
class Leave(Work):
    """Be a worker no more: runs that have not started wait for another; what is left is for the next reaper."""

    worker_id: str

    @property
    @override
    def size(self) -> int:
        return ROW_BYTES

    @override
    def apply(self, unit: UnitOfWork) -> None:
        waits = and_(
            active_runs.c.state.in_([Standing.pending.value, Standing.delayed.value]),
            active_runs.c.cancel_requested.is_(None),
        )
        own = and_(active_runs.c.owner == self.worker_id, waits, active_runs.c.portable)
        unit.session.execute(update(active_runs).where(own).values(owner=None))
        unit.session.execute(workers.delete().where(workers.c.worker_id == self.worker_id))


def is_abandoned(unit: UnitOfWork, owner: str | None) -> bool:
    """Whether nobody looks after runs of this owner."""
    if owner is None:
        return True
    ended = has_ended(workers.c.clock, workers.c.lease_until, unit.session.clock())
    alive = select(workers.c.worker_id).where(workers.c.worker_id == owner, ~ended)
    return not unit.session.execute(alive)
