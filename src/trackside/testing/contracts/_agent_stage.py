"""Where a contract runs agents: a manager on the in-memory parts, and all that can be seen of its runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from trackside.harness.adapters import as_agent
from trackside.harness.context import Agent, AgentResult, RunContext, current_run
from trackside.harness.manager import RunManager
from trackside.harness.managing.handle import RunHandle
from trackside.harness.memory import MemoryStream
from trackside.harness.observer import RunLifecycleEvent, RunResult
from trackside.harness.ports import StreamPart
from trackside.harness.types import JsonObject, RunSpec, RunStatus
from trackside.testing.contracts.scripted import INPUT_TOKENS, OUTPUT_TOKENS, ScriptedAgents
from trackside.testing.loop import VirtualClock
from trackside.testing.observers import RecordingObserver
from trackside.testing.run_order import assert_run_order

_TERMINAL = ("run_completed", "run_failed", "run_cancelled")
_FLUSH_SECONDS = 5.0


def tokens_of(calls: int) -> JsonObject:
    """What so many calls of a scripted model use, as `completion_data` shows it."""
    return {
        "input_tokens": INPUT_TOKENS * calls,
        "output_tokens": OUTPUT_TOKENS * calls,
        "total_tokens": (INPUT_TOKENS + OUTPUT_TOKENS) * calls,
    }


def scripted(agents: ScriptedAgents, what: str) -> Callable[..., Any]:
    """The method of `agents` that makes such an agent; skips the test if their framework cannot have one."""
    make: Callable[..., Any] | None = getattr(agents, what)
    if make is None:
        pytest.skip(f"{type(agents).__name__} has no agent that {what.replace('_', ' ')}")
    return make


@dataclass(frozen=True, slots=True)
class Played:
    """A run that has ended: what its caller, its observers and its followers got, and what its agent gave back."""

    result: RunResult
    events: Sequence[RunLifecycleEvent]
    parts: Sequence[StreamPart]
    gave: AgentResult | None
    """None if the agent raised, or gave back something else."""

    @property
    def end(self) -> Mapping[str, Any]:
        """The payload of the terminal event."""
        return next(event.payload for event in self.events if event.event_type in _TERMINAL)

    @property
    def used(self) -> Mapping[str, Any]:
        """The totals of the run."""
        used: Mapping[str, Any] = self.end["completion_data"]
        return used

    @property
    def said(self) -> list[Any]:
        """The contents of the human messages that were announced."""
        return [event.payload["message"]["content"] for event in self.events if event.event_type == "human_message"]

    @property
    def thread(self) -> list[Any]:
        """The statuses that the thread took, one after the other."""
        return [event.payload["status"] for event in self.events if event.event_type == "thread_status_updated"]

    @property
    def questions(self) -> list[Mapping[str, Any]]:
        """What the run waits for."""
        return list(self.end.get("interrupts", ()))

    def has_ended(self, status: RunStatus, *, calls: int) -> None:
        """Check how the run has ended, and that it used as much as so many calls of its model."""
        seen = self.end.get("error", "")
        assert self.result.status is status, f"the run ended as {self.result.status} instead of {status}: {seen}"
        self.has_used(calls)

    def has_used(self, calls: int) -> None:
        """Check that the totals are those of so many calls of the model."""
        used, expected = self.used, tokens_of(calls)
        seen = {name: used[f"total_{name}" if name != "total_tokens" else name] for name in expected}
        assert seen == expected, f"{calls} calls of the model were counted as {seen} instead of {expected}"
        assert used["llm_call_count"] == calls, f"{calls} calls were counted as {used['llm_call_count']}"
        self._lists_calls()

    def _lists_calls(self) -> None:
        """Check that each call of a model that used something, and each of a tool, is listed with its times."""
        used = self.used
        listed = used.get("calls", [])
        for call in listed:
            assert call["at"] >= 0, f"a call began before its run: {call}"
            assert call["seconds"] >= 0, f"a call ended before it began: {call}"
        starts = [call["at"] for call in listed]
        assert starts == sorted(starts), f"the calls are not listed in the order of their starts: {starts}"
        models = [call for call in listed if call["kind"] == "chat" and "input_tokens" in call]
        assert len(models) == used["llm_call_count"], f"{used['llm_call_count']} calls are listed as {models}"
        tokens = sum(call["input_tokens"] + call["output_tokens"] for call in models)
        assert tokens == used["total_tokens"], f"{used['total_tokens']} tokens are listed as {tokens}"
        tools = [call for call in listed if call["kind"] == "execute_tool"]
        assert len(tools) == used["tool_call_count"], f"{used['tool_call_count']} calls of tools are listed as {tools}"

    def has_answered(self, text: str) -> None:
        """Check that the run is a success, and that its caller got an output that has this text in it."""
        assert self.result.status is RunStatus.success, f"it ended as {self.result.status}: {self.end.get('error')}"
        assert self.gave is not None
        assert _shows(self.gave.output, text), f"the output is {self.gave.output!r:.200}, without {text!r}"
        assert self.result.output == self.gave.output, f"the caller got {self.result.output!r:.200}"
        last = self.used["last_ai_message"]
        assert last == text, f"the last thing that the agent said is {last!r} instead of {text!r}"


class Arrival:
    """What an agent calls when its code has come to where it waits."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.run: RunContext | None = None
        """The run that the agent's code saw."""
        self.task: asyncio.Task[Any] | None = None
        """The task that the agent's code was in; None if it was in a thread."""
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> None:
        """Note where this was called."""
        self.run = current_run()
        try:
            self.task = asyncio.current_task()
        except RuntimeError:  # in a thread
            self.task = None
        self._loop.call_soon_threadsafe(self.reached.set)


class Stage:
    """A manager whose agents are watched."""

    def __init__(self, manager: RunManager, recorder: RecordingObserver, stream: _AsSaid) -> None:
        self.manager = manager
        self._recorder = recorder
        self._stream = stream
        self._watched: dict[str, _Watched] = {}

    async def start(self, agent: Any, input: Any = "hello", **asked: Any) -> RunHandle:
        """Start a run; one that answers has no input."""
        watched = _Watched(as_agent(agent))
        handle = await self.manager.start(RunSpec(watched, None if "command" in asked else input, **asked))
        self._watched[handle.run_id] = watched
        return handle

    async def play(self, agent: Any, input: Any = "hello", **asked: Any) -> Played:
        """Run to the end, with a follower."""
        return await self.outcome(await self.start(agent, input, **asked))

    async def answer(self, agent: Any, resume: Any, thread_id: str) -> Played:
        """Run the agent with an answer to what its thread waits for."""
        return await self.play(agent, thread_id=thread_id, command={"resume": resume})

    async def reach(self, handle: RunHandle, *arrivals: Arrival) -> None:
        """Wait until the agent of a run has come to where it waits."""
        ended = asyncio.create_task(handle.result(), name="result")
        for arrival in arrivals:
            arrived = asyncio.create_task(arrival.reached.wait(), name="arrival")
            await asyncio.wait((ended, arrived), return_when=asyncio.FIRST_COMPLETED)
            if not arrived.done():
                arrived.cancel()
                raise AssertionError(f"the run ended before its agent waited: {ended.result()}")
        ended.cancel()

    async def outcome(self, handle: RunHandle) -> Played:
        """All that can be seen of a run, once it has ended; checks what holds for every run."""
        parts = [part async for part in handle.stream() if isinstance(part, StreamPart)]
        result = await handle.result()
        left = _left_behind(handle.run_id)
        assert not left, f"the run has ended, and of its agent there still run {', '.join(left)}"
        await self.manager.observers.flush(_FLUSH_SECONDS)
        events = [event for event in self._recorder.events if event.run_id == handle.run_id]
        assert_run_order(events)
        flaw = self._stream.flaws.get(handle.run_id)
        assert flaw is None, flaw
        watched = self._watched[handle.run_id]
        assert watched.flaw is None, watched.flaw
        kept = None if watched.gave is None else watched.gave.paused
        assert is_plain(kept), f"what a paused run keeps (`AgentResult.paused`) is no plain JSON: {kept!r:.200}"
        return Played(result, events, parts, watched.gave)


@asynccontextmanager
async def stage(*, virtual: bool, **options: Any) -> AsyncGenerator[Stage]:
    """Open a manager on parts in memory; `options` are the manager's."""
    recorder = RecordingObserver()
    clock = VirtualClock() if virtual else None
    stream = _AsSaid()
    async with RunManager(observers=[recorder], stream=stream, clock=clock, shutdown_grace=0.0, **options) as manager:
        yield Stage(manager, recorder, stream)


def is_plain(value: Any) -> bool:
    """Whether a value is JSON as it stands: it comes back from its text as it was."""
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError):
        return False


class _AsSaid(MemoryStream):
    """Notes for each run the first thing it said that is not plain JSON as it stands; followers get it made plain."""

    def __init__(self) -> None:
        super().__init__()
        self.flaws: dict[str, str] = {}

    def publish(self, run_id: str, mode: str, data: Any, namespace: tuple[str, ...] = ()) -> None:
        """Look at a part, and pass it on."""
        if not is_plain(data):
            self.flaws.setdefault(run_id, f"a part of mode {mode} is no plain JSON: {data!r:.200}")
        super().publish(run_id, mode, data, namespace)


class _Watched:
    """Keeps an agent's result, and a failure of it that the harness only logs. All else is the agent's own."""

    def __init__(self, agent: Agent) -> None:
        self.name = agent.name
        self.gave: AgentResult | None = None
        self.flaw: str | None = None
        self._agent = agent

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._agent, name)
        return partial(self._noted, name, found) if name in {"asks", "leave"} else found

    async def _noted(self, name: str, method: Callable[[RunContext], Awaitable[Any]], run: RunContext) -> Any:
        try:
            return await method(run)
        except Exception as exc:
            self.flaw = f"its `{name}` raised {type(exc).__name__}: {exc}"
            raise

    async def human_messages(self, run: RunContext) -> Sequence[Mapping[str, Any]]:
        return await self._agent.human_messages(run)

    async def run(self, run: RunContext) -> AgentResult:
        gave: object = await self._agent.run(run)
        self.gave = gave if isinstance(gave, AgentResult) else None
        return gave  # type: ignore[return-value]  # what is no result, the harness refuses, and says so

    async def rollback(self, run: RunContext) -> str | None:
        return await self._agent.rollback(run)


def _shows(value: Any, text: str) -> bool:
    """Whether a value is this text or has it somewhere."""
    match value:
        case str():
            return value == text
        case Mapping():
            return any(_shows(item, text) for item in value.values())
        case list() | tuple():
            return any(_shows(item, text) for item in value)
        case _:
            return False


def _left_behind(run_id: str) -> list[str]:
    """The names of tasks that began within a run and go on; the harness's own are about to end."""
    current = asyncio.current_task()
    tasks = [
        task for task in asyncio.all_tasks() if task is not current and not task.get_name().startswith("trackside-")
    ]
    return [task.get_name() for task in tasks if (run := task.get_context().run(current_run)) and run.run_id == run_id]
