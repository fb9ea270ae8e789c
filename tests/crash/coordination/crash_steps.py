"""Named points at which a process ends or stops itself, before and after the steps that a run takes in the harness.

They complement those of `crash_points`, which are around what is written to the database.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from crash_freezing import die
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from trackside.app.spool import Spool
from trackside.app.storage import StoredCoordinator, StoredThreadStates
from trackside.harness.context import RunContext
from trackside.harness.dispatch import ObserverSet
from trackside.harness.emitter import RunEmitter
from trackside.harness.managing.closing import Closing
from trackside.harness.managing.execution import Executions
from trackside.harness.managing.hosting import Host
from trackside.harness.managing.places import Places
from trackside.harness.running.recall import ThreadMemory
from trackside.harness.running.spending import Spending
from trackside.harness.running.stopping import Stopper
from trackside.harness.worker import RunWorker


def _any(_: object) -> bool:
    return True


def _is_some(outcome: object) -> bool:
    return outcome is not None


def _is_false(outcome: object) -> bool:
    return outcome is False


@dataclass(frozen=True, slots=True)
class Step:
    """Where a step is taken, and which outcomes of it count; a step of which only some count has no point before it."""

    owner: type
    method: str
    counts: Callable[[Any], bool] = _any

    @property
    def moments(self) -> tuple[str, ...]:
        """The moments of the step at which a process can die."""
        return ("before", "after") if self.counts is _any else ("after",)


STEPS_OF_RUN = {
    "admit": Step(StoredCoordinator, "admit"),
    "schedule": Step(Executions, "schedule"),
    "wait for a place": Step(Places, "take", _is_false),
    "begin": Step(Executions, "_begin"),
    "claim": Step(StoredCoordinator, "claim"),
    "recall": Step(StoredThreadStates, "load"),
    "prepare": Step(RunWorker, "_prepare"),
    "announce": Step(RunEmitter, "emit"),
    "call": Step(Stopper, "see_through"),
    "use": Step(RunContext, "record_usage"),
    "use too much": Step(Spending, "excess", _is_some),
    "say": Step(RunContext, "message"),
    "ask": Step(RunContext, "interrupt"),
    "checkpoint": Step(AsyncSqliteSaver, "aput"),
    "checkpoint writes": Step(AsyncSqliteSaver, "aput_writes"),
    "displace": Step(Executions, "displace"),
    "ask to stop": Step(StoredCoordinator, "request_cancel"),
    "stop": Step(Stopper, "stop"),
    "be stuck": Step(Stopper, "_say_stuck"),
    "decline": Step(RunWorker, "decline"),
    "remember": Step(ThreadMemory, "begin_to_save"),
    "roll back": Step(ThreadMemory, "roll_back"),
    "settle": Step(StoredCoordinator, "settle"),
    "spool": Step(Spool, "append"),
    "deliver from the spool": Step(Spool, "deliver"),
    "release": Step(StoredCoordinator, "release"),
    "push the next": Step(Executions, "schedule_next"),
    "be ready": Step(Host, "on_ready"),
    "adopt": Step(Host, "on_adopted"),
    "leave to others": Step(Executions, "part_with"),
    "drain": Step(Executions, "drain"),
    "flush": Step(ObserverSet, "aclose"),
    "close the manager": Step(Closing, "close"),
    "close the coordinator": Step(StoredCoordinator, "aclose"),
}


class DeadlyStep:
    """Ends or stops this process when a step has been taken this many times, just before or just after it."""

    def __init__(self, moment: str, step: str | Step, number: int, *, end: Callable[[], object] = die) -> None:
        self._moment = moment
        self._step = STEPS_OF_RUN[step] if isinstance(step, str) else step
        self._left = number
        self._end = end

    def install(self) -> None:
        """Watch the step from now on, wherever this process takes it."""
        owner, method = self._step.owner, self._step.method
        taken = getattr(owner, method)
        wrap = self._around_awaited if inspect.iscoroutinefunction(taken) else self._around_called
        setattr(owner, method, functools.wraps(taken)(wrap(taken)))

    def _around_awaited(self, taken: Callable[..., Any]) -> Callable[..., Any]:
        async def step(*args: Any, **options: Any) -> Any:
            self._at("before", None)
            outcome = await taken(*args, **options)
            self._at("after", outcome)
            return outcome

        return step

    def _around_called(self, taken: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            self._at("before", None)
            outcome = taken(*args, **options)
            self._at("after", outcome)
            return outcome

        return step

    def _at(self, moment: str, outcome: Any) -> None:
        if moment == self._moment and self._step.counts(outcome):
            self._left -= 1
            if self._left == 0:
                self._end()
