"""Formats times, amounts and other people's text for a person. Pure functions of their arguments."""

from __future__ import annotations

import json
import re
from datetime import datetime

from trackside.harness.types import Json

_AGES = ((90, 1, "s"), (90 * 60, 60, "min"), (36 * 3_600, 3_600, "h"), (30 * 86_400, 86_400, "d"))
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def ago(moment: datetime, now: datetime) -> str:
    """How long ago a moment was: `just now`, `3 min ago`, `2 d ago`; older than a month, its date."""
    seconds = (now - moment).total_seconds()
    if seconds < 1:
        return "just now"
    for limit, unit, name in _AGES:
        if seconds < limit:
            return f"{int(seconds // unit)} {name} ago"
    return f"{moment.astimezone():%Y-%m-%d}"


def moment(when: datetime, now: datetime) -> str:
    """A local time to the second; with its date unless that is today's."""
    local = when.astimezone()
    return f"{local:%H:%M:%S}" if local.date() == now.astimezone().date() else f"{local:%Y-%m-%d %H:%M:%S}"


def duration(seconds: float) -> str:
    """A length of time: `84 ms`, `1.8 s`, `2 min 05 s`, `1 h 12 min`."""
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1_000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def count(number: int, noun: str) -> str:
    """A number of things: `1 token`, `1,234 tokens`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def cost(usd: float) -> str:
    """An amount of US dollars, with as many digits as it takes for it to show."""
    if usd == 0 or usd >= 1:
        return f"${usd:,.2f}"
    return f"${usd:.4f}" if usd >= 0.0001 else "<$0.0001"


def printable(text: str) -> str:
    """Text that cannot control a terminal: each control character becomes a replacement character."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n").replace("\t", "    "))


def one_line(text: str) -> str:
    """Text on one line, however many lines it had."""
    return " ".join(printable(text).split())


def abridged(text: str, limit: int = 2_000) -> str:
    """The text; if it is longer than `limit` characters, its beginning and its length."""
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text):,} characters)"


def json_line(value: Json) -> str:
    """A value as JSON on one line, for people: beyond ASCII, only what would control a terminal is escaped."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def message_text(content: Json) -> str:
    """The text of a message's content, which is text or a list of blocks; a block without text shows its type."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return "" if content is None else json_line(content)
    return "".join(block if isinstance(block, str) else _block_text(block) for block in content)


def _block_text(block: Json) -> str:
    if not isinstance(block, dict):
        return json_line(block)
    text = block.get("text")
    return text if isinstance(text, str) else f"[{block.get('type', 'block')}]"
