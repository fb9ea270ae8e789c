"""Who may run, and when, in the database: the port `RunCoordinator` for any number of processes on one store.

The log and the queue are one database, so most steps need no transaction of their own: the event that starts a run is
its claim, the event that ends it gives its thread to the next. What is left to write is the admission.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from msgspec.structs import replace

from trackside.app.storage._arguments import is_plain
from trackside.app.storage._coordination import (
    Admit,
    Admitted,
    Claim,
    Displaced,
    Fate,
    Fates,
    NoteStuck,
    Promote,
    RequestCancel,
    Settle,
    Withdraw,
)
from trackside.app.storage._encoding import json_text, time_text
from trackside.app.storage._heart import Heart
from trackside.app.storage._queue import Handover
from trackside.app.storage._readers import Readers
from trackside.app.storage._recovery import (
    Adopt,
    Adopted,
    Adoption,
    Leave,
    ListOwned,
    Owned,
    Reap,
    Reaped,
    Register,
    left_to_others,
)
from trackside.app.storage._run_records import RECORDS, record_of, start_of
from trackside.app.storage._signals import CommitSignals
from trackside.app.storage._tables import runs
from trackside.app.storage._writer import NoWriter, Writer
from trackside.app.storage.errors import StorageError
from trackside.harness import ports
from trackside.harness.admission import request_of
from trackside.harness.errors import ClosedError, PayloadError, TracksideError, UnknownRunError
from trackside.harness.ids import new_id
from trackside.harness.ports import Admission, IdempotencyKey, Release, RunHost, Settlement
from trackside.harness.steady import finish
from trackside.harness.types import (
    CancelAction,
    CancelMode,
    RunRecord,
    RunSpec,
    RunStatus,
    ThreadStatus,
)

logger = logging.getLogger("trackside.storage")

LEASE_SECONDS = 15.0
MIN_LEASE_SECONDS = 0.1
_BEATS_PER_LEASE = 3
_LEAST_PAUSE = 0.2  # seconds between two looks at what others did
_REST = 5  # times as long as a look took


@dataclass(slots=True, eq=False, kw_only=True)
class _Mine:
    """A run that this worker looks after, from its admission to its release."""

    record: RunRecord
    ready: bool
    thread_status: ThreadStatus
    claimed: bool = False
    withdrawn: bool = False
    cancel_requested: CancelAction | None = None
    handover: Handover | None = None
    over: bool = False
    """Its end is in the log."""
    timer: asyncio.TimerHandle | None = field(default=None)
    retry_id: str | None = None
    """As which run it goes on, should it have been shut down."""

    @property
    def is_in_line(self) -> bool:
        """Whether it waits for its thread, as far as is known here."""
        return not (self.claimed or self.withdrawn or self.over or self.timer or self.cancel_requested)


class StoredCoordinator:
    """Admission, claims and cancels for all processes that have this store open; see `ports.RunCoordinator`.

    It expects the events of its runs in the same store: bind a `StorageObserver(store)`, required, to the manager that
    uses it. A process that goes away without a word loses its lease, and whoever looks next ends its runs (I7).

    Steps are finished once begun, whoever is cancelled meanwhile: what is in the queue of the writer is written.

    With `hands_over`, runs that have not started when their process goes are another's to execute, and this one takes over
    those that others leave; without, they end with their process.
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
    ) -> None:
        self.durable = hands_over
        self.worker_id = new_id()
        """The name under which this process owns runs."""
        self._writer = writer
        self._readers = readers
        self._signals = signals
        self._lease = lease_seconds
        self._keeps_requests = keeps_requests
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._started_at = time_text(datetime.now(UTC))
        self._host: RunHost | None = None
        self._mine: dict[str, _Mine] = {}
        self._of_thread: dict[str, dict[str, _Mine]] = {}
        """The same, by thread, in the order of coming."""
        self._given: dict[str, ThreadStatus] = {}
        """Runs that got their thread before their admission here had returned, and the status of that."""
        self._fates: Fates = {}
        self._heart: Heart | None = None
        self._enrolling = asyncio.Lock()
        self._not_enrolled: StorageError | None = None
        """What the last try to be known as a worker failed with."""
        self._closed = False
        self._unfit: set[str] = set()
        self._nudge = asyncio.Event()
        self._upkeep: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        writer.on_handover.append(self._on_handover)

    def attach(self, host: RunHost) -> None:
        """Name the manager; from now on runs of workers that are gone are ended, and those that wait are taken over."""
        self._host = host
        self._upkeep = asyncio.create_task(self._keep_up(), name="trackside-coordinator")

    async def admit(
        self, record: RunRecord, *, spec: RunSpec | None = None, idempotency: IdempotencyKey | None = None
    ) -> Admission:
        """Let a run in, at the head of its thread or behind those that are there, in one transaction."""
        await self._enroll()
        request = None if spec is None else self._request_of(spec, record)
        work = Admit(
            run_id=record.run_id,
            thread_id=record.thread_id,
            owner=self.worker_id,
            start=start_of(record, request),
            multitask=record.multitask,
            due_at=None if record.due_at is None else time_text(record.due_at),
            portable=self.durable and request is not None,
            keeps_request=self._keeps_requests,
            idempotency=idempotency,
            fates=self._fates,
        )
        try:
            admitted: Admitted = await self._writer.write_to_the_end(work)
        except TracksideError:
            self._undecide(work.withdrawn)
            raise
        if admitted.existing is not None:
            existing = admitted.existing
            known = await finish(lambda: self._known(existing), name="existing")
            return Admission(record=known, ready=False, existing=True)
        mine = self._take(record, ready=admitted.ready, thread_status=admitted.thread_status)
        displaced = (
            await self._displaced(admitted.displaced, CancelAction(record.multitask.value))
            if admitted.displaced
            else ()
        )
        return Admission(record=record, ready=mine.ready, displaced=displaced)

    def _request_of(self, spec: RunSpec, record: RunRecord) -> str | None:
        """What was asked for, as JSON text; None if it need not be kept.

        Raises:
            PayloadError: it cannot be read, and another process would need it.
        """
        if not (self.durable or self._keeps_requests):
            return None
        try:
            return json_text(request_of(spec, record.agent))
        except PayloadError as exc:
            if self.durable:
                raise
            logger.warning("what was asked for is not kept of run %s: %s", record.run_id, exc)
            return None

    async def claim(self, run_id: str) -> ports.Claim | None:
        """Take the pending run at the head of its thread. The event that starts it makes that known to all others."""
        mine = self._mine.get(run_id)
        if mine is not None and (mine.claimed or mine.cancel_requested is not None):
            return None
        if mine is None or not mine.ready or self._fates.setdefault(run_id, "claimed") != "claimed":
            try:
                mine = await self._claim_stored(run_id)
            except StorageError as exc:  # as long as it is this worker's, the next look brings it back
                logger.warning("run %s could not be claimed: %s", run_id, exc)
                return None
            if mine is None:
                return None
        mine.claimed = True
        return ports.Claim(record=mine.record, thread_status=mine.thread_status)

    async def _claim_stored(self, run_id: str) -> _Mine | None:
        record = await self.get(run_id)
        if record is None:
            return None
        work = Claim(run_id=run_id, thread_id=record.thread_id, owner=self.worker_id, fates=self._fates)
        await self._enroll()
        thread_status = None
        try:
            thread_status = await self._writer.write_to_the_end(work)
        finally:
            if work.decided and thread_status is None:
                self._undecide([run_id], "claimed")
        if thread_status is None:
            return None
        return self._take(record, ready=True, thread_status=thread_status)

    async def withdraw(self, run_id: str) -> bool:
        """Take a pending run of this worker out of the queue; True for exactly one caller."""
        mine = self._mine.get(run_id)
        if mine is None or mine.claimed or mine.withdrawn:
            return False
        if self._fates.setdefault(run_id, "withdrawn") == "claimed":
            return False
        work = Withdraw(run_id=run_id, thread_id=mine.record.thread_id, owner=self.worker_id)
        try:
            withdrawn = await self._writer.write_to_the_end(work)
        except TracksideError:
            self._undecide([run_id])
            raise
        if not withdrawn or mine.withdrawn:
            return False
        mine.withdrawn = True
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
        """What the end of a run means for its thread. How it ended, its terminal event tells."""
        mine = self._held(run_id)
        if mine.claimed and at_rest is None and not shut_down and self._another_waits(mine):
            # Nothing is to be asked or written. If that one leaves meanwhile, the thread's rest is announced later.
            return Settlement(ThreadStatus.busy, ThreadStatus.busy)
        if shut_down and mine.retry_id is None:
            mine.retry_id = new_id()
        work = Settle(
            run_id=run_id,
            thread_id=mine.record.thread_id,
            owner=self.worker_id,
            status=status,
            at_rest=at_rest,
            retried_as=mine.retry_id,
        )
        settlement: Settlement = await self._writer.write_to_the_end(work)
        return settlement

    async def release(self, run_id: str, announced: ThreadStatus) -> Release:
        """Learn who has the thread now. The event that ended the run has given it away already."""
        mine = self._held(run_id)
        handover, mine.handover = mine.handover, None
        if handover is None:  # or the reply to its commit was lost, and then the next run is to be looked for
            logger.warning("it is not known yet that the end of run %s is in the log: its thread may stay held", run_id)
            self._nudge.set()
            self._forget(run_id)
            return Release()
        if handover.at_rest is not None:
            return Release(settlement=Settlement(previous=announced, status=handover.at_rest))
        self._forget(run_id)
        return Release(next_run_id=handover.next_run_id if handover.next_owner == self.worker_id else None)

    async def request_cancel(self, run_id: str, action: CancelAction) -> RunRecord:
        """Record that a run should stop; one that waits in another process ends at once."""
        mine = self._mine.get(run_id)
        thread_id = (await self._known(run_id)).thread_id if mine is None else mine.record.thread_id
        work = RequestCancel(run_id=run_id, thread_id=thread_id, owner=self.worker_id, action=action)
        await self._writer.write_to_the_end(work)
        if mine is None:
            self._signals.announce()
        else:  # not before: a cancel that could not be stored must not keep the run from being claimed
            mine.cancel_requested = mine.cancel_requested or action
        return await self._known(run_id)

    async def note_stuck(self, run_id: str, since: datetime) -> None:
        """Record since when a run of this worker has been cancelled and does not stop."""
        mine = self._mine.get(run_id)
        if mine is not None:
            thread_id = mine.record.thread_id
            work = NoteStuck(run_id=run_id, thread_id=thread_id, owner=self.worker_id, since=time_text(since))
            await self._writer.write_to_the_end(work)

    async def get(self, run_id: str) -> RunRecord | None:
        """What is known about a run."""
        if not is_plain(run_id):  # no run can have such an id
            return None
        query = RECORDS.where(runs.c.run_id == run_id)
        return await self._readers.first(query, record_of)

    async def aclose(self) -> None:
        """Stop looking after runs: those that have not started wait for another worker. May be called again."""
        if self._closed:
            return
        self._closed = True
        tasks = [*self._tasks, *([self._upkeep] if self._upkeep is not None else ())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._signals.stop_listening(self._nudge.set)
        for mine in self._mine.values():
            if mine.timer is not None:
                mine.timer.cancel()
        if self._heart is not None:
            self._heart.stop()
            try:
                await self._writer.write_to_the_end(Leave(worker_id=self.worker_id))
                self._signals.announce()  # what waits is another's to take over
            except StorageError as exc:  # the next one to look finds that this worker is gone
                logger.info("worker %s could not sign off: %s", self.worker_id, exc)

    async def _known(self, run_id: str) -> RunRecord:
        record = await self.get(run_id)
        if record is None:
            raise UnknownRunError(run_id=run_id)
        return record

    def _held(self, run_id: str) -> _Mine:
        mine = self._mine.get(run_id)
        if mine is None:
            raise UnknownRunError(run_id=run_id)
        return mine

    def _take(self, record: RunRecord, *, ready: bool, thread_status: ThreadStatus) -> _Mine:
        mine = self._mine.get(record.run_id)
        if mine is None:
            if (given := self._given.pop(record.run_id, None)) is not None:
                ready, thread_status = True, given
            mine = self._mine[record.run_id] = _Mine(record=record, ready=ready, thread_status=thread_status)
            self._of_thread.setdefault(record.thread_id, {})[record.run_id] = mine
            self._arm(mine)
        else:
            mine.ready, mine.thread_status = ready, thread_status
        return mine

    def _forget(self, run_id: str) -> None:
        mine = self._mine.pop(run_id, None)
        self._fates.pop(run_id, None)
        if mine is None:
            return
        of_thread = self._of_thread[mine.record.thread_id]
        del of_thread[run_id]
        if not of_thread:
            del self._of_thread[mine.record.thread_id]
        if mine.timer is not None:
            mine.timer.cancel()

    def _another_waits(self, mine: _Mine) -> bool:
        return any(other.is_in_line for other in self._of_thread[mine.record.thread_id].values() if other is not mine)

    def _undecide(self, run_ids: Collection[str], fate: Fate = "withdrawn") -> None:
        for run_id in run_ids:
            if self._fates.get(run_id) == fate:
                del self._fates[run_id]

    async def _displaced(self, displaced: Sequence[Displaced], action: CancelAction) -> list[RunRecord]:
        """The records of runs that have to make room."""
        own = [(mine, running) for run_id, running in displaced if (mine := self._mine.get(run_id)) is not None]
        for mine, running in own:  # before anything is awaited: nobody else may withdraw them now
            mine.cancel_requested = mine.cancel_requested or action
            mine.withdrawn = mine.withdrawn or not running
        records = {
            mine.record.run_id: replace(
                mine.record,
                status=RunStatus.running if running else RunStatus.pending,
                cancel_requested=mine.cancel_requested,
            )
            for mine, running in own
        }
        others = [run_id for run_id, _ in displaced if run_id not in records]
        if others:
            self._signals.announce()  # their owners have to be told
        for run_id in others:
            records[run_id] = await finish(partial(self._known, run_id), name="displaced")
        return [records[run_id] for run_id, _ in displaced]

    def _on_handover(self, handover: Handover) -> None:
        """A run has ended in the log; called on the loop, before whoever wrote its end goes on."""
        ended = self._mine.get(handover.run_id)
        if ended is not None:
            ended.handover = handover
            # What ends here though its worker neither runs it nor took it out was not its own any more, as a look tells.
            ended.over = ended.claimed or ended.withdrawn
        if handover.next_run_id is None:
            return
        following = self._mine.get(handover.next_run_id)
        if following is None:
            if handover.next_owner == self.worker_id:  # whoever waits for its admission has not heard of that yet
                self._given[handover.next_run_id] = handover.thread_status
            else:
                self._signals.announce()
            return
        following.ready, following.thread_status = True, handover.thread_status
        if ended is None and self._host is not None:
            self._host.on_ready(handover.next_run_id)

    def _arm(self, mine: _Mine) -> None:
        """See to it that a delayed run takes its place when it is due."""
        due_at = mine.record.due_at
        if due_at is not None and not mine.ready:
            seconds = max(0.0, (due_at - datetime.now(UTC)).total_seconds())
            loop = asyncio.get_running_loop()
            mine.timer = loop.call_later(seconds, self._spawn, mine)

    def _spawn(self, mine: _Mine) -> None:
        self._own(self._promote(mine), name=f"trackside-due-{mine.record.run_id}")

    def _own(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _promote(self, mine: _Mine) -> None:
        record = mine.record
        work = Promote(run_id=record.run_id, thread_id=record.thread_id, owner=self.worker_id, fates=self._fates)
        try:
            admitted: Admitted | None = await self._writer.write(work)
        except StorageError as exc:
            self._undecide(work.withdrawn)
            logger.warning("run %s is due, but could not take its place: %s", record.run_id, exc)
            mine.timer = asyncio.get_running_loop().call_later(self._lease / _BEATS_PER_LEASE, self._spawn, mine)
            return
        if admitted is None or self._host is None:
            return
        if not mine.ready:  # which another's end may have made it since
            mine.ready, mine.thread_status = admitted.ready, admitted.thread_status
        if admitted.displaced:
            displaced = await self._displaced(admitted.displaced, CancelAction(record.multitask.value))
            self._host.on_displaced(displaced, CancelMode(record.multitask.value))
        if mine.ready:
            self._host.on_ready(record.run_id)

    async def _enroll(self) -> None:
        """Be a worker: what is admitted is looked after by somebody who is known to be alive.

        Who comes while another tries hears how that went, instead of waiting as long once more.
        """
        before = self._not_enrolled
        async with self._enrolling:
            if self._heart is not None:
                return
            if (failure := self._not_enrolled) is not None and failure is not before:
                raise type(failure)(**failure.details) from failure
            try:
                await self._writer.write(self._registration())
            except StorageError as exc:
                self._not_enrolled = exc
                raise
            self._heart = Heart(self._beat, every=self._lease / _BEATS_PER_LEASE)
            self._signals.listen(self._nudge.set)

    def _registration(self) -> Register:
        return Register(
            worker_id=self.worker_id,
            name=self._name,
            started_at=self._started_at,
            lease_seconds=self._lease,
        )

    def _beat(self) -> None:
        """Renew the lease: from a thread of its own, so that an agent that blocks the loop is not taken for dead."""
        with contextlib.suppress(ClosedError):
            self._writer.put(self._registration())

    async def _keep_up(self) -> None:
        """End what was left behind, take over what waits, and hear what other processes want of runs that are here."""
        period = self._lease / _BEATS_PER_LEASE
        next_round = 0.0
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._enroll()
                if began >= next_round:
                    next_round = began + period
                    await self._clear_up()
                elif await self._is_left():
                    await self._take_over()
                began = loop.time()
                await self._look()
            except StorageError as exc:
                logger.warning("the queue of runs cannot be looked after: %s", exc)
            except Exception:  # whatever it is, runs of others would wait for ever if this ended
                logger.exception("the queue of runs cannot be looked after")
            # What this process commits is hinted at, too, and who has thousands of runs waiting has much to look at. A look
            # that waited for a database that was away is no reason to leave the next one for long.
            await asyncio.sleep(max(_LEAST_PAUSE, min(period, _REST * (loop.time() - began))))
            try:
                async with asyncio.timeout(max(0.0, next_round - loop.time())):
                    await self._nudge.wait()
            except TimeoutError:
                pass
            self._nudge.clear()

    async def _clear_up(self) -> None:
        is_all = False
        while not is_all:  # a part in each transaction, so that nobody waits long
            reaped: Reaped = await self._writer.write(Reap(reaper=self.worker_id, known=self._mine.keys()))
            for run_id in reaped.ended:
                retried_as = reaped.retries.get(run_id)
                goes_on = "" if retried_as is None else f"; it is started anew as run {retried_as}"
                logger.warning("run %s was ended: its worker is lost%s", run_id, goes_on)
            is_all = reaped.is_all
        await self._take_over()

    async def _is_left(self) -> bool:
        """Whether runs wait that this worker could take over: another has closed, and said so with its commit."""
        host = self._host
        if host is None or not host.agents or not self.durable:
            return False
        query = left_to_others([*host.agents], [*self._unfit])
        return await self._readers.first(query, lambda row: row) is not None

    async def _take_over(self) -> None:
        host = self._host
        is_all = host is None or not host.agents or not self.durable
        while host is not None and not is_all:
            adopt = Adopt(owner=self.worker_id, agents=[*host.agents], unfit=[*self._unfit])
            adoption: Adoption = await self._writer.write(adopt)
            for adopted in adoption.adopted:  # all at once: whoever makes one of them leave has to find it here
                self._adopt(host, adopted)
            for run_id, why in adoption.unfit.items():
                logger.warning("run %s waits for another version of Trackside: %s", run_id, why)
            self._unfit.update(adoption.unfit)
            is_all = adoption.is_all

    def _adopt(self, host: RunHost, adopted: Adopted) -> None:
        record = adopted.record
        known = self._mine.get(record.run_id)
        if known is not None:  # taken from this worker, which was thought to be dead, and given back
            known.ready, known.thread_status = adopted.ready, adopted.thread_status
            return
        mine = self._take(record, ready=adopted.ready, thread_status=adopted.thread_status)
        try:
            host.on_adopted(record, adopted.spec, ready=mine.ready)
        except Exception:  # the host's failure; the others of the round are this worker's now, too
            logger.exception("run %s was taken over, but waits for this process to end", record.run_id)

    async def _look(self) -> None:
        """Compare what this worker thinks is its own with what the database says."""
        host = self._host
        before = {run_id: mine for run_id, mine in self._mine.items() if not mine.over}
        if host is None or not before:
            return
        owned = {run.run_id: run for run in await self._writer.write(ListOwned(owner=self.worker_id))}
        for run_id, mine in before.items():
            if self._mine.get(run_id) is not mine or mine.over:
                continue
            if run_id not in owned:
                self._forget(run_id)
                host.on_lost(run_id)
            else:
                self._hear(host, mine, owned[run_id])

    def _hear(self, host: RunHost, mine: _Mine, said: Owned) -> None:
        run_id = mine.record.run_id
        if said.cancel_requested is not None and mine.cancel_requested is None:
            mine.cancel_requested = said.cancel_requested
            host.on_cancel(run_id, said.cancel_requested)
        elif said.ready and not mine.claimed and not mine.withdrawn:
            mine.ready, mine.thread_status = True, said.thread_status
            host.on_ready(run_id)
