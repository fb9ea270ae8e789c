"""The two ways to run an agent, behind one interface: the tests check the contract's promises on both.

async with way(seen) as runs:
    result = await runs.run(agent, "hello")
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import pytest

from trackside.harness import (
    CompositeObserver,
    DispatchPolicy,
    LifecycleEventType,
    ObserverBinding,
    RunLifecycleEvent,
    RunManager,
    RunObserver,
    RunResult,
    RunSpec,
    run_agent,
)
from trackside.harness.ids import new_id
from trackside.testing import RecordingObserver, VirtualClock, run_virtual

type Story = Callable[..., Coroutine[Any, Any, None]]


def virtual(story: Story) -> Callable[..., None]:
    """Run an async test on a loop where time passes only when nothing else is left to do."""

    @functools.wraps(story)
    def test(*args: Any, **kwargs: Any) -> None:
        run_virtual(story(*args, **kwargs))

    return test


class StartedRun:
    """A run in progress."""

    def __init__(self, run_id: str, waits: asyncio.Task[RunResult], cancel: Callable[[], Coroutine[Any, Any, Any]]):
        self.run_id = run_id
        self.waits = waits
        """The task that awaits the result, as a caller would."""
        self.cancel = cancel
        """Ask the run to stop, the way a caller would."""

    async def ended(self) -> RunResult | BaseException:
        """The result, or what the caller got instead."""
        await asyncio.wait({self.waits})
        if self.waits.cancelled():
            return asyncio.CancelledError()
        return self.waits.exception() or self.waits.result()

    def task(self, kind: str = "run") -> asyncio.Task[Any]:
        """The harness's own task of this run, as a closing event loop finds it."""
        name = f"trackside-{kind}-{self.run_id}"
        return next(task for task in asyncio.all_tasks() if task.get_name() == name)


class ByRunAgent:
    """Runs by `run_agent`: the observer is called in line, and cancelling means cancelling the awaiting task."""

    cancel_mode = "task_cancelled"

    def __init__(self, *observers: RunObserver | ObserverBinding, policy: DispatchPolicy | None = None) -> None:
        self._observer = CompositeObserver(list(observers))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    async def run(self, agent: Any, input: Any = None, **asked: Any) -> RunResult:
        return await run_agent(agent, input, observer=self._observer, **asked)

    async def start(self, agent: Any, input: Any = None, **asked: Any) -> StartedRun:
        run_id = asked.setdefault("run_id", new_id())
        waits = asyncio.create_task(self.run(agent, input, **asked))
        for _ in range(2):  # turns of the loop: after its first step, the run exists
            await asyncio.sleep(0)

        async def cancel() -> None:
            waits.cancel()

        return StartedRun(run_id, waits, cancel)


class ByManager:
    """Runs by a `RunManager`: optional observers are buffered, and a cancel names the run's id."""

    cancel_mode = "interrupt"

    def __init__(
        self, *observers: RunObserver | ObserverBinding, policy: DispatchPolicy | None = None, **options: Any
    ) -> None:
        self.manager = RunManager(
            observers=list(observers), policy=policy or DispatchPolicy(retry_for=0.0), clock=VirtualClock(), **options
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.manager.__aexit__(kind, exc, trace)

    async def run(self, agent: Any, input: Any = None, **asked: Any) -> RunResult:
        return await (await self.manager.start(RunSpec(agent, input, **asked))).result()

    async def start(self, agent: Any, input: Any = None, **asked: Any) -> StartedRun:
        handle = await self.manager.start(RunSpec(agent, input, **asked))
        return StartedRun(handle.run_id, asyncio.create_task(handle.result()), handle.cancel)


type Way = type[ByRunAgent | ByManager]

both_ways = pytest.mark.parametrize("way", [ByRunAgent, ByManager], ids=["run_agent", "RunManager"])


class Draining(RecordingObserver):
    """An observer that empties each batch list that it is given."""

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        """Take the events one by one, off the list."""
        while events:
            self.events.append(events.pop(0))  # type: ignore[attr-defined]


class Gate(RecordingObserver):
    """Holds the first event of a type (or the `nth`) until it is opened, whoever cancels whom meanwhile."""

    def __init__(self, on: LifecycleEventType, nth: int = 1) -> None:
        super().__init__()
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self._on = on
        self._to_come = nth

    async def on_event(self, event: RunLifecycleEvent) -> None:
        self._to_come -= event.event_type is self._on
        if event.event_type is self._on and self._to_come == 0:
            self.reached.set()
            await self.opened.wait()
        await super().on_event(event)


def required(observer: RunObserver) -> ObserverBinding:
    return ObserverBinding(observer, required=True)


def told(events: Iterable[RunLifecycleEvent], run_id: str | None = None) -> list[str]:
    """The events in short: the type, plus the status or cancel mode that each one carries."""
    return [_short(event) for event in events if run_id in (None, event.run_id)]


def _short(event: RunLifecycleEvent) -> str:
    says = event.payload.get("status") or event.payload.get("cancel_mode")
    return event.event_type.value if says is None else f"{event.event_type.value} {says}"


def end_of(events: Iterable[RunLifecycleEvent], run_id: str | None = None) -> RunLifecycleEvent:
    """The one terminal event among these."""
    (end,) = [e for e in events if run_id in (None, e.run_id) and "completion_data" in e.payload]
    return end


def short_of(way: Way, *, ends: str, thread: str, messages: int = 0) -> list[str]:
    """The events, in short, of a run that started on an idle thread."""
    return [
        "run_started",
        "thread_status_updated busy",
        *["human_message"] * messages,
        ends,
        f"thread_status_updated {thread}",
    ]
