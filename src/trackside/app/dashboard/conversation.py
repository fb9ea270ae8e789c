"""The conversation in what a thread remembers, as people read it: who said what, and which tools were called with what.

Messages are recognised in the forms in which agents keep them: LangChain's (`type`), OpenAI's (`role`), and their parts
of several kinds. Nothing here knows about pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trackside.app.dashboard.cutting import MOST_CHARS, json_text, seen_in

MOST: Final = 200
"""How many messages are shown, the newest."""

_SPEAKERS: Final[Mapping[str, str]] = {
    "human": "human",
    "user": "human",
    "ai": "ai",
    "assistant": "ai",
    "AIMessageChunk": "ai",
    "HumanMessageChunk": "human",
    "tool": "tool",
    "function": "tool",
    "system": "system",
    "developer": "system",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """What an agent asked a tool to do."""

    name: str
    arguments: str
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What somebody said."""

    speaker: str
    """`human`, `ai`, `tool`, `system`, or whatever else the message calls itself."""
    text: str
    name: str | None = None
    calls: Sequence[ToolCall] = ()
    answers: str | None = None
    """The id of the call that a tool's message answers."""
    hidden: int = 0
    """How many characters are left out."""
    failed: bool = False

    @property
    def is_long(self) -> bool:
        """Whether the message is folded until somebody wants to read it."""
        return len(self.text) > 1_200 or self.text.count("\n") > 18


@dataclass(frozen=True, slots=True)
class Conversation:
    """The newest messages, oldest first, and how many there are before them."""

    messages: Sequence[Message]
    earlier: int = 0


def conversation_in(values: Any, most: int = MOST) -> Conversation | None:
    """The conversation in what a thread remembers; None if there is none."""
    found = values if isinstance(values, list) else values.get("messages") if isinstance(values, Mapping) else None
    if not isinstance(found, list) or not found or not all(map(_is_message, found[-most:])):
        return None
    return Conversation([_message(one) for one in found[-most:]], max(0, len(found) - most))


def spoken(speaker: str, text: str) -> Conversation:
    """The conversation in which somebody has said this, and nothing else was said."""
    return Conversation([_words(speaker, text)])


def _words(speaker: str, text: str) -> Message:
    return Message(speaker=speaker, text=text[:MOST_CHARS], hidden=max(0, len(text) - MOST_CHARS))


def _is_message(value: Any) -> bool:
    if isinstance(value, str):
        return True
    if not isinstance(value, Mapping):
        return False
    says = value.get("type", value.get("role"))
    return isinstance(says, str) and ("content" in value or "tool_calls" in value)


def _message(value: Any) -> Message:
    if isinstance(value, str):
        return _words("human", value)
    text, calls = text_of(value.get("content")), value.get("tool_calls")
    return Message(
        speaker=speaker_of(value),
        text=text[:MOST_CHARS],
        name=value["name"] if isinstance(value.get("name"), str) else None,
        calls=[_call(one) for one in calls if isinstance(one, Mapping)] if isinstance(calls, list) else (),
        answers=value["tool_call_id"] if isinstance(value.get("tool_call_id"), str) else None,
        hidden=max(0, len(text) - MOST_CHARS),
        failed=value.get("status") == "error",
    )


def speaker_of(value: Any) -> str:
    """Who said a message: `human`, `ai`, `tool`, `system`, or whatever it calls itself."""
    if not isinstance(value, Mapping):
        return "human"
    says = str(value.get("role") if value.get("type") in (None, "message") else value.get("type"))
    return _SPEAKERS.get(says, says[:80])


def text_of(content: Any) -> str:
    """The text of a message's content: the content itself, or its text parts, with the kinds of the others."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if not isinstance(content, list):
        return json_text(content)
    return "\n".join(part for part in map(_part, content) if part)


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        return json_text(part)
    for key in ("text", "thinking", "reasoning", "refusal"):
        if isinstance(part.get(key), str):
            return str(part[key])
    kind = part.get("type")
    if kind in {"tool_use", "tool_call", "function_call", "input_json_delta"}:  # shown among the calls
        return ""
    return f"[{kind}]" if isinstance(kind, str) else json_text(part)


def _call(call: Mapping[str, Any]) -> ToolCall:
    function = call.get("function")
    of: Mapping[str, Any] = function if isinstance(function, Mapping) else call
    arguments = of.get("args", of.get("arguments", {}))
    said = arguments if isinstance(arguments, str) else json_text(arguments)
    id_ = call.get("id")
    return ToolCall(
        name=str(of.get("name", "?"))[:200],
        arguments=seen_in(said[:MOST_CHARS]),
        id=id_ if isinstance(id_, str) else None,
    )
