"""How a worker of a fleet gets runs: it takes ready ones that have no owner, by compare-and-set on their owner.

Runs asked for while a take is on its way to the database go with it, so that one statement takes many.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, override

from sqlalchemy import func, or_, select, text, update

from trackside.app.storage._coordination.recovery import UnreadableRunError, asked_for
from trackside.app.storage._databases.session import Wanted
from trackside.app.storage._rows.queue import Standing
from trackside.app.storage._rows.tables import active_runs, runs, workers
from trackside.app.storage._writing.work import UnitOfWork, Work
from trackside.app.storage.errors import SchemaMovedOnError
from trackside.app.storage.fleet import Taking
from trackside.harness.types import RunRecord, RunSpec, ThreadStatus

_COUNTING: Final = 1_953_653_091  # the first of an advisory lock's two keys
_COUNTS_EVERY: Final = 0.01  # seconds between two tries to be the one that counts
_COUNTING_TRIES: Final = 50


class TakenRun(NamedTuple):
    """A run that is a worker's now, and what was asked for. `new_thread`: it has begun its thread, so that the thread
    can remember nothing.
    """

    record: RunRecord
    spec: RunSpec
    thread_status: ThreadStatus
    new_thread: bool


class Takings(NamedTuple):
    """What came of a take: what was taken, what became of each run that was asked for, and which runs cannot be read,
    with the reason: another version of Trackside may read them.
    """

    taken: Sequence[TakenRun]
    outcomes: Mapping[str, Taking]
    unfit: Mapping[str, str]


@dataclass(slots=True, eq=False, kw_only=True)
class Take(Work):
    """Take ready runs that this worker can execute: among those `asked` for, or (None) whatever came first.

    Of an agent with a number in `most` it executes no more runs than that at once; if it is part of another worker
    (`isolated_in`), that holds for all parts of that one together. `database` and `schema` are what it knows: if the
    tables are of another version, it takes nothing.
    """

    owner: str
    pools: Sequence[str]
    agents: Collection[str]
    version: str | None
    unfit: Collection[str]
    most: Mapping[str, int]
    isolated_in: str | None
    asked: list[str] | None
    limit: int
    database: str
    schema: str
    taken: list[str] = field(default_factory=list)
    """What it has taken: a transaction whose reply was lost is repeated, and takes the same."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _begun: bool = False

    # A taken run is in doubt only as long as nothing has come of it: its start is synced, and all before that with it.
    may_be_forgotten = True

    def add(self, run_ids: Iterable[str]) -> bool:
        """Take these, too, if it is not too late for that; on the event loop, while a writer may begin with it."""
        with self._lock:
            if self._begun or self.asked is None:
                return False
            self.asked.extend(run_ids)
            return True

    @override
    def undone(self) -> None:
        self.taken.clear()

    @override
    def apply(self, unit: UnitOfWork) -> Takings:
        with self._lock:
            self._begun = True
        if self.taken:
            self._give_back(unit, self.taken)
        taken: list[TakenRun] = []
        unfit: dict[str, str] = {}
        room = self._room(unit)
        while self._take(unit, taken, unfit, room):
            pass
        self.taken = [run.record.run_id for run in taken]
        full = {agent for agent, places in room.items() if places <= 0}
        outcomes = {} if self.asked is None else self._outcomes(unit, self.asked, full)
        return Takings(taken, outcomes, unfit)

    def _room(self, unit: UnitOfWork) -> dict[str, int]:
        """How many more runs may be taken of each agent in `most`; runs that were started by other runs come on top."""
        if not self.most:
            return {}
        if self.isolated_in is not None and not self._counts_alone(unit, self.isolated_in):
            return dict.fromkeys(self.most, 0)
        its_own = active_runs.c.owner == self.owner
        if self.isolated_in is not None:
            parts = select(workers.c.worker_id).where(workers.c.isolated_in == self.isolated_in)
            its_own = or_(its_own, active_runs.c.owner.in_(parts))
        own = select(runs.c.agent, func.count()).join(active_runs, active_runs.c.run_id == runs.c.run_id)
        own = own.where(its_own, runs.c.parent_run_id.is_(None), runs.c.agent.in_(self.most))
        held = {str(agent): int(number) for agent, number in unit.session.execute(own.group_by(runs.c.agent))}
        return {agent: most - held.get(agent, 0) for agent, most in self.most.items()}

    def _counts_alone(self, unit: UnitOfWork, whole: str) -> bool:
        """See that no other part of the same worker counts, and takes, until this transaction is over; False: one does,
        and for long. Never waits without end, as the holder of the lock may wait for what this transaction has.
        """
        alone = select(func.pg_try_advisory_xact_lock(_COUNTING, func.hashtext(whole)))
        for _ in range(_COUNTING_TRIES):
            ((is_alone,),) = unit.session.execute(alone)
            if is_alone:
                return True
            time.sleep(_COUNTS_EVERY)
        return False

    def _take(self, unit: UnitOfWork, taken: list[TakenRun], unfit: dict[str, str], room: dict[str, int]) -> bool:
        """Take what there is room for; returns whether there may be more, behind runs whose agents are full by that."""
        wanted = Wanted(
            owner=self.owner,
            pools=self.pools,
            agents=[agent for agent in self.agents if room.get(agent, 1) > 0],
            version=self.version,
            unfit=[*self.unfit, *unfit],
            run_ids=self.asked and [*dict.fromkeys(self.asked)],
            limit=self.limit - len(taken),
            schema=self.schema,
        )
        rows = unit.session.take(wanted)
        if not rows and not taken:
            self._check_schema(unit)
        left: list[str] = []
        for row in rows:
            try:
                if (run := self._taken(unit, *row)) is None:
                    continue
            except UnreadableRunError as exc:
                unfit[row[0]] = str(exc)
                left.append(row[0])
                continue
            agent = run.record.agent
            if agent not in room:
                taken.append(run)
            elif room[agent] > 0:
                room[agent] -= 1
                taken.append(run)
            else:
                left.append(row[0])
        self._give_back(unit, left)
        return self.asked is None and any(run_id not in unfit for run_id in left) and len(taken) < self.limit

    def _taken(
        self,
        unit: UnitOfWork,
        run_id: str,
        thread_id: str,
        multitask: str,
        due_at: str | None,
        status: str,
        is_new: Any,
        *facts: Any,
    ) -> TakenRun | None:
        """A run that is this worker's; None if the same transaction has ended it, or asked it to stop."""
        active = unit.queue.find(run_id)
        if run_id in unit.queue.removed or (active is not None and not active.is_ready):
            return None
        record, spec = asked_for(run_id, thread_id, multitask, due_at, *facts)
        if active is not None:
            active.owner = self.owner  # it may be written once more
        return TakenRun(record, spec, ThreadStatus(status), bool(is_new))

    def _give_back(self, unit: UnitOfWork, run_ids: Sequence[str]) -> None:
        if run_ids:
            his = (active_runs.c.run_id.in_(run_ids), active_runs.c.owner == self.owner)
            not_begun = active_runs.c.state == Standing.pending.value
            unit.session.execute(update(active_runs).where(*his, not_begun).values(owner=None))

    def _check_schema(self, unit: UnitOfWork) -> None:
        ((found,),) = unit.session.execute(select(text("version_num FROM alembic_version")))
        if found != self.schema:
            raise SchemaMovedOnError(database=self.database, found=found, known=self.schema)

    def _outcomes(self, unit: UnitOfWork, run_ids: Iterable[str], full: Collection[str]) -> dict[str, Taking]:
        outcomes = dict.fromkeys(self.taken, Taking.taken)
        others = [run_id for run_id in run_ids if run_id not in outcomes]
        if not others:
            return outcomes
        columns = ("run_id", "state", "owner", "portable", "cancel_requested", "pool", "version", "holds")
        query = select(*(active_runs.c[name] for name in columns), runs.c.agent)
        of_others = query.join(runs, runs.c.run_id == active_runs.c.run_id).where(active_runs.c.run_id.in_(others))
        found = {run_id: facts for run_id, *facts in unit.session.execute(of_others)}
        return outcomes | {run_id: self._outcome(run_id, found.get(run_id), full) for run_id in others}

    def _outcome(self, run_id: str, facts: Sequence[Any] | None, full: Collection[str]) -> Taking:
        """What became of a run that could not be had."""
        if facts is None:
            return Taking.gone
        state, owner, portable, cancel_requested, pool, version, holds, agent = facts
        has_begun = state not in {Standing.pending, Standing.delayed}
        if owner is not None or has_begun or not portable or cancel_requested is not None:
            return Taking.gone
        is_foreign = pool not in self.pools or agent not in self.agents or version not in {None, self.version}
        if is_foreign or run_id in self.unfit:
            return Taking.foreign
        if agent in full:
            return Taking.full
        return Taking.locked if holds and state == Standing.pending else Taking.busy
