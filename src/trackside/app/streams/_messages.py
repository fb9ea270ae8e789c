"""What mode `messages` says of messages in pieces: who speaks, then, with each piece, all that was said so far."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trackside.app.streams._partial_json import whole_json

logger = logging.getLogger("trackside.stream")

_CHUNK = "MessageChunk"
_NOTHING: tuple[Any, ...] = (None, "", [], {})
_GROWING = frozenset({"additional_kwargs", "tool_call_chunks"})
"""Fields of a message whose texts all grow, as its content does."""

_SAID_ONCE = frozenset({"type", "id", "name", "index"})
"""Fields that say which block or call it is: a piece may repeat them, or name the piece itself."""


class MessageSteps:
    """Adds up the pieces of a run's messages. A piece is `[message or chunk, metadata]`, as graphs stream them."""

    __slots__ = ("_has_complained", "_messages")

    def __init__(self) -> None:
        self._messages: dict[str, dict[str, Any]] = {}
        self._has_complained = False

    def take(self, piece: Any) -> list[tuple[str, Any]]:
        """The events that a piece makes: `messages/metadata` for a new message, then `messages/partial` or
        `messages/complete`. What cannot be added up is shown as it came: nothing in a message makes its run fail.
        """
        try:
            return [*self._steps_of(piece)]
        except Exception as exc:  # an agent's message may contain anything
            if not self._has_complained:
                self._has_complained = True
                logger.warning("a message of an odd form is shown as it came: %s", type(exc).__name__, exc_info=exc)
            return [("messages/complete", [pair_of(piece)[0]])]

    def _steps_of(self, piece: Any) -> Iterator[tuple[str, Any]]:
        message, about = pair_of(piece)
        if not isinstance(message, Mapping):
            return
        message_id = str(message.get("id") or "")
        known = self._messages.get(message_id)
        if known is None:
            yield "messages/metadata", {message_id: {"metadata": about}}
        is_chunk = str(message.get("type", "")).endswith(_CHUNK)
        whole = _joined(known, message) if known is not None and is_chunk else dict(message)
        self._messages[message_id] = whole
        yield "messages/partial" if is_chunk else "messages/complete", [_shown(whole)]


def pair_of(piece: Any) -> tuple[Any, Any]:
    """A message and what is said about it; nothing is said about a message that comes alone."""
    if isinstance(piece, list | tuple) and len(piece) == 2:  # a pair
        return piece[0], piece[1]
    return piece, {}


def _shown(whole: dict[str, Any]) -> dict[str, Any]:
    """A message so far, as it would be if nothing more came: no chunk, with its calls' arguments as far as they go."""
    kind = str(whole.get("type", ""))
    if not kind.endswith(_CHUNK):
        return whole
    shown = {name: value for name, value in whole.items() if name not in {"tool_call_chunks", "chunk_position"}}
    shown["type"] = kind.removesuffix(_CHUNK).lower() or kind
    if isinstance(calls := whole.get("tool_call_chunks"), list | tuple) and calls:
        read = [(call, _args_of(call)) for call in calls if isinstance(call, Mapping)]
        shown["tool_calls"] = [
            {"name": call.get("name") or "", "args": args, "id": call.get("id"), "type": "tool_call"}
            for call, args in read
            if isinstance(args, dict)
        ]
        shown["invalid_tool_calls"] = [
            {**{name: call.get(name) for name in ("name", "args", "id")}, "error": None, "type": "invalid_tool_call"}
            for call, args in read
            if not isinstance(args, dict)
        ]
    return shown


def _args_of(call: Mapping[str, Any]) -> Any:
    """The arguments of a call: as far as they go if they come as text, else as they are."""
    args = call.get("args") or "{}"
    return whole_json(args) if isinstance(args, str) else args


def _joined(known: Mapping[str, Any], chunk: Mapping[str, Any]) -> dict[str, Any]:
    """A message and its next piece."""
    whole = dict(known)
    for key, value in chunk.items():
        if value in _NOTHING:
            continue
        had = whole.get(key)
        if key == "content":
            whole[key] = _content(had, value)
        elif key == "usage_metadata" and isinstance(had, Mapping) and isinstance(value, Mapping):
            whole[key] = _sums(had, value)
        elif key in _GROWING or isinstance(value, Mapping):
            whole[key] = _grown(key, had, value, grows=key in _GROWING)
        else:
            whole[key] = value
    return whole


def _content(had: Any, more: Any) -> Any:
    if not had:
        return more
    if isinstance(had, str) and isinstance(more, str):
        return had + more
    return merged_blocks(_as_blocks(had), _as_blocks(more))


def _as_blocks(content: Any) -> list[Any]:
    if isinstance(content, list | tuple):
        return list(content)
    return [{"type": "text", "text": content} if isinstance(content, str) else content]


def _grown(name: str, had: Any, more: Any, *, grows: bool = True) -> Any:
    """A field of a message and its next piece, added up as LangChain does: mappings and lists are merged, and texts go
    on, except those that are `_SAID_ONCE`.

    Where they do not `grow`, in what is said about a message, the newest text counts: some say it with each piece.
    """
    if more in _NOTHING:
        return had
    if isinstance(had, Mapping) and isinstance(more, Mapping):
        both = {key: _grown(key, had[key], value, grows=grows) for key, value in more.items() if key in had}
        return {**had, **more, **both}
    if isinstance(had, list | tuple) and isinstance(more, list | tuple):
        return merged_blocks(had, more, grows=grows)
    if grows and isinstance(had, str) and isinstance(more, str):
        return (had or more) if name in _SAID_ONCE else had + more
    return more


def merged_blocks(had: Sequence[Any], more: Sequence[Any], *, grows: bool = True) -> list[Any]:
    """Blocks of a message and their next pieces: those of one `index` are one, unless both have ids that differ."""
    blocks = list(had)
    for piece in more:
        at = _place_of(piece, blocks)
        if at is None:
            blocks.append(piece)
        else:
            blocks[at] = _grown("", blocks[at], piece, grows=grows)
    return blocks


def _place_of(piece: Any, blocks: Sequence[Any]) -> int | None:
    index = piece.get("index") if isinstance(piece, Mapping) else None
    if index is None:
        return None
    for at, block in enumerate(blocks):
        if isinstance(block, Mapping) and block.get("index") == index and may_be_one(block.get("id"), piece.get("id")):
            return at
    return None


def may_be_one(one_id: Any, other_id: Any) -> bool:
    """Whether pieces with these ids may be of one tool call: its later pieces have no id."""
    return not one_id or not other_id or one_id == other_id


def _sums(had: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens used, added up."""
    total = dict(had)
    for name, value in more.items():
        before = total.get(name)
        if isinstance(value, Mapping):
            total[name] = _sums(before, value) if isinstance(before, Mapping) else value
        elif isinstance(value, int | float) and isinstance(before, int | float):
            total[name] = before + value
        elif value is not None:
            total[name] = value
    return total
