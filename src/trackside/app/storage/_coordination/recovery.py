"""What becomes of the runs of workers that are gone: reaping, adoption (I7)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, override

from sqlalchemy import Select, and_, exists, func, or_, select

from trackside.app.storage._coordination.endings import announce_rest, cancel_in_place, done_of, lose, time_out
from trackside.app.storage._coordination.row_locks import free_among
from trackside.app.storage._rows.encoding import json_of, time_of
from trackside.app.storage._rows.leases import TrustsLeases, has_ended
from trackside.app.storage._rows.processes import is_gone
from trackside.app.storage._rows.queue import ActiveRun, Standing
from trackside.app.storage._rows.tables import active_runs, runs, threads, workers
from trackside.app.storage._writing.work import ROW_BYTES, UnitOfWork, Work
from trackside.app.storage.fleet import DEFAULT_POOL
from trackside.harness.admission import spec_of
from trackside.harness.ids import new_id
from trackside.harness.types import (
    CancelAction,
    FailureReason,
    MultitaskStrategy,
    RunRecord,
    RunSpec,
    RunStatus,
    ThreadStatus,
)

_ASKED: Final = (
    runs.c.agent,
    runs.c.created_at,
    runs.c.metadata,
    runs.c.parent_run_id,
    runs.c.trigger,
    runs.c.attempt,
    runs.c.retry_of,
    runs.c.request,
)
"""What the row of a run says about what was asked for."""


class Owned(NamedTuple):
    """An active run, as its owner asks for it."""

    run_id: str
    has_not_begun: bool
    ready: bool
    cancel_requested: CancelAction | None
    thread_status: ThreadStatus


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
        # No queues are loaded for it: nobody is kept from changing them, and works behind this one would rely on them.
        is_ready = and_(active_runs.c.holds, active_runs.c.state == Standing.pending.value)
        of_ready = active_runs.outerjoin(threads, and_(is_ready, threads.c.thread_id == active_runs.c.thread_id))
        columns = (active_runs.c.run_id, active_runs.c.state, active_runs.c.cancel_requested, threads.c.status)
        query = select(*columns).select_from(of_ready).where(active_runs.c.owner == self.owner)
        return [
            Owned(
                run_id,
                has_not_begun=state in {Standing.pending, Standing.delayed},
                ready=thread_status is not None,
                cancel_requested=None if cancel_requested is None else CancelAction(cancel_requested),
                thread_status=ThreadStatus.idle if thread_status is None else ThreadStatus(thread_status),
            )
            for run_id, state, cancel_requested, thread_status in unit.session.execute(query)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """Why the runs of a worker have to be ended, and what its supervisor knows about single runs.

    Those in `stopped` were asked to stop, and their process had to be ended for that: they end as was asked for, with
    that reason. Those in `timed_out` took longer than they may, as the reason says.
    """

    failure: FailureReason = FailureReason.worker_lost
    stopped: Mapping[str, str] = MappingProxyType({})
    timed_out: Mapping[str, str] = MappingProxyType({})
    says_all: bool = False
    """Whether it is something other than that the process went away."""


_GONE: Final = Death()
_UNTOLD: Final = "how the run had ended could neither be stored nor be spooled"


class Reaped(NamedTuple):
    """What was found of workers that are gone: runs that were ended, runs that wait for another worker.

    `retries` are the runs that some of the ended ones go on as. `is_all` says that there is no more to be found.
    """

    ended: Sequence[str]
    orphaned: Sequence[str]
    is_all: bool = True
    retries: Mapping[str, str] = MappingProxyType({})


@dataclass(slots=True, eq=False, kw_only=True)
class _ClearAway(Work):
    """End the runs left behind by workers that are gone, a part in each transaction; runs not begun go to others."""

    limit: int = 256
    retry_ids: dict[str, str] = field(default_factory=dict)
    """The ids under which runs go on: a transaction that is repeated gives them no others."""

    @property
    @override
    def size(self) -> int:
        return self.limit * ROW_BYTES

    def clear(
        self,
        unit: UnitOfWork,
        rows: Sequence[tuple[Any, ...]],
        lost: Mapping[str, str],
        death: Death = _GONE,
        *,
        found: int | None = None,
    ) -> Reaped:
        """See to these runs (id, thread, owner), of owners that were `lost` for some reason, unless somebody was faster.

        `found` is how many were found, if these are not all of them.
        """
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
                continue
            retry_id = self.retry_ids.setdefault(run_id, new_id())
            if _bury(unit, active, retry_id, lost.get(owner), death):
                retries[run_id] = retry_id
            ended.append(run_id)
        is_all = (len(rows) if found is None else found) < self.limit or not (ended or orphaned)
        return Reaped(ended, orphaned, is_all=is_all, retries=retries)


@dataclass(slots=True, eq=False, kw_only=True)
class Reap(_ClearAway):
    """End the runs of workers that are gone, and leave those that have not started to others (I7).

    `reaper` is not gone, whatever its lease says: it is here. For its own runs that are not `known` to it any more, it
    announces that their threads rest: the runs have ended, and it did not hear that nobody has announced that yet.
    `whose` says whether it sees to these, to those of others, or to both. Unless it `trusts_leases`, which it is asked
    when it has read them, only workers whose processes are known to have ended are gone.
    """

    reaper: str
    known: Collection[str] = ()
    whose: Literal["own", "others", "all"] = "all"
    trusts_leases: TrustsLeases | None = None

    @override
    def apply(self, unit: UnitOfWork) -> Reaped:
        session = unit.session
        lost = {} if self.whose == "own" else _workers_gone(unit, but=self.reaper, trusts_leases=self.trusts_leases)
        gone = [] if self.whose == "own" else [*lost, *_owners_unknown(unit, but=(self.reaper, *lost))]
        owner = active_runs.c.owner
        own = and_(owner == self.reaper, active_runs.c.state == Standing.ended.value)
        others = owner.in_(gone)
        sought = {"own": own, "others": others, "all": or_(own, others)}[self.whose]
        columns = (active_runs.c.run_id, active_runs.c.thread_id, owner)
        query = select(*columns).where(sought).order_by(active_runs.c.ordinal).limit(self.limit)
        found = [*session.execute(query)] if gone or self.whose != "others" else []
        rows = [row for row in found if row[2] != self.reaper or row[0] not in self.known]
        free = free_among(unit, rows)
        of_reaper = {run_id for run_id, _, of in free if of == self.reaper}
        reaped = self.clear(unit, free, lost, found=len(found))
        if lost and reaped.is_all and len(free) == len(rows) and len(found) < self.limit:
            session.execute(workers.delete().where(workers.c.worker_id.in_([*lost])))
        return reaped._replace(ended=[run_id for run_id in reaped.ended if run_id not in of_reaper])


@dataclass(slots=True, eq=False, kw_only=True)
class Bury(_ClearAway):
    """End the runs of one worker, because of something that somebody knows: it is gone, whatever its lease says."""

    worker_id: str
    why: str
    death: Death

    @override
    def apply(self, unit: UnitOfWork) -> Reaped:
        query = select(active_runs.c.run_id, active_runs.c.thread_id, active_runs.c.owner)
        his = query.where(active_runs.c.owner == self.worker_id).order_by(active_runs.c.ordinal).limit(self.limit)
        reaped = self.clear(unit, unit.session.execute(his), {self.worker_id: self.why}, self.death)
        if reaped.is_all:
            unit.session.execute(workers.delete().where(workers.c.worker_id == self.worker_id))
        return reaped


@dataclass(slots=True, eq=False, kw_only=True)
class Lose(_ClearAway):
    """End runs that this worker has executed but whose ends could be kept nowhere: nobody will ever report them."""

    owner: str
    untold: Collection[str]

    @override
    def apply(self, unit: UnitOfWork) -> Reaped:
        query = select(active_runs.c.run_id, active_runs.c.thread_id, active_runs.c.owner)
        his = query.where(active_runs.c.owner == self.owner, active_runs.c.run_id.in_(self.untold))
        return self.clear(
            unit, unit.session.execute(his.limit(self.limit)), {self.owner: _UNTOLD}, Death(says_all=True)
        )


@dataclass(slots=True, eq=False, kw_only=True)
class Disown(_ClearAway):
    """Give back runs that are this worker's without its knowledge, as it never heard that it got them."""

    owner: str
    strangers: Collection[str]

    @override
    def apply(self, unit: UnitOfWork) -> Reaped:
        has_not_begun = active_runs.c.state.in_([Standing.pending, Standing.delayed, Standing.withdrawn])
        query = select(active_runs.c.run_id, active_runs.c.thread_id, active_runs.c.owner).where(has_not_begun)
        his = query.where(active_runs.c.owner == self.owner, active_runs.c.run_id.in_(self.strangers))
        return self.clear(unit, unit.session.execute(his.limit(self.limit)), {})


def _owners_unknown(unit: UnitOfWork, *, but: Collection[str]) -> list[str]:
    """Which owners of runs are not workers: one step through the index for each owner, however many runs it has."""
    owner = active_runs.c.owner
    owners = select(func.min(owner).label("owner")).cte("owners", recursive=True)
    following = select(func.min(owner)).where(owner > owners.c.owner).scalar_subquery()
    owners = owners.union_all(select(following).where(owners.c.owner.is_not(None)))
    is_known = exists().where(workers.c.worker_id == owners.c.owner)
    unknown = select(owners.c.owner).where(owners.c.owner.is_not(None), owners.c.owner.not_in([*but]), ~is_known)
    return [name for (name,) in unit.session.execute(unknown)]


def _workers_gone(unit: UnitOfWork, *, but: str, trusts_leases: TrustsLeases | None) -> dict[str, str]:
    """Workers whose lease or whose process has ended, and which of the two."""
    columns = (workers.c.worker_id, workers.c.process, workers.c.isolated_in)
    processes = unit.session.execute(select(*columns).where(workers.c.process.is_not(None)))
    gone = {worker_id: isolated_in for worker_id, process, isolated_in in processes if is_gone(process)}
    # The supervisor of a child process knows why the child has ended, and sees to that as long as it lives itself.
    supervisors = {worker_id for worker_id, _, _ in processes} - gone.keys()
    known = {worker_id for worker_id, isolated_in in gone.items() if isolated_in not in supervisors}
    now = unit.session.clock()
    is_trusted = trusts_leases is None or trusts_leases(now)
    ended = has_ended(workers, now)
    # One reaper at a time, and ahead of a renewal that comes too late: the renewal will find no row.
    query = select(workers.c.worker_id, workers.c.name).where(workers.c.worker_id != but)
    lost = unit.session.execute(
        query.where(or_(ended, workers.c.worker_id.in_(known))).with_for_update(skip_locked=True)
    )
    if not is_trusted or (
        trusts_leases is not None and not trusts_leases()
    ):  # as of now: it may have taken long to read
        lost = [row for row in lost if row[0] in known]
    return {
        worker_id: f"process {name} has ended" if worker_id in known else f"process {name} has given no sign of life"
        for worker_id, name in lost
    }


def _bury(unit: UnitOfWork, active: ActiveRun, retry_id: str, reason: str | None, death: Death) -> bool:
    """Announce for a run what its worker did not live to announce; returns whether it goes on, as `retry_id`."""
    because = "" if reason is None else f": {reason}"
    run_id, failure = active.run_id, death.failure
    match active.state:
        case Standing.pending | Standing.delayed | Standing.withdrawn if active.cancel_requested is not None:
            cancel_in_place(unit, active, active.cancel_requested)
        case Standing.claimed if run_id in death.timed_out:
            time_out(unit, active, death.timed_out[run_id])
        case Standing.claimed if run_id in death.stopped and active.cancel_requested is not None:
            cancel_in_place(unit, active, done_of(unit, active, active.cancel_requested), death.stopped[run_id])
        case Standing.claimed:
            why = f"the process that executed the run went away before the run had ended{because}"
            if reason is not None and (death.says_all or failure is not FailureReason.worker_lost):
                why = reason
            return lose(unit, active, why, failure, retried_as=retry_id)
        case Standing.pending | Standing.delayed:
            why = f"the process that had the run's agent went away before the run had started{because}"
            lose(unit, active, why, failure)
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


_HAS_NO_POOL: Final = active_runs.c.pool == DEFAULT_POOL


def left_to_others(agents: Collection[str], unfit: Collection[str]) -> Select[Any]:
    """The ids of runs of these agents that have no owner, except those that are known to be unfit, or have a pool."""
    waits = (active_runs.c.owner.is_(None), active_runs.c.portable, active_runs.c.run_id.not_in(unfit), _HAS_NO_POOL)
    of_agents = runs.c.agent.in_(agents)
    return select(active_runs.c.run_id).join(runs, runs.c.run_id == active_runs.c.run_id).where(*waits, of_agents)


@dataclass(slots=True, eq=False, kw_only=True)
class Adopt(Work):
    """Take over runs of these agents that wait for a worker, in the order in which they came.

    Those in `unfit` are known to be for another version of Trackside. If a fleet is on the same database, as happens
    while a single process is turned into one, its runs are taken over, too, whatever the version of their agents: the
    first to come gets them. But a run of a pool waits for a worker of that pool, which may have what others lack.
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
    def undone(self) -> None:
        self.taken.clear()

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
                _HAS_NO_POOL,
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
        for run_id, thread_id, *facts in rows:
            active = unit.queue.find(run_id)
            if active is None or not active.waits_for_worker or active.owner not in {None, self.owner}:
                continue
            try:
                record, spec = asked_for(run_id, thread_id, active.multitask, active.due_at, *facts)
            except UnreadableRunError as exc:
                unfit[run_id] = str(exc)
                continue
            active.owner = self.owner
            unit.queue.change(active)
            adopted.append(Adopted(record, spec, active.holds, unit.thread_status(thread_id)))
        self.taken += [run.record.run_id for run in adopted]
        return Adoption(adopted, unfit, is_all=len(rows) < self.limit or not (adopted or unfit))


class UnreadableRunError(ValueError):
    """The request of a run cannot be read by this version of Trackside: it is from a newer one, or damaged."""


def asked_for(
    run_id: str,
    thread_id: str,
    multitask: str,
    due_at: str | None,
    agent: str,
    created_at: str,
    metadata: str,
    parent_run_id: str | None,
    trigger: str | None,
    attempt: int,
    retry_of: str | None,
    request: str,
) -> tuple[RunRecord, RunSpec]:
    """What is known of a run that has not started, for whoever takes it; the last eight are columns of `_ASKED`.

    Raises:
        UnreadableRunError: it cannot be read. That is this run's problem alone: others must not wait for it.
    """
    try:
        record = RunRecord(
            run_id=run_id,
            thread_id=thread_id,
            agent=agent,
            status=RunStatus.pending,
            created_at=time_of(created_at),
            metadata=json_of(metadata),
            multitask=MultitaskStrategy(multitask),
            due_at=None if due_at is None else time_of(due_at),
            parent_run_id=parent_run_id,
            trigger=trigger,
            attempt=attempt,
            retry_of=retry_of,
        )
        return record, spec_of(json_of(request))
    except (ValueError, TypeError) as exc:
        raise UnreadableRunError(str(exc)) from exc


def is_abandoned(unit: UnitOfWork, owner: str | None) -> bool:
    """Whether nobody looks after runs of this owner."""
    if owner is None:
        return True
    ended = has_ended(workers, unit.session.clock())
    alive = select(workers.c.worker_id).where(workers.c.worker_id == owner, ~ended)
    return not unit.session.execute(alive)
