"""The expense checker of the examples, with models that need no network."""

import os
import runpy
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from expenses.agent import agent, classifier
from expenses.offline import Checking, Classifying
from strictness import WARNINGS

from trackside import RunManager, RunResult, RunSpec, RunStatus, StreamPart
from trackside.testing import RecordingObserver

AGENT = Path(__file__).parents[2] / "examples/expenses/agent.py"
TEXT = "Taxi 38.50 EUR, hotel in Rome 240 USD, dinner: 96 €"


class Desk:
    """Where expenses are submitted, all on one thread."""

    def __init__(self, manager: RunManager, recorder: RecordingObserver) -> None:
        self._manager = manager
        self._recorder = recorder
        self.output: Any = None
        self.questions: dict[str, str] = {}
        """The ids of the open questions, by what the exception is for."""

    async def run(self, text: str | None = None, *, answer: Any = None) -> RunResult:
        command = None if text is not None else {"resume": answer}
        handle = await self._manager.start(RunSpec("expenses", text, thread_id="desk", command=command))
        values = [part.data async for part in handle.stream() if isinstance(part, StreamPart)]
        result = await handle.result()
        await self._manager.observers.flush(60)
        self.output = values[-1].get("output") if values else None  # the values of a run that asks have the question
        end = next(
            e.payload for e in self._recorder.events if e.run_id == handle.run_id and e.event_type == "run_completed"
        )
        self.questions = {q["value"]["arguments"]["what"]: q["id"] for q in end.get("interrupts", ())}
        return result


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(agent, "model", Checking())  # whichever key is in the environment
    monkeypatch.setattr(classifier, "model", Classifying())
    recorder = RecordingObserver()
    async with RunManager({"expenses": agent}, observers=[recorder]) as manager:
        yield Desk(manager, recorder)


async def test_what_is_within_the_limits_is_paid_at_once(desk: Desk) -> None:
    result = await desk.run("Taxi 38.50 EUR; coffee 4")
    assert result.status is RunStatus.success
    assert [(line["what"], line["category"], line["paid"]) for line in desk.output["lines"]] == [
        ("Taxi", "transport", True),
        ("coffee", "meals", True),
    ]
    assert desk.output["total"] == "42.50"


async def test_what_is_above_the_limits_is_asked_one_by_one(desk: Desk) -> None:
    assert (await desk.run(TEXT)).status is RunStatus.interrupted
    assert set(desk.questions) == {"hotel in Rome", "dinner"}
    await desk.run(answer={desk.questions["hotel in Rome"]: True})
    assert set(desk.questions) == {"dinner"}
    result = await desk.run(answer={"approved": False, "message": "Not for one person."})
    assert result.status is RunStatus.success
    assert [line["paid"] for line in desk.output["lines"]] == [True, True, False]
    assert desk.output["lines"][2]["remark"] == "Not for one person."
    assert desk.output["total"] == "259.30"


async def test_two_expenses_of_one_name_need_two_approvals(desk: Desk) -> None:
    await desk.run("Flight 400 EUR, flight home 400 EUR, flight home 400 EUR")
    assert set(desk.questions) == {"Flight", "flight home", "flight home (2)"}


async def test_the_classifier_is_credited_with_what_it_does(desk: Desk) -> None:
    result = await desk.run("Taxi 38.50 EUR")
    assert set(result.completion_data["token_usage_by_caller"]) == {"lead_agent", "classifier"}
    assert set(result.completion_data["token_usage_by_model"]) == {"offline-checker", "offline-classifier"}


@pytest.mark.parametrize(
    ("text", "says"),
    [("Good morning", "There are no expenses"), ("lunch 12 XYZ", "I cannot check that: there is no rate for 'XYZ'")],
)
async def test_what_cannot_be_checked_is_said(desk: Desk, text: str, says: str) -> None:
    assert (await desk.run(text)).status is RunStatus.success
    assert desk.output.startswith(says)


async def test_the_thread_goes_on_with_new_expenses(desk: Desk) -> None:
    await desk.run("Taxi 38.50 EUR")
    await desk.run("bus 2.50 EUR")
    assert [line["what"] for line in desk.output["lines"]] == ["bus"]


def test_a_key_lets_a_model_think(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of nobody")
    monkeypatch.setenv("OPENAI_MODEL", "gpt-5-nano")
    loaded = runpy.run_path(str(AGENT))["agent"]
    assert loaded.model.model_name == "gpt-5-nano"


def test_the_command_line_asks_and_takes_the_answer_in_another_process(tmp_path: Path) -> None:
    def trackside(*arguments: str) -> subprocess.CompletedProcess[str]:
        executable = Path(sys.executable).with_name("trackside")
        own = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "TRACKSIDE_"))}
        environment = {**own, "PYTHONWARNINGS": WARNINGS}
        return subprocess.run(
            [executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    asked = trackside("run", f"{AGENT}:agent", "dinner 96 EUR", "--thread", "desk")
    assert (asked.returncode, asked.stderr) == (75, "")
    assert "grant_exception" in asked.stdout
    done = trackside("resume", "desk", "yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert '"total":"96.00"' in done.stdout
