"""Managers on a coordinator in memory, in SQLite or in PostgreSQL, and all that a test can see of their runs.

    async with backend.open({"work": agents.work}) as stage:
        result = await stage.run("work", "quick")

Whatever a test is about, a stage checks as it closes that the announced events are in order, that no thread had two
runs at once, and that the log has what was announced. `log_check` judges the final database without any of our code.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from dialects import BOTH, MOSTLY_SQLITE
from tests.contract.ways_to_run import end_of, required, told
from tests.integration.storage.first_look import first_look

from trackside import RunContext, RunHandle, RunLifecycleEvent, RunManager, RunRecord, RunResult, RunSpec
from trackside.app.observers.storage import StorageObserver
from trackside.app.spool import Spool
from trackside.app.storage import Store
from trackside.harness.lifecycle import is_terminal
from trackside.harness.observer import ObserverBinding, RunObserver
from trackside.harness.types import LifecycleEventType
from trackside.testing import RecordingObserver, assert_run_order

BACKENDS = ("memory", *MOSTLY_SQLITE)
EVERYWHERE = ("memory", *BOTH)
PATIENCE = 60.0
"""Seconds after which something that still waits is taken to wait for ever."""

shared = pytest.mark.parametrize("backend", BOTH, indirect=True)
"""For tests of several managers on one queue, and for tests of rows: the memory backend has neither."""

in_memory = pytest.mark.parametrize("backend", ["memory"], indirect=True)
"""For tests in which no database takes part, and of what a queue that ends with its process does differently."""


async def within_patience[T](what: Awaitable[T]) -> T:
    """Wait for something that has to happen."""
    async with asyncio.timeout(PATIENCE):
        return await what


def time_is_up(manager: RunManager, run_id: str) -> None:
    """Have the time of a run be over at this moment, if any of it still passes; its timeout is one of hours."""
    execution: Any = manager._runs.get(run_id)
    timer: Any = execution.worker._deadline._timer
    if timer is not None:
        callback, args = timer._callback, timer._args
        timer.cancel()
        callback(*args)


async def turns(count: int) -> None:
    """Let the event loop turn so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


@dataclass
class Agents:
    """An agent that does what its input says, and a record of what it did."""

    begun: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    running: dict[str, asyncio.Event] = field(default_factory=dict)
    _go_on: dict[str, asyncio.Event] = field(default_factory=dict)

    async def work(self, input: Any, run: RunContext) -> dict[str, Any]:
        """Take note, and go on when told to; an input that begins with "quick" does not have to be told."""
        name = str(input)
        run.record_usage("small", input_tokens=5, output_tokens=2)
        self.begun.append(name)
        self._event(self.running, name).set()
        if not name.startswith("quick"):
            try:
                await self._event(self._go_on, name).wait()
            except asyncio.CancelledError:
                self.cancelled.append(name)
                if name.startswith("slow to stop"):
                    await self._event(self._go_on, name).wait()
                raise
        return {"did": name}

    def let(self, name: str) -> None:
        """Let the agent with this input go on, now or later."""
        self._event(self._go_on, name).set()

    async def until_running(self, name: str) -> None:
        """Wait until the agent with this input has begun."""
        await within_patience(self._event(self.running, name).wait())

    @staticmethod
    def _event(events: dict[str, asyncio.Event], name: str) -> asyncio.Event:
        return events.setdefault(name, asyncio.Event())


class Watcher(RecordingObserver):
    """Records the announced events, and wakes those who wait for one."""

    def __init__(self) -> None:
        super().__init__()
        self._news = asyncio.Condition()

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await super().on_event(event)
        async with self._news:
            self._news.notify_all()

    async def until(self, run_id: str, kind: str) -> None:
        """Wait until this was announced for the run."""
        async with self._news:
            await within_patience(
                self._news.wait_for(lambda: any(e.run_id == run_id and e.event_type == kind for e in self.events))
            )


@dataclass
class Stage:
    """One manager with its observers, as one process has them; `store` is None in memory."""

    manager: RunManager
    watcher: Watcher
    store: Store | None = None

    @property
    def events(self) -> list[RunLifecycleEvent]:
        """Everything that was announced here."""
        return self.watcher.events

    async def start(self, agent: Any, input: Any = None, **asked: Any) -> RunHandle:
        return await within_patience(self.manager.start(RunSpec(agent, input, **asked)))

    async def run(self, agent: Any, input: Any = None, **asked: Any) -> RunResult:
        """Run an agent to its end."""
        return await within_patience((await self.start(agent, input, **asked)).result())

    async def record(self, run: RunHandle | RunResult) -> RunRecord:
        return await self.manager.get(run.run_id)

    def told(self, run: RunHandle | RunResult | str) -> list[str]:
        """What was announced for a run, in short."""
        return told(self.events, run if isinstance(run, str) else run.run_id)

    def end(self, run: RunHandle | RunResult | str) -> RunLifecycleEvent:
        """The terminal event of a run."""
        return end_of(self.events, run if isinstance(run, str) else run.run_id)

    async def assert_sound(self) -> None:
        """Assert that the events announced here are sound, and that the log has them."""
        assert_run_order(self.events, ended=False)
        if self.store is None:
            assert_one_at_a_time(self.events)
        else:  # another process may have ended a run here
            mine = {event.run_id for event in self.events}
            stored = [event async for event in logged(self.store) if event.run_id in mine]
            assert {event.event_id for event in self.events} <= {event.event_id for event in stored}
            assert_run_order(stored, ended=False)
            assert_one_at_a_time(stored)


def assert_one_at_a_time(events: Sequence[RunLifecycleEvent]) -> None:
    """Assert that no run of a thread starts before the one before it has ended."""
    active: dict[str, str] = {}
    for event in events:
        if event.event_type is LifecycleEventType.RUN_STARTED:
            other = active.setdefault(event.thread_id, event.run_id)
            assert other == event.run_id, f"run {event.run_id} started while {other} was on its thread"
        elif is_terminal(event.event_type) and active.get(event.thread_id) == event.run_id:
            del active[event.thread_id]


async def logged(store: Store) -> AsyncGenerator[RunLifecycleEvent]:
    """Everything in a log, in order."""
    after = 0
    while page := await store.events(after):
        for stored in page:
            yield stored.event
        after = page[-1].position


class Backend:
    """Lets runs in: `open` gives a manager and, where the backend can, another one on the same queue."""

    def __init__(self, name: str, url: str | None = None) -> None:
        self.name = name
        self.url = url
        self.at_rest = True
        """Whether all runs should have ended by the end of the test; a test that leaves some says so."""
        self.judged = True
        """Whether the log should be whole; a test that removes runs says so."""

    def __repr__(self) -> str:
        return self.name

    @property
    def durable(self) -> bool:
        """Whether runs that have not started outlive their manager."""
        return self.url is not None

    @asynccontextmanager
    async def open(
        self,
        agents: Mapping[str, Any],
        *,
        observers: Sequence[RunObserver | ObserverBinding] = (),
        spool: Spool | None = None,
        lease_seconds: float = 3_600.0,
        **options: Any,
    ) -> AsyncGenerator[Stage]:
        """Open a manager that closes without grace, once it has looked after what others have left behind. `observers`
        come behind storage and before the watcher.
        """
        options = {"shutdown_grace": 0.0} | options
        watcher = Watcher()
        async with AsyncExitStack() as stack:
            store = has_looked = None
            if self.url is not None:
                store = await stack.enter_async_context(Store.open(self.url))
                storage = StorageObserver(store, spool=spool)
                stack.push_async_callback(storage.aclose)
                observers = [required(storage), *observers]
                options["coordinator"] = coordinator = store.coordinator(lease_seconds=lease_seconds)
                has_looked = first_look(coordinator)
                options.setdefault("states", store.thread_states())
            manager = RunManager(agents, observers=[*observers, required(watcher)], **options)
            stage = Stage(manager, watcher, store)
            async with manager:
                if has_looked is not None:
                    await within_patience(has_looked.wait())
                yield stage
            await stage.assert_sound()
