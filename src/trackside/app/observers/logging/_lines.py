"""What a log says about an event: one line, whatever text is in it."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from trackside.harness.context import current_run
from trackside.harness.journal import excerpt
from trackside.harness.lifecycle import is_terminal, run_status_of
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType, RunStatus

type Value = str | int | float | bool

TEXT_CHARS = 500
"""How much of an error, a reason or a message a line quotes."""

_ID_CHARS = 255

# Characters that end a line somewhere, move a terminal's cursor, turn the direction of writing, or cannot be encoded.
# None of them is printable, so a printable text needs no second look.
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_DELETE = b"\x7f"  # the one control character that JSON lets pass in ASCII

_LEVELS = {RunStatus.error: logging.ERROR, RunStatus.timeout: logging.WARNING, RunStatus.cancelled: logging.WARNING}

_WORDS = {
    RunStatus.running: "run started",
    RunStatus.success: "run completed",
    RunStatus.interrupted: "run waits for an answer",
    RunStatus.error: "run failed",
    RunStatus.timeout: "run timed out",
    RunStatus.cancelled: "run cancelled",
}

_NUMBERS = {
    "duration_seconds": "duration_seconds",
    "input_tokens": "total_input_tokens",
    "output_tokens": "total_output_tokens",
    "total_tokens": "total_tokens",
    "cost_usd": "cost_usd",
}


class RunLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One line about an event, before it is written in any format."""

    level: int
    message: str
    at: datetime
    fields: Mapping[str, Value]

    @property
    def sentence(self) -> str:
        """The line for logs that show the message and no fields."""
        said = self.fields
        run = f" ({said['run_id']})" if "run_id" in said else ""
        took = f" after {said['duration_seconds']:.2f} s" if "duration_seconds" in said else ""
        why = ": ".join(str(said[name]) for name in ("error_type", "error", "reason") if name in said)
        return f"{self.message}{took}{run}" + (f": {why}" if why else "")


def one_line(text: str, limit: int = TEXT_CHARS) -> str:
    """A text as part of a line: cut, and with escapes for what would end the line or disturb its reader."""
    if len(text) <= limit and text.isprintable():
        return text
    cut = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return _UNFIT.sub(lambda found: ascii(found[0])[1:-1], cut)


def first_line(text: str) -> str:
    """The first line of a text that is not blank, marked if there are more."""
    first, *more = text.strip().splitlines() or [""]
    return one_line(f"{first} …" if more else first)


def line_about(event: RunLifecycleEvent, *, level: int, content: bool) -> RunLine | None:
    """The line about an event.

    Args:
        event: what happened.
        level: the least level; below it there is no line.
        content: whether to quote what humans and models said.
    """
    payload, kind = event.payload, event.event_type
    status = run_status_of(kind, payload)
    if (its_level := _level(kind, status)) < level:
        return None
    fields: dict[str, Value] = {
        "run_id": one_line(event.run_id, _ID_CHARS),
        "thread_id": one_line(event.thread_id, _ID_CHARS),
    }
    if agent := _agent_of(event):
        fields["agent"] = one_line(agent, _ID_CHARS)
    fields["event_type"] = kind.value
    fields["sequence"] = event.sequence
    fields["event_id"] = one_line(event.event_id, _ID_CHARS)
    said = status or payload.get("status")
    if isinstance(said, str):
        fields["status"] = one_line(str(said), _ID_CHARS)
    for name in ("error_type", "cancel_mode"):
        if isinstance(text := payload.get(name), str):
            fields[name] = one_line(text, _ID_CHARS)
    for name in ("error", "reason"):
        if isinstance(text := payload.get(name), str) and text:
            fields[name] = first_line(text)
    if (data := payload.get("completion_data")) is not None:
        fields |= _numbers(data)
    if content:
        fields |= _contents(payload)
    return RunLine(level=its_level, message=_words(kind, status), at=event.occurred_at, fields=fields)


def _agent_of(event: RunLifecycleEvent) -> str | None:
    if isinstance(agent := event.payload.get("agent"), str):
        return agent
    run = current_run()
    return run.agent if run is not None and run.run_id == event.run_id else None


def _level(kind: LifecycleEventType, status: RunStatus | None) -> int:
    if kind is LifecycleEventType.HUMAN_MESSAGE:
        return logging.DEBUG
    return logging.INFO if status is None or not is_terminal(kind) else _LEVELS.get(status, logging.INFO)


def _words(kind: LifecycleEventType, status: RunStatus | None) -> str:
    if status is not None:
        return _WORDS.get(status, kind.value)
    return "human message" if kind is LifecycleEventType.HUMAN_MESSAGE else "thread status updated"


def _numbers(completion_data: Any) -> dict[str, Value]:
    if not isinstance(completion_data, Mapping):
        return {}
    found: dict[str, Value] = {}
    for name, key in _NUMBERS.items():
        number = completion_data.get(key)
        if isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number):
            found[name] = number
    return found


def _contents(payload: Mapping[str, Any]) -> dict[str, Value]:
    """What humans and models said, as far as the event contains it."""
    message = payload.get("message")
    data = payload.get("completion_data")
    found = {"content": message.get("content") if isinstance(message, Mapping) else None}
    if isinstance(data, Mapping):
        found |= {name: data.get(name) for name in ("first_human_message", "last_ai_message")}
    return {name: one_line(excerpt(text)) for name, text in found.items() if text}


def _as_plain(value: Any) -> int | str:
    return int(value) if isinstance(value, int) else str(value)


_encode = msgspec.json.Encoder(enc_hook=_as_plain).encode


def json_line(at: datetime, level: int, name: str, message: str, fields: Mapping[str, Any]) -> bytes:
    """A line of JSON."""
    says = {"time": at.isoformat(), "level": logging.getLevelName(level).lower(), "logger": name, "message": message}
    line = {**says, **fields, **says}  # ours come first, and no field replaces them
    try:
        written = _encode(line)
    except (TypeError, ValueError):  # half of an emoji
        text = json.dumps(line, default=str, ensure_ascii=False, separators=(",", ":"))
    else:
        if written.isascii() and _DELETE not in written:
            return written + b"\n"
        text = written.decode()
    # In JSON, they all are inside strings: control characters are escaped already, but the others are not.
    return (_UNFIT.sub(_json_escape, text) + "\n").encode()


def _json_escape(found: re.Match[str]) -> str:
    return "\\ufffd" if "\ud800" <= found[0] <= "\udfff" else f"\\u{ord(found[0]):04x}"


def console_line(at: datetime, level: int, name: str, message: str, fields: Mapping[str, Any]) -> bytes:
    """A line for people."""
    time = at.astimezone().strftime("%H:%M:%S")
    pairs = " ".join(f"{_shown(key)}={_shown(value)}" for key, value in fields.items())
    line = f"{time} {logging.getLevelName(level):<8} {one_line(message, 10 * TEXT_CHARS)}  {pairs}"
    return (line.rstrip() + "\n").encode()


def _shown(value: Any) -> str:
    text = one_line(str(value), 10 * TEXT_CHARS)
    return json.dumps(text, ensure_ascii=False) if not text or re.search(r'[\s"=]', text) else text
