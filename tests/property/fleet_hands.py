"""Processes of a fleet, as their coordinators see them: each does one step of a run at a time, as a manager would."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.property.queue_hands import ForgetfulSession

from trackside.app.storage import Store
from trackside.app.storage.fleet import FleetMember, QueueNews
from trackside.harness.errors import EventOrderError, TracksideError, UnknownRunError
from trackside.harness.ids import new_id
from trackside.harness.lifecycle import terminal_event_of
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.ports import Claim
from trackside.harness.types import (
    CancelAction,
    CancelMode,
    LifecycleEventType,
    MultitaskStrategy,
    RunRecord,
    RunSpec,
    RunStatus,
)

AGENT = "a"


@dataclass(eq=False)
class Taken:
    """A run that a hand has, how far the hand is with it, and whether it is to stop."""

    record: RunRecord
    claim: Claim | None = None
    sequence: int = 0
    stops: bool = False
    withdrawn: bool = False
    busy: bool = False

    def event(self, kind: LifecycleEventType, **payload: Any) -> RunLifecycleEvent:
        self.sequence += 1
        record = self.record
        now = datetime.now(UTC)
        return RunLifecycleEvent(new_id(), kind, record.run_id, record.thread_id, self.sequence, now, payload)

    def rest(self, status: str) -> RunLifecycleEvent:
        return self.event(LifecycleEventType.THREAD_STATUS_UPDATED, status=status)


@dataclass(eq=False)
class FleetHand:
    """A server or a worker."""

    store: Store
    version: str | None = None
    agents: Collection[str] = (AGENT,)
    has: dict[str, Taken] = field(default_factory=dict)
    announced: set[str] = field(default_factory=set)
    lost_replies: int = 0

    def __post_init__(self) -> None:
        fleet = FleetMember(
            kind="worker", pool_of=lambda _: "default", pools=("default",), version=self.version, agents=(AGENT,)
        )
        self.coordinator = self.store.coordinator(lease_seconds=3_600, fleet=fleet)
        # Attached, the coordinator would look after its runs whenever it likes.
        self.coordinator._host = self.coordinator._upkeep._host = self  # type: ignore[assignment]
        self.session: Any = ForgetfulSession(self.store._writer._session)  # type: ignore[union-attr]
        self.store._writer._session = self.session  # type: ignore[union-attr]
        self.store.fleet.on_news.append(self._note)

    def _note(self, news: QueueNews) -> None:
        self.announced.update(run.run_id for run in news.ready)

    def on_adopted(self, record: RunRecord, spec: RunSpec, *, ready: bool) -> None:
        assert ready
        assert record.run_id not in self.has
        self.has[record.run_id] = Taken(record)

    def on_ready(self, run_id: str) -> None:
        """Ignored: the hand tries the run anyway."""

    def on_displaced(self, displaced: Sequence[RunRecord], mode: CancelMode) -> None:
        for record in displaced:
            if record.run_id in self.has:
                self.has[record.run_id].stops = True
                self.has[record.run_id].withdrawn = record.status is RunStatus.pending

    def on_cancel(self, run_id: str, action: CancelAction) -> None:
        if run_id in self.has:
            self.has[run_id].stops = True

    def on_lost(self, run_id: str) -> None:
        self.has.pop(run_id, None)

    def lose_reply(self) -> None:
        """Lose the reply to the next commit."""
        self.session.loses_in = 1
        self.lost_replies += 1

    async def admit(self, thread_id: str, multitask: str, *, delayed: bool, attempts: int) -> str:
        now = datetime.now(UTC)
        record = RunRecord(
            run_id=new_id(),
            thread_id=thread_id,
            agent=AGENT,
            status=RunStatus.pending,
            created_at=now,
            multitask=MultitaskStrategy(multitask),
            due_at=now + timedelta(hours=1) if delayed else None,
        )
        admission = await self.coordinator.admit(record, spec=RunSpec(AGENT, "x", max_attempts=attempts))
        assert admission.elsewhere
        self.on_displaced(admission.displaced, CancelMode.interrupt)
        return record.run_id

    async def start(self, taken: Taken) -> None:
        """Claim a run and announce its start; forget the run if another hand has it by now."""
        run_id = taken.record.run_id
        claim = await self.coordinator.claim(run_id)
        if claim is None:
            return await self.give_up(taken)
        says = {"attempt": taken.record.attempt, "retry_of": taken.record.retry_of} if taken.record.retry_of else {}
        opening = [taken.event(LifecycleEventType.RUN_STARTED, agent=AGENT, metadata={}, **says)]
        if claim.thread_status != "busy":
            opening.append(taken.rest("busy"))
        try:
            await self.store.append(opening)
        except EventOrderError:
            return await self.give_up(taken)
        taken.claim = claim

    async def end(self, taken: Taken, status: RunStatus) -> None:
        """Announce how a run ends, and give its thread back."""
        run_id = taken.record.run_id
        status = RunStatus.cancelled if taken.stops else status
        try:
            settlement = await self.coordinator.settle(run_id, status)
            said = [taken.event(terminal_event_of(status), status=status.value, completion_data={})]
            if settlement.status is not settlement.previous:
                said.append(taken.rest(settlement.status.value))
            await self.store.append(said)
            announced = settlement.status
            while (rest := (await self.coordinator.release(run_id, announced)).settlement) is not None:
                await self.store.append([taken.rest(rest.status.value)])
                announced = rest.status
        except (EventOrderError, UnknownRunError):
            return await self.give_up(taken)
        self.has.pop(run_id, None)

    async def give_up(self, taken: Taken) -> None:
        """Others have ended a run, or another hand has it: the next look says so."""
        self.has.pop(taken.record.run_id, None)
        self.coordinator._runs.forget(taken.record.run_id)

    async def go_on(self, status: RunStatus) -> None:
        """Take the next step with the run that this hand has had for longest."""
        # A run that one step is working on is not for others.
        for taken in [each for each in self.has.values() if not each.busy][:1]:
            taken.busy = True
            try:
                await self._go_on_with(taken, status)
            finally:
                taken.busy = False

    async def _go_on_with(self, taken: Taken, status: RunStatus) -> None:
        if taken.claim is None and taken.stops and not taken.withdrawn:
            taken.withdrawn = await self.coordinator.withdraw(taken.record.run_id)
        if taken.claim is None and not taken.withdrawn:
            await self.start(taken)
        else:
            await self.end(taken, status)

    async def look(self) -> None:
        await self.coordinator._upkeep.clear_up()
        await self.coordinator._upkeep.disown()
        await self.coordinator._upkeep.look()

    async def cancel(self, run_id: str) -> None:
        await self.coordinator.request_cancel(run_id, CancelAction.interrupt)
        self.on_cancel(run_id, CancelAction.interrupt)

    def die(self) -> None:
        """Go without a word."""
        if self.coordinator._enrolment._heart is not None:
            self.coordinator._enrolment._heart.stop()
        self.store._coordinators.clear()
        self.store._workers.clear()
        self.store._writer.on_handover.clear()
        self.store.fleet.on_news.clear()
        self.store._writer._session = self.session._session  # type: ignore[union-attr]


async def together(*steps: Any) -> list[Any]:
    """Take steps at the same time; a refusal is no mistake, anything else is."""
    outcomes = await asyncio.gather(*steps, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, TracksideError):
            raise outcome
    return outcomes
