"""The changes of one transaction: what several callers want written, judged first, then written together.

A `UnitOfWork` loads what is known of the runs concerned, lets each `Work` say what it changes (one that may not change it
fails alone, before anything is written), and writes all changes in a few statements, the counter of positions as late as
possible (I2). `commits` does that in a transaction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import delete, select

from trackside.app.storage._databases.session import (
    Changes,
    GraphAccess,
    Session,
    insert_in_place,
)
from trackside.app.storage._rows.arguments import is_plain
from trackside.app.storage._rows.encoding import EventRow, json_text
from trackside.app.storage._rows.fold import (
    Label,
    RunAge,
    RunRow,
    ThreadRow,
    concerns_thread,
    foreign_thread,
    labels_of,
)
from trackside.app.storage._rows.graph_checkpoint_rows import GraphRows
from trackside.app.storage._rows.queue import ActiveRun, Queue, Standing
from trackside.app.storage._rows.tables import idempotency_keys, thread_labels, thread_states
from trackside.app.storage._rows.totals import Totals
from trackside.app.storage._writing.attempts import forget_request, give_up_place, next_attempt
from trackside.app.storage._writing.graph_borrowing import bring_missing
from trackside.app.storage._writing.orphans import disable_crons
from trackside.app.storage.errors import (
    EventConflictError,
)
from trackside.harness.errors import EventOrderError, TakenOverError, TracksideError
from trackside.harness.lifecycle import RunFold, is_final, is_terminal, thread_status_after
from trackside.harness.ports import IdempotencyKey
from trackside.harness.types import JsonObject, LifecycleEventType, ThreadStatus

ROW_BYTES: Final = 600
"""About how many bytes a run takes in the queue besides what was asked for."""
_NONE: Final[Mapping[str, RunAge]] = {}


@dataclass(frozen=True, slots=True)
class Refused:
    """What became of a work that was not written."""

    error: TracksideError


class Work(ABC):
    """Something that one caller wants written: all of it or nothing."""

    __slots__ = ()

    may_be_forgotten = False
    """Whether a database server that crashes right after the commit may lose it, as nothing follows from it alone."""

    needs_room = False
    """Whether it adds what a database without room cannot take."""

    @property
    def alone(self) -> bool:
        """Whether it has a transaction to itself."""
        return False

    @property
    def size(self) -> int:
        """About how many bytes it adds to the transaction: a few rows, unless it says otherwise."""
        return ROW_BYTES

    @property
    def graph_access(self) -> GraphAccess | None:
        """What it does to checkpoints of graphs."""
        return None

    def run_ids(self) -> Iterable[str]:
        """The runs that have to be loaded for it."""
        return ()

    def thread_ids(self) -> Iterable[str]:
        """The threads that it may change. Those come first in the order of locks, then runs, then the counter."""
        return ()

    def queues(self) -> Iterable[str]:
        """Those of these threads whose queues it asks for. Queues of active runs that end are there anyway."""
        return ()

    def refused(self, error: TracksideError) -> None:  # noqa: B027  # most have nothing to note
        """Note that nothing of it was written; called in the thread that writes, before anything else is written."""

    def undone(self) -> None:  # noqa: B027  # most keep nothing
        """Forget what it noted about itself in a transaction that was rolled back: it is applied anew, or refused."""

    @abstractmethod
    def apply(self, unit: UnitOfWork) -> Any:
        """Add to the unit what is to be written; the result is the caller's once it is committed.

        Raises:
            TracksideError: it may not be written; the unit is as it was.
        """


class UnitOfWork:
    """The changes of one transaction, in memory until `write`.

    Args:
        check_ids: look up every event id before its event is accepted, and not only where the sequence says that the
            event may be there already.
    """

    def __init__(self, session: Session, works: Sequence[Work], *, check_ids: bool) -> None:
        self.session = session
        """For statements of rare works: they take effect at once, before what is gathered here is written."""
        self.queue = Queue(session)
        self._check_ids = check_ids
        self._runs: dict[str, RunRow] = {}
        self._changed: dict[str, RunRow] = {}
        self._threads: dict[str, ThreadRow] = {}
        self._gone_threads: set[str] = set()
        self._events: dict[str, EventRow] = {}
        self._thread_labels: dict[str, list[Label]] = {}
        self.thread_states: dict[str, tuple[str, str, str | None, str]] = {}
        self.graph = GraphRows()
        """What graphs leave of their threads."""
        self.positions: dict[str, int] = {}
        """Where new events, by their id, were in another log."""
        self.idempotency_keys: dict[str, tuple[IdempotencyKey, str]] = {}
        """The keys of runs that are let in, and the runs that they name."""
        self.removed_threads: list[str] = []
        """Threads that are gone for clients from now on."""
        self.deleted_threads: dict[str, str] = {}
        """Those of them that did not end with a run, and since when: crons may run on them."""
        self.totals = Totals()
        """What to add to the sums, besides what follows from the runs that change."""
        self.load(
            run_ids={run_id for work in works for run_id in work.run_ids()},
            thread_ids={thread_id for work in works for thread_id in work.thread_ids()},
            queues={thread_id for work in works for thread_id in work.queues()},
        )

    def load(self, *, run_ids: Collection[str], thread_ids: Collection[str], queues: Collection[str]) -> None:
        """Take in what the database has, and keep others from changing it."""
        missing = [run_id for run_id in run_ids if run_id not in self._runs]
        unknown = [thread_id for thread_id in queues if not self.queue.knows_lane(thread_id)]
        if not (missing or thread_ids or unknown):
            return
        found, lanes = self.session.load(run_ids=missing, thread_ids=thread_ids, queues=unknown)
        self._runs.update(found)
        for run in found.values():
            if run.active is not None:
                self.queue.know(run.active)
        for lane in lanes:
            self.queue.know_lane(lane)

    def run(self, run_id: str) -> RunRow | None:
        """A run that was loaded, as it is by now."""
        return self._runs.get(run_id)

    def changes_run(self, run_id: str) -> bool:
        """Whether something is to be written about a run."""
        return run_id in self._changed

    def begun_on(self, thread_id: str) -> list[str]:
        """Runs of a thread that are new in the log, have no coordinator, and have not ended."""
        new = (run for run in self._changed.values() if run.thread_id == thread_id and run.stored is None)
        return [id_ for run in new if self.queue.find(id_ := run.fold.run_id) is None and not is_final(run.fold.status)]

    def changes_thread(self, thread_id: str) -> bool:
        """Whether something is to be written about a thread."""
        return thread_id in self._threads

    def forget_run(self, run_id: str) -> None:
        """Forget a run whose rows have been deleted: nothing can follow in it."""
        self._runs.pop(run_id, None)

    def forget_threads(self, thread_ids: Iterable[str]) -> None:
        """Forget threads whose rows have been deleted: works that follow find none, or make them anew."""
        for thread_id in thread_ids:
            self.queue.forget_lane(thread_id)
            self._gone_threads.add(thread_id)

    def thread_status(self, thread_id: str) -> ThreadStatus:
        """The status that was last announced of a thread whose queue was loaded."""
        changed = self._threads.get(thread_id)
        return (changed and changed.status) or self.queue.lane(thread_id).status or ThreadStatus.idle

    def admit(
        self,
        run: RunRow,
        active: ActiveRun,
        *,
        owner: str | None = None,
        ends: bool = False,
        metadata: JsonObject | None = None,
    ) -> None:
        """Make the rows of a run that is let in, and of its thread.

        A new thread is this owner's, has this metadata, and may end with the run.
        """
        start = run.start
        assert start is not None
        self._runs[run.fold.run_id] = self._changed[run.fold.run_id] = run
        thread = self._thread(run.thread_id, start.created_at)
        thread.may_be_new = True
        thread.first_agent = thread.first_agent or start.agent
        lane = self.queue.lane(run.thread_id)
        if not lane.exists:
            lane.exists = True
            lane.owner = thread.owner = owner
            lane.ends = thread.ends = ends
            if metadata:
                thread.metadata = json_text(metadata)
                self.label_thread(run.thread_id, metadata)
        self.queue.enter(active)

    def make_thread(self, thread: ThreadRow) -> None:
        """Make a thread that has no row, and no run yet; its queue was loaded."""
        thread.may_be_new = True
        self._threads[thread.thread_id] = thread
        lane = self.queue.lane(thread.thread_id)
        lane.exists, lane.owner, lane.ends = True, thread.owner, thread.ends

    def label_thread(self, thread_id: str, metadata: Mapping[str, Any]) -> None:
        """Have a thread found by its metadata; it is not found by anything yet."""
        self._thread_labels[thread_id] = labels_of(metadata)

    def unlabel_thread(self, thread_id: str) -> None:
        """Have a thread no longer found by its metadata."""
        self._thread_labels.pop(thread_id, None)
        self.session.execute(delete(thread_labels).where(thread_labels.c.thread_id == thread_id))

    def thread(self, thread_id: str, when: str) -> ThreadRow:
        """A thread whose row is to be changed, at this time."""
        thread = self._thread(thread_id, when)
        thread.updated_at = max(thread.updated_at, when)
        return thread

    def remove_thread(self, thread_id: str, when: str) -> None:
        """Remove a thread whose queue was loaded: for clients, it is gone from this time on."""
        self._thread(thread_id, when).removed_at = when
        self.queue.lane(thread_id).removed = True
        self.thread_states.pop(thread_id, None)
        self.removed_threads.append(thread_id)

    def remembered(self, thread_id: str) -> tuple[str, str | None] | None:
        """What a thread remembers by now, and its paused run, both as JSON text; None for a new one."""
        if (changed := self.thread_states.get(thread_id)) is not None:
            return changed[1], changed[2]
        kept = select(thread_states.c.remembered, thread_states.c.paused)
        found = self.session.execute(kept.where(thread_states.c.thread_id == thread_id))
        return (found[0][0], found[0][1]) if found else None

    def append(
        self, rows: Sequence[EventRow], workers: Collection[str] = (), *, last_runs: Mapping[str, RunAge] = _NONE
    ) -> list[EventRow]:
        """Accept events that follow, all or none; those that are stored already come back as they are stored (I4).

        `workers` are those on whose behalf this is done: only they may start runs of theirs. Events of runs that are
        older than the one that `last_runs` has for their thread change nothing of the thread.

        Raises:
            EventOrderError: an event cannot follow what its run has.
            EventConflictError: an event id belongs to another event.
        """
        accepted: dict[str, tuple[EventRow, RunRow, RunFold]] = {}
        runs: dict[str, tuple[RunRow, RunFold]] = {}
        retries: dict[str, str] = {}
        answer: list[EventRow] = []
        for row in rows:
            event = row.event
            run, fold = runs.get(event.run_id) or self._run_of(row)
            if (known := self._find(row, fold, accepted)) is not None:
                answer.append(known)
                continue
            if event.thread_id != run.thread_id:
                raise foreign_thread(row, run)
            if event.event_type is LifecycleEventType.RUN_STARTED:
                self._check_owner(row, workers)
            fold = fold.apply(event.event_type, event.sequence, event.payload)
            runs[event.run_id] = run, fold
            if is_terminal(event.event_type) and is_plain(event.payload.get("retried_as")):
                retries[event.run_id] = event.payload["retried_as"]
            accepted[event.event_id] = row, run, fold
            answer.append(row)
        for row, run, fold in accepted.values():
            self._take(row, run, fold, last_runs)
        for run, _ in runs.values():
            self._stand(run, workers, retries.get(run.fold.run_id))
        return answer

    def _check_owner(self, row: EventRow, workers: Collection[str]) -> None:
        active = self.queue.find(row.event.run_id)
        if active is None or active.owner in workers or (active.owner is None and len(workers) == 1):
            return
        error, why = EventOrderError, "nobody looks after the run: it waits for a process to take it over"
        if active.owner is not None:
            error, why = TakenOverError, f"worker {active.owner} looks after the run: another process took it over"
        raise error(run_id=active.run_id, event_type=str(row.event.event_type), sequence=1, why=why)

    def _stand(self, run: RunRow, workers: Collection[str], retried_as: str | None) -> None:
        """Let the queue know what the log says: that a run has started, or that it has ended and gives its thread back.

        `retried_as` is the run as which a run that has ended goes on.
        """
        active = self.queue.find(run.fold.run_id)
        if active is None or run.fold.sequence == 0:
            return
        if is_final(run.fold.status):
            if retried_as is not None:
                self._start_anew(active, retried_as)
            at_rest = thread_status_after(run.fold.status, another_waits=False)
            self.queue.release(active, self.thread_status(run.thread_id), at_rest)
            if retried_as is not None and active.state is Standing.ended:
                give_up_place(self.session, active)
            if not active.keeps_request:
                forget_request(self.session, run)
            if self.queue.is_over(run.thread_id):
                self._end_thread(run)
        elif active.state is Standing.pending:
            active.state = Standing.claimed
            active.at_rest = None
            if active.owner is None:  # its worker was taken for dead, and is back before another one came
                active.owner = next(iter(workers), None)
            self.queue.change(active)

    def _end_thread(self, run: RunRow) -> None:
        """Remove a thread that ends with this run."""
        ended_at = run.created_at if run.end is None else run.end.ended_at
        # Not every end has changed the thread before: an imported one does not where a newer run was imported.
        when = self._thread(run.thread_id, ended_at).updated_at
        if run.end is not None:
            run.end.removed_at = when
        self.remove_thread(run.thread_id, when)

    def _start_anew(self, ended: ActiveRun, run_id: str) -> None:
        """Let in the run that goes on for one that has ended, if there is to be one."""
        self.load(run_ids=[run_id], thread_ids=(), queues=())
        if self.run(run_id) is None and (attempt := next_attempt(self.session, ended, run_id)) is not None:
            self.admit(attempt.run, attempt.active)

    def _run_of(self, row: EventRow) -> tuple[RunRow, RunFold]:
        run = self._runs.get(row.event.run_id)
        if run is None:
            run = RunRow(fold=RunFold(row.event.run_id), thread_id=row.event.thread_id)
        return run, run.fold

    def _find(
        self, row: EventRow, fold: RunFold, accepted: dict[str, tuple[EventRow, RunRow, RunFold]]
    ) -> EventRow | None:
        event_id = row.event.event_id
        known = accepted[event_id][0] if event_id in accepted else self._events.get(event_id)
        if known is None and (self._check_ids or row.event.sequence <= fold.sequence):
            known = self.session.event(event_id)
        if known is not None and not known.tells_the_same_as(row):
            other = known.event
            raise EventConflictError(event_id=event_id, sequence=other.sequence, run_id=other.run_id)
        return known

    def _take(self, row: EventRow, run: RunRow, fold: RunFold, last_runs: Mapping[str, RunAge]) -> None:
        event = row.event
        is_first = run.fold.sequence == 0
        is_new = run.stored is None and run.start is None
        self._runs[event.run_id] = self._changed[event.run_id] = run
        run.take(row, fold)
        row.run_created_at = run.created_at
        self._events[event.event_id] = row
        if (is_first or concerns_thread(event)) and not (last_runs and run.is_older_than(last_runs.get(run.thread_id))):
            thread = self._thread(event.thread_id, row.occurred_at)
            thread.take(row, starts_run=is_first)
            if event.event_type is LifecycleEventType.RUN_STARTED:
                thread.agent = run.agent or thread.agent
            elif is_new:
                thread.first_agent = thread.first_agent or run.agent

    def _thread(self, thread_id: str, when: str) -> ThreadRow:
        thread = self._threads.get(thread_id)
        if thread is None:
            thread = self._threads[thread_id] = ThreadRow(thread_id=thread_id, created_at=when, updated_at=when)
        return thread

    @property
    def new_events(self) -> Sequence[EventRow]:
        """The events that it stores, in order of position once it has been written."""
        return [*self._events.values()]

    def write(self) -> None:
        """Send the changes to the database."""
        disable_crons(self.session, self.deleted_threads)
        if self.idempotency_keys:
            keys = [(named.key, named.body, run_id) for named, run_id in self.idempotency_keys.values()]
            self.session.execute(idempotency_keys.insert().values(keys))
        for run in self._changed.values():
            self.totals.take(run)
        self.session.save(
            Changes(
                thread_states=self.thread_states.values(),
                graph_checkpoints=self.graph.checkpoints.values(),
                graph_values=self.graph.values.values(),
                graph_writes=self.graph.writes.values(),
                threads=self._threads.values(),
                gone_threads=self._gone_threads,
                thread_labels=[(*label, id_) for id_, labels in self._thread_labels.items() for label in labels],
                runs=self._changed.values(),
                inactive=self.queue.removed,
                active=self.queue.changed.values(),
                totals=self.totals,
                events=() if self.positions else self._events.values(),
            )
        )
        bring_missing(self.session, self.graph)
        if self.positions:
            insert_in_place(self.session, self._events.values(), self.positions)
