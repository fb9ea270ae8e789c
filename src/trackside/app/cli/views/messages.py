"""Reads messages: assembles what mode `messages` streams, and finds the answer among the messages of a state.

A stream has whole messages, and chunks that share an id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trackside.app.cli.formatting import json_line, message_text, one_line
from trackside.app.cli.views.appearance import AGENT, Look

_TOOL = Look("·", ".", "tool", "dim")
_UNSEEN = frozenset({"human", "user", "system", "remove"})  # an event announces human ones, nobody said the others
_HUMAN = frozenset({"human", "user"})
_AGENT = frozenset({"ai", "assistant"})


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new in one message. `key` is the same for all pieces of a message; `done` is true for the last one."""

    key: str
    look: Look
    text: str
    done: bool


class Messages:
    """Turns stream parts into pieces, each text once: a whole message just completes one that was streamed before."""

    def __init__(self) -> None:
        self._length: dict[str, int] = {}  # length of the text so far, by key
        self._done: set[str] = set()

    def take(self, data: Any, namespace: Sequence[str]) -> Piece | None:
        """The new piece in a part's data: a message, or a pair of a message and its metadata; None if there is none."""
        message, metadata = _message_and_metadata(data)
        kind = _kind(message)
        if not kind or kind in _UNSEEN:
            return None
        key = str(message.get("id") or f"{kind} {len(self._done)}")
        if key in self._done:
            return None
        text = _text_of(message)
        if str(message.get("type")).endswith("Chunk"):
            done = message.get("chunk_position") == "last"
            self._length[key] = self._length.get(key, 0) + len(text)
        else:
            done = True
            text = text[self._length.get(key, 0) :]
        if done:
            self._done.add(key)
            self._length.pop(key, None)
        return Piece(key, _look_of(kind, message, metadata, namespace), text, done)


def last_answer(values: Any) -> str:
    """The text of the agent's last message in a state; empty if a human said something after it."""
    messages = values.get("messages") if isinstance(values, Mapping) else None
    for message in reversed(messages) if isinstance(messages, list) else ():
        said = _kind(message) if isinstance(message, Mapping) else ""
        if said in _HUMAN:
            break
        if said in _AGENT and (text := message_text(message.get("content"))).strip():
            return text
    return ""


def _kind(message: Mapping[str, Any]) -> str:
    """The kind of a message, as LangChain or OpenAI call it."""
    said = message.get("type") or message.get("role")
    return said.removesuffix("MessageChunk").lower() if isinstance(said, str) else ""


def _message_and_metadata(data: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    message, metadata = (*data, {})[:2] if isinstance(data, list | tuple) and data else (data, {})
    return (message if isinstance(message, Mapping) else {}), (metadata if isinstance(metadata, Mapping) else {})


def _text_of(message: Mapping[str, Any]) -> str:
    text = message_text(message.get("content"))
    calls = [*(message.get("tool_call_chunks") or ()), *(message.get("tool_calls") or ())]
    if message.get("type") == "tool":
        return one_line(text)
    named = [call for call in calls if isinstance(call, Mapping) and call.get("name")]
    return text + "".join(f"\n→ {call['name']}{_arguments(call.get('args'))}" for call in _distinct(named))


def _distinct(calls: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Keep each call once: a chunk has it as a chunk and, as far as it could be parsed, as a call; the first counts."""
    by_id: dict[Any, Mapping[str, Any]] = {}
    for call in calls:
        by_id.setdefault(call.get("id") or id(call), call)
    return list(by_id.values())


def _arguments(arguments: Any) -> str:
    if not arguments:
        return ""
    return f"({one_line(arguments if isinstance(arguments, str) else json_line(arguments))})"


def _look_of(kind: str, message: Mapping[str, Any], metadata: Mapping[str, Any], namespace: Sequence[str]) -> Look:
    if kind == "tool":
        return Look(_TOOL.symbol, _TOOL.plain, str(message.get("name") or _TOOL.label), _TOOL.style)
    within = namespace[-1].partition(":")[0] if namespace else None
    speaker = message.get("name") or within or metadata.get("langgraph_node") or AGENT.label
    return Look(AGENT.symbol, AGENT.plain, one_line(str(speaker)))
