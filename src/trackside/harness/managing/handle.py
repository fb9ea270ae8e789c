"""What the caller that starts a run gets: a handle on it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from typing import Protocol

from trackside.harness.managing.execution import Executions
from trackside.harness.managing.outcome import Outcome
from trackside.harness.observer import RunResult
from trackside.harness.ports import StreamGap, StreamPart
from trackside.harness.types import CancelAction, RunRecord


class Manager(Protocol):
    """What a handle passes calls on to: see `RunManager`, whose methods these are."""

    def stream(
        self, run_id: str, *, after: int | None = None, modes: Collection[str] | None = None
    ) -> AsyncGenerator[StreamPart | StreamGap]: ...

    async def cancel(
        self, run_id: str, *, action: CancelAction | str = CancelAction.interrupt, wait: bool = False
    ) -> RunRecord: ...


class RunHandle:
    """A run that was started: wait for it, watch it, cancel it."""

    __slots__ = ("_manager", "_outcome", "_runs", "existing", "record", "run_id", "thread_id")

    def __init__(
        self, manager: Manager, runs: Executions, record: RunRecord, outcome: Outcome, *, existing: bool = False
    ) -> None:
        self.run_id = record.run_id
        self.thread_id = record.thread_id
        self.record = record
        """What was known about the run when it was let in; `RunManager.get` knows what is known now."""
        self.existing = existing
        """Whether it was there before, under the same idempotency key."""
        self._manager = manager
        self._runs = runs
        self._outcome = outcome

    async def result(self) -> RunResult:
        """How the run ended, once its end is durable and its thread free. Cancelling the wait leaves the run alone.

        Raises:
            NoResultHereError: another process executes the run, or it waits for one: `RunManager.get` knows how it ends.
            WaitsForItselfError: it is called by this run itself, or by one that has to end before this one can.
        """
        return await self._runs.waits.result_of(self.record, self._outcome)

    def stream(
        self, *, after: int | None = None, modes: Collection[str] | None = None
    ) -> AsyncGenerator[StreamPart | StreamGap]:
        """The run's live output, from the part after `after`, to the end; raises as `RunManager.stream`."""
        return self._manager.stream(self.run_id, after=after, modes=modes)

    async def cancel(self, *, action: CancelAction | str = CancelAction.interrupt, wait: bool = False) -> RunRecord:
        """Ask the run to stop; see `RunManager.cancel`."""
        return await self._manager.cancel(self.run_id, action=action, wait=wait)
