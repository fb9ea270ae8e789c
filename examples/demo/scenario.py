"""What the demo runs: questions that are answered, three agents that wait for a human, and three runs that end badly.

Nothing here says how a run ends. The deadline is too short for the work, the cancel comes while documents are read, the
document really is unreadable, and an agent that asks a human really waits for the answer.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from msgspec.structs import replace
from research.documents import readme_of

from trackside import LifecycleEventType, RunHandle, RunResult, RunSpec, RunStatus
from trackside.app.wiring import App
from trackside.harness.types import JsonObject

RESEARCH, SUPPORT, EXPENSES = "research", "support", "expenses"
"""The agents: a LangGraph graph, an OpenAI Agents SDK agent, and a Pydantic AI agent."""

QUESTIONS = (
    "How do I test asynchronous code and find blocking calls?",
    "How do I validate data with type hints, and serialise it to JSON?",
    "How are database migrations written and applied?",
)
LANES = {
    "answers": "questions that wait for each other",
    "approval": "a question whose plan a human has to approve",
    "trouble": "too little time, a cancel, a document that cannot be read",
    "support": "a customer is handed over, and a refund waits for a human (OpenAI Agents SDK)",
    "expenses": "a report with two exceptions, of which a human grants one (Pydantic AI)",
}
"""What happens on each thread, by the name under which it is shown."""

DEEP_QUESTION = "How are timeouts, retries and cancellation handled?"
WIDE_QUESTION = "Which libraries are fast, and how was that measured?"
COMPLAINT = "My desk lamp, order 1003, came broken. Can I have my money back?"
CLAIM = "Taxi 38.50 EUR, hotel in Rome 240 USD, dinner 96 EUR"
EXCEPTIONS = {"hotel in Rome": True, "dinner": {"approved": False, "message": "Not for one person."}}
"""What the human says to each expense that is above its limit."""


class Watcher(Protocol):
    """Shows what happens."""

    async def watch(self, run: RunHandle) -> None:
        """Show the live output of a run until it ends."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """A question, and the end of the run that was meant to answer it."""

    question: str
    result: RunResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """The demo's runs. `deadline` (seconds) is what the deep run gets, `docs` the folder that the others search."""

    questions: tuple[str, ...] = QUESTIONS
    docs: str | None = None
    deadline: float

    async def play(self, app: App, watcher: Watcher) -> list[Outcome]:
        """Run everything, five threads at once; gives the outcomes of the questions that were meant to be answered."""
        approved = self.questions[-1]
        plain = self.questions[:-1] or self.questions
        async with asyncio.TaskGroup() as group:
            stage = _Stage(app, watcher, group)
            answers = group.create_task(self._answer(stage, plain), name="demo: answers")
            approval = group.create_task(self._approve(stage, approved), name="demo: approval")
            group.create_task(self._get_into_trouble(stage), name="demo: trouble")
            support = group.create_task(self._refund(stage), name="demo: support")
            expenses = group.create_task(self._check_expenses(stage), name="demo: expenses")
        return [*answers.result(), approval.result(), support.result(), expenses.result()]

    async def _answer(self, stage: _Stage, questions: Sequence[str]) -> list[Outcome]:
        """Ask all questions at once on one thread: each waits for the one before it."""
        thread_id = str(uuid4())
        runs = [await stage.start("answers", question, self._context(), thread_id) for question in questions]
        return [Outcome(question, await run.result()) for question, run in zip(questions, runs, strict=True)]

    async def _approve(self, stage: _Stage, question: str) -> Outcome:
        """Have the agent ask whether its plan is right; the demo plays the human."""
        spec = RunSpec(RESEARCH, said(question), context=self._context(approve=True))
        return Outcome(question, await stage.see_through("approval", spec, lambda _: "yes"))

    async def _refund(self, stage: _Stage) -> Outcome:
        """Have the front desk hand over to the refund agent, whose tool needs an approval."""
        return Outcome(COMPLAINT, await stage.see_through("support", RunSpec(SUPPORT, said(COMPLAINT)), lambda _: True))

    async def _check_expenses(self, stage: _Stage) -> Outcome:
        """Claim two expenses that are above the limits: two questions at once, each of which gets its own answer."""

        def decide(questions: Sequence[JsonObject]) -> JsonObject:
            return {asked["id"]: EXCEPTIONS[asked["value"]["arguments"]["what"]] for asked in questions}

        return Outcome(CLAIM, await stage.see_through("expenses", RunSpec(EXPENSES, said(CLAIM)), decide))

    async def _get_into_trouble(self, stage: _Stage) -> None:
        """Give a run too little time, stop one while it works, and have one find a document that cannot be read."""
        late = await stage.start("trouble", DEEP_QUESTION, {"deep": True}, timeout=self.deadline)
        await late.result()
        stopped = await stage.start("trouble", WIDE_QUESTION, {"deep": True}, late.thread_id)
        async for part in stopped.stream(modes={"custom"}):
            if str(getattr(part, "data", "")).startswith("reading"):
                await stopped.cancel()
                break
        await stopped.result()
        with unreadable_folder() as folder:
            failed = await stage.start("trouble", self.questions[-1], {"docs": str(folder)}, late.thread_id)
            await failed.result()

    def _context(self, **how: Any) -> dict[str, Any]:
        return {"docs": self.docs, **how}


def deadline_after(reading: float) -> float:
    """Seconds too few for a deep question, which reads everything again, on a machine that read it all in `reading`.

    It is always short, because the first reading may have had to wait for a disk.
    """
    return round(min(max(reading / 4, 0.02), 0.2), 2)


def said(text: str) -> JsonObject:
    """The input with which a human says something; all three frameworks take it."""
    return {"messages": [{"type": "human", "content": text}]}


@dataclass(frozen=True, slots=True)
class _Stage:
    """Starts runs and has them watched."""

    app: App
    watcher: Watcher
    group: asyncio.TaskGroup

    async def start(
        self,
        lane: str,
        question: str,
        context: Mapping[str, Any],
        thread_id: str | None = None,
        *,
        timeout: float | None = None,
    ) -> RunHandle:
        """Ask the research agent a question, on a new thread if none is given."""
        spec = RunSpec(RESEARCH, said(question), thread_id=thread_id, context=context, timeout=timeout)
        return await self.follow(lane, spec)

    async def see_through(self, lane: str, spec: RunSpec, answer: Callable[[Sequence[JsonObject]], Any]) -> RunResult:
        """Run something that waits for a human, find its questions in the database, and go on with the answer."""
        run = await self.follow(lane, spec)
        result = await run.result()
        if result.status is not RunStatus.interrupted:
            return result
        (end,) = await self.app.store.events(run_id=run.run_id, types=[LifecycleEventType.RUN_COMPLETED])
        resume = {"resume": answer(end.event.payload["interrupts"])}
        going_on = replace(spec, input=None, thread_id=run.thread_id, command=resume)
        return await (await self.follow(lane, going_on)).result()

    async def follow(self, lane: str, spec: RunSpec) -> RunHandle:
        """Start a run and show it in a lane."""
        run = await self.app.manager.start(
            replace(spec, metadata={"demo": lane}, stream_mode=("custom", "messages", "values"))
        )
        self.group.create_task(self.watcher.watch(run), name=f"demo: watch {run.run_id}")
        return run


@contextmanager
def unreadable_folder() -> Generator[Path]:
    """A folder with two READMEs, one of which was saved as UTF-16, as some editors still do."""
    with tempfile.TemporaryDirectory(prefix="trackside-demo-") as name:
        for package, encoding in (("rich", "utf-8"), ("alembic", "utf-16")):
            Path(name, f"{package}.md").write_text(readme_of(distribution(package)), encoding=encoding)
        yield Path(name)
