"""A run manager as written in an afternoon: the same work as `trackside.RunManager`, as long as nothing goes wrong.

It makes ids, keeps the runs in a dict with a status each, executes each in a task of its own, awaits an observer for
four events, counts usage, and hands the result over through a future. It has no admission (two runs may share a
thread), no cancel, no timeout, no failure of agent or observer, no live output, no resume, no order of shutdown, and a
payload is whatever it was given.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import uuid4


def random_id() -> str:
    """An id as most people make it."""
    return str(uuid4())


@dataclass(frozen=True)
class Event:
    """The fields of `RunLifecycleEvent`."""

    event_id: str
    event_type: str
    run_id: str
    thread_id: str
    sequence: int
    occurred_at: datetime
    payload: dict[str, Any]


@dataclass
class Result:
    """The fields of `RunResult`."""

    run_id: str
    thread_id: str
    status: str
    error: str | None = None
    completion_data: dict[str, Any] = field(default_factory=dict)
    title: str | None = None


@dataclass
class Run:
    """A run in progress."""

    run_id: str
    thread_id: str
    outcome: asyncio.Future[Result]
    status: str = "pending"
    sequence: int = 0
    task: asyncio.Task[None] | None = None


class Observer(Protocol):
    """Gets the events."""

    async def on_event(self, event: Any) -> None: ...


class NaiveManager:
    """Runs one agent as often as it is asked to."""

    def __init__(self, agent: Callable[[Any], Awaitable[Any]], observer: Observer, new_id: Callable[[], str]) -> None:
        self.runs: dict[str, Run] = {}
        self._agent = agent
        self._observer = observer
        self._new_id = new_id

    def start(self, value: Any = None) -> asyncio.Future[Result]:
        """Start a run; the future is its result."""
        outcome: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        run = Run(self._new_id(), self._new_id(), outcome)
        self.runs[run.run_id] = run
        run.task = asyncio.create_task(self._execute(run, value), name=f"run-{run.run_id}")
        return outcome

    async def _execute(self, run: Run, value: Any) -> None:
        began = time.monotonic()
        run.status = "running"
        await self._emit(run, "run_started", {"agent": "agent", "metadata": {}})
        await self._emit(run, "thread_status_updated", {"status": "busy", "previous": "idle"})
        usage = new_usage()
        await self._agent(value)
        usage["duration_seconds"] = round(time.monotonic() - began, 6)
        run.status = "success"
        await self._emit(run, "run_completed", {"status": "success", "title": None, "completion_data": usage})
        await self._emit(run, "thread_status_updated", {"status": "idle", "previous": "busy"})
        del self.runs[run.run_id]
        run.outcome.set_result(Result(run.run_id, run.thread_id, run.status, None, usage))

    async def _emit(self, run: Run, event_type: str, payload: dict[str, Any]) -> None:
        run.sequence += 1
        event = Event(self._new_id(), event_type, run.run_id, run.thread_id, run.sequence, datetime.now(UTC), payload)
        await self._observer.on_event(event)


def new_usage() -> dict[str, Any]:
    """What `completion_data` holds for an agent that calls no model."""
    return {
        "total_input_tokens": 0,
        "total_output_tokens": 0,
        "total_tokens": 0,
        "llm_call_count": 0,
        "tool_call_count": 0,
        "message_count": 0,
        "token_usage_by_model": {},
        "token_usage_by_caller": {},
        "first_human_message": None,
        "last_ai_message": None,
    }
