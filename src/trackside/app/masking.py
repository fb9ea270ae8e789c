"""Takes secrets out of texts that somebody else wrote, who may have put them there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

__all__ = ["parts_of", "without_secrets"]

_SEPARATORS: Final = re.compile(r"[/:@?&=,;#]+")
_SHORTEST: Final = 4  # characters; a shorter one stands in too many words, which tell it then


def without_secrets(text: str, shown: Mapping[str, str]) -> str:
    """A text with something else in the place of each secret. Of less than four characters, none is hidden.

    Args:
        text: the text.
        shown: what to show, by secret.
    """
    for secret in sorted(shown, key=len, reverse=True):  # one may be part of another
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, shown[secret])
    return text


def parts_of(address: str) -> set[str]:
    """An address, or a piece of one, and what stands in it between signs; all that with percent signs, and without."""
    parts = {address, *_SEPARATORS.split(address)}
    return parts | {unquote(part) for part in parts}
