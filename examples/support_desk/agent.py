"""The agent as `trackside` loads it: `examples/support_desk/agent.py:agent`. It knows nothing of Trackside.

With `OPENAI_API_KEY` a model thinks (`OPENAI_MODEL` and `OPENAI_BASE_URL` count, too); without it a few rules do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agents import Agent, Model, OpenAIChatCompletionsModel, RunContextWrapper, function_tool
from openai import AsyncOpenAI

if __package__ != "support_desk":  # loaded by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support_desk.orders import OrderError, Shop
from support_desk.rules import Decision, RuleModel, Talk, at_orders, at_refunds, at_the_front

DEFAULT_MODEL = "gpt-5-mini"


def build_desk(shop: Shop, think: Callable[[Callable[[Talk], Decision]], Model | str]) -> Agent[Any]:
    """The front desk of a shop; `think` gives each agent its model, and is told the rules that could replace one."""

    def sorry(context: RunContextWrapper[Any], error: Exception) -> str:
        if isinstance(error, OrderError):
            return str(error)
        raise error  # the customer must not read about the shop's own failure

    @function_tool(failure_error_function=sorry)
    async def look_up_order(number: str) -> str:
        """Say what was ordered under a number, what it cost and where it is."""
        return str(shop.find(number))

    @function_tool(failure_error_function=sorry, needs_approval=True)
    async def refund(number: str, amount: float) -> str:
        """Give a customer so many euros of an order back."""
        return f"Done: {amount:.2f} € are on their way back to you. {shop.refund(number, amount)}"

    orders = Agent[Any](
        "Orders",
        instructions="Tell the customer about an order. Ask for its number if you do not know it. Be brief.",
        handoff_description="knows where orders are",
        model=think(at_orders),
        tools=[look_up_order],
    )
    refunds = Agent[Any](
        "Refunds",
        instructions="Look the order up, then refund what the customer may ask for. If that is rejected, say why. Be brief.",
        handoff_description="gives money back",
        model=think(at_refunds),
        tools=[look_up_order, refund],
    )
    return Agent[Any](
        "Front desk",
        instructions="Hand the customer over to who can help; if nobody can, say what the desk is for. Be brief.",
        model=think(at_the_front),
        handoffs=[orders, refunds],
    )


def model_of_environment(rules: Callable[[Talk], Decision]) -> Model | str:
    """What thinks for an agent: the rules, unless there is a key for a model."""
    if not os.environ.get("OPENAI_API_KEY"):
        return RuleModel(rules)
    name = os.environ.get("OPENAI_MODEL", DEFAULT_MODEL)
    if os.environ.get("OPENAI_BASE_URL"):  # providers other than OpenAI mostly know only its older interface
        return OpenAIChatCompletionsModel(name, AsyncOpenAI())
    return name


agent = build_desk(Shop(), model_of_environment)
"""Answers a customer; a refund waits for a human's approval."""
