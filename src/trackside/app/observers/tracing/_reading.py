"""Reads events of which anybody may be the author into what spans can keep: clean texts, numbers of 64 bits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from opentelemetry.util.types import AttributeValue

__all__ = ["MAX_CHARS", "clean", "count_of", "known", "mapping_of", "nanoseconds", "seconds_of", "text_of"]

MAX_CHARS: Final = 8_192
"""How much of one text a span keeps."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_INT_MAX: Final = 2**63 - 1
_LONGEST: Final = 10 * 365 * 86_400.0  # seconds; no call takes longer


def clean(text: str) -> str:
    """A text that can be encoded and is not too long: one that cannot would cost the spans beside it, too."""
    if len(text) > MAX_CHARS:
        text = f"{text[:MAX_CHARS]}…"
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def text_of(says: Mapping[str, Any], key: str) -> str | None:
    """A text of a payload; None if there is none."""
    value = says.get(key)
    return clean(value) if isinstance(value, str) and value else None


def count_of(says: Mapping[str, Any], key: str) -> int | None:
    """A whole number from 0 up; None if there is none."""
    value = says.get(key)
    return value if type(value) is int and 0 <= value <= _INT_MAX else None


def seconds_of(says: Mapping[str, Any], key: str) -> float:
    """A number of seconds from 0 up; 0 if there is none."""
    value = says.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return 0.0
    return min(max(0.0, float(value)), _LONGEST)


def mapping_of(says: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object in a payload; empty if there is none."""
    value = says.get(key)
    return value if isinstance(value, Mapping) else {}


def nanoseconds(when: datetime) -> int:
    """A time as spans have it."""
    return max(0, (when - _EPOCH) // _MICROSECOND * 1_000)


def known(attributes: Mapping[str, AttributeValue | None]) -> dict[str, AttributeValue]:
    """The attributes that have a value."""
    return {name: value for name, value in attributes.items() if value is not None}
