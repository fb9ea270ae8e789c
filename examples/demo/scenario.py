"""What the demo runs: questions that are answered, one that a human approves of, and three runs that do not end well.

Nothing here says how a run ends. The deadline is too short for the work, the cancel comes while documents are read, the
document really is unreadable, and the question really waits for its answer.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from research.documents import readme_of

from trackside import RunHandle, RunManager, RunResult, RunSpec, RunStatus

AGENT = "research"

QUESTIONS = (
    "How do I test asynchronous code and find blocking calls?",
    "How do I validate data with type hints, and serialise it to JSON?",
    "How are database migrations written and applied?",
)
LANES = {
    "answers": "questions that wait for each other",
    "approval": "a question whose plan a human has to approve",
    "trouble": "too little time, a cancel, a document that cannot be read",
}
"""What happens on each thread, by the name it is shown by."""

DEEP_QUESTION = "How are timeouts, retries and cancellation handled?"
WIDE_QUESTION = "Which libraries are fast, and how was that measured?"


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

    async def play(self, manager: RunManager, watcher: Watcher) -> list[Outcome]:
        """Run everything, three threads at once; gives what became of the questions that were to be answered."""
        approved = self.questions[-1]
        plain = self.questions[:-1] or self.questions
        async with asyncio.TaskGroup() as group:
            stage = _Stage(manager, watcher, group)
            answers = group.create_task(self._answer(stage, plain), name="demo: answers")
            approval = group.create_task(self._approve(stage, approved), name="demo: approval")
            group.create_task(self._get_into_trouble(stage), name="demo: trouble")
        return [*answers.result(), approval.result()]

    async def _answer(self, stage: _Stage, questions: Sequence[str]) -> list[Outcome]:
        """All questions at once on one thread: each waits for the one before it."""
        thread_id = str(uuid4())
        runs = [await stage.start("answers", question, self._context(), thread_id) for question in questions]
        return [Outcome(question, await run.result()) for question, run in zip(questions, runs, strict=True)]

    async def _approve(self, stage: _Stage, question: str) -> Outcome:
        """The agent asks whether its plan is right; here the demo is the human."""
        run = await stage.start("approval", question, self._context(approve=True))
        asked = await run.result()
        if asked.status is not RunStatus.interrupted:
            return Outcome(question, asked)
        answer = RunSpec(AGENT, thread_id=run.thread_id, command={"resume": "yes"}, context=self._context(approve=True))
        return Outcome(question, await (await stage.follow("approval", answer)).result())

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


@dataclass(frozen=True, slots=True)
class _Stage:
    """Starts runs and has them watched."""

    manager: RunManager
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
        """Ask a question, on a new thread if there is none."""
        message = {"type": "human", "content": question}
        spec = RunSpec(AGENT, {"messages": [message]}, thread_id=thread_id, context=context, timeout=timeout)
        return await self.follow(lane, spec)

    async def follow(self, lane: str, spec: RunSpec) -> RunHandle:
        """Start a run and show it in a lane."""
        run = await self.manager.start(
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
