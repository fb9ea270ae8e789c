"""What the demo runs: questions that are answered, three agents that wait for a human, and three runs that do not end well.

Nothing here says how a run ends. The deadline is too short for the work, the cancel comes while documents are read, the
document really is unreadable, and what asks a human really waits for the answer.
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
"""The agents: a LangGraph graph, one of the OpenAI Agents SDK, one of Pydantic AI."""

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
"""What happens on each thread, by the name it is shown by."""

DEEP_QUESTION = "How are timeouts, retries and cancellation handled?"
WIDE_QUESTION = "Which libraries are fast, and how was that measured?"
COMPLAINT = "My desk lamp, order 1003, came broken. Can I have my money back?"
CLAIM = "Taxi 38.50 EUR, hotel in Rome 240 USD, dinner 96 EUR"
EXCEPTIONS = {"hotel in Rome": True, "dinner": {"approved": False, "message": "Not for one person."}}
"""What the human says to each expense that is above the limit."""


class Watcher(Protocol):
    """Whoever shows what happens."""

    async def watch(self, run: RunHandle) -> None:
        """Show the live output of a run until it ends."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """A question, and the end of the run that was to answer it."""

    question: str
    result: RunResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """The demo's runs. `deadline` (seconds) is what the deep run gets, `docs` the folder that the others search."""

    questions: tuple[str, ...] = QUESTIONS
    docs: str | None = None
    deadline: float

    async def play(self, app: App, watcher: Watcher) -> list[Outcome]:
        """Run everything, five threads at once; gives what became of the questions that were to be answered."""
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
        """All questions at once on one thread: each waits for the one before it."""
        thread_id = str(uuid4())
        runs = [await stage.start("answers", question, self._context(), thread_id) for question in questions]
        return [Outcome(question, await run.result()) for question, run in zip(questions, runs, strict=True)]

    async def _approve(self, stage: _Stage, question: str) -> Outcome:
        """The agent asks whether its plan is right; here the demo is the human."""
        spec = RunSpec(RESEARCH, said(question), context=self._context(approve=True))
        return Outcome(question, await stage.see_through("approval", spec, lambda _: "yes"))

    async def _refund(self, stage: _Stage) -> Outcome:
        """The front desk hands over to the agent for refunds, whose tool needs an approval."""
        return Outcome(COMPLAINT, await stage.see_through("support", RunSpec(SUPPORT, said(COMPLAINT)), lambda _: True))

    async def _check_expenses(self, stage: _Stage) -> Outcome:
        """Two expenses are above the limits: two questions at once, each of which gets an answer of its own."""

        def decide(questions: Sequence[JsonObject]) -> JsonObject:
            return {asked["id"]: EXCEPTIONS[asked["value"]["arguments"]["what"]] for asked in questions}

        return Outcome(CLAIM, await stage.see_through("expenses", RunSpec(EXPENSES, said(CLAIM)), decide))

    async def _get_into_trouble(self, stage: _Stage) -> None:
        """Too little time; stopped while at work; a document that cannot be read."""
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
    """Seconds that are too few for a deep question, which reads everything again, on a machine that read it in `reading`.

    Not more than a little, as the first reading may have had to wait for a disk.
    """
    return round(min(max(reading / 4, 0.02), 0.2), 2)


def said(text: str) -> JsonObject:
    """The input in which a human says something; all three frameworks take it."""
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
        """Ask the research agent a question, on a new thread if there is none."""
        spec = RunSpec(RESEARCH, said(question), thread_id=thread_id, context=context, timeout=timeout)
        return await self.follow(lane, spec)

    async def see_through(self, lane: str, spec: RunSpec, answer: Callable[[Sequence[JsonObject]], Any]) -> RunResult:
        """Run what waits for a human, who finds its questions in the database, and then goes on with the answer."""
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
    """A folder with two READMEs in it, one of which was saved as UTF-16, as some editors still do."""
    with tempfile.TemporaryDirectory(prefix="trackside-demo-") as name:
        for package, encoding in (("rich", "utf-8"), ("alembic", "utf-16")):
            Path(name, f"{package}.md").write_text(readme_of(distribution(package)), encoding=encoding)
        yield Path(name)
