"""When the process of a run has to be ended, because the run does not stop. Pure, over what the database says of runs, and
what processes say of themselves.

Times are those of the supervisor's own clock, from when it saw something first: no clock that is set ends a run too early.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trackside.app.engine.children import ChildStats, Verdict
from trackside.app.storage.fleet import HeldRun
from trackside.harness.ending import StopPolicy
from trackside.harness.types import CancelAction, FailureReason


@dataclass(slots=True, eq=False)
class _Watched:
    """A run that is executed: when it was seen first, and when somebody was seen to want it to stop."""

    since: float
    cancelled_at: float | None = None
    is_known: bool = False
    """Whether its process has said that it executes it."""


class Overdue:
    """Knows which runs should have stopped.

    Args:
        policy: how agents are stopped.
        timeout_of: seconds that a run of an agent may take, unless it was asked for with others.
    """

    def __init__(self, policy: StopPolicy, timeout_of: Callable[[str], float | None]) -> None:
        self._grace = policy.cancel_after + policy.stuck_after
        self._timeout_of = timeout_of
        self._watched: dict[str, _Watched] = {}

    def judge(self, held: Sequence[HeldRun], said: Mapping[str, ChildStats], now: float) -> dict[str, Verdict]:
        """Take in which runs there are now, and what their workers' processes say; which of these have to be ended, and why.

        A run whose agent has come to its end in time is told of when the database takes that, however late.
        """
        self._watched = {run.run_id: self._watched.get(run.run_id) or _Watched(now) for run in held}
        verdicts: dict[str, Verdict] = {}
        for run in held:
            watched = self._watched[run.run_id]
            if run.cancel_requested is not None and watched.cancelled_at is None:
                watched.cancelled_at = now
            executed = said[run.worker_id].runs
            watched.is_known = watched.is_known or run.run_id in executed
            if watched.is_known and run.run_id not in executed:
                continue  # it is over there: what is left of it lies in the spool
            verdict = self._verdict(run, watched, now, has_ended=executed.get(run.run_id, False))
            if verdict is not None:
                verdicts.setdefault(run.worker_id, verdict)
        return verdicts

    def _verdict(self, run: HeldRun, watched: _Watched, now: float, *, has_ended: bool) -> Verdict | None:
        timeout = None if has_ended else run.timeout
        if timeout is None and run.agent is not None and not has_ended:
            timeout = self._timeout_of(run.agent)
        timed_out_at = None if timeout is None or watched.since + timeout > now else watched.since + timeout
        stops = [at for at in (watched.cancelled_at, timed_out_at) if at is not None]
        if not run.is_stuck and (not stops or now < min(stops) + self._grace):
            return None
        why = f"the agent's process was ended, because run {run.run_id} did not stop when it was told to"
        if timed_out_at is not None and timed_out_at == min(stops):
            told = (
                f"the run took longer than its timeout of {timeout:g} s, and did not stop then; its process was ended"
            )
            return Verdict(why=why, timed_out={run.run_id: told})
        if watched.cancelled_at is not None:
            told = "the agent did not stop, and its process was ended"
            if run.cancel_requested is CancelAction.rollback:
                told += "; what its graph had stored could not be rolled back"
            return Verdict(why=why, stopped={run.run_id: told})
        return Verdict(why=why, failure=FailureReason.stuck)
