"""The agents of a generated schedule: one of each temper, and each checks what it sees of its run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.property.run_watchers import SECRET, MoodError, OddError

from trackside.harness import AgentResult, RunContext, RunSpec, current_run
from trackside.harness.ids import new_id
from trackside.harness.journal import answer_message

if TYPE_CHECKING:
    from tests.property.run_schedules import World

TEMPERS = (
    "quick",
    "sleeps",
    "long",
    "fails",
    "exits",
    "is odd",
    "presses ctrl-c",
    "rogue",
    "swallows",
    "stubborn",
    "slow to stop",
    "polite",
    "asks",
    "asks much",
    "chats",
    "spends",
    "nests",
)
TOKENS = 10
"""What an agent that spends uses at once."""

MOST_TOKENS = 55
"""What that agent may use if its run's spec sets no limit: less than it wants."""


@dataclass(eq=False)
class Working:
    """An agent at work, as it sees itself."""

    run: RunContext
    temper: str
    managed: bool
    task: asyncio.Task[Any]
    cancels: list[float] = field(default_factory=list)
    """When it was cancelled."""
    tokens: int = 0
    over_since: float | None = None
    """When it had used more than it may."""

    @property
    def limit(self) -> int | None:
        """The tokens that its run may use."""
        asked: int | None = self.run.metadata.get("max_tokens")
        return asked or (MOST_TOKENS if self.managed and self.temper == "spends" else None)


class Questionnaire:
    """An agent that asks three questions at once, and asks again those that were not answered."""

    name = "asks much"
    uses_thread_state = True

    def __init__(self, world: World) -> None:
        self._world = world

    async def human_messages(self, run: RunContext) -> Sequence[Mapping[str, Any]]:
        return [answer_message(run.resume)] if run.resuming else []

    async def run(self, run: RunContext) -> AgentResult:
        with self._world.at_work(run, self.name):
            await asyncio.sleep(0)
            state = (run.paused.state if run.resuming and run.paused else None) or {"asked": None, "answers": {}}
            asked = state["asked"] or [new_id() for _ in range(3)]
            answers = {**state["answers"], **run.answers_by_id}
            if left := [question for question in asked if question not in answers]:
                questions = [{"id": question, "value": f"what of {SECRET}?"} for question in left]
                return AgentResult(interrupts=questions, paused={"asked": asked, "answers": answers})
            again = set(state["answers"]) & set(run.answers_by_id)
            self._world.check(not again, f"answered twice: {again}")
            return AgentResult(output=answers, values={"answers": answers})

    async def rollback(self, run: RunContext) -> None:
        """Nothing to do: a thread remembers only runs that came to an end."""


def agents_of(world: World) -> dict[str, Any]:
    """An agent of each temper; each resumes as it began."""
    agents: dict[str, Any] = {temper: _agent(world, temper) for temper in TEMPERS}
    return agents | {Questionnaire.name: Questionnaire(world)}


def _agent(world: World, temper: str) -> Any:
    async def agent(input: Any, run: RunContext) -> Any:
        with world.at_work(run, temper) as working:
            output = await _behave(world, working)
            world.check(current_run() is run, "I21: an agent lost its run")
            return output

    agent.__name__ = temper.replace(" ", "_")
    return agent


async def _behave(world: World, working: Working) -> Any:
    run = working.run
    match working.temper:
        case "sleeps":
            await asyncio.sleep(1)
        case "long":
            await asyncio.sleep(10_000)
        case "fails":
            await asyncio.sleep(0)
            run.set_title(f"about {SECRET}")
            raise MoodError(f"no such card: {SECRET}")
        case "exits":
            raise SystemExit(1)
        case "is odd":
            await asyncio.sleep(0)
            raise OddError(SECRET)
        case "presses ctrl-c":
            world.interrupted = True
            raise KeyboardInterrupt
        case "rogue":
            await asyncio.sleep(0.5)
            raise asyncio.CancelledError
        case "swallows":
            await _swallow(world, working, times=1)
            await asyncio.sleep(1)
        case "stubborn":
            await _swallow(world, working, times=3)
        case "slow to stop":
            try:
                await asyncio.sleep(3)
            finally:
                await asyncio.sleep(2)
        case "polite":
            await _work_until_asked_to_stop(world, working)
        case "asks":
            return {"answer": run.interrupt(f"which of {SECRET}?")}
        case "chats":
            await _chat(run)
        case "spends":
            await _spend(world, working)
        case "nests":
            await _nest(world, run)
    return {"messages": [{"type": "ai", "content": f"{working.temper}, and it is {SECRET}"}]}


async def _swallow(world: World, working: Working, *, times: int) -> None:
    while times:
        try:
            await asyncio.sleep(10_000)
        except asyncio.CancelledError:
            world.note_cancel(working)
            times -= 1


async def _work_until_asked_to_stop(world: World, working: Working) -> None:
    for _ in range(40):
        if working.run.cancelled:
            return
        await asyncio.sleep(0.25)


async def _chat(run: RunContext) -> None:
    run.set_title(f"about {SECRET}")
    for i in range(8):
        run.message({"type": "human", "content": f"{i}: {SECRET}"})
        await asyncio.sleep(0.5 if i else 0)


async def _spend(world: World, working: Working) -> None:
    limit = working.limit
    for _ in range(6):
        now = world.loop.time()
        over = working.over_since
        world.check(
            over is None or now <= over + world.cancel_after, f"{working.tokens} of {limit} tokens, and it goes on"
        )
        working.tokens += TOKENS
        if limit is not None and working.tokens > limit and over is None:
            working.over_since = now
        working.run.record_usage("a model", input_tokens=TOKENS - 1, output_tokens=1)
        await asyncio.sleep(0.2)


async def _nest(world: World, run: RunContext) -> None:
    if run.depth < 2:
        handle = await world.manager.start(RunSpec(world.agents["nests"], "child"))
        await handle.result()
