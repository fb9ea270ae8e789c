"""The beginnings of what is too long for a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

MOST_CHARS: Final = 20_000
"""So many characters of a text are shown; all of it is at the address of its JSON."""

_INDENTED: Final = 200_000
"""JSON that is longer is shown as it is: to indent it takes longer than to read its beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A text, or its beginning."""

    text: str
    left_out: int = 0
    """So many characters are not in it."""


def cut(text: str, most: int = MOST_CHARS) -> Cut:
    """The text, or its beginning."""
    return Cut(text=text[:most], left_out=max(0, len(text) - most))


def json_text(value: Any) -> str:
    """A JSON value on one line."""
    return msgspec.json.encode(value).decode()


def json_cut(value: Any, most: int = MOST_CHARS) -> Cut:
    """A JSON value, indented unless it is very long, or its beginning."""
    encoded = msgspec.json.encode(value)
    if len(encoded) <= _INDENTED:
        encoded = msgspec.json.format(encoded, indent=2)
    return cut(encoded.decode(), most)
