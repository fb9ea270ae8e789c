"""Play recorded conversations: a thread for each, a run for each human message, all with one manager and one log."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from tests.integration.replay import callables_replay, langgraph_replay, openai_agents_replay, pydantic_ai_replay
from tests.integration.replay.recorded import Trajectory, Turn, calls_of_models

from trackside import ObserverBinding, RunLifecycleEvent, RunManager, RunResult, RunSpec, as_agent
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Stats, Store, StoredRun
from trackside.harness.context import current_run
from trackside.testing import RecordingObserver

FRAMEWORKS: dict[str, ModuleType] = {
    "callables": callables_replay,
    "langgraph": langgraph_replay,
    "openai_agents": openai_agents_replay,
    "pydantic_ai": pydantic_ai_replay,
}
CANNOT_KEEP_SILENT = {"openai_agents", "pydantic_ai"}
"""Frameworks whose agents answer whatever they hear: a plain function hears a last word that nobody answers."""

AT_ONCE = 8
_PATIENCE = 250.0


@dataclass(frozen=True)
class PlayedRun:
    """One run, and what the log says of it."""

    trajectory: Trajectory
    turn: Turn
    result: RunResult
    stored: StoredRun
    events: Sequence[RunLifecycleEvent]

    @property
    def heard(self) -> list[str]:
        """The human messages that were announced."""
        return [event.payload["message"]["content"] for event in self.events if event.event_type == "human_message"]


@dataclass(frozen=True)
class Played:
    """Some conversations: their runs in order, what an optional observer was told, the totals in the log."""

    runs: Sequence[PlayedRun]
    announced: Sequence[RunLifecycleEvent]
    stats: Stats
    stats_of_threads: dict[str, Stats]
    extra_calls: tuple[int, int] = (0, 0)

    def of_thread(self, trajectory: Trajectory) -> list[PlayedRun]:
        return [run for run in self.runs if run.trajectory is trajectory]

    @property
    def trajectories(self) -> list[Trajectory]:
        return [*dict.fromkeys(run.trajectory for run in self.runs)]


class RecordedPrices:
    """Says what each call of a thread's model has cost, in the order of the calls."""

    def __init__(self, trajectories: Sequence[Trajectory]) -> None:
        self._calls = {one.id: deque(calls_of_models(one.messages)) for one in trajectories}
        self._models = {one.model for one in trajectories}

    def cost_usd(self, model: str, *, input_tokens: int, output_tokens: int, **_: int) -> float | None:
        if model not in self._models:
            return None
        run = current_run()
        assert run is not None
        call = self._calls[run.thread_id].popleft()
        assert call["usage"] == {"input_tokens": input_tokens, "output_tokens": output_tokens}
        return float(call["cost"])


async def play(
    trajectories: Sequence[Trajectory], framework: str, url: str, *, delegating_to: str | None = None
) -> Played:
    """Play them, `AT_ONCE` at a time; `delegating_to` names an agent that plays them below the one that is run."""
    module, recorder = FRAMEWORKS[framework], RecordingObserver()
    async with asyncio.timeout(_PATIENCE), Store.open(url) as store:
        storage = StorageObserver(store)
        manager = RunManager(
            observers=[ObserverBinding(storage, required=True), recorder],
            states=store.thread_states(),
            checkpointer=InMemorySaver(),
            prices=RecordedPrices(trajectories),
            shutdown_grace=60,
        )
        places = asyncio.Semaphore(AT_ONCE)

        async def converse(one: Trajectory) -> list[tuple[Trajectory, Turn, RunResult]]:
            async with places:
                agent = module.agent(one) if delegating_to is None else module.delegating(one, delegating_to)
                return [(one, turn, await _run(manager, framework, agent, one, turn)) for turn in one.turns]

        async with manager, asyncio.TaskGroup() as group:
            tasks = [group.create_task(converse(one), name=f"replay {one.id}") for one in trajectories]
        await storage.aclose()
        return Played(
            runs=[await _as_stored(store, *ended) for task in tasks for ended in task.result()],
            announced=recorder.events,
            stats=await store.stats(),
            stats_of_threads={one.id: await store.stats(thread_id=one.id) for one in trajectories},
            extra_calls=(0, 0) if delegating_to is None else module.EXTRA_CALLS,
        )


async def _run(manager: RunManager, framework: str, agent: Any, trajectory: Trajectory, turn: Turn) -> RunResult:
    """Execute one run, with the agent named after the conversation's group."""
    module = FRAMEWORKS[framework]
    hears = hear_out if framework in CANNOT_KEEP_SILENT and not turn.is_answered else agent
    given = [{"role": message["role"], "content": message["content"]} for message in turn.given]
    spec = RunSpec(
        as_agent(hears, name=trajectory.group),
        given or module.SOLO_INPUT,
        thread_id=trajectory.id,
        config=module.CONFIG,
    )
    return await (await manager.start(spec)).result()


async def _as_stored(store: Store, trajectory: Trajectory, turn: Turn, result: RunResult) -> PlayedRun:
    found = await store.run_with_events(result.run_id)
    assert found is not None
    return PlayedRun(trajectory, turn, result, found.run, [stored.event for stored in found.events])


async def hear_out(input: Any) -> None:
    """Hear the last word."""
