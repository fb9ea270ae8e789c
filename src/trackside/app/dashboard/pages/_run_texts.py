"""What a run says, made ready to be read: messages, questions, JSON, who used what. Pure.

Agents and users write what they like, as long as they like: everything here is cut to what a page can hold, and says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

MOST_CHARS: Final = 20_000
_MOST_MESSAGES: Final = 50
_MOST_CHOICES: Final = 12
_MOST_OF_CHOICE: Final = 100
_INDENTED: Final = 200_000
"""JSON that is longer is shown as it is: to indent it takes longer than to read its beginning."""

_YES_NO: Final = re.compile(
    r"^\s*(may|shall|should|can|could|do|does|did|is|are|was|were|will|would|has|have|ok|okay|approve|proceed|continue|"
    r"really|send|delete)\b.{0,400}\?\s*$",
    re.IGNORECASE | re.DOTALL,
)
_EITHER_OR: Final = re.compile(r"\bor\b", re.IGNORECASE)
_HUMAN: Final = frozenset({"human", "user"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A text, or its beginning."""

    text: str
    left_out: int = 0
    """So many characters are not in it."""


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


class Choice(NamedTuple):
    """An answer as a button has it, and as the agent gets it, in JSON."""

    label: str
    json: str


_YES: Final = (Choice("Yes", "true"), Choice("No", "false"))
_GO_ON: Final = (Choice("Go on", "true"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a run waits for."""

    id: str | None
    text: Cut
    more: Cut | None
    """What else was said with it, as JSON."""
    choices: tuple[Choice, ...] = ()
    """The answers that it is likely to want; any other can be typed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """A line of a table of what was used; the last one is the sum of the others."""

    name: str
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    reasoning_tokens: int
    cost: float | None


def cut(text: str, most: int = MOST_CHARS) -> Cut:
    """The text, or its beginning."""
    return Cut(text=text[:most], left_out=max(0, len(text) - most))


def json_cut(value: Any, most: int = MOST_CHARS) -> Cut:
    """A JSON value, indented unless it is very long, or its beginning."""
    encoded = msgspec.json.encode(value)
    if len(encoded) <= _INDENTED:
        encoded = msgspec.json.format(encoded, indent=2)
    return cut(encoded.decode(), most)


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


def questions_of(interrupts: Any) -> tuple[Question, ...]:
    """The questions that a run has ended with, each with the form that fits it."""
    listed = interrupts if isinstance(interrupts, list | tuple) else ()
    return tuple(_question(one) for one in listed if isinstance(one, Mapping))


def _question(interrupt: Mapping[str, Any]) -> Question:
    said_id = interrupt.get("id")
    own = None if said_id is None else str(said_id)
    value, following = interrupt.get("value"), interrupt.get("next")
    if value is None and isinstance(following, list):
        text = f"It has stopped before {', '.join(map(str, following))}."
        return Question(id=own, text=cut(text), more=None, choices=_GO_ON)
    if isinstance(value, str):
        return Question(id=own, text=cut(value), more=None, choices=_YES if is_yes_no(value) else ())
    if not isinstance(value, Mapping):
        return Question(id=own, text=json_cut(value), more=None)
    if isinstance(value.get("tool"), str) and "arguments" in value:
        is_approval = value.get("kind", "approval") == "approval"
        text = f"May {value['tool']} be called?" if is_approval else f"What does {value['tool']} return?"
        more = json_cut(value["arguments"])
        return Question(id=own, text=cut(text), more=more, choices=_YES if is_approval else ())
    requests = value.get("action_requests")
    if isinstance(requests, list) and requests:
        text = "May it do this?" if len(requests) == 1 else f"May it do these {len(requests)} things?"
        return Question(id=own, text=cut(text), more=json_cut(value), choices=_decisions(len(requests)))
    return _asked(own, value)


def _decisions(number: int) -> tuple[Choice, ...]:
    """The same decision on each action that an agent wants to do, as LangChain's agents wait for them."""
    both = (("Approve", "approve"), ("Reject", "reject"))
    return tuple(Choice(label, _compact({"decisions": [{"type": kind}] * number})) for label, kind in both)


def _asked(own: str | None, value: Mapping[str, Any]) -> Question:
    names = ("question", "prompt", "message", "text", "title")
    key = next((name for name in names if isinstance(value.get(name), str)), None)
    if key is None:
        return Question(id=own, text=cut("It waits for an answer."), more=json_cut(value))
    text = value[key]
    choices, offered = _choices(value)
    rest = {name: one for name, one in value.items() if name not in {key, offered}}
    if not choices and is_yes_no(text):
        choices = _YES
    return Question(id=own, text=cut(text), more=json_cut(rest) if rest else None, choices=choices)


def _choices(value: Mapping[str, Any]) -> tuple[tuple[Choice, ...], str | None]:
    """The answers that a question offers, and under which name it does."""
    for name in ("options", "choices"):
        offered = value.get(name)
        if isinstance(offered, list) and 0 < len(offered) <= _MOST_CHOICES and all(map(_is_short, offered)):
            return tuple(Choice(str(one), _compact(one)) for one in offered), name
    return (), None


def _is_short(offered: Any) -> bool:
    return isinstance(offered, str | int | float) and len(str(offered)) <= _MOST_OF_CHOICE


def _compact(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def is_yes_no(text: str) -> bool:
    """Whether a question is answered by yes or no."""
    last = text.strip().splitlines()[-1] if text.strip() else ""
    return _YES_NO.match(last) is not None and _EITHER_OR.search(last) is None


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
