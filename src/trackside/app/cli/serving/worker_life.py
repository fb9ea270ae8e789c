"""The order in which a worker stops."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, override

from trackside.app.cli.failures import ExitCode
from trackside.app.cli.formatting import count
from trackside.app.cli.serving.notifying import tell_service_manager
from trackside.app.cli.serving.process_life import HURRY, ProcessLife, Say, unless

if TYPE_CHECKING:
    from trackside.app.engine.supervisor import Supervisor
    from trackside.app.engine.worker import FleetWorker
    from trackside.app.server.worker_health import WorkerHealth
    from trackside.app.wiring import App


class WorkerLife(ProcessLife):
    """The life of one worker."""

    _leaves_behind = True
    """Whether the process ends although an agent of it does not stop."""

    @override
    def __init__(self, grace: float, say: Say) -> None:
        super().__init__(grace, say)
        self._limited = asyncio.Event()
        """Set once somebody waits for its end: its runs then have the grace, and before that all the time they need."""

    def finish(self, why: str) -> None:
        """Have the worker end when its runs have ended, unless it is about to end anyway. Call this from its loop."""
        if not self.is_told_to_end:
            self._say("stopping", why=why)
            self._ending.set()

    async def end(self, app: App, worker: FleetWorker, health: WorkerHealth) -> None:
        """Stop: take no more runs, let those that were taken end, and leave. The health port says so."""
        self.say_ending(health)
        await worker.stop()
        await self._unless_limited(worker.until_idle, app, running=worker.executing)
        await self.close_runs(app)
        await self.unless_hurried(worker.until_idle(closed=self._leaves_behind))

    @override
    def _begin_to_end(self, begins_anew: bool) -> None:
        super()._begin_to_end(begins_anew)
        if not begins_anew:
            self._limited.set()

    async def _unless_limited(
        self, until_ended: Callable[[], Coroutine[Any, Any, None]], app: App, *, running: int
    ) -> None:
        """Wait until all runs have ended or a signal limits the wait. Others take over its fleet duties meanwhile."""
        self._retire(app)
        if not self._limited.is_set():
            if running:
                hint = f"stop it to limit that to {self._grace:g} s"
                self._say(f"waiting for {count(running, 'run')}, however long that takes", runs=running, hint=hint)
            await unless(self._limited, until_ended())
        if not self.begins_anew:
            tell_service_manager("STOPPING=1")  # from then on, the service manager limits how long that takes

    def say_ending(self, health: WorkerHealth) -> None:
        """Say at the health port that the worker is about to leave."""
        if self.begins_anew:
            tell_service_manager("RELOADING=1")
        health.begin_ending("it begins anew" if self.begins_anew else "it takes no more runs, and leaves")


class SupervisorLife(WorkerLife):
    """The life of a worker whose child processes execute its runs: it passes on to them what it is told."""

    @override
    def __init__(self, grace: float, closing: float, say: Say) -> None:
        super().__init__(grace, say)
        self._closing = closing
        self._supervisor: Supervisor | None = None

    async def begin_unless_told_to_end(self, supervisor: Supervisor, begin: asyncio.Task[int]) -> int | None:
        """Wait until the first process takes runs; its exit code if it could not, None if told to end before that."""
        self._supervisor = supervisor
        ending = asyncio.create_task(self.until_told_to_end(), name="trackside-ending")
        try:
            await asyncio.wait({begin, ending}, return_when=asyncio.FIRST_COMPLETED)
            return begin.result() if begin.done() else None
        finally:
            for task in (begin, ending):
                task.cancel()
            await asyncio.wait({begin, ending})

    async def end_processes(self, app: App, supervisor: Supervisor, health: WorkerHealth) -> None:
        """Stop: have the processes take no more runs, let theirs end, and leave."""
        self.say_ending(health)
        await self._unless_limited(supervisor.finish, app, running=supervisor.executing)
        if running := supervisor.executing:
            self._say(
                f"waiting for {count(running, 'run')}, up to {self._grace:g} s",
                runs=running,
                hint="again to cancel them",
            )
        # By then at the latest, a database that does not answer holds up nothing any more.
        app.store.leave_within(self._grace + 2 * self._closing)
        ending = asyncio.create_task(supervisor.end(self._grace + self._closing), name="trackside-end")
        hurrying = asyncio.create_task(self._hurrying.wait(), name="trackside-hurry")
        await asyncio.wait({ending, hurrying}, return_when=asyncio.FIRST_COMPLETED)
        hurrying.cancel()
        if not ending.done():
            ending.cancel()
            await asyncio.wait({ending})
            app.store.leave_within(self._closing)
            await supervisor.end(self._closing)
            app.store.leave_within(HURRY)
        else:
            ending.result()
            app.store.leave_within(self._closing)
        await self._retire(app)

    @override
    def _leave_at_once(self) -> None:
        if self._supervisor is not None:
            self._supervisor.kill()
        os._exit(ExitCode.cancelled)
