"""What a run used, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from trackside.app.cli.formatting import cost, count, json_line, one_line
from trackside.harness.journal import MOST_TOKENS

_MOST_USD: Final = 10**6
"""The most that a run's row can hold."""


def used_in(completion: Any) -> dict[str, Any]:
    """What a run used, from its `completion_data`, which may come from any emitter.

    A value that is not a number where one belongs counts as absent, as in the run's row.
    """
    found = ((name, _known(name, value)) for name, value in _items(completion))
    return {name: value for name, value in found if value is not None}


def usage_line(completion: Mapping[str, Any]) -> str:
    """Tokens, calls and cost on one line, such as `1,234 tokens (1,000 in, 234 out) · 3 model calls · $0.0012`."""
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
    """Tokens in and out, such as `1,000 in, 234 out`."""
    return f"{completion.get('total_input_tokens', 0):,} in, {completion.get('total_output_tokens', 0):,} out"


def unpriced_note(used: Mapping[str, Any]) -> str | None:
    """What to say if a run's cost has a limit, but some calls were not counted because their price is unknown."""
    by_model = used.get("token_usage_by_model") or {}
    names = [one_line(name) for name, usage in by_model.items() if "cost_usd" not in usage]
    if not names:
        return None
    tables = ", ".join(f"[prices.{json_line(name)}]" for name in names)
    return (
        f"max_cost_usd did not count calls without a price, of {', '.join(names)}; trackside.toml can say it: {tables}"
    )


def _items(said: Any) -> Iterable[tuple[str, Any]]:
    return said.items() if isinstance(said, Mapping) else ()


def _known(name: str, value: Any) -> Any:
    """The value under this name if it is of the right kind, else None."""
    if name.startswith("token_usage_by_"):
        return {one: used_in(usage) for one, usage in _items(value) if isinstance(usage, Mapping)}
    if name.endswith(("_tokens", "_count")):
        return value if type(value) is int and 0 <= value <= MOST_TOKENS else None
    if name == "cost_usd":
        return value if type(value) in {int, float} and 0 <= value <= _MOST_USD else None
    return value
