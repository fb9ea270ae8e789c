"""The demo's agents that follow rules in place of a model."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from expenses.agent import agent, classifier
from expenses.offline import Checking, Classifying
from support_desk.agent import build_desk
from support_desk.orders import Shop
from support_desk.rules import RuleModel

from demo.scenario import EXPENSES, SUPPORT


@contextmanager
def agents_by_rules() -> Generator[dict[str, Any]]:
    """The support desk and the expense checker, by name.

    They use no model, whatever the environment names: what their tools do is approved in advance, and nobody looks at
    it first.
    """
    with agent.override(model=Checking()), classifier.override(model=Classifying()):
        yield {SUPPORT: build_desk(Shop(), RuleModel), EXPENSES: agent}
