"""Several questions at once, and questions about tool calls: asked by a framework, answered on the command line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Trackside = Callable[..., "subprocess.CompletedProcess[str]"]

AGENTS = """
from pydantic_ai import Agent, DeferredToolRequests
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import FunctionModel

def model_that_pays(*receivers):
    def answer(messages, info):
        returns = [part for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]
        if returns:
            return ModelResponse(parts=[TextPart(" and ".join(part.content for part in returns))])
        calls = [ToolCallPart("pay", {"to": to, "usd": 5}, tool_call_id=f"call-{to}") for to in receivers]
        return ModelResponse(parts=calls)
    return FunctionModel(answer)

def cashier(*receivers):
    agent = Agent(model_that_pays(*receivers), output_type=[str, DeferredToolRequests])
    @agent.tool_plain(requires_approval=True)
    def pay(to: str, usd: int) -> str:
        return f"paid {to}"
    return agent

one, two = cashier("ann"), cashier("ann", "bob")
"""


@pytest.fixture
def here(here: Trackside, tmp_path: Path) -> Trackside:
    (tmp_path / "agents.py").write_text(AGENTS)
    return here


def test_a_call_that_needs_an_approval_is_shown_as_a_call(here: Trackside) -> None:
    asked = here("run", "agents.py:one", "pay her", "--thread", "t-1")
    shown = here("threads", "t-1").stdout
    answered = here("resume", "t-1", "true")

    assert asked.returncode == 75, asked.stderr
    assert '? waiting      may pay(to="ann", usd=5) be called?' in asked.stdout
    assert "It waits for an approval (true, false, or " in asked.stdout
    assert asked.stdout.splitlines()[-1].strip() == "trackside resume t-1 true"
    assert 'asks     may pay(to="ann", usd=5) be called?' in shown
    assert (answered.returncode, "paid ann" in answered.stdout) == (0, True)


def test_several_questions_are_answered_at_once_by_their_ids(here: Trackside) -> None:
    asked = here("run", "agents.py:two", "pay them", "--thread", "t-1")
    shown = here("threads", "t-1").stdout
    neither = here("resume", "t-1", "true")
    answers = {"call-bob": {"approved": False, "message": "too much"}, "call-ann": True}
    answered = here("resume", "t-1", json.dumps(answers))

    command = """trackside resume t-1 '{"call-ann": true, "call-bob": true}'"""
    assert asked.stdout.splitlines()[-1].strip() == command
    assert '[call-bob] may pay(to="bob", usd=5) be called?' in asked.stdout
    assert 'asks     [call-ann] may pay(to="ann", usd=5) be called?' in shown
    assert command in shown
    assert (neither.returncode, neither.stdout) == (2, ""), "nobody has to begin a run to see that"
    assert "call-ann, call-bob" in neither.stderr, "it is said which questions are open"
    assert answered.returncode == 0
    assert "paid ann and too much" in answered.stdout


def test_a_question_that_is_left_out_stays_open(here: Trackside) -> None:
    here("run", "agents.py:two", "pay them", "--thread", "t-1")
    first = here("resume", "t-1", '{"call-bob": true}')
    (thread,) = [json.loads(line) for line in here("threads", "t-1", "--json").stdout.splitlines()]
    second = here("resume", "t-1", "false")

    assert first.returncode == 75
    assert 'may pay(to="ann", usd=5) be called?' in first.stdout
    assert [question["id"] for question in thread["interrupts"]] == ["call-ann"]
    assert second.returncode == 0
    assert "paid bob" in second.stdout
    assert "paid ann" not in second.stdout


def test_an_answer_to_a_question_that_nobody_asked_leaves_all_open(here: Trackside) -> None:
    here("run", "agents.py:two", "pay them", "--thread", "t-1")
    wrong = here("resume", "t-1", '{"call-bob": true, "call-eve": true}')

    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "call-eve" in wrong.stderr
    assert here("threads", "t-1").stdout.count("asks") == 2
