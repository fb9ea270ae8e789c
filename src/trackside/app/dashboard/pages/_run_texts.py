"""What a run says, made ready to read: messages, JSON, who used what. Pure.

Agents and users write what they like, as long as they like: everything here is cut to what a page can hold, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trackside.app.dashboard.conversation import Conversation, conversation_in, speaker_of
from trackside.app.dashboard.cutting import Cut, json_cut

_MOST_MESSAGES: Final = 50
_NOTHING: Final = Conversation(())


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An input or an output: a conversation, anything else, or both."""

    conversation: Conversation = _NOTHING
    json: Cut | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """A line of a table of what was used; the last line is the sum of the others."""

    name: str
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    reasoning_tokens: int
    cost: float | None


def said(value: Any, *, since_human: bool = False) -> Said:
    """What went in, or came out.

    Args:
        value: a JSON value; an object with `messages` is a conversation.
        since_human: only what came after the last human message.
    """
    messages = value.get("messages") if isinstance(value, Mapping) else value if isinstance(value, str) else None
    if isinstance(messages, Mapping | str):
        messages = [messages]
    wanted = _after_human(messages) if since_human and isinstance(messages, list) else messages
    found = _NOTHING if wanted == [] else conversation_in(wanted, _MOST_MESSAGES)
    if found is None:
        return Said(json=None if value is None or value == {} else json_cut(value))
    rest = {key: one for key, one in value.items() if key != "messages"} if isinstance(value, Mapping) else {}
    return Said(conversation=found, json=json_cut(rest) if rest else None)


def _after_human(messages: Sequence[Any]) -> Sequence[Any]:
    places = [at for at, one in enumerate(messages) if isinstance(one, Mapping) and speaker_of(one) == "human"]
    return messages[places[-1] + 1 :] if places else messages


def used_by(usage: Any) -> tuple[Used, ...]:
    """What each model, or each caller, used, the most first and the sum last; empty if nothing is known."""
    lines = [_used(str(name), one) for name, one in usage.items()] if isinstance(usage, Mapping) else []
    if not lines:
        return ()
    lines.sort(key=lambda line: (-(line.cost or 0.0), -(line.input_tokens + line.output_tokens), line.name))
    return (*lines, _total(lines))


def _used(name: str, said_usage: Any) -> Used:
    usage = said_usage if isinstance(said_usage, Mapping) else {}

    def count(key: str) -> int:
        number = usage.get(key)
        return number if type(number) is int else 0

    cost = usage.get("cost_usd")
    return Used(
        name=name,
        input_tokens=count("input_tokens"),
        output_tokens=count("output_tokens"),
        cache_read_tokens=count("cache_read_tokens"),
        reasoning_tokens=count("reasoning_tokens"),
        cost=float(cost) if isinstance(cost, int | float) else None,
    )


def _total(lines: Sequence[Used]) -> Used:
    costs = [line.cost for line in lines if line.cost is not None]
    return Used(
        name="",
        input_tokens=sum(line.input_tokens for line in lines),
        output_tokens=sum(line.output_tokens for line in lines),
        cache_read_tokens=sum(line.cache_read_tokens for line in lines),
        reasoning_tokens=sum(line.reasoning_tokens for line in lines),
        cost=sum(costs) if costs else None,
    )
