"""Turns what was asked for into a conversation's items in OpenAI's form, and finds the human messages in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from agents import TResponseInputItem

from trackside.harness.agents.conversation import conversation_before
from trackside.harness.context import RunContext
from trackside.harness.errors import InvalidSpecError
from trackside.harness.journal import message_id, plain_message
from trackside.harness.payload import whole
from trackside.harness.types import Json, JsonObject

_ROLE_OF_TYPE = {"human": "user", "user": "user", "ai": "assistant", "assistant": "assistant", "system": "system"}
_ROLES = frozenset({"user", "assistant", "system", "developer"})
_MESSAGES = frozenset({"message", "tool", *_ROLE_OF_TYPE})
ITEMS = "items"
"""The key of the conversation in a thread's values."""
_ACCEPTED = (
    'an agent takes a text, a message such as {"type": "human", "content": "…"}, an item as OpenAI\'s Responses API has it, '
    'a list of these, or {"messages": …}'
)


def items_of(run: RunContext) -> list[TResponseInputItem]:
    """The items that a run brings, in OpenAI's form.

    Raises:
        InvalidSpecError: an input is not a message or a list of messages.
    """
    return [cast("TResponseInputItem", _item(part)) for part in _parts_of(run)]


def history_of(run: RunContext) -> list[TResponseInputItem]:
    """The items of the thread's conversation so far; without those of the run that this one tries again."""
    items = conversation_before(run, ITEMS)
    return list(items) if isinstance(items, list) else []


def without_answer(items: list[TResponseInputItem], given: str | list[TResponseInputItem]) -> list[TResponseInputItem]:
    """The items before a model's last answer. What the run was given stays, and so does what a tool said."""
    least = 1 if isinstance(given, str) else len(given)
    end = len(items)
    while end > least and not str(items[end - 1].get("type")).endswith("_output"):
        end -= 1
    return items[:end]


def humans_of(run: RunContext) -> list[JsonObject]:
    """The human messages that a run brings, with the ids that they were given.

    Raises:
        InvalidSpecError: an input is not a message or a list of messages.
    """
    items = ((_item(part), message_id(part)) for part in _parts_of(run))
    return [
        plain_message({"type": "human", "id": given_id, "content": item["content"]})
        for item, given_id in items
        if item.get("role") == "user"
    ]


def others_in(items: list[TResponseInputItem]) -> list[JsonObject]:
    """The messages in a conversation's items that no human has said."""
    given = cast("list[JsonObject]", items)
    return [
        plain_message({"role": role, "content": item["content"]})
        for item in given
        if (role := item.get("role")) is not None and role != "user"
    ]


def _parts_of(run: RunContext) -> Sequence[Any]:
    value: Any = run.input
    if isinstance(value, Mapping) and "messages" in value:
        if unknown := value.keys() - {"messages"}:
            raise InvalidSpecError(field="input", value=sorted(map(str, unknown)), why=_ACCEPTED)
        value = value["messages"]
    if value is None:
        return []
    return value if isinstance(value, list | tuple) else [value]


def _item(part: Any) -> JsonObject:
    if isinstance(part, str):
        return {"role": "user", "content": part}
    if isinstance(part, Mapping):
        kind, role = part.get("type"), part.get("role")
        if isinstance(kind, str) and kind in _ROLE_OF_TYPE and "content" in part:
            return {"role": _ROLE_OF_TYPE[kind], "content": _content(part["content"], _ROLE_OF_TYPE[kind])}
        if role in _ROLES and kind in {None, "message"} and "content" in part:
            plain_item: JsonObject = whole(part)
            return {**plain_item, "content": _content(plain_item["content"], str(role))}
        if isinstance(kind, str) and kind not in _MESSAGES and (role is None or "content" in part):
            return cast("JsonObject", whole(part))  # a call, its output, reasoning, …: the Responses API's own
    raise InvalidSpecError(field="input", value=part, why=_ACCEPTED)


def _content(content: Any, role: str) -> Json:
    """A message's content in OpenAI's form; plain text blocks, as other frameworks have them, get the role's kind."""
    if not isinstance(content, list | tuple):
        return content
    kind = "output_text" if role == "assistant" else "input_text"
    return [
        {"type": kind, "text": block["text"]} if isinstance(block, Mapping) and block.get("type") == "text" else block
        for block in content
    ]
