"""The beginnings of texts that are too long for a page, with their invisible characters made visible."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

MOST_CHARS: Final = 20_000
"""How many characters of a text are shown; the address of its JSON has all of it."""

_INDENTED: Final = 200_000
"""Longer JSON is shown as it is: indenting it takes longer than reading its beginning."""

_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u070f\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
    # Persian and Indic words and some emoji are written with joiners; in ASCII, they have no place.
    "|(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
)
"""Control characters except tabs and line ends, signs without width, and those that turn the direction of writing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A text, or its beginning, as it is shown."""

    text: str
    left_out: int = 0
    """How many characters are left out."""


def cut(text: str, most: int = MOST_CHARS) -> Cut:
    """The text, or its beginning, with `⟨U+202E⟩` for a sign that nobody sees."""
    shown = _UNSEEN.sub(lambda sign: f"⟨U+{ord(sign[0]):04X}⟩", text[:most])
    return Cut(text=shown, left_out=max(0, len(text) - most))


def json_text(value: Any) -> str:
    """A JSON value on one line."""
    return msgspec.json.encode(value).decode()


def seen_in(text: str) -> str:
    r"""The same JSON, with signs that nobody sees escaped: `\u202e`."""
    return _UNSEEN.sub(lambda sign: json.dumps(sign[0])[1:-1], text)


def json_cut(value: Any, most: int = MOST_CHARS) -> Cut:
    """A JSON value, indented unless it is very long, or its beginning; if nothing is cut off, it is still JSON."""
    encoded = msgspec.json.encode(value)
    if len(encoded) <= _INDENTED:
        encoded = msgspec.json.format(encoded, indent=2)
    text = encoded.decode()
    return Cut(text=seen_in(text[:most]), left_out=max(0, len(text) - most))
