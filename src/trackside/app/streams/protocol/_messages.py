"""Messages as events of their content blocks: who begins to speak, each block as it grows, the whole block, and the
usage.

A message comes in pieces, or whole, in the form of LangChain's messages, whatever framework says it. If it has blocks
in LangChain's standard form (`content_blocks`), these are taken, else its content.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from trackside.app.streams._messages import may_be_one, merged_blocks

_decode = msgspec.json.Decoder().decode
_CHUNK = "MessageChunk"
_ROLES = {
    "ai": "ai", "assistant": "ai", "human": "human", "user": "human", "system": "system", "developer": "system",
}  # fmt: skip
"""Who speaks. What tools return is on a channel of its own."""
_GROWS = {"text": "text", "reasoning": "reasoning", "tool_call_chunk": "args", "server_tool_call_chunk": "args"}
_DELTAS = {"text": "text-delta", "reasoning": "reasoning-delta"}
_CALLS = {"tool_call_chunk": "tool_call", "server_tool_call_chunk": "server_tool_call"}
_HEAVY = ("args", "data", "base64", "output", "transcript", "value")
_SAID_OTHERWISE = frozenset({"tool_use", "input_json_delta", "function_call", "tool_call_chunk"})
"""Providers' blocks that messages also have as calls."""

type _Data = dict[str, Any]


class MessageEvent(NamedTuple):
    """One event of a message."""

    data: _Data
    node: str | None


class _Open:
    """A message that has begun and not ended."""

    __slots__ = ("blocks", "message_id", "metadata", "node", "usage")

    def __init__(self, message_id: str, node: str | None) -> None:
        self.message_id = message_id
        self.node = node
        self.blocks: dict[Any, tuple[int, _Data]] = {}
        self.usage: _Data = {}
        self.metadata: _Data = {}

    def event(self, event: str, **fields: Any) -> MessageEvent:
        """An event with both ids by which clients tell apart messages that come at the same time."""
        ids = {"message_id": self.message_id, "run_id": self.message_id.removeprefix("lc_run--")}
        return MessageEvent({"event": event, **fields, **ids}, self.node)

    def key_of(self, key: Any, piece: Mapping[str, Any]) -> Any:
        """What identifies the block that a piece belongs to.

        For calls, as LangChain adds them up, a piece without an index is a call by itself, and one whose id differs
        from that of the call with its index is another call.
        """
        if piece["type"] not in _CALLS:
            return key
        if key is None:
            return "call", len(self.blocks)
        tried, count = key, 0
        while (known := self.blocks.get(tried)) is not None and not may_be_one(known[1].get("id"), piece.get("id")):
            count += 1
            tried = key, count
        return tried


class MessageEvents:
    """The messages of one agent, or of one agent inside it, in one run."""

    __slots__ = ("_done", "_open", "_prefix", "_unnamed")

    def __init__(self, run_id: str) -> None:
        self._open: dict[str, _Open] = {}
        self._done: set[str] = set()
        self._prefix = run_id
        self._unnamed = 0

    def take(self, message: Any, about: Any) -> Iterator[MessageEvent]:
        """The events that a message, or a piece of one, makes."""
        if not isinstance(message, Mapping):
            return
        kind = str(message.get("type") or message.get("role") or "")
        is_chunk = kind.endswith(_CHUNK)
        role = _ROLES.get(kind.removesuffix(_CHUNK).lower())
        if role is None:
            return
        message_id = self._id_of(message, is_chunk=is_chunk)
        if message_id in self._done:
            return
        open_one = self._open.get(message_id)
        if open_one is None:
            about = about if isinstance(about, Mapping) else {}
            node = about.get("langgraph_node")
            open_one = self._open[message_id] = _Open(message_id, node if isinstance(node, str) else None)
            yield open_one.event("message-start", role=role, id=message_id, metadata=_about(message, about))
        elif not is_chunk:  # it came in pieces, and now comes whole
            yield from self._finish(open_one)
            return
        yield from self._grow(open_one, message, is_chunk=is_chunk)
        if not is_chunk or message.get("chunk_position") == "last":
            yield from self._finish(open_one)

    def end(self, error: str | None) -> Iterator[MessageEvent]:
        """The events that end what is still open, because nothing more comes."""
        for open_one in list(self._open.values()):
            if error is None:
                yield from self._finish(open_one)
            else:
                del self._open[open_one.message_id]
                yield open_one.event("error", message=error)

    def _id_of(self, message: Mapping[str, Any], *, is_chunk: bool) -> str:
        if message_id := message.get("id"):
            return str(message_id)
        unnamed = f"{self._prefix}-{self._unnamed}"
        if not (is_chunk and unnamed in self._open):
            self._unnamed += 1
            unnamed = f"{self._prefix}-{self._unnamed}"
        return unnamed

    def _grow(self, open_one: _Open, message: Mapping[str, Any], *, is_chunk: bool) -> Iterator[MessageEvent]:
        for place, block in _blocks_of(message, is_chunk=is_chunk):
            key = open_one.key_of(place, block)
            known = open_one.blocks.get(key)
            if known is None:
                index = len(open_one.blocks)
                open_one.blocks[key] = index, dict(block)
                yield open_one.event("content-block-start", index=index, content=_start_of(block))
            else:
                index = known[0]
                _add(known[1], block)
            if (delta := _delta_of(block)) is not None:
                yield open_one.event("content-block-delta", index=index, delta=delta)
        if isinstance(usage := message.get("usage_metadata"), Mapping):
            _sum(open_one.usage, usage)
        if isinstance(said := message.get("response_metadata"), Mapping):
            open_one.metadata.update(said)

    def _finish(self, open_one: _Open) -> Iterator[MessageEvent]:
        self._open.pop(open_one.message_id, None)
        self._done.add(open_one.message_id)
        for index, block in open_one.blocks.values():
            yield open_one.event("content-block-finish", index=index, content=_finished(block))
        more: _Data = {}
        if open_one.usage:
            more["usage"] = open_one.usage
        if open_one.metadata:
            more["metadata"] = open_one.metadata
        yield open_one.event("message-finish", **more)


def _about(message: Mapping[str, Any], about: Mapping[str, Any]) -> _Data:
    """What is known of a message when it begins."""
    said = message.get("response_metadata")
    said = said if isinstance(said, Mapping) else {}
    known = {
        "provider": said.get("model_provider") or about.get("ls_provider"),
        "model": said.get("model_name") or about.get("ls_model_name"),
        "model_type": about.get("ls_model_type"),
        "langgraph_node": about.get("langgraph_node"),
        "langgraph_step": about.get("langgraph_step"),
        "agent": about.get("agent"),
        "name": message.get("name"),
    }
    return {name: value for name, value in known.items() if isinstance(value, str | int) and value != ""}


def _blocks_of(message: Mapping[str, Any], *, is_chunk: bool) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """The blocks of a message, or what a piece of one adds to them, each with what it is known by; None: by nothing."""
    standard = message.get("content_blocks")
    if isinstance(standard, list):
        yield from _listed(standard)
    else:
        yield from _reasoning(message)
        content = message.get("content")
        if isinstance(content, str):
            if content:
                yield "text", {"type": "text", "text": content}
        elif isinstance(content, list):
            yield from _listed([block for block in content if not _is_call(block)])
        calls = message.get("tool_call_chunks") if is_chunk else message.get("tool_calls")
        for place, call in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(call, Mapping):
                kind = "tool_call_chunk" if is_chunk else "tool_call"
                fields = {name: call.get(name) for name in ("id", "name", "args")}
                index: Any = call.get("index") if is_chunk else place
                yield None if index is None else (kind, _known_by(index)), {"type": kind, **fields}
    if not is_chunk:
        broken = message.get("invalid_tool_calls")
        for place, call in enumerate(broken if isinstance(broken, list) else ()):
            if isinstance(call, Mapping):
                yield ("invalid_tool_call", place), {**call, "type": "invalid_tool_call"}


def _listed(blocks: list[Any]) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    for place, block in enumerate(blocks):
        if isinstance(block, str):
            yield "text", {"type": "text", "text": block}
        elif isinstance(block, Mapping):
            kind = str(block.get("type", "text"))
            more: _Data = {"type": kind}
            if kind == "thinking":
                kind = "reasoning"
                more = {"type": kind, "reasoning": block.get("thinking") or ""}
            index = block.get("index")
            if index is None:
                yield None if kind in _CALLS else (kind, place), {**block, **more}
            else:
                yield ("index", _known_by(index)), {**block, **more}


def _known_by(index: Any) -> Any:
    """An index in a form that can identify a block, whatever the index is."""
    return index if isinstance(index, int | float | str) else str(index)


def _is_call(block: Any) -> bool:
    return isinstance(block, Mapping) and str(block.get("type")) in _SAID_OTHERWISE


def _reasoning(message: Mapping[str, Any]) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    more = message.get("additional_kwargs")
    thought = more.get("reasoning_content") if isinstance(more, Mapping) else None
    if isinstance(thought, str) and thought:
        yield "reasoning", {"type": "reasoning", "reasoning": thought}


def _start_of(block: Mapping[str, Any]) -> _Data:
    """A block as it begins: what it is, without what is said of it later."""
    kind = block["type"]
    start = {name: value for name, value in block.items() if name not in _HEAVY and name not in ("text", "reasoning")}
    if kind in _GROWS:
        start[_GROWS[kind]] = ""
    elif kind in ("tool_call", "server_tool_call"):
        start["args"] = {}
    elif kind == "non_standard":
        start["value"] = {}
    return start


def _delta_of(block: Mapping[str, Any]) -> _Data | None:
    kind = block["type"]
    if (said := block.get(_GROWS.get(kind, ""))) and isinstance(said, str):
        return {"type": _DELTAS[kind], kind: said} if kind in _DELTAS else {"type": "tool-call-delta", "args": said}
    return None


def _add(block: _Data, piece: Mapping[str, Any]) -> None:
    """Add a piece to its block."""
    grows = _GROWS.get(block["type"])
    for name, value in piece.items():
        if value is None or name == "type":
            continue
        had = block.get(name)
        if name == grows and isinstance(value, str) and isinstance(had, str | None):
            block[name] = (had or "") + value
        elif name == "extras" and isinstance(value, Mapping) and isinstance(had, Mapping | None):
            block[name] = {**(had or {}), **value}
        elif isinstance(value, list) and isinstance(had, list):  # citations come one with each piece
            block[name] = merged_blocks(had, value)
        elif value != "":
            block[name] = value


def _finished(block: _Data) -> _Data:
    """A block that is whole: if it is a call whose arguments came in pieces, the call with its arguments."""
    kind = block["type"]
    if kind not in _CALLS:
        return block
    text = block.get("args") or ""
    args = text  # some say them at once, and not in pieces of their text
    if isinstance(text, str):
        try:
            args = _decode(text or "{}")
        except (msgspec.DecodeError, RecursionError):
            args = None
    named = {"id": block.get("id"), "name": block.get("name")}
    if isinstance(args, dict):
        return {"type": _CALLS[kind], **named, "name": named["name"] or "", "args": args}
    return {"type": "invalid_tool_call", **named, "args": text, "error": "the arguments are no JSON object"}


def _sum(total: _Data, more: Mapping[str, Any]) -> None:
    """Add up a message's usage; where two values differ in kind, the newest counts."""
    for name, value in more.items():
        had = total.get(name)
        if isinstance(value, Mapping):
            if not isinstance(had, dict):
                had = total[name] = {}
            _sum(had, value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            total[name] = had + value if isinstance(had, int | float) else value
