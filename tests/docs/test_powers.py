"""Only one module asks for what an agent may have, and it is named where authors of agents read."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from blocks import DOCS

import trackside
from trackside import Agent

PACKAGE = Path(trackside.__file__).parent
HARNESS = PACKAGE / "harness"
MODULE = HARNESS / "powers.py"
_ASK = {"getattr", "getattr_static", "hasattr"}
_AN_AGENT = re.compile(r"\b_?(agents?|keeper)\b")
_NO_POWERS = {
    ("app/wiring/agents.py", "channels"),  # a graph's
    ("app/wiring/agents.py", "checkpointer"),
    ("app/wiring/memories.py", "aget_state"),
    ("app/wiring/memories.py", "human_messages"),  # which makes an agent of it
    ("harness/states.py", "name"),  # which each has
}
"""What else the code asks, by its name, of something that may be an agent."""


class Question(NamedTuple):
    """The code asks the object called `of` for `name`."""

    of: str
    name: str


def questions_in(tree: ast.AST) -> list[Question]:
    """What the code asks for by a literal name."""
    found: list[Question] = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Name(asks) | ast.Attribute(attr=asks), args=[of, ast.Constant(value=str(name)), *_]
            ) if asks in _ASK:
                found.append(Question(ast.unparse(of), name))
            case _:
                pass
    return found


FUNCTIONS = [node for node in ast.parse(MODULE.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)]
POWERS = [question.name for function in FUNCTIONS for question in questions_in(function)]
ELSEWHERE = [
    (str(path.relative_to(PACKAGE)), question)
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != MODULE
    for question in questions_in(ast.parse(path.read_text("utf-8")))
]


def test_each_power_has_one_function() -> None:
    assert len(POWERS) == len(set(POWERS)) == len(FUNCTIONS) > 0


def test_nobody_else_asks_for_a_power() -> None:
    assert [(path, question) for path, question in ELSEWHERE if question.name in POWERS] == []


def test_nobody_else_asks_an_agent_for_something_by_its_name() -> None:
    asked = {(path, question.name) for path, question in ELSEWHERE if _AN_AGENT.search(question.of)}
    assert asked == _NO_POWERS


@pytest.mark.parametrize("power", POWERS)
def test_an_adapter_of_ours_has_it_by_that_name(power: str) -> None:
    had = re.compile(rf"^    (async )?(def )?{power}( =|\()", re.MULTILINE)
    adapters = (HARNESS / "adapters").rglob("*.py")
    assert any(had.search(path.read_text("utf-8")) for path in adapters)


@pytest.mark.parametrize("power", POWERS)
def test_who_writes_an_adapter_reads_of_it(power: str) -> None:
    named = re.compile(rf"`(async )?{power}\b[^`]*`")
    assert named.search(Agent.__doc__ or "")
    assert re.search(rf"^\| {named.pattern} \|", (DOCS / "conformance.md").read_text("utf-8"), re.MULTILINE)


def test_the_reference_has_them_all() -> None:
    pages = (DOCS / "reference" / "api").glob("*.md")
    assert any("\n::: trackside.harness.powers\n" in page.read_text("utf-8") for page in pages)
