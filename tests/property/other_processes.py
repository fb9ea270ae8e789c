"""The other processes of a generated schedule: they end runs, cancel them, and leave theirs behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.contract.shared_ports import SharedCoordinator

from trackside.harness import LifecycleEventType, RunLifecycleEvent, RunRecord, RunSpec, RunStatus
from trackside.harness.errors import EventOrderError
from trackside.harness.ids import new_id
from trackside.harness.lifecycle import RunFold
from trackside.testing import VirtualClock

if TYPE_CHECKING:
    from tests.property.run_schedules import World

LOST = {"error": "its worker is lost", "title": "T", "completion_data": {"total_tokens": 7}}
"""What they say of a run that they ended."""


class OtherProcesses:
    """Other processes that share a world's coordinator and the log; the witness represents the log."""

    def __init__(self, world: World, *, durable: bool = False) -> None:
        self.coordinator = SharedCoordinator(durable=durable)
        self.ended: set[str] = set()
        """Runs that the other processes ended."""
        self.threads: set[str] = set()
        """The threads of these runs; what they remember may be newer than what is announced."""
        self._told: set[str] = set()
        self._world = world

    def refuse(self, event: RunLifecycleEvent) -> None:
        """The log takes nothing of a run that has ended (I5), and nobody who knows of the end offers it any event."""
        if event.run_id not in self.ended:
            return
        self._world.check(event.run_id not in self._told, f"I5: {event} of a run that is known to be lost")
        kind = event.event_type.value
        raise EventOrderError(run_id=event.run_id, event_type=kind, sequence=event.sequence, why="others ended it")

    async def end(self, run_id: str, *, tells: bool) -> None:
        """End a run whose process is presumed dead, and write that to the log, unless the log says more already."""
        witness = self._world.witness
        record = await self.coordinator.get(run_id)
        if record is None or run_id in witness.ends or (record.status is RunStatus.running) != (run_id in witness.runs):
            return
        self.ended.add(run_id)
        self.threads.add(record.thread_id)
        if tells:
            self._told.add(run_id)
        changes = await self.coordinator.end(run_id, tells=tells)
        self._write(record, LifecycleEventType.RUN_FAILED, LOST)
        for change in changes:
            says = {"previous": change.previous.value, "status": change.status.value}
            self._write(record, LifecycleEventType.THREAD_STATUS_UPDATED, says)

    async def tell(self) -> None:
        """Tell the manager of every run that they ended."""
        for run_id in self.ended - self._told:
            self._told.add(run_id)
            self.coordinator.host.on_lost(run_id)

    async def hold(self, run_id: str, seconds: float) -> None:
        """Hold a waiting run, so that nobody else can claim it, and then leave it to whoever can."""
        record = await self.coordinator.get(run_id)
        if record is not None and record.status is RunStatus.pending:
            self.coordinator.claimed_elsewhere.add(run_id)
            self._world.loop.call_later(seconds, self._let_go, run_id)

    def _let_go(self, run_id: str) -> None:
        self.coordinator.claimed_elsewhere.discard(run_id)
        run = self.coordinator._runs.get(run_id)
        if run is not None and run.claimable:
            self.coordinator.host.on_ready(run_id)

    async def cancel(self, run_id: str, action: str) -> None:
        """Ask for a run to stop, if that run still exists."""
        if run_id in self.coordinator._runs:
            self._world.stoppable.add(run_id)
            await self.coordinator.cancel(run_id, action)

    async def hand_over(self, temper: str, thread_id: str | None) -> None:
        """Go away, after letting in a run that waits."""
        record = RunRecord(
            run_id=new_id(),
            thread_id=thread_id or new_id(),
            agent=temper,
            status=RunStatus.pending,
            created_at=VirtualClock().now(),
        )
        await self.coordinator.hand_over(record, RunSpec(temper, temper))

    def _write(self, record: RunRecord, kind: LifecycleEventType, says: dict[str, Any]) -> None:
        witness = self._world.witness
        sequence = witness.runs.get(record.run_id, RunFold(record.run_id)).sequence + 1
        now = VirtualClock().now()
        witness.take(RunLifecycleEvent(new_id(), kind, record.run_id, record.thread_id, sequence, now, says))
