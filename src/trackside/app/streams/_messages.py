"""What mode `messages` says of messages that come in pieces: who speaks, then all that was said so far, with each piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class MessageSteps:
    """Adds the pieces of a run's messages up. A piece is `[message or chunk, metadata]`, as graphs stream them."""

    def __init__(self) -> None:
        self._messages: dict[str, dict[str, Any]] = {}

    def take(self, piece: Any) -> Iterator[tuple[str, Any]]:
        """The events that a piece makes: `messages/metadata` for a new message, then `messages/partial` or
        `messages/complete`.
        """
        if isinstance(piece, list | tuple) and len(piece) == 2:  # a pair
            message, about = piece
        else:
            message, about = piece, {}
        if not isinstance(message, Mapping):
            return
        message_id = str(message.get("id") or "")
        known = self._messages.get(message_id)
        if known is None:
            yield "messages/metadata", {message_id: {"metadata": about}}
        is_chunk = str(message.get("type", "")).endswith("Chunk")
        whole = _joined(known, message) if known is not None and is_chunk else dict(message)
        if is_chunk:
            whole["type"] = str(message["type"]).removesuffix("MessageChunk").lower() or whole["type"]
        self._messages[message_id] = whole
        yield "messages/partial" if is_chunk else "messages/complete", [whole]


def _joined(known: dict[str, Any], chunk: Mapping[str, Any]) -> dict[str, Any]:
    """A message and its next piece."""
    whole = dict(known)
    for key, value in chunk.items():
        if key in {"content", "tool_call_chunks"} and isinstance(value, type(whole.get(key))) and value:
            whole[key] = whole[key] + value
        elif value not in (None, "", [], {}):
            whole[key] = value
    return whole
