"""What a run says, made ready to be read: messages, JSON, who used what. Pure.

Agents and users write what they like, as long as they like: everything here is cut to what a page can hold, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from trackside.app.dashboard.cutting import Cut, cut, json_cut

_MOST_MESSAGES: Final = 50
_HUMAN: Final = frozenset({"human", "user"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Somebody's words, as people read a conversation."""

    kind: str
    name: str | None
    content: Cut
    calls: tuple[tuple[str, Cut], ...] = ()
    """The tools that it calls, each with its arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An input or an output: a conversation, what else there is, or both."""

    messages: tuple[Message, ...] = ()
    earlier: int = 0
    """Messages before those."""
    json: Cut | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """A line of a table of what was used; the last one is the sum of the others."""

    name: str
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    reasoning_tokens: int
    cost: float | None


def said(value: Any, *, since_human: bool = False) -> Said:
    """What went in, or came out.

    Args:
        value: as JSON has it; an object with `messages` is a conversation.
        since_human: only what came after the last human message.
    """
    if isinstance(value, str):
        return Said(messages=(Message(kind="human", name=None, content=cut(value)),))
    messages = value.get("messages") if isinstance(value, Mapping) else None
    if isinstance(messages, Mapping | str):
        messages = [messages]
    if not isinstance(messages, list) or not all(isinstance(one, Mapping | str) for one in messages):
        return Said(json=None if value is None or value == {} else json_cut(value))
    wanted = messages[_after_human(messages) :] if since_human else messages
    shown = wanted[-_MOST_MESSAGES:]
    rest = {key: one for key, one in value.items() if key != "messages"}
    return Said(
        messages=tuple(message_of(one) for one in shown),
        earlier=len(wanted) - len(shown),
        json=json_cut(rest) if rest else None,
    )


def _after_human(messages: Sequence[Any]) -> int:
    places = [at for at, one in enumerate(messages) if isinstance(one, Mapping) and kind_of(one) in _HUMAN]
    return places[-1] + 1 if places else 0


def message_of(message: Any) -> Message:
    """A message as LangChain or OpenAI have them; a text alone is a human's."""
    if not isinstance(message, Mapping):
        return Message(kind="human", name=None, content=cut(str(message)))
    name = message.get("name")
    calls = message.get("tool_calls")
    return Message(
        kind="human" if kind_of(message) in _HUMAN else kind_of(message),
        name=None if name is None else str(name),
        content=cut(content_text(message.get("content"))),
        calls=tuple(_call(one) for one in calls if isinstance(one, Mapping)) if isinstance(calls, list) else (),
    )


def kind_of(message: Mapping[str, Any]) -> str:
    """Who says it: `human`, `ai`, `tool`, `system`."""
    kind = str(message.get("type") or message.get("role") or "message")
    return {"assistant": "ai", "user": "human"}.get(kind, kind.removesuffix("MessageChunk").lower())


def content_text(content: Any) -> str:
    """The text of a message's content, which may be blocks; of blocks that have no text, what they are."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return msgspec.json.encode(content).decode()
    parts = []
    for block in content:
        if isinstance(block, str):
            parts.append(block)
        elif isinstance(block, Mapping) and isinstance(block.get("text"), str):
            parts.append(block["text"])
        elif isinstance(block, Mapping) and block.get("type") not in {"tool_use", "tool_call", "function_call"}:
            parts.append(f"[{block.get('type', 'something')}]")
    return "\n".join(parts)


def _call(said: Mapping[str, Any]) -> tuple[str, Cut]:
    function = said.get("function")
    of = function if isinstance(function, Mapping) else said
    arguments = of.get("args", of.get("arguments"))
    shown = cut(arguments, 4_000) if isinstance(arguments, str) else json_cut(arguments, 4_000)
    return str(of.get("name") or "?"), shown


def used_by(usage: Any) -> tuple[Used, ...]:
    """What each model, or each caller, used; the most first, and last the sum. Nothing if nothing is known."""
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
        input_tokens=_added(line.input_tokens for line in lines),
        output_tokens=_added(line.output_tokens for line in lines),
        cache_read_tokens=_added(line.cache_read_tokens for line in lines),
        reasoning_tokens=_added(line.reasoning_tokens for line in lines),
        cost=sum(costs) if costs else None,
    )


def _added(numbers: Iterable[int]) -> int:
    return sum(numbers)
