"""A stage for crons: a scheduler on a real database, on which hours go by in virtual time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

from trackside import RunContext, RunManager
from trackside.app.server.crons import CronScheduler
from trackside.app.storage.crons import Cron, Crons
from trackside.harness.ids import new_id
from trackside.testing.loop import EPOCH, VirtualClock, VirtualTimeLoop

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


class JumpingClock(VirtualClock):
    """A clock whose hands somebody moves."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = timedelta()

    def now(self) -> datetime:
        return super().now() + self.ahead


class TimelessCrons(Crons):
    """The crons of a database, during whose work no virtual time passes; `fails` has what the next calls raise."""

    def __init__(self, crons: Crons) -> None:
        super().__init__(crons._writer, crons._readers)
        self.fails: list[Exception] = []

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return _timeless(self, found) if inspect.iscoroutinefunction(found) else found


def _timeless(crons: TimelessCrons, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(*args: Any, **options: Any) -> Any:
        if crons.fails:
            raise crons.fails.pop(0)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        with loop.real_work():
            return await method(*args, **options)

    return call


class Stage:
    """A scheduler, and when runs were started for which of its crons."""

    def __init__(self, crons: TimelessCrons, clock: JumpingClock) -> None:
        self.crons = crons
        self.clock = clock
        self.runs: list[tuple[str, timedelta]] = []
        self.manager = RunManager({"agent": self._agent, "holding": self._holding}, clock=clock)
        self.scheduler = self.another()

    def another(self, manager: RunManager | None = None) -> CronScheduler:
        return CronScheduler(self.crons, manager or self.manager, clock=self.clock)

    async def _agent(self, input: Any, run: RunContext) -> None:
        self.runs.append((str(run.metadata["name"]), self.clock.now() - EPOCH))

    async def _holding(self, input: Any, run: RunContext) -> None:
        await self._agent(input, run)
        await asyncio.sleep(90 * 60)

    async def keep(self, name: str, schedule: str, *, due: timedelta | None = MINUTE, **fields: Any) -> Cron:
        now = self.clock.now()
        said: dict[str, Any] = {"cron_id": new_id(), "agent": "agent", "schedule": schedule, "metadata": {"name": name}}
        said |= {"created_at": now, "updated_at": now, "next_run_at": None if due is None else EPOCH + due}
        cron = Cron(**said | fields)
        await self.crons.create(cron)
        return cron

    async def found(self, cron: Cron) -> Cron:
        found = await self.crons.get(cron.cron_id)
        assert found is not None
        return found

    def started(self, name: str) -> list[timedelta]:
        return [when for one, when in self.runs if one == name]


type Scene = Callable[[Stage], Awaitable[None]]


def minutes(*numbers: float) -> list[timedelta]:
    return [number * MINUTE for number in numbers]
