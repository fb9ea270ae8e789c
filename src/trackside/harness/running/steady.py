"""Steps of a coordinator that are finished once begun, whoever cancels the task that takes them (I17)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any

from trackside.harness.foreign.timelimit import Raised, leave_behind, settled, start_contained
from trackside.harness.ports import (
    Admission,
    Claim,
    IdempotencyKey,
    Release,
    RunCoordinator,
    RunHost,
    Settlement,
)
from trackside.harness.types import CancelAction, RunRecord, RunSpec, RunStatus, ThreadStatus

_TRIES = 3  # a closing event loop cancels every task it finds, once


class Begun[T]:
    """A step that has begun, and is finished whatever happens: `end` has to be awaited.

    It is taken again if a closing event loop ended it half-way, so it has to be a step that may be repeated.
    """

    __slots__ = ("_name", "_step", "_task")

    def __init__(self, step: Callable[[], Coroutine[Any, Any, T]], *, name: str) -> None:
        self._step = step
        self._name = f"trackside-{name}"
        self._task = start_contained(step(), name=self._name)

    @property
    def task(self) -> asyncio.Task[T | Raised]:
        """The task that takes the step."""
        return self._task

    async def end(self, limit: float | None = None) -> T:
        """Wait for the step's result. A cancel of the caller is held off: `current_task().cancelling()` remembers it.

        Raises:
            TimeoutError: it took more than `limit` seconds, and was left behind; without a limit it takes what it takes.
            BaseException: what the step raised.
        """
        for _ in range(_TRIES - 1):
            if not (await settled(self._task, limit)).cancelled():
                break
            self._task = start_contained(self._step(), name=self._name)
        else:
            if (await settled(self._task, limit)).cancelled():
                raise asyncio.CancelledError
        if not self._task.done():
            leave_behind(self._task)
            raise TimeoutError(f"it took longer than {limit:g} s, and was left behind")
        outcome = self._task.result()
        if isinstance(outcome, Raised):
            raise outcome.exception
        return outcome


async def finish[T](step: Callable[[], Coroutine[Any, Any, T]], *, name: str) -> T:
    """Take a step to its end, as `Begun`.

    Raises:
        BaseException: what the step raised.
    """
    return await Begun(step, name=name).end()


def steady(coordinator: RunCoordinator) -> RunCoordinator:
    """The coordinator with every step finished once begun; one that never waits does that already."""
    is_steady = getattr(coordinator, "immediate", False) or getattr(coordinator, "steady", False)
    return coordinator if is_steady else _SteadyCoordinator(coordinator)


class _SteadyCoordinator:
    """Takes each step of another coordinator to its end; see `ports.RunCoordinator` for what they do."""

    def __init__(self, coordinator: RunCoordinator) -> None:
        self._coordinator = coordinator
        self.durable = coordinator.durable
        self.lose = getattr(coordinator, "lose", None)
        self.give_up = getattr(coordinator, "give_up", None)
        self.holder = getattr(coordinator, "holder", None)

    def attach(self, host: RunHost) -> None:
        self._coordinator.attach(host)

    async def admit(
        self, record: RunRecord, *, spec: RunSpec | None = None, idempotency: IdempotencyKey | None = None
    ) -> Admission:
        return await finish(lambda: self._coordinator.admit(record, spec=spec, idempotency=idempotency), name="admit")

    async def claim(self, run_id: str) -> Claim | None:
        return await finish(lambda: self._coordinator.claim(run_id), name="claim")

    async def withdraw(self, run_id: str) -> bool:
        return await finish(lambda: self._coordinator.withdraw(run_id), name="withdraw")

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
        return await finish(
            lambda: self._coordinator.settle(
                run_id,
                status,
                at_rest=at_rest,
                error=error,
                title=title,
                completion_data=completion_data,
                shut_down=shut_down,
            ),
            name="settle",
        )

    async def release(self, run_id: str, announced: ThreadStatus) -> Release:
        return await finish(lambda: self._coordinator.release(run_id, announced), name="release")

    async def request_cancel(self, run_id: str, action: CancelAction) -> RunRecord:
        return await finish(lambda: self._coordinator.request_cancel(run_id, action), name="cancel")

    async def note_stuck(self, run_id: str, since: datetime) -> None:
        await finish(lambda: self._coordinator.note_stuck(run_id, since), name="stuck")

    async def get(self, run_id: str) -> RunRecord | None:
        return await self._coordinator.get(run_id)
