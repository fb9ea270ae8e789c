"""What a coordinator tells its manager about runs when others act on them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from trackside.harness.managing.execution import Execution, Executions
from trackside.harness.running.ending import Stop
from trackside.harness.types import CancelAction, CancelMode, RunRecord, RunSpec, RunStatus


class Host:
    """A manager as its coordinator sees it (`ports.RunHost`).

    Args:
        runs: the manager's runs.
        served: gives the names of the agents whose runs the manager takes over; none when it closes.
        adopt: makes a run of another process one of the manager's; None if it cannot.
    """

    __slots__ = ("_adopt", "_runs", "_served")

    def __init__(
        self,
        runs: Executions,
        served: Callable[[], Collection[str]],
        adopt: Callable[[RunRecord, RunSpec], Execution | None],
    ) -> None:
        self._runs = runs
        self._served = served
        self._adopt = adopt

    @property
    def agents(self) -> Collection[str]:
        return self._served()

    def on_ready(self, run_id: str) -> None:
        self._runs.schedule_next(run_id)

    def on_displaced(self, displaced: Sequence[RunRecord], mode: CancelMode) -> None:
        for run in displaced:
            self._runs.displace(run, mode)

    def on_cancel(self, run_id: str, action: CancelAction) -> None:
        if (execution := self._runs.get(run_id)) is not None:
            self._runs.stop_soon(execution, asked_for(action))

    def on_lost(self, run_id: str) -> None:
        if (execution := self._runs.get(run_id)) is not None:
            self._runs.lose(execution)

    def on_adopted(self, record: RunRecord, spec: RunSpec, *, ready: bool) -> bool:
        execution = self._adopt(record, spec)
        if execution is not None and ready:
            self._runs.schedule(execution)
        return execution is not None


def asked_for(action: CancelAction) -> Stop:
    """The stop that a cancel asks for."""
    return Stop(RunStatus.cancelled, mode=CancelMode(action.value))
