"""The agent as `trackside` loads it: `examples/expenses/agent.py:agent`.

It sorts the expenses in a text, converts them to euros, and has a human approve what is above the company's limits. A
second agent says what an expense is for. With `OPENAI_API_KEY` or `OPENAI_BASE_URL` set, a model thinks (`OPENAI_MODEL`
names it); otherwise the rules in `offline` do.
"""

from __future__ import annotations

import os
import sys
from decimal import Decimal
from pathlib import Path

from pydantic_ai import Agent, ModelRetry
from pydantic_ai.models import Model

if __package__ != "expenses":  # loaded by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from expenses.offline import Checking, Classifying
from expenses.policy import LIMITS, RATES, Amount, Category, Report, Rule

_DEFAULT_MODEL = "gpt-5-mini"


def _model(offline: Model) -> Model | str:
    if not (os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL")):
        return offline
    return f"openai-chat:{os.environ.get('OPENAI_MODEL') or _DEFAULT_MODEL}"


classifier = Agent(
    _model(Classifying()),
    name="classifier",
    output_type=Category,
    instructions="Say what kind of business expense this is.",
)

agent = Agent(
    _model(Checking()),
    name="expenses",
    output_type=[Report, str],
    instructions=(
        "Check business expenses. For each one call `classify` and `convert`. Where the amount in euros is above the limit, "
        "call `grant_exception`; if that is denied, the expense is not paid, and the remark says why. Then give the report. "
        "If there are no expenses in the text, say so."
    ),
)


@agent.tool_plain
async def classify(what: str) -> Rule:
    """What an expense is for, and how many euros are paid without asking."""
    category = (await classifier.run(what)).output
    return Rule(category=category, limit=LIMITS[category])


@agent.tool_plain
def convert(amount: Decimal, currency: str) -> Amount:
    """An amount in euros. `currency` is a code of three letters."""
    if currency not in RATES:
        raise ModelRetry(f"there is no rate for {currency!r}; known are {', '.join(RATES)}")
    return Amount(euros=(amount * RATES[currency]).quantize(Decimal("0.01")))


@agent.tool_plain(requires_approval=True)
def grant_exception(what: str, euros: Decimal, limit: Decimal) -> str:
    """Pay an expense although it is above the limit."""
    return f"{what}: {euros} EUR granted, {euros - limit} EUR above the limit"
