"""Checks the numbers that callers pass, as counts and as seconds, and refuses a wrong one by the name of its field."""

from __future__ import annotations

import sys
from typing import Any

from trackside.harness.errors import InvalidSpecError


def is_count(value: Any, least: int = 1) -> bool:
    """Whether it is a whole number from `least` up; neither True nor 1.0 is one."""
    return type(value) is int and value >= least


def is_seconds(value: Any) -> bool:
    """Whether it is a number from 0 up: neither infinite, nor True, nor a text."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value <= sys.float_info.max


def count_of(value: Any, field: str) -> int:
    """A whole number of things, at least one.

    Raises:
        InvalidSpecError: (a `ValueError`) it is not one.
    """
    if not is_count(value):
        why = "it is a whole number from 1 up; leave it out for no limit"
        raise InvalidSpecError(field=field, value=value, why=why)
    return int(value)


def timeout_of(seconds: Any, field: str = "timeout") -> float | None:
    """A run's timeout in seconds; None for none.

    Raises:
        InvalidSpecError: (a `ValueError`) it is not a number above 0.
    """
    if seconds is None:
        return None
    if seconds_of(seconds, field) == 0:
        raise InvalidSpecError(field=field, value=seconds, why="a timeout is a number of seconds above 0")
    return float(seconds)


def seconds_of(seconds: Any, field: str, unit: str = "seconds") -> float:
    """A number of seconds, or of another unit.

    Raises:
        InvalidSpecError: (a `ValueError`) it is not a number from 0 up.
    """
    if not is_seconds(seconds):
        raise InvalidSpecError(field=field, value=seconds, why=f"it has to be a number of {unit}")
    return float(seconds)
