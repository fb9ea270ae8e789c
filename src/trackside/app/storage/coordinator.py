"""Decides, in the database, who may run and when: the port `RunCoordinator` for any number of processes on one store.

The log and the queue are one database, so most steps need no transaction of their own: the event that starts a run is
its claim, the event that ends it gives its thread to the next. Only the admission is left to write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from trackside.app.storage._coordination.admissions import Admissions
from trackside.app.storage._coordination.cancelling import request_cancel
from trackside.app.storage._coordination.enrolment import BEATS_PER_LEASE, Enrolment
from trackside.app.storage._coordination.own_runs import OwnRun, OwnRuns
from trackside.app.storage._coordination.steps import (
    Admitted,
    Claim,
    Displaced,
    NoteStuck,
    Promote,
    RequestCancel,
    Settle,
    Withdraw,
    undecide,
)
from trackside.app.storage._coordination.taker import Taker
from trackside.app.storage._coordination.upkeep import Upkeep
from trackside.app.storage._databases.readers import Readers
from trackside.app.storage._databases.signals import CommitSignals
from trackside.app.storage._reading.run_records import find_holder, find_run
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._rows.leases import LeaseClock
from trackside.app.storage._rows.queue import Handover
from trackside.app.storage._writing.writer import NoWriter, Writer
from trackside.app.storage.errors import NoFleetError, StorageError
from trackside.app.storage.fleet import FleetMember, Taking
from trackside.harness import ports
from trackside.harness.errors import ClosedError, TracksideError, UnknownRunError
from trackside.harness.ids import new_id
from trackside.harness.lifecycle import is_final
from trackside.harness.ports import Admission, IdempotencyKey, Release, RunHost, Settlement
from trackside.harness.running.steady import finish
from trackside.harness.types import CancelAction, CancelMode, RunRecord, RunSpec, RunStatus, ThreadStatus

logger = logging.getLogger("trackside.storage")

LEASE_SECONDS = 15.0
MIN_LEASE_SECONDS = 0.1


class StoredCoordinator:
    """Admission, claims and cancels for all processes that have this store open; see `ports.RunCoordinator`.

    It expects the events of its runs in the same store: bind a `StorageObserver(store)`, required, to the manager that
    uses it. A process that goes away without a word loses its lease, and whichever process looks next ends its runs (I7).

    Steps are finished once begun, whoever is cancelled meanwhile: what is in the queue of the writer is written.

    In a `fleet`, runs that it lets in are nobody's until a worker takes them, which may be this one. Only those that one
    of its own runs starts, or that nobody else could execute, are its own at once. It looks after its own alone: the
    process with that duty (`Store.fleet`) sees to what is gone, due or ready in the fleet.

    With `hands_over`, another process executes runs that have not started when theirs goes, and this one takes over what
    others leave; without it, they end with their process.
    """

    steady = True

    def __init__(
        self,
        writer: Writer | NoWriter,
        readers: Readers,
        signals: CommitSignals,
        *,
        lease_seconds: float = LEASE_SECONDS,
        hands_over: bool = True,
        keeps_requests: bool = True,
        fleet: FleetMember | None = None,
    ) -> None:
        self.durable = hands_over
        self.worker_id = new_id()
        """The name under which this process owns runs."""
        self._writer = writer
        self._readers = readers
        self._signals = signals
        self._lease = lease_seconds
        self._host: RunHost | None = None
        self._runs = OwnRuns(on_due=self._spawn, store=writer)
        self._fleet = fleet
        self._admissions = Admissions(
            owner=self.worker_id, own=self._runs, durable=hands_over, keeps_requests=keeps_requests, fleet=fleet
        )
        self._enrolment = Enrolment(
            writer, worker_id=self.worker_id, lease_seconds=lease_seconds, on_enrolled=self._listen, member=fleet
        )
        self._taker = None
        if fleet is not None:
            self._taker = Taker(writer, self._runs, fleet, worker_id=self.worker_id, database=readers.database)
        self._upkeep = Upkeep(
            writer,
            readers,
            self._runs,
            self._enrolment,
            worker_id=self.worker_id,
            lease_seconds=lease_seconds,
            takes_over=hands_over,
            in_fleet=fleet is not None,
        )
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        writer.on_handover.append(self._on_handover)

    @property
    def draining(self) -> bool:
        """Whether this worker of a fleet takes no more runs and leaves when it has finished: it was asked to, or ends."""
        return self._enrolment.draining

    @property
    def on_drain(self) -> list[Callable[[], object]]:
        """Called, on the event loop, when somebody asks this worker to drain; it finds out with a sign of life."""
        return self._enrolment.on_drain

    def note_running(self, runs: int) -> None:
        """Have the next sign of life of this worker of a fleet say how many runs it executes."""
        self._enrolment.note_running(runs)

    def note_leaving(self) -> None:
        """Tell others at once that this worker of a fleet takes no more runs, and leaves when it has finished."""
        self._enrolment.note_leaving()

    def trusts_leases(self, now: LeaseClock | None = None) -> bool:
        """Whether an ended lease means that its worker is gone, not that the database was away; from any thread."""
        return self._enrolment.trusts_leases(now)

    def nudge(self) -> None:
        """Look soon at what others want of the runs of this process, or have done to them."""
        self._upkeep.nudge()

    def attach(self, host: RunHost) -> None:
        """Name the manager; from now on runs of workers that are gone are ended, and those that wait are taken over."""
        self._host = host
        self._upkeep.begin(host)

    async def admit(
        self, record: RunRecord, *, spec: RunSpec | None = None, idempotency: IdempotencyKey | None = None
    ) -> Admission:
        """Let a run in, at the head of its thread or behind those that are there, in one transaction."""
        await self._enrolment.enroll()
        work = self._admissions.work_of(record, spec, idempotency)
        with self._runs.letting_in(record):
            admitted: Admitted = await self._writer.write_to_the_end(work)
        if (existing := admitted.existing) is not None:
            known = await finish(partial(self._known, existing), name="existing")
            if not is_final(known.status) and existing not in self._runs:
                await finish(self._upkeep.take_what_is_left, name="left")
            return Admission(record=known, ready=False, existing=True)
        ready, elsewhere = False, work.nobodys or admitted.elsewhere
        if not elsewhere:
            own = self._runs.take(record, ready=admitted.ready, thread_status=admitted.thread_status)
            own.new_thread = admitted.new_thread
            ready = own.ready
        displaced = await self._displaced(record, admitted.displaced) if admitted.displaced else ()
        return Admission(record=record, ready=ready, displaced=displaced, elsewhere=elsewhere)

    async def take(self, run_ids: Sequence[str]) -> dict[str, Taking]:
        """Take these runs for this worker of a fleet, as far as they can be had; returns what became of each.

        When this returns, and even if the caller is cancelled, the runs that it got have been given to its manager, as
        runs that it has adopted.

        Raises:
            NoFleetError: this is no worker of a fleet.
            SchemaMovedOnError: a newer version of Trackside has changed the tables: this worker gets no more runs.
            ClosedError: the coordinator or the store is closed.
            StorageError: the database failed.
        """
        taker, host = await self._taking()
        return await taker.take(host, run_ids)

    async def take_any(self, limit: int) -> list[str]:
        """Take at most `limit` runs that are ready, the oldest first; returns which. Otherwise as `take`."""
        taker, host = await self._taking()
        return await taker.take_any(host, limit)

    async def _taking(self) -> tuple[Taker, RunHost]:
        if self._taker is None or self._host is None:
            raise NoFleetError(database=self._readers.database)
        if self._closed:
            raise ClosedError(what="coordinator")
        await self._enrolment.enroll()
        self._enrolment.stay()
        return self._taker, self._host

    async def claim(self, run_id: str) -> ports.Claim | None:
        """Take the pending run at the head of its thread. The event that starts it makes that known to all others."""
        self._enrolment.stay()
        own = self._runs.get(run_id)
        if own is not None and (own.claimed or own.cancel_requested is not None):
            return None
        if self._writer.intake.is_shut:  # its first event would be refused: the next look brings it back
            return None
        if own is None or not own.ready or self._runs.fates.setdefault(run_id, "claimed") != "claimed":
            try:
                own = await self._claim_stored(run_id)
            except StorageError as exc:  # as long as it is this worker's, the next look brings it back
                logger.warning("run %s could not be claimed: %s", run_id, exc)
                return None
            if own is None:
                return None
        self._runs.hold(own)
        return ports.Claim(own.record, own.thread_status, own.new_thread)

    async def _claim_stored(self, run_id: str) -> OwnRun | None:
        record = await self.get(run_id)
        if record is None:
            return None
        work = Claim(run_id=run_id, thread_id=record.thread_id, owner=self.worker_id, fates=self._runs.fates)
        await self._enrolment.enroll()
        thread_status = None
        try:
            thread_status = await self._writer.write_to_the_end(work)
        finally:
            if work.decided and thread_status is None:
                undecide(self._runs.fates, [run_id], "claimed")
        return None if thread_status is None else self._runs.take(record, ready=True, thread_status=thread_status)

    async def withdraw(self, run_id: str) -> bool:
        """Take a pending run of this worker out of the queue; True for exactly one caller."""
        own = self._runs.get(run_id)
        if own is None or own.claimed or own.withdrawn:
            return False
        if self._runs.fates.setdefault(run_id, "withdrawn") == "claimed":
            return False
        work = Withdraw(run_id=run_id, thread_id=own.record.thread_id, owner=self.worker_id)
        own.cancels += 1
        try:
            withdrawn = await self._writer.write_to_the_end(work)
        except TracksideError:
            undecide(self._runs.fates, [run_id], "withdrawn")
            raise
        finally:
            own.cancels -= 1
        if not withdrawn or own.withdrawn:
            return False
        own.withdrawn = True
        return True

    async def settle(
        self,
        run_id: str,
        status: RunStatus,
        *,
        at_rest: ThreadStatus | None = None,
        error: str | None = None,
        title: str | None = None,
        completion_data: Mapping[str, Any] | None = None,
        shut_down: bool = False,
    ) -> Settlement:
        """What the end of a run means for its thread. The run's terminal event says how it ended."""
        own = self._held(run_id)
        own.said_rest = own.said_rest or at_rest is not None
        if own.claimed and not own.said_rest and not shut_down and self._runs.another_waits(own):
            # Nothing to ask or write. If the waiting run leaves meanwhile, the thread's rest is announced later.
            return Settlement(ThreadStatus.busy, ThreadStatus.busy)
        if shut_down and own.retry_id is None:
            own.retry_id = new_id()
        work = Settle(
            run_id=run_id,
            thread_id=own.record.thread_id,
            owner=self.worker_id,
            status=status,
            at_rest=at_rest,
            retried_as=own.retry_id if shut_down else None,
        )
        settlement: Settlement = await self._writer.write_to_the_end(work)
        return settlement

    async def release(self, run_id: str, announced: ThreadStatus) -> Release:
        """Learn who has the thread now. The event that ended the run has given it away already."""
        own = self._held(run_id)
        handover, own.handover = own.handover, None
        if handover is None:  # or the reply to its commit was lost: then the next run must be looked for
            logger.warning("it is not known yet if the log has the end of run %s: its thread may stay held", run_id)
            self._upkeep.nudge()
            self._runs.forget(run_id)
            self._runs.untold.add(run_id)
            return Release()
        if handover.at_rest is not None:
            return Release(settlement=Settlement(previous=handover.thread_status, status=handover.at_rest))
        self._runs.forget(run_id)
        return Release(next_run_id=handover.next_run_id if handover.next_owner == self.worker_id else None)

    def lose(self, run_id: str) -> None:
        """End a released run as lost, as soon as that can be written: its own end is kept nowhere."""
        self._upkeep.lose(run_id)

    def give_up(self, run_id: str) -> None:
        """Stop looking after a run that was claimed here, but that another worker took over before it could start."""
        self._runs.forget(run_id)

    async def request_cancel(self, run_id: str, action: CancelAction) -> RunRecord:
        """Record that a run should stop; one that waits in another process ends at once."""
        own = self._runs.get(run_id)
        if own is None:
            return await request_cancel(
                self._writer, self._readers, self._signals, run_id, action, owner=self.worker_id
            )
        work = RequestCancel(run_id=run_id, thread_id=own.record.thread_id, owner=self.worker_id, action=action)
        own.cancels += 1
        try:
            noted: CancelAction | None = await self._writer.write_to_the_end(work)
            # Not before: a cancel that could not be stored must not keep the run from being claimed.
            own.cancel_requested = own.cancel_requested or noted or action
            if noted and self._runs.get(run_id) is own and own.goes_on:  # not read: in a long line it would run on
                return own.asked_to_stop(running=own.claimed)
        finally:
            own.cancels -= 1
        try:
            return await self._known(run_id)
        except StorageError as exc:  # it is recorded: whoever asks has to stop the run, as nobody else will
            logger.warning("run %s is to be cancelled, and cannot be read: %s", run_id, exc)
            return own.asked_to_stop(running=own.claimed)

    async def note_stuck(self, run_id: str, since: datetime) -> None:
        """Record since when a run of this worker has not stopped although it was cancelled."""
        own = self._runs.get(run_id)
        if own is not None:
            thread_id = own.record.thread_id
            work = NoteStuck(run_id=run_id, thread_id=thread_id, owner=self.worker_id, since=time_text(since))
            await self._writer.write_to_the_end(work)

    async def get(self, run_id: str) -> RunRecord | None:
        """What is known about a run."""
        return await find_run(self._readers, run_id)

    async def holder(self, thread_id: str) -> str | None:
        """The run that has a thread, from its admission on."""
        return await find_holder(self._readers, thread_id)

    async def aclose(self) -> None:
        """Stop looking after runs: those that have not started wait for another worker. May be called again."""
        if self._closed:
            return
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._upkeep.stop(), *self._tasks, return_exceptions=True)
        self._signals.forget(self._upkeep.nudge)
        self._runs.due_times.close()
        if await self._enrolment.leave():
            self._signals.announce()  # another process takes over what waits
        if not any(own.claimed for own in self._runs):  # one that was left behind may still end
            self._writer.on_handover.remove(self._on_handover)

    def _listen(self) -> None:
        if self._fleet is None:  # in a fleet, each commit of one process would wake up all
            self._signals.listen(self._upkeep.nudge)

    async def _known(self, run_id: str) -> RunRecord:
        if (record := await self.get(run_id)) is None:
            raise UnknownRunError(run_id=run_id)
        return record

    def _held(self, run_id: str) -> OwnRun:
        own = self._runs.get(run_id)
        if own is None:
            raise UnknownRunError(run_id=run_id)
        return own

    async def _displaced(self, by: RunRecord, displaced: Sequence[Displaced]) -> list[RunRecord]:
        """The records of runs that have to make room, except those that somebody here has withdrawn already."""
        action = CancelAction(by.multitask.value)
        records: dict[str, RunRecord] = {}
        others: list[Displaced] = []
        for run_id, running in displaced:  # before anything is awaited: nobody else may withdraw them now
            own = self._runs.get(run_id) or (None if running else self._runs.take_early(run_id))
            if own is None:
                others.append(Displaced(run_id, running))
                if not running:
                    self._runs.displace(run_id, action)
            elif running or not own.withdrawn:
                own.cancel_requested = own.cancel_requested or action
                own.withdrawn = own.withdrawn or not running
                records[run_id] = own.asked_to_stop(running=running)
        if any(running for _, running in others):
            self._signals.announce()  # their owners have to be told
        for run_id, running in others:
            try:
                record = records[run_id] = await finish(partial(self._known, run_id), name="displaced")
            except (StorageError, UnknownRunError) as exc:  # the new run is let in all the same
                logger.warning("run %s has to make room, and cannot be read: %s", run_id, exc)
                continue
            if not running and run_id not in self._runs:  # its adoption takes longer to return than this read
                self._runs.take(record, ready=False, thread_status=ThreadStatus.idle)
        return [records[run_id] for run_id, _ in displaced if run_id in records]

    def _on_handover(self, handover: Handover) -> None:
        """Note that a run has ended in the log; called on the loop, before whoever wrote its end goes on."""
        ended = self._runs.get(handover.run_id)
        if ended is not None:
            ended.handover = handover
            # A run that this worker neither ran nor withdrew was no longer its own when it ended, as a look shows.
            ended.over = ended.claimed or ended.withdrawn
        if handover.next_run_id is None:
            return
        following = self._runs.get(handover.next_run_id)
        if following is None:
            if handover.next_owner == self.worker_id:  # whoever waits for its admission has not heard of it yet
                self._runs.give(handover.next_run_id, handover.thread_status)
            else:
                self._signals.announce()
            return
        following.ready, following.thread_status = True, handover.thread_status
        if ended is None and self._host is not None:
            self._host.on_ready(handover.next_run_id)

    def _spawn(self, own: OwnRun) -> None:
        self._own(self._promote(own), name=f"trackside-due-{own.record.run_id}")

    def _own(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _promote(self, own: OwnRun) -> None:
        record = own.record
        work = Promote(run_id=record.run_id, thread_id=record.thread_id, owner=self.worker_id, fates=self._runs.fates)
        try:
            admitted: Admitted | None = await self._writer.write(work)
        except StorageError as exc:
            logger.warning("run %s is due, but could not take its place: %s", record.run_id, exc)
            if self._runs.get(record.run_id) is own:
                again = datetime.now(UTC) + timedelta(seconds=self._lease / BEATS_PER_LEASE)
                self._runs.due_times.add(own, again)
            return
        if admitted is None or self._host is None:
            return
        if not own.ready:  # the end of another run may have made it ready since
            own.ready, own.thread_status = admitted.ready, admitted.thread_status
        if admitted.displaced:
            displaced = await self._displaced(record, admitted.displaced)
            self._host.on_displaced(displaced, CancelMode(record.multitask.value))
        if own.ready:
            self._host.on_ready(record.run_id)
