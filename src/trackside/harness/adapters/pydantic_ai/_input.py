"""Turns a run's input into a prompt and the messages before it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_ai import BinaryContent, ImageUrl
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    UserContent,
    UserPromptPart,
)

from trackside.harness.errors import InvalidSpecError
from trackside.harness.journal import as_message, listed_messages, plain_message
from trackside.harness.payload import WHOLE_CHARS, whole
from trackside.harness.types import JsonObject

_ROLES = frozenset({"human", "user", "ai", "assistant", "system", "developer"})
_ENCODED = ";base64,"
_SCHEMES = frozenset({"http", "https", "data"})
"""Schemes of addresses that are read as anybody would read them. A provider reads `s3:` or `gs:` as the owner may."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an agent gets to begin with: what was said before, and what it is to answer.

    `humans` are those of the messages that a human said, `others` the rest.
    """

    content: str | list[UserContent] | None
    before: list[ModelMessage]
    humans: list[JsonObject]
    others: list[JsonObject]

    @classmethod
    def of(cls, value: Any) -> Prompt:
        """What an input says.

        A text, a message, a list of messages or `{"messages": …}` are taken as such; every other JSON value reaches the
        agent as its JSON text, which nobody said.

        Raises:
            InvalidSpecError: it has a message that cannot be passed on, or ends with one that is not a human's.
        """
        if value is None:
            return cls(None, [], [], [])
        messages = _messages_in(value)
        if messages is None:
            return cls(json.dumps(whole(value), ensure_ascii=False), [], [], [])
        count = len(messages)
        while count and messages[count - 1]["type"] == "human":
            count -= 1
        if messages and count == len(messages):
            why = "its last message is not a human's, so there is nothing to answer"
            raise InvalidSpecError(field="input", value=value, why=why)
        humans = [message for message in messages if message["type"] == "human"]
        others = [message for message in messages if message["type"] != "human"]
        before = [_as_model_message(message) for message in messages[:count]]
        return cls(_content(messages[count:]), before, humans, others)


def _messages_in(value: Any) -> list[JsonObject] | None:
    """The messages in an input; None if it is something else."""
    if isinstance(value, str) or _is_message(value):
        return [_plain(value)]
    if isinstance(value, Mapping) and "messages" in value:
        return [_plain(as_message(item)) for item in listed_messages(value["messages"])]
    if isinstance(value, list | tuple) and value and all(map(_is_message, value)):
        return [_plain(item) for item in value]
    return None


def _is_message(item: Any) -> bool:
    if isinstance(item, tuple):
        return len(item) == 2 and _is_role(item[0]) and isinstance(item[1], str)
    if isinstance(item, Mapping):
        return "content" in item and bool(_ROLES & {str(item.get("type")), str(item.get("role"))})
    return _is_role(getattr(item, "type", None)) and hasattr(item, "content")


def _is_role(name: Any) -> bool:
    return isinstance(name, str) and name in _ROLES


def _plain(item: Any) -> JsonObject:
    """A message as the model gets it, with all of its text."""
    if isinstance(item, str):
        return plain_message(item, max_chars=WHOLE_CHARS)
    if not _is_message(item):
        why = 'a message is a text, or {"role": "user" | "assistant" | "system", "content": …}'
        raise InvalidSpecError(field="input.messages", value=item, why=why)
    return plain_message(as_message(item), max_chars=WHOLE_CHARS)


def _content(messages: Sequence[JsonObject]) -> str | list[UserContent] | None:
    parts = [part for message in messages for part in _parts(message["content"])]
    if len(parts) == 1 and isinstance(text := parts[0], str):
        return text
    return parts or None


def _parts(content: Any) -> list[UserContent]:
    """The text and the images in a message's content, a text or a list of blocks as OpenAI and LangChain have them."""
    if isinstance(content, str):
        return [content]
    if isinstance(content, list):
        return [_part(block) for block in content]
    raise InvalidSpecError(field="input.content", value=content, why="it is a text or a list of blocks")


def _part(block: Any) -> UserContent:
    match block:
        case str():
            return block
        case {"type": "text", "text": str() as text}:
            return text
        case {"type": "image_url", "image_url": {"url": str() as url, **more}}:
            return _image(url, {"detail": more["detail"]} if more.get("detail") else None)
        case {"type": "image_url", "image_url": str() as url}:
            return _image(url)
        case _:
            why = 'a block is a text, {"type": "text", "text": …} or {"type": "image_url", "image_url": {"url": …}}'
            raise InvalidSpecError(field="input.content", value=block, why=why)


def _image(url: str, settings: dict[str, Any] | None = None) -> UserContent:
    """An image by its address; the image itself if the address has it, as not every provider takes such an address.

    Raises:
        InvalidSpecError: it has an image that cannot be read, or an address of another scheme.
    """
    if url.partition(":")[0].lower() not in _SCHEMES:
        why = "an image's address begins with https:, http: or data:"
        raise InvalidSpecError(field="input.content", value=url[:80], why=why)
    if not (url.startswith("data:") and _ENCODED in url):
        return ImageUrl(url, vendor_metadata=settings)
    try:
        image = BinaryContent.from_data_uri(url)
    except ValueError as exc:
        raise InvalidSpecError(field="input.content", value=url[:80], why=f"its image is no Base64: {exc}") from exc
    image.vendor_metadata = settings
    return image


def _as_model_message(message: JsonObject) -> ModelMessage:
    content = message["content"]
    match message["type"]:
        case "human":
            return ModelRequest(parts=[UserPromptPart(_content([message]) or "")])
        case "ai":
            return ModelResponse(parts=[TextPart(_text(content))])
        case _:
            return ModelRequest(parts=[SystemPromptPart(_text(content))])


def _text(content: Any) -> str:
    return "".join(part for part in _parts(content) if isinstance(part, str))
