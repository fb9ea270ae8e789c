"""Turns events, which anybody may have written, into what spans can keep: clean texts, numbers of 64 bits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard

from opentelemetry.util.types import AttributeValue

__all__ = [
    "MAX_CHARS",
    "clean",
    "count_of",
    "counts_of",
    "is_mapping",
    "known",
    "mapping_of",
    "nanoseconds",
    "seconds_of",
    "text_of",
]

MAX_CHARS: Final = 8_192
"""How much of one text a span keeps."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY: Final = 86_400
_NANOSECONDS: Final = 1_000_000_000
_INT_MAX: Final = 2**63 - 1
_LONGEST: Final = 10.0 * 365 * _DAY  # seconds; no call takes longer


def clean(text: str) -> str:
    """A text that can be encoded and is not too long: one that cannot would also cost the spans beside it."""
    if text.isascii() and len(text) <= MAX_CHARS:
        return text
    if len(text) > MAX_CHARS:
        text = f"{text[:MAX_CHARS]}…"
    return text.encode("utf-8", "replace").decode()


def text_of(says: Mapping[str, Any], key: str) -> str | None:
    """A text of a payload; None if there is none."""
    value = says.get(key)
    return clean(value) if isinstance(value, str) and value else None


def count_of(says: Mapping[str, Any], key: str) -> int | None:
    """A whole number from 0 up; None if there is none."""
    value = says.get(key)
    return value if type(value) is int and 0 <= value <= _INT_MAX else None


def counts_of(says: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, int]:
    """The whole numbers among these keys, each under the name that `names` has for its key."""
    return {name: count for key, name in names.items() if key in says and (count := count_of(says, key)) is not None}


def seconds_of(says: Mapping[str, Any], key: str) -> float:
    """A number of seconds from 0 up; 0 if there is none."""
    value = says.get(key)
    if type(value) is float and 0.0 <= value <= _LONGEST:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return 0.0
    return min(max(0.0, float(value)), _LONGEST)


def mapping_of(says: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object in a payload; empty if there is none."""
    value = says.get(key)
    return value if is_mapping(value) else {}


def is_mapping(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether a value is a JSON object: like `isinstance(value, Mapping)`, which takes ten times as long for a dict."""
    return isinstance(value, dict) or isinstance(value, Mapping)  # noqa: SIM101  # in this order, each by itself


def nanoseconds(when: datetime) -> int:
    """A time in the form that spans have."""
    since = when - _EPOCH
    return max(0, (since.days * _DAY + since.seconds) * _NANOSECONDS + since.microseconds * 1_000)


def known(attributes: Mapping[str, AttributeValue | None]) -> dict[str, AttributeValue]:
    """The attributes that have a value."""
    return {name: value for name, value in attributes.items() if value is not None}
