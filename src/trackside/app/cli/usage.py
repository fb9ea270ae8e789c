"""What a run used, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trackside.app.cli.formatting import cost, count, json_line, one_line


def usage_line(completion: Mapping[str, Any]) -> str:
    """Tokens, calls and cost on one line, as `1,234 tokens (1,000 in, 234 out) · 3 model calls · $0.0012`."""
    parts = []
    if total := completion.get("total_tokens"):
        parts.append(f"{count(total, 'token')} ({tokens_in_and_out(completion)})")
    for key, noun in (("llm_call_count", "model call"), ("tool_call_count", "tool call")):
        if number := completion.get(key):
            parts.append(count(number, noun))
    if (usd := completion.get("cost_usd")) is not None:
        parts.append(cost(usd))
    return " · ".join(parts)


def tokens_in_and_out(completion: Mapping[str, Any]) -> str:
    """Tokens in and out, as `1,000 in, 234 out`."""
    return f"{completion.get('total_input_tokens', 0):,} in, {completion.get('total_output_tokens', 0):,} out"


def unpriced_note(used: Mapping[str, Any]) -> str | None:
    """What to say where a run's cost has a limit, and calls of it were not counted because nobody knows their price."""
    by_model = used.get("token_usage_by_model") or {}
    names = [one_line(name) for name, usage in by_model.items() if "cost_usd" not in usage]
    if not names:
        return None
    tables = ", ".join(f"[prices.{json_line(name)}]" for name in names)
    return (
        f"max_cost_usd did not count calls without a price, of {', '.join(names)}; trackside.toml can say it: {tables}"
    )
