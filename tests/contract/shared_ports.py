"""A coordinator that other processes also use, as far as one process can simulate it: methods do what the others do.

Also the log that all of them share: it takes nothing of a run that has ended.
"""

from __future__ import annotations

from typing import Any

from trackside.harness import RunLifecycleEvent, RunRecord, RunSpec, RunStatus
from trackside.harness.errors import EventOrderError
from trackside.harness.lifecycle import is_final
from trackside.harness.memory import MemoryCoordinator
from trackside.harness.ports import Claim, RunHost, Settlement
from trackside.harness.types import CancelAction
from trackside.testing import RecordingObserver


class SharedCoordinator(MemoryCoordinator):
    """A `MemoryCoordinator` in which other processes end, cancel and claim runs and hand over their own."""

    def __init__(self, *, durable: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.durable = durable  # type: ignore[misc]
        self.host: RunHost
        self.claimed_elsewhere: set[str] = set()
        self.claims: list[str] = []
        """Runs that this process has tried to claim."""

    def attach(self, host: RunHost) -> None:
        super().attach(host)
        self.host = host

    async def claim(self, run_id: str) -> Claim | None:
        self.claims.append(run_id)
        return None if run_id in self.claimed_elsewhere else await super().claim(run_id)

    async def end(self, run_id: str, error: str = "its worker is lost", *, tells: bool = True) -> list[Settlement]:
        """Another process ends a run, as a reaper does; without `tells` the run's host has yet to find out.

        Returns how that changes the thread's status.
        """
        await self.withdraw(run_id)
        settlement = await self.settle(
            run_id, RunStatus.error, error=error, title="T", completion_data={"total_tokens": 7}
        )
        changes = [settlement] if settlement.status is not settlement.previous else []
        while (release := await self.release(run_id, settlement.status)).settlement is not None:
            settlement = release.settlement
            changes.append(settlement)
        if tells:
            self.host.on_lost(run_id)
        if release.next_run_id is not None:
            self.host.on_ready(release.next_run_id)
        return changes

    async def cancel(self, run_id: str, action: str = "interrupt") -> None:
        """Another process asks for one of this process's runs to stop."""
        await self.request_cancel(run_id, CancelAction(action))
        self.host.on_cancel(run_id, CancelAction(action))

    async def hand_over(self, record: RunRecord, spec: RunSpec) -> None:
        """A process that had let a run in has gone."""
        admission = await self.admit(record, spec=spec)
        self.host.on_adopted(record, spec, ready=admission.ready)


class SharedLog(RecordingObserver):
    """Takes events, except those of a run that the coordinator knows to have ended."""

    def __init__(self, coordinator: SharedCoordinator) -> None:
        super().__init__()
        self._coordinator = coordinator
        self.refused: list[RunLifecycleEvent] = []

    async def on_event(self, event: RunLifecycleEvent) -> None:
        record = await self._coordinator.get(event.run_id)
        if record is not None and is_final(record.status):
            self.refused.append(event)
            kind, why = event.event_type.value, f"the run has ended ({record.status})"
            raise EventOrderError(run_id=event.run_id, event_type=kind, sequence=event.sequence, why=why)
        await super().on_event(event)
