"""Recorded conversations of agents with people: what was said, which tools were called, what was used and paid.

`README.md` beside the recording says how it was made. Tests look for the recording beside the project, or where
`TRACKSIDE_TRAJECTORIES` says.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

type Message = dict[str, Any]
type Item = tuple[str, ...]
"""A part of a conversation, in a form to which every framework's can be converted: `("user" | "assistant", text)`,
`("call", id, name, arguments as JSON)`, `("result", id of the call, text)`."""

_FOLDER = Path(os.environ.get("TRACKSIDE_TRAJECTORIES") or Path(__file__).parents[4] / "shared/data/trajectories")
RECORDING = _FOLDER / "trajectories.jsonl.gz"

needs_recording = pytest.mark.skipif(
    not RECORDING.exists(), reason=f"the recorded conversations are not here: {RECORDING}"
)


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What a number of messages add up to."""

    message_count: int = 0
    human_message_count: int = 0
    llm_call_count: int = 0
    tool_call_count: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0

    @classmethod
    def of(cls, messages: Iterable[Message]) -> Totals:
        messages = list(messages)
        calls = calls_of_models(messages)
        return cls(
            message_count=len(messages),
            human_message_count=sum(message["role"] == "user" for message in messages),
            llm_call_count=len(calls),
            tool_call_count=sum(len(message.get("tool_calls", ())) for message in messages),
            input_tokens=sum(call["usage"]["input_tokens"] for call in calls),
            output_tokens=sum(call["usage"]["output_tokens"] for call in calls),
            cost=sum(call["cost"] for call in calls),
        )

    def __add__(self, other: Totals) -> Totals:
        return Totals(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)})


@dataclass(frozen=True)
class Turn:
    """What one run does: what it is given, and all messages of the run, including those it was given."""

    given: Sequence[Message]
    messages: Sequence[Message]

    @property
    def is_answered(self) -> bool:
        """Whether anybody answers; if not, the customer had the last word."""
        return len(self.messages) > len(self.given)

    @property
    def totals(self) -> Totals:
        return Totals.of(self.messages)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One conversation."""

    id: str
    group: str
    messages: Sequence[Message]
    expected: dict[str, Any]

    @functools.cached_property
    def model(self) -> str:
        (name,) = {call["model"] for call in calls_of_models(self.messages)}
        return str(name)

    @functools.cached_property
    def tools(self) -> dict[str, set[str]]:
        """The names of the called tools, and the names of their arguments."""
        tools: dict[str, set[str]] = {}
        for message in self.messages:
            for call in message.get("tool_calls", ()):
                tools.setdefault(call["name"], set()).update(call["arguments"])
        return tools

    @property
    def turns(self) -> list[Turn]:
        """The turns: each human message begins one; an opening that no model made is given with the first."""
        begins = [index for index, message in enumerate(self.messages) if message["role"] == "user"]
        if not begins:
            return [Turn([], self.messages)]
        ends = [*begins[1:], len(self.messages)]
        first = Turn(self.messages[: begins[0] + 1], self.messages[: ends[0]])
        later = [
            Turn(self.messages[begin : begin + 1], self.messages[begin:end])
            for begin, end in zip(begins[1:], ends[1:], strict=True)
        ]
        return [first, *later]


class ToolFailure(Exception):
    """A tool that failed, with this text."""


class Script:
    """Knows what the model and the tools of a conversation say next.

    Args:
        trajectory: the conversation.
        asked: an unrecorded opening text, such as that of an agent that delegates to another.
    """

    def __init__(self, trajectory: Trajectory, *, asked: str | None = None) -> None:
        self.trajectory = trajectory
        self._before: list[Item] = [] if asked is None else [("user", asked)]
        parts = [items_of(message) for message in trajectory.messages]
        self._items = [item for part in parts for item in part]
        self._starts = {length - len(part): nth for nth, (length, part) in enumerate(_lengths(parts))}
        self._calls = {call["id"]: call for message in trajectory.messages for call in message.get("tool_calls", ())}
        self._results = {
            message["tool_call_id"]: message for message in trajectory.messages if message["role"] == "tool"
        }

    def answer(self, heard: Sequence[Item]) -> Message:
        """The answer of a model that has heard this, which must be all that was said before, in order."""
        count = len(heard) - len(self._before)
        assert list(heard) == [*self._before, *self._items[:count]], "the model hears something else than was recorded"
        message: Message = self.trajectory.messages[self._starts[count]]
        assert "usage" in message, f"a model is called where the recording has: {message}"
        return message

    def is_over(self, heard: Sequence[Item]) -> bool:
        """Whether this is everything that was said."""
        return len(heard) == len(self._before) + len(self._items)

    def result(self, call_id: str, arguments: dict[str, Any]) -> str:
        """What a tool returns.

        Raises:
            ToolFailure: the tool failed in the recording.
        """
        assert arguments == self._calls[call_id]["arguments"], "the tool gets other arguments than were recorded"
        recorded = self._results[call_id]
        if recorded.get("error"):
            raise ToolFailure(recorded["content"])
        return str(recorded["content"])


def call_item(call_id: str, name: str, arguments: Any) -> Item:
    return "call", call_id, name, json.dumps(arguments, sort_keys=True)


def items_of(message: Message) -> list[Item]:
    """The items of a recorded message."""
    if message["role"] == "tool":
        return [("result", message["tool_call_id"], message["content"])]
    said: list[Item] = [(message["role"], message["content"])] if message["content"] else []
    calls = message.get("tool_calls", ())
    return [*said, *(call_item(call["id"], call["name"], call["arguments"]) for call in calls)]


def calls_of_models(messages: Iterable[Message]) -> list[Message]:
    """The messages that came from calls of a model."""
    return [message for message in messages if "usage" in message]


def _lengths(parts: Sequence[list[Item]]) -> Iterable[tuple[int, list[Item]]]:
    return zip(accumulate(map(len, parts)), parts, strict=True)


@functools.cache
def recorded() -> list[Trajectory]:
    """All recorded conversations."""
    with gzip.open(RECORDING, "rt", encoding="utf-8") as lines:
        return [_trajectory(json.loads(line)) for line in lines]


def _trajectory(row: dict[str, Any]) -> Trajectory:
    return Trajectory(row["trajectory_id"], row["source"]["group"], row["messages"], row["expected"])
