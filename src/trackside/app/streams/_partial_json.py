"""What JSON that has not come to its end says so far."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

_decode = msgspec.json.Decoder().decode
_CLOSES: Final = {"{": "}", "[": "]"}
_SIGN: Final = re.compile(r'"(?:[^"\\]++|\\.)*+(?P<ends>"?)|[][{},]', re.DOTALL)
"""Signs that open, close or separate something, and strings, the last of which may be incomplete."""


def whole_json(text: str) -> Any:
    """The value of a JSON text as far as it goes; None where it says nothing yet, is no JSON, or is nested too deeply.

    What is open is closed; a name without a value, or an incomplete word, is left out.
    """
    try:
        return _decode(text)
    except msgspec.DecodeError:
        pass
    except RecursionError:
        return None
    for end in _ends_of(text):
        try:
            return _decode(end)
        except msgspec.DecodeError:
            continue
        except RecursionError:
            return None
    return None


def _ends_of(text: str) -> list[str]:
    """This text with what is open closed: first as it is, then without what comes after its last whole member."""
    open_ones: list[str] = []
    said, closes_string = text, ""
    last_whole = None
    for found in _SIGN.finditer(text):
        sign = found[0]
        if sign in _CLOSES:
            open_ones.append(_CLOSES[sign])
            last_whole = found.end()
        elif sign in "}]":
            if not open_ones:
                return []
            open_ones.pop()
            last_whole = found.end()
        elif sign == ",":
            last_whole = found.start() if open_ones else last_whole
        elif not found["ends"]:
            said, closes_string = text[: found.end()], '"'  # without half an escape
    closing = "".join(reversed(open_ones))  # also for the last whole member: nothing was opened or closed since
    ends = [said + closes_string + closing]
    return ends if last_whole is None else [*ends, text[:last_whole] + closing]
