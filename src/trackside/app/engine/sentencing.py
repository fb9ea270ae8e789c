"""When the process of a run has to be ended, because the run does not stop. Pure, over what the database says of runs,
and what processes say of themselves.

Times are by the supervisor's own clock, from when it first saw something: setting a clock ends no run too early.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from trackside.app.engine.children import ChildLimits, ChildStats, Verdict
from trackside.app.storage.fleet import HeldRun
from trackside.harness.running.ending import StopPolicy
from trackside.harness.types import AgentStanding, CancelAction, FailureReason


@dataclass(slots=True, eq=False)
class _Watched:
    """A run that is executed: when it was first seen, and when it was first seen that somebody wants it to stop."""

    since: float
    cancelled_at: float | None = None
    is_known: bool = False
    """Whether its process has said that it executes it."""


_LOADED: Final = 10.0
"""Extra seconds in which a process without a run has to be heard of, for a machine that is loaded."""


_LIMITS: Final = ChildLimits(grace=StopPolicy().cancel_after + StopPolicy().stuck_after)
"""The limits of a process that has said none."""


class Overdue:
    """Knows which runs should have stopped.

    Args:
        lease: seconds within which a process hears that a run is no longer its own.
    """

    def __init__(self, *, lease: float) -> None:
        self._lease = lease
        self._watched: dict[str, _Watched] = {}
        self._lost: dict[tuple[str, str], float] = {}
        """Runs that no longer belong to the processes that execute them, and when that was first seen."""

    def judge(
        self, held: Sequence[HeldRun], said: Mapping[str, ChildStats], now: float, *, unheard: Mapping[str, float]
    ) -> dict[str, Verdict]:
        """Take in the runs there are, and what their workers' processes say; returns which processes to end, and why.

        The end of a run whose agent has finished in time is told when the database takes it, however late. A run that
        was lost is no longer its process's, and can neither be cancelled nor time out there: its agent has to stop. If
        that has, the run may have ended in the database, and observers be told of it. And a process that has no run has
        no reason to be silent: `unheard` says for how many seconds it has been.
        """
        at_it = {
            (of, run_id)
            for of, stats in said.items()
            for run_id, standing in stats.runs.items()
            if standing is AgentStanding.goes_on
        }
        lost = at_it - {(run.worker_id, run.run_id) for run in held}
        self._lost = {one: self._lost.get(one, now) for one in lost}
        self._watched = {run.run_id: self._watched.get(run.run_id) or _Watched(now) for run in held}
        verdicts: dict[str, Verdict] = {}
        for run in held:
            watched = self._watched[run.run_id]
            if run.cancel_requested is not None and watched.cancelled_at is None:
                watched.cancelled_at = now
            stats = said[run.worker_id]
            executed = stats.runs
            watched.is_known = watched.is_known or run.run_id in executed
            if watched.is_known and run.run_id not in executed:
                continue  # it is over there: what is left of it lies in the spool
            has_ended = executed.get(run.run_id) is AgentStanding.finished
            verdict = _verdict(run, watched, now, stats.limits or _LIMITS, has_ended=has_ended)
            if verdict is not None:
                verdicts.setdefault(run.worker_id, verdict)
        have_runs = {run.worker_id for run in held}
        for worker_id in said.keys() - have_runs:
            grace = (said[worker_id].limits or _LIMITS).grace
            if (why := self._why_useless(worker_id, unheard[worker_id], now, grace)) is not None:
                verdicts[worker_id] = Verdict(why=f"the agent's process was ended, because {why}")
        return verdicts

    def _why_useless(self, worker_id: str, unheard: float, now: float, grace: float) -> str | None:
        """Why a process that has no run, by what the database says, takes none any more; None if it does."""
        patience = self._lease + grace + _LOADED
        lost = [run_id for (of, run_id), at in self._lost.items() if of == worker_id and now >= at + patience]
        if lost:
            return f"run {lost[0]}, which it no longer owned, did not stop"
        if unheard >= patience:
            return f"something blocked its event loop, {unheard:g} s by now, and it had no run"
        return None


def _verdict(run: HeldRun, watched: _Watched, now: float, limits: ChildLimits, *, has_ended: bool) -> Verdict | None:
    timeout = run.timeout
    if timeout is None and run.agent is not None:
        timeout = limits.timeout_of(run.agent)
    over_at = None if has_ended or timeout is None else watched.since + timeout
    timed_out_at = over_at if over_at is not None and over_at <= now else None
    stops = [at for at in (watched.cancelled_at, timed_out_at) if at is not None]
    if not run.is_stuck and (not stops or now < min(stops) + limits.grace):
        return None
    why = f"the agent's process was ended, because run {run.run_id} did not stop when it was told to"
    if timed_out_at is not None and timed_out_at == min(stops):
        told = f"the run took longer than its timeout of {timeout:g} s, and did not stop then; its process was ended"
        return Verdict(why=why, timed_out={run.run_id: told})
    if watched.cancelled_at is not None:
        told = "the agent did not stop, and its process was ended"
        if run.cancel_requested is CancelAction.rollback:
            told += "; what its graph had stored could not be rolled back"
        return Verdict(why=why, stopped={run.run_id: told})
    return Verdict(why=why, failure=FailureReason.stuck)
