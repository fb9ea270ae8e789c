"""Run graphs as users run them: through a `RunManager`, watched by an observer and a follower of the stream."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from trackside import RunContext, RunHandle, RunLifecycleEvent, RunManager, RunResult, RunSpec, RunStatus, StreamPart
from trackside.app.storage import Store
from trackside.harness.context import bind_run
from trackside.harness.ids import new_id
from trackside.harness.journal import Journal
from trackside.testing import RecordingObserver, assert_run_order


@dataclass(frozen=True)
class Outcome:
    """A run that has ended: its result, its events, its stream."""

    result: RunResult
    events: list[RunLifecycleEvent]
    parts: list[StreamPart]

    @property
    def status(self) -> RunStatus:
        return self.result.status

    @property
    def usage(self) -> dict[str, Any]:
        return self.result.completion_data

    @property
    def end(self) -> dict[str, Any]:
        """The payload of the terminal event."""
        return next(
            dict(e.payload) for e in self.events if e.event_type in {"run_completed", "run_failed", "run_cancelled"}
        )

    @property
    def interrupts(self) -> list[dict[str, Any]]:
        return self.end.get("interrupts", [])

    @property
    def humans(self) -> list[dict[str, Any]]:
        return [e.payload["message"] for e in self.events if e.event_type == "human_message"]

    @property
    def values(self) -> Any:
        """The newest streamed state."""
        return [part.data for part in self.parts if part.mode == "values" and not part.namespace][-1]

    def streamed(self, mode: str) -> list[Any]:
        return [part.data for part in self.parts if part.mode == mode]


class Stage:
    """A manager and everything that a test can see of its runs."""

    def __init__(self, manager: RunManager, recorder: RecordingObserver) -> None:
        self.manager = manager
        self.recorder = recorder

    async def start(self, agent: Any, input: Any = None, **spec: Any) -> RunHandle:
        return await self.manager.start(RunSpec(agent, input, **spec))

    async def play(self, agent: Any, input: Any = None, **spec: Any) -> Outcome:
        """Run an agent to its end."""
        return await self.outcome(await self.start(agent, input, **spec))

    async def outcome(self, handle: RunHandle) -> Outcome:
        parts = [part async for part in handle.stream() if isinstance(part, StreamPart)]
        result = await handle.result()
        await self.manager.observers.flush(60)
        events = [event for event in self.recorder.events if event.run_id == handle.run_id]
        assert_run_order(events)
        return Outcome(result, events, parts)


@pytest.fixture
async def open_stage() -> AsyncIterator[Callable[..., Awaitable[Stage]]]:
    async with AsyncExitStack() as stack:

        async def opened(**options: Any) -> Stage:
            recorder = RecordingObserver()
            manager = await stack.enter_async_context(RunManager(observers=[recorder], **options))
            return Stage(manager, recorder)

        yield opened


@pytest.fixture
async def stage(open_stage: Callable[..., Awaitable[Stage]]) -> Stage:
    return await open_stage()


class Port:
    """Takes a context's output where there is no manager."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, Any]] = []

    def publish(self, mode: str, data: Any, namespace: tuple[str, ...]) -> None:
        self.parts.append((mode, data))

    def human_message(self, message: dict[str, Any]) -> None:
        raise AssertionError("a graph announces nothing by itself")


@pytest.fixture
def run_context() -> Callable[..., RunContext]:
    """Make a run's context without a manager around it, for what the adapter itself returns and raises."""

    def made(input: Any = None, *, checkpointer: Any = None, thread_id: str = "thread", **spec: Any) -> RunContext:
        run = RunContext(
            RunSpec("graph", input, **spec),
            run_id=new_id(),
            thread_id=thread_id,
            agent="graph",
            journal=Journal(),
            port=Port(),
            checkpointer=checkpointer,
        )
        bind_run(run)
        return run

    return made


@pytest.fixture(params=["memory", "sqlite", "store"])
async def saver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    """Where graphs keep their threads."""
    if request.param == "memory":
        yield InMemorySaver()
    elif request.param == "store":
        async with Store.open(f"sqlite:///{tmp_path / 'threads.db'}") as store:
            yield store.checkpointer()
    else:
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as sqlite:
            yield sqlite
