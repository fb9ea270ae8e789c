"""Takes secrets out of texts that others wrote, who may have put them there."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote

__all__ = ["parts_of", "without_password", "without_secrets"]

_SEPARATORS: Final = re.compile(r"[/:@?&=,;#]+")
_PASSWORD: Final = re.compile(r"(\A[^:]*:(?://[^:@/?]*:)?).*(?=@)", re.DOTALL)
_SECRET_OPTION: Final = re.compile(r"((?:passw|pwd|secret)[^=&;]*=).*", re.IGNORECASE | re.DOTALL)
_SHORTEST: Final = 4  # characters; a shorter secret is part of too many words, which would then reveal it


def without_secrets(text: str, shown: Mapping[str, str]) -> str:
    """A text with something else in the place of each secret. Secrets of fewer than four characters are not hidden.

    A secret is also found as JSON, HTML or an address writes it, or one of these inside another, as whoever repeats it
    may write it. Whatever the text is made of, this costs no more than a plain search: a stranger may have sent it.

    Args:
        text: the text.
        shown: what to show, by secret.
    """
    readings = _readings_of(text)
    found = [
        (*place, shown[secret])
        for secret in sorted(shown, key=len, reverse=True)  # one may be part of another
        if len(secret) >= _SHORTEST
        for reading in readings
        for place in reading.places_of(secret)
    ]
    pieces, at = [], 0
    for begin, end, instead in sorted(found, key=lambda each: each[0]):
        if begin >= at:
            pieces += [text[at:begin], instead]
        at = max(at, end)
    return "".join([*pieces, text[at:]])


def parts_of(address: str) -> set[str]:
    """An address, or a piece of one, and what stands between its separators; each with percent escapes and without."""
    parts = {address, *_SEPARATORS.split(address)}
    return parts | {unquote(part) for part in parts}


def without_password(address: str) -> str:
    """What somebody has written for an address of a database, as it may be shown, also if it is none: it hides more
    than the password rather than less.
    """
    return _SECRET_OPTION.sub(r"\1…", _PASSWORD.sub(r"\1…", address))


class _Escapes(NamedTuple):
    """What stands for characters where they cannot be written, and which character each stands for."""

    pattern: re.Pattern[str]
    meaning: Callable[[str], str]


_IN_HTML: Final = _Escapes(re.compile(r"&(?:#\d{1,8}|#[xX][0-9a-fA-F]{1,8}|[0-9a-zA-Z]{2,31});"), html.unescape)
_IN_JSON: Final = _Escapes(
    re.compile(r'\\u(?i:d[89ab][0-9a-f]{2})\\u(?i:d[c-f][0-9a-f]{2})|\\u[0-9a-fA-F]{4}|\\["\\/bfnrt]'),
    lambda escape: json.loads(f'"{escape}"'),
)
_IN_ADDRESSES: Final = _Escapes(re.compile(r"(?i)%[0-7][0-9a-f]|%[c-f][0-9a-f](?:%[89ab][0-9a-f]){1,3}"), unquote)


class _Reading(NamedTuple):
    """What a text says with some of its escapes undone, and where in the text each character of that begins, and the end."""

    said: str
    begins: Sequence[int]

    def places_of(self, secret: str) -> Iterator[tuple[int, int]]:
        """Where in the text a secret begins and ends. A space or a plus may be either, as in addresses of forms."""
        said, wanted = self.said.replace("+", " "), secret.replace("+", " ")
        at = said.find(wanted)
        while at >= 0:
            end = at + len(wanted)
            yield self.begins[at], self.begins[end]
            at = said.find(wanted, end)

    def undone(self, escapes: _Escapes) -> _Reading:
        """The same reading with each of these escapes replaced by the character that it stands for."""
        said: list[str] = []
        begins: list[int] = []
        at = 0
        for escape in escapes.pattern.finditer(self.said):
            start, end = escape.span()
            character = escapes.meaning(escape[0])
            if len(character) == 1:  # else it only looks like one
                said += [self.said[at:start], character]
                begins += self.begins[at : start + 1]
                at = end
        return _Reading("".join([*said, self.said[at:]]), [*begins, *self.begins[at:]])


def _readings_of(text: str) -> Collection[_Reading]:
    """All that a text may say: of HTML, JSON and addresses, each may be in those before it, or the text may be none."""
    readings = {text: _Reading(text, range(len(text) + 1))}
    for escapes in (_IN_HTML, _IN_JSON, _IN_ADDRESSES):
        for reading in list(readings.values()):
            undone = reading.undone(escapes)
            readings.setdefault(undone.said, undone)
    return readings.values()
