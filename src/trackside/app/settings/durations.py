"""Lengths of time as people write them: `90`, `1.5`, `250ms`, `30s`, `5m`, `2h`, `3d`, `8w`."""

from __future__ import annotations

import re
from typing import NamedTuple

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?")


class Duration(NamedTuple):
    """A length of time, and whether it was written with its unit."""

    seconds: float
    has_unit: bool


def duration_of(text: str) -> Duration | None:
    """The length of time that a text says, in seconds if it has no unit; None if it says none."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        return None
    seconds = float(found[1]) * _UNITS[found[2] or "s"]
    return Duration(seconds, found[2] is not None) if seconds < float("inf") else None
