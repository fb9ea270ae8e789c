"""The steps that a coordinator has written: each is a work that sees its thread's queue and leaves it consistent.

Runs have an owner, the worker that looks after them. Whoever takes a run of another owner out of the queue ends it in
the same transaction, so that no run ever waits for an owner that does not know of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, NamedTuple, override

from sqlalchemy import and_, select, update

from trackside.app.storage._coordination.endings import cancel_in_place, cancel_unattended
from trackside.app.storage._coordination.recovery import is_abandoned
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._rows.fold import RunRow, RunStart
from trackside.app.storage._rows.leases import wall_time
from trackside.app.storage._rows.lifetimes import Lifetime
from trackside.app.storage._rows.queue import ActiveRun, Lane, Standing
from trackside.app.storage._rows.tables import active_runs, idempotency_keys, runs, threads
from trackside.app.storage._writing.attempts import Attempt, next_attempt
from trackside.app.storage._writing.expiry import delayed_on, has_expired
from trackside.app.storage._writing.work import ROW_BYTES, UnitOfWork, Work
from trackside.app.storage.fleet import DEFAULT_POOL
from trackside.harness.errors import (
    DuplicateRunError,
    InvalidSpecError,
    ThreadBusyError,
    TracksideError,
    UnknownRunError,
    UnknownThreadError,
)
from trackside.harness.lifecycle import RunFold, is_final, thread_status_after
from trackside.harness.ports import IdempotencyKey, Settlement
from trackside.harness.types import CancelAction, JsonObject, MultitaskStrategy, RunStatus, ThreadStatus

type Fate = Literal["claimed", "withdrawn"]
"""What has become of a run that its own process may claim: whoever says so first, in whichever thread, wins."""

type Fates = dict[str, Fate]


def undecide(fates: Fates, run_ids: Iterable[str], fate: Fate) -> None:
    """Drop what was decided about these runs: it was not committed after all."""
    for run_id in run_ids:
        if fates.get(run_id) == fate:
            del fates[run_id]


class Displaced(NamedTuple):
    """A run that has to make room: one that is running is asked to stop; one of the same owner has been withdrawn."""

    run_id: str
    running: bool


class Admitted(NamedTuple):
    """How a run was let in; `existing` is the run that its idempotency key named before, `new_thread` whether it holds a
    thread that nobody had before, `elsewhere` whether another process executes it.
    """

    ready: bool
    thread_status: ThreadStatus
    displaced: Sequence[Displaced] = ()
    existing: str | None = None
    new_thread: bool = False
    elsewhere: bool = False


@dataclass(slots=True, eq=False, kw_only=True)
class _ThreadWork(Work):
    """A work on one run and the queue of its thread."""

    run_id: str
    thread_id: str
    owner: str | None

    @override
    def run_ids(self) -> Iterable[str]:
        return (self.run_id,)

    @override
    def thread_ids(self) -> Iterable[str]:
        return (self.thread_id,)

    @override
    def queues(self) -> Iterable[str]:
        return (self.thread_id,)


@dataclass(slots=True, eq=False, kw_only=True)
class _Entry(_ThreadWork):
    """A run takes its place on its thread.

    `fates` are those of the owner's runs; `withdrawn` are the runs whose fate this work decided, which is undone if it
    fails. `given` is the answer so far: a transaction whose reply was lost is repeated, and finds all of it done.
    """

    fates: Fates
    withdrawn: list[str] = field(default_factory=list)
    given: Admitted | None = None

    @override
    def undone(self) -> None:
        self.given = None
        self._decide_nothing()

    @override
    def refused(self, error: TracksideError) -> None:
        self._decide_nothing()  # now, not when its caller hears of it: the next work may decide about the same runs

    def _decide_nothing(self) -> None:
        undecide(self.fates, self.withdrawn, "withdrawn")
        self.withdrawn.clear()

    def make_room(self, unit: UnitOfWork, coming: ActiveRun) -> list[Displaced]:
        """Have all runs that hold the thread or wait for it make room, if the coming run asks for that."""
        if (action := MultitaskStrategy(coming.multitask).displaces) is None:
            return []
        lane = unit.queue.lane(coming.thread_id)
        # The holder of the thread comes last: else each of the others would be given the thread, only to lose it again.
        present = [*unit.queue.all_waiting(lane), *([lane.holder] if lane.holder else ())]
        unit.load(run_ids=[run.run_id for run in present if not self._is_own(run)], thread_ids=(), queues=())
        ends, lane.ends = lane.ends, False  # it does not end with the last of these: one is coming
        moved = [self._displace(unit, run, action) for run in present]
        lane.ends = ends
        return [displaced for displaced in [*moved[-1:], *moved[:-1]] if displaced is not None]

    def take_away_delayed(self, unit: UnitOfWork, coming: ActiveRun) -> list[Displaced]:
        """Have the other runs of the thread that are not due yet make room, if the coming run asks for that.

        That run is on its thread by now: otherwise the thread might end with the last of them.
        """
        if (action := MultitaskStrategy(coming.multitask).displaces) is None:
            return []
        delayed = [run_id for run_id in delayed_on(unit, unit.queue.lane(coming.thread_id)) if run_id != coming.run_id]
        unit.load(run_ids=delayed, thread_ids=(), queues=())
        found = [run for run_id in delayed if (run := unit.queue.find(run_id)) and run.state is Standing.delayed]
        moved = [self._displace(unit, run, action) for run in found]
        return [displaced for displaced in moved if displaced is not None]

    def _displace(self, unit: UnitOfWork, run: ActiveRun, action: CancelAction) -> Displaced | None:
        if run.state is Standing.claimed or (run.state is Standing.pending and self._is_starting(run)):
            unit.queue.ask_to_stop(run, action)
            return Displaced(run.run_id, running=True)
        if not run.has_not_begun:
            return None
        if self._is_own(run):
            run.cancel_requested = run.cancel_requested or action
            run.state = Standing.withdrawn
            unit.queue.change(run)
            return Displaced(run.run_id, running=False)
        cancel_in_place(unit, run, action, "another run took its place on the thread")
        return None

    def _is_own(self, run: ActiveRun) -> bool:
        return run.owner is not None and run.owner == self.owner

    def _is_starting(self, run: ActiveRun) -> bool:
        """Whether the owner has claimed the run already, though its start is not in the log yet."""
        if not self._is_own(run):
            return False
        if self.fates.setdefault(run.run_id, "withdrawn") == "claimed":
            return True
        self.withdrawn.append(run.run_id)
        return False


@dataclass(slots=True, eq=False, kw_only=True)
class Admit(_Entry):
    """Let a run in. Another process can execute it if it is `portable`; one that is `nobodys` waits for a worker of its
    `pool`, with its `version` of the agents.

    `asks_for` says on whose behalf that is. The thread may be somebody else's with `any_owner`, and has to exist
    already with `thread_exists`. A new thread belongs to `asks_for`, has `thread_metadata`, and with `thread_ends` ends
    with its last run. With a `lifetime` the thread lives that long from now on, whether new or not. `due_in` is in how
    many seconds the run is due by the clock that others will look at; without it, `due_at` is by the clock of whoever
    lets the run in.
    """

    start: RunStart
    multitask: MultitaskStrategy
    due_at: str | None
    portable: bool
    keeps_request: bool
    idempotency: IdempotencyKey | None
    nobodys: bool = False
    pool: str = DEFAULT_POOL
    version: str | None = None
    due_in: float | None = None
    asks_for: str | None = None
    any_owner: bool = False
    thread_exists: bool = False
    thread_ends: bool = False
    thread_metadata: JsonObject | None = None
    lifetime: Lifetime | None = None

    needs_room = True

    @property
    @override
    def size(self) -> int:
        return ROW_BYTES + len(self.start.request or "") + len(self.start.metadata)

    @override
    def apply(self, unit: UnitOfWork) -> Admitted:
        run = unit.run(self.run_id)
        if (existing := self._named_before(unit, run)) is not None:
            return Admitted(ready=False, thread_status=ThreadStatus.idle, existing=existing)
        if run is not None:
            return self._again(unit, run)
        lane = unit.queue.lane(self.thread_id)
        self._check_thread(unit, lane)
        if self.multitask is MultitaskStrategy.reject and self.due_at is None and lane.holder is not None:
            raise ThreadBusyError(thread_id=self.thread_id, run_id=lane.holder.run_id)
        if self.idempotency is not None:
            unit.idempotency_keys[self.idempotency.key] = (self.idempotency, self.run_id)
        active = ActiveRun(
            run_id=self.run_id,
            thread_id=self.thread_id,
            state=Standing.pending if self.due_at is None else Standing.delayed,
            multitask=self.multitask.value,
            owner=None if self.nobodys else self.owner,
            due_at=self._due_at(unit),
            portable=self.portable,
            keeps_request=self.keeps_request,
            pool=self.pool,
            version=self.version,
            agent=self.start.agent or "",
        )
        displaced = [] if self.due_at is not None else self.make_room(unit, active)
        run = RunRow(fold=RunFold(self.run_id), thread_id=self.thread_id, start=self.start)
        is_new = not lane.exists
        unit.admit(run, active, owner=self.asks_for, ends=self.thread_ends, metadata=self.thread_metadata)
        if self.lifetime is not None:
            self._let_live(unit, self.lifetime)
        displaced += self.take_away_delayed(unit, active)
        status = unit.thread_status(self.thread_id)
        self.given = Admitted(active.holds, status, displaced, new_thread=is_new and active.holds)
        return self.given

    def _due_at(self, unit: UnitOfWork) -> str | None:
        if self.due_in is None:
            return self.due_at
        try:
            return time_text(wall_time(unit.session.clock()) + timedelta(seconds=self.due_in))
        except OverflowError:  # the calendar ends before that, if only for the database
            return self.due_at

    def _let_live(self, unit: UnitOfWork, lifetime: Lifetime) -> None:
        values = {"expires_at": lifetime.expires_at, "ttl_minutes": lifetime.ttl_minutes}
        unit.session.execute(update(threads).where(threads.c.thread_id == self.thread_id).values(values))
        thread = unit.thread(self.thread_id, self.start.created_at)  # which may have no row yet
        thread.expires_at, thread.ttl_minutes = lifetime.expires_at, lifetime.ttl_minutes
        unit.queue.lane(self.thread_id).expires_at = lifetime.expires_at

    def _check_thread(self, unit: UnitOfWork, lane: Lane) -> None:
        """See that the run may use its thread.

        Raises:
            UnknownThreadError: for whoever asks there is no such thread.
        """
        if not lane.exists:
            is_known = not self.thread_exists
        else:
            is_his = self.any_owner or self.asks_for in {None, lane.owner}
            is_known = is_his and not lane.removed and not has_expired(unit, lane, self.start.created_at)
        if not is_known:
            raise UnknownThreadError(thread_id=self.thread_id)

    def _named_before(self, unit: UnitOfWork, run: RunRow | None) -> str | None:
        """The run that the idempotency key names; None if that is this one, whose first answer was lost."""
        if self.idempotency is None:
            return None
        known = unit.idempotency_keys.get(self.idempotency.key)
        if known is None:
            query = select(idempotency_keys.c.body, idempotency_keys.c.run_id)
            found = unit.session.execute(query.where(idempotency_keys.c.key == self.idempotency.key))
            if not found:
                return None
            body, run_id = found[0]
            known = IdempotencyKey(self.idempotency.key, body), run_id
        named, run_id = known
        if named.body != self.idempotency.body:
            why = f"run {run_id} was started with this key and asked for something else"
            raise InvalidSpecError(field="idempotency_key", value=named.key, why=why)
        return None if run_id == self.run_id and (run is None or self._has_admitted(run)) else run_id

    def _has_admitted(self, run: RunRow) -> bool:
        """Whether the run with this id comes from this admission, and not from a caller who asked before for the same."""
        start = self.start
        return (run.thread_id, run.created_at, run.agent) == (self.thread_id, start.created_at, start.agent)

    def _again(self, unit: UnitOfWork, run: RunRow) -> Admitted:
        """The answer to an admission that is repeated because the first answer was lost.

        Raises:
            DuplicateRunError: the run with this id is another's.
        """
        if not self._has_admitted(run):
            raise DuplicateRunError(run_id=self.run_id)
        active = unit.queue.find(self.run_id)
        is_untouched = run.fold.sequence == 0
        if self.nobodys or not is_untouched or active is None or active.owner != self.owner or self.owner is None:
            return self._elsewhere_again(unit, active)
        displaced = () if self.given is None else self.given.displaced
        return Admitted(active.holds, unit.thread_status(self.thread_id), displaced)

    def _elsewhere_again(self, unit: UnitOfWork, active: ActiveRun | None) -> Admitted:
        """The same for a run that another process may have taken and ended meanwhile: what is stored identifies it.

        A worker of a fleet took it, or somebody took it over because this process was taken for dead.
        """
        query = select(runs.c.request).where(runs.c.run_id == self.run_id, runs.c.request.is_not(None))
        if unit.session.execute(query) not in ([], [(self.start.request,)]):
            raise DuplicateRunError(run_id=self.run_id)
        if self.nobodys and active is not None and active.is_ready:
            unit.queue.change(active)  # the news that it is ready may have been lost with the answer
        displaced = () if self.given is None else self.given.displaced
        return Admitted(False, unit.thread_status(self.thread_id), displaced, elsewhere=True)


@dataclass(slots=True, eq=False, kw_only=True)
class Promote(_Entry):
    """Give a delayed run that is due its place: behind all others, unless it has one, as another attempt at a run does.

    None: it is not delayed any more.
    """

    @override
    def apply(self, unit: UnitOfWork) -> Admitted | None:
        active = unit.queue.find(self.run_id)
        if active is None or active.owner != self.owner:
            return None
        if active.state is not Standing.delayed:
            return self.given
        if active.cancel_requested is not None:  # whoever asked for that is about to withdraw it
            return None
        active.state = Standing.pending
        displaced = self.make_room(unit, active)
        if not self._has_place(unit):
            active.ordinal = 0
        unit.queue.enter(active)
        if not active.ordinal:
            active.ordinal = unit.session.next_ordinal()
            place = update(active_runs).where(active_runs.c.run_id == self.run_id)
            unit.session.execute(place.values(ordinal=active.ordinal))
        self.given = Admitted(active.holds, unit.thread_status(self.thread_id), displaced)
        return self.given

    def _has_place(self, unit: UnitOfWork) -> bool:
        retried = select(runs.c.run_id).where(runs.c.run_id == self.run_id, runs.c.retry_of.is_not(None))
        return bool(unit.session.execute(retried))


@dataclass(slots=True, eq=False, kw_only=True)
class Claim(_ThreadWork):
    """Take a pending run at the head of its thread that is nobody's, or one's own; the result: its thread's status.

    None: it cannot be had. `fates` are those of the owner's runs: whatever comes next in the same transaction has to
    know that the run is claimed. `decided` says that this work has put that there, to be undone if it fails.
    """

    fates: Fates
    decided: bool = False

    @override
    def apply(self, unit: UnitOfWork) -> ThreadStatus | None:
        active = unit.queue.find(self.run_id)
        if active is None or active.state is not Standing.pending or not active.holds:
            return None
        if active.cancel_requested is not None:
            return None
        if active.owner != self.owner and not is_abandoned(unit, active.owner):
            return None
        if not self._decide():
            return None
        if active.owner != self.owner:
            active.owner = self.owner
            unit.queue.change(active)
        return unit.thread_status(self.thread_id)

    def _decide(self) -> bool:
        self.decided = self.decided or self.run_id not in self.fates
        return self.fates.setdefault(self.run_id, "claimed") == "claimed"


@dataclass(slots=True, eq=False, kw_only=True)
class Withdraw(_ThreadWork):
    """Take a run that has not started out of the queue, for its owner to announce its end; whether it is withdrawn."""

    @override
    def apply(self, unit: UnitOfWork) -> bool:
        active = unit.queue.find(self.run_id)
        if active is None or active.owner != self.owner:
            return False
        if active.has_not_begun:
            active.state = Standing.withdrawn
            unit.queue.change(active)
        return active.state is Standing.withdrawn


@dataclass(slots=True, eq=False, kw_only=True)
class RequestCancel(_ThreadWork):
    """Record that a run should stop; what comes of it is the action that its owner has to heed, which the first to ask says.

    One that is not this owner's and has not started ends at once, as does one that no coordinator has. Then, or if it has
    ended before, there is nothing to heed: None.
    """

    action: CancelAction

    @override
    def apply(self, unit: UnitOfWork) -> CancelAction | None:
        run = unit.run(self.run_id)
        if run is None:
            raise UnknownRunError(run_id=self.run_id)
        active = unit.queue.find(self.run_id)
        if active is None:
            if not is_final(run.fold.status):
                cancel_unattended(unit, self.run_id, self.thread_id, self.action)
            return None
        if active.has_not_begun and (self.owner is None or active.owner != self.owner):
            cancel_in_place(unit, active, active.cancel_requested or self.action)
            return None
        if active.cancel_requested is None:
            unit.queue.ask_to_stop(active, self.action)
        return active.cancel_requested


@dataclass(slots=True, eq=False, kw_only=True)
class NoteStuck(_ThreadWork):
    """Record since when a run of this owner has been cancelled and does not stop."""

    since: str

    @override
    def apply(self, unit: UnitOfWork) -> None:
        of_owner = and_(active_runs.c.run_id == self.run_id, active_runs.c.owner == self.owner)
        goes_on = and_(of_owner, active_runs.c.state == Standing.claimed.value)
        unit.session.execute(update(active_runs).where(goes_on).values(stuck_since=self.since))


@dataclass(slots=True, eq=False, kw_only=True)
class Settle(_ThreadWork):
    """What the end of a run means for its thread.

    `retried_as` is the id under which the run is started anew, if it is to be.
    """

    status: RunStatus
    at_rest: ThreadStatus | None
    retried_as: str | None

    @override
    def apply(self, unit: UnitOfWork) -> Settlement:
        active = unit.queue.find(self.run_id)
        if active is None:
            raise UnknownRunError(run_id=self.run_id)
        announced = unit.thread_status(self.thread_id)
        attempt = self._next_attempt(unit, active)
        retried_as = None if attempt is None else self.retried_as
        if active.state is not Standing.claimed:  # it never was the thread's business
            return Settlement(announced, announced, retried_as)
        at_rest = self.at_rest or thread_status_after(self.status, another_waits=False)
        goes_on = attempt is not None and attempt.is_due
        another_waits = goes_on or unit.queue.first_waiting(unit.queue.lane(self.thread_id)) is not None
        # None: the status follows from the run's, and there is nothing to write unless something else was said before.
        if active.at_rest is not self.at_rest and (another_waits or active.at_rest is not None):
            active.at_rest = self.at_rest
            unit.queue.change(active)
        return Settlement(announced, ThreadStatus.busy if another_waits else at_rest, retried_as)

    def _next_attempt(self, unit: UnitOfWork, active: ActiveRun) -> Attempt | None:
        if self.retried_as is None or active.cancel_requested is not None:
            return None
        return next_attempt(unit.session, active, self.retried_as)
