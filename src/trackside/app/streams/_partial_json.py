"""JSON that has not come to its end: what it says so far."""

from __future__ import annotations

from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode
_CLOSES = {"{": "}", "[": "]"}


def whole_json(text: str) -> Any:
    """The value of a JSON text as far as it goes; None where it says nothing yet, or is no JSON.

    What is open is closed; a name without a value, or a word that is not whole, is left out.
    """
    try:
        return _decode(text)
    except msgspec.DecodeError:
        pass
    for end in _ends_of(text):
        try:
            return _decode(end)
        except msgspec.DecodeError:
            continue
    return None


def _ends_of(text: str) -> list[str]:
    """Texts that close what is open in this one: as it is, then without what comes after its last whole member."""
    open_ones: list[str] = []
    in_string = escaped = False
    last_whole = ""
    for at, char in enumerate(text):
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
            continue
        if char == '"':
            in_string = True
        elif char in _CLOSES:
            open_ones.append(_CLOSES[char])
            last_whole = text[: at + 1] + _closing(open_ones)
        elif char in "}]":
            if not open_ones:
                return []
            open_ones.pop()
            last_whole = text[: at + 1] + _closing(open_ones)
        elif char == "," and open_ones:
            last_whole = text[:at] + _closing(open_ones)
    said = text[:-1] if escaped else text
    ends = [said + '"' + _closing(open_ones)] if in_string else [said + _closing(open_ones)]
    return [*ends, last_whole]


def _closing(open_ones: list[str]) -> str:
    return "".join(reversed(open_ones))
