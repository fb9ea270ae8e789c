"""Several coordinators that share one truth in memory: a fast base for the mutants of shared and durable coordinators.

`MemoryCoordinator` has the rules of the queue; this module adds who owns which run, and who has to be told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from trackside.harness.ids import new_id
from trackside.harness.lifecycle import is_terminal, thread_status_of
from trackside.harness.memory import MemoryCoordinator
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.ports import Admission, Claim, IdempotencyKey, Release, RunCoordinator, RunHost, Settlement
from trackside.harness.types import (
    CancelAction,
    CancelMode,
    LifecycleEventType,
    RunRecord,
    RunSpec,
    RunStatus,
    ThreadStatus,
)
from trackside.testing import Coordinators, VirtualClock


class Truth:
    """What all members of a fleet see: the queue, the log, and the owners of the runs. It is also the queue's host."""

    agents = ()

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.queue = MemoryCoordinator(clock=self.clock)
        self.queue.attach(self)
        self.members: list[FleetMember] = []
        self.owners: dict[str, FleetMember | None] = {}
        self.specs: dict[str, tuple[RunRecord, RunSpec]] = {}
        self.admissions: dict[str, Admission] = {}
        self.ready: set[str] = set()
        self.retries: dict[str, str] = {}
        self.log: list[RunLifecycleEvent] = []

    def on_ready(self, run_id: str) -> None:
        self.ready.add(run_id)
        if (owner := self.owners[run_id]) is not None:
            owner.host.on_ready(run_id)

    def on_displaced(self, displaced: Sequence[RunRecord], mode: CancelMode) -> None:
        for record in displaced:
            if (owner := self.owners[record.run_id]) is not None:
                owner.host.on_displaced([record], mode)

    def on_cancel(self, run_id: str, action: CancelAction) -> None: ...
    def on_lost(self, run_id: str) -> None: ...
    def on_adopted(self, record: RunRecord, spec: RunSpec, *, ready: bool) -> None: ...

    async def abandon(self, gone: FleetMember) -> None:
        """A member has gone: end what it was running or had withdrawn, and let others have what waits."""
        self.members.remove(gone)
        for run_id in [run_id for run_id, owner in self.owners.items() if owner is gone and run_id in self.queue._runs]:
            self.owners[run_id] = None
            if (announced := self.announced(run_id)) is not None:
                await self.give_back(run_id, announced)
            elif self.is_lost(run_id):
                await self.lose(self.queue._runs[run_id].snapshot())
        for member in self.members:
            self.adopt(member)

    def announced(self, run_id: str) -> ThreadStatus | None:
        """The thread status announced for a run whose end is in the log, or None if its end is not."""
        told = [event for event in self.log if event.run_id == run_id]
        if not any(is_terminal(event.event_type) for event in told):
            return None
        statuses = [thread_status_of(event.event_type, event.payload) for event in told]
        return next((status for status in reversed(statuses) if status is not None), ThreadStatus.idle)

    def is_lost(self, run_id: str) -> bool:
        """Whether only a member that has gone could have taken this run to its end."""
        run = self.queue._runs[run_id]
        return run.status is RunStatus.running or run.withdrawn

    async def give_back(self, run_id: str, announced: ThreadStatus) -> None:
        await self.start_anew(run_id)
        release = await self.queue.release(run_id, announced)
        if release.next_run_id is not None:
            self.on_ready(release.next_run_id)

    async def lose(self, record: RunRecord) -> None:
        await self.queue.settle(record.run_id, RunStatus.error, error="its worker is lost")
        retried_as = self.next_attempt(record)
        self.log.append(self.end_of(record, retried_as))
        await self.give_back(record.run_id, ThreadStatus.error if retried_as is None else ThreadStatus.busy)

    def next_attempt(self, record: RunRecord) -> str | None:
        """The id of the run that continues one whose process has gone, or None if there is to be none."""
        asked, spec = self.specs[record.run_id]
        if record.cancel_requested is not None or asked.attempt >= (spec.max_attempts or 1):
            return None
        return self.retries.setdefault(record.run_id, new_id())

    async def start_anew(self, ended: str) -> None:
        """Let in the run that continues one whose end is in the log, ahead of all that wait."""
        run_id = self.retries.get(ended)
        if run_id is None or run_id in self.specs:
            return
        asked, spec = self.specs[ended]
        more: Any = {"run_id": run_id, "attempt": asked.attempt + 1, "retry_of": ended}
        record = msgspec.structs.replace(asked, created_at=self.clock.now(), **more)
        self.owners[run_id], self.specs[run_id] = None, (record, replace(spec, **more))
        await self.queue.admit(record)
        line = self.queue._threads[asked.thread_id].queue
        assert line is not None
        line.rotate(1)

    def end_of(self, record: RunRecord, retried_as: str | None = None) -> RunLifecycleEvent:
        sequence = 1 + sum(event.run_id == record.run_id for event in self.log)
        says = {"status": "error", "error_type": "worker_lost"}
        if retried_as is not None:
            says["retried_as"] = retried_as
        kind = LifecycleEventType.RUN_FAILED
        return RunLifecycleEvent(new_id(), kind, record.run_id, record.thread_id, sequence, self.clock.now(), says)

    def adopt(self, member: FleetMember) -> None:
        for run_id in self.orphans(member):
            self.owners[run_id] = member
            record, spec = self.specs[run_id]
            member.host.on_adopted(record, spec, ready=run_id in self.ready)

    def orphans(self, member: FleetMember) -> list[str]:
        """The runs that this member can take over."""
        active = [run_id for run_id, owner in self.owners.items() if owner is None and run_id in self.queue._runs]
        return [run_id for run_id in active if self.specs[run_id][0].agent in member.host.agents]


class FleetMember:
    durable = True

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.host: Any = None

    def attach(self, host: RunHost) -> None:
        self.host = host
        self.truth.members.append(self)
        self.truth.adopt(self)

    async def admit(
        self, record: RunRecord, *, spec: RunSpec | None = None, idempotency: IdempotencyKey | None = None
    ) -> Admission:
        truth = self.truth
        if (known := self.admitted(record)) is not None:
            return known
        admission = await truth.queue.admit(record, spec=spec, idempotency=idempotency)
        if not admission.existing:
            assert spec is not None
            truth.owners[record.run_id], truth.specs[record.run_id] = self, (record, spec)
            truth.admissions[record.run_id] = admission
            if admission.ready:
                truth.ready.add(record.run_id)
            for displaced in admission.displaced:
                self.tell_of_cancel(displaced.run_id, CancelAction(record.multitask.value))
        await asyncio.sleep(0)  # the reply can be lost here
        return admission

    def admitted(self, record: RunRecord) -> Admission | None:
        """The answer given when the same caller had this run let in before."""
        known = self.truth.admissions.get(record.run_id)
        return known if known is not None and known.record == record else None

    def tell_of_cancel(self, run_id: str, action: CancelAction) -> None:
        owner = self.truth.owners.get(run_id)
        if owner is not None and owner is not self:
            owner.host.on_cancel(run_id, action)

    def owns(self, run_id: str) -> bool:
        return self.truth.owners.get(run_id) is self

    async def claim(self, run_id: str) -> Claim | None:
        return await self.truth.queue.claim(run_id) if self.owns(run_id) else None

    async def withdraw(self, run_id: str) -> bool:
        return self.owns(run_id) and await self.truth.queue.withdraw(run_id)

    async def settle(self, run_id: str, status: RunStatus, *, shut_down: bool = False, **said: Any) -> Settlement:
        settlement = await self.truth.queue.settle(run_id, status, **said)
        record = await self.truth.queue.get(run_id)
        if not shut_down or record is None or (retried_as := self.truth.next_attempt(record)) is None:
            return settlement
        return settlement._replace(status=ThreadStatus.busy, retried_as=retried_as)

    async def release(self, run_id: str, announced: ThreadStatus) -> Release:
        await self.truth.start_anew(run_id)
        release = await self.truth.queue.release(run_id, announced)
        if release.next_run_id is None or self.owns(release.next_run_id):
            return release
        self.truth.on_ready(release.next_run_id)
        return Release()

    async def request_cancel(self, run_id: str, action: CancelAction) -> RunRecord:
        record = await self.truth.queue.request_cancel(run_id, action)
        self.tell_of_cancel(run_id, action)
        return record

    async def note_stuck(self, run_id: str, since: datetime) -> None:
        await self.truth.queue.note_stuck(run_id, since)

    async def get(self, run_id: str) -> RunRecord | None:
        return await self.truth.queue.get(run_id)


class MemoryFleet(Coordinators):
    def __init__(self, truth: Truth, kind: type[FleetMember]) -> None:
        super().__init__(self._open, clock=truth.clock)
        self.truth = truth
        self.kind = kind

    def _open(self) -> Any:
        return _Membership(self.truth, self.kind(self.truth))

    async def announce(self, coordinator: RunCoordinator, events: Sequence[RunLifecycleEvent]) -> None:
        self.truth.log.extend(events)

    async def kill(self, coordinator: RunCoordinator) -> None:
        assert isinstance(coordinator, FleetMember)
        await self.truth.abandon(coordinator)

    async def told(self, run_id: str) -> list[RunLifecycleEvent]:
        return [event for event in self.truth.log if event.run_id == run_id]


class _Membership:
    """A membership: on leaving, the member gives back what it has, unless it has already gone."""

    def __init__(self, truth: Truth, member: FleetMember) -> None:
        self.truth = truth
        self.member = member

    async def __aenter__(self) -> FleetMember:
        return self.member

    async def __aexit__(self, *exc: object) -> None:
        if self.member in self.truth.members:
            await self.truth.abandon(self.member)
