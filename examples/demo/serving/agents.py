"""The agents that the demo's server loads: those of the other demos, and one that is a plain function."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import AsyncGenerator
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any, Final

from research.documents import readme_of
from research.graph import Research, build_graph
from research.thinking import Extractive

from demo.by_rules import agents_by_rules
from demo.scenario import EXPENSES, SUPPORT
from trackside import RunContext

_rules = agents_by_rules()
_by_rules = _rules.__enter__()
atexit.register(_rules.__exit__, None, None, None)

research = build_graph(Research(), thinker=Extractive())
"""A LangGraph graph that answers questions from the READMEs of the packages that are installed."""
reviewed = build_graph(Research(approve=True), thinker=Extractive())
"""The same, but a human has to approve its plan."""
hurried = build_graph(Research(deep=True), thinker=Extractive())
"""The same, but with more to do than the settings give it time for."""
support = _by_rules[SUPPORT]
"""Hands a customer over to an agent that may refund, which asks a human first (OpenAI Agents SDK)."""
expenses = _by_rules[EXPENSES]
"""Checks a report against limits, and asks about what is above them (Pydantic AI)."""

MODELS: Final = {"reader": "gpt-5-mini", "writer": "gpt-5"}
"""The models that the rules stand in for, named for what their calls would cost."""
_WORDS: Final = 60
_PAUSE: Final = 0.04  # seconds a word


async def briefing(input: dict[str, Any], run: RunContext) -> AsyncGenerator[dict[str, str] | str]:
    """Reads what packages say of themselves, and writes a briefing of it word by word.

    Rules stand in the models' places. How many tokens these would have used is estimated from the texts, four characters
    each, so that there is something to see that costs something.
    """
    packages: list[str] = input.get("packages") or ["rich"]
    run.set_title(f"Briefing: {', '.join(packages)}")
    texts: list[str] = []
    for package in packages:
        with run.call("execute_tool", "read_package", caller="reader"):
            texts.append(await asyncio.to_thread(_readme, package))
        with run.call("chat", MODELS["reader"], caller="reader") as call:
            await asyncio.sleep(0.2 + len(texts[-1]) / 50_000)
            run.record_usage(
                MODELS["reader"],
                input_tokens=len(texts[-1]) // 4,
                output_tokens=80,
                caller="reader",
                call=call,
            )
    words = [word for text in texts for word in text.split()[: _WORDS // len(texts)]]
    with run.call("chat", MODELS["writer"]) as call:
        for word in words:
            yield {"word": word}
            await asyncio.sleep(_PAUSE)
        run.record_usage(MODELS["writer"], input_tokens=400 * len(texts), output_tokens=len(words) * 2, call=call)
    yield " ".join(words)


def _readme(package: str) -> str:
    try:
        return readme_of(distribution(package))
    except PackageNotFoundError:
        raise LookupError(f"there is no package {package!r} here, and so nothing to read") from None
