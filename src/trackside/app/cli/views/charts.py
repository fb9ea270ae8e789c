"""Numbers as rows of blocks, as far as a line of text can show them. Pure functions of their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

_RISING = ("▁▂▃▄▅▆▇█", ".:-=+*#@")
_FILLING = ("▏▎▍▌▋▊▉█", "#")

_STEPS = (1, 2, 5, 10, 15, 20, 30, 60, 120, 180, 240, 360, 720, 1_440, 2_880, 10_080, 20_160, 40_320)
"""The numbers of minutes that a block can stand for: those people count in and totals are kept by."""


def sparkline(values: Sequence[float | None], top: float, *, blocks: bool = True) -> str:
    """One character for each value, higher for larger ones. A missing value or 0 is blank; every other one is visible.

    Args:
        values: what to show.
        top: the value that fills the height of a line; rows with the same `top` can be compared.
        blocks: whether the terminal has block elements; if not, the row is ASCII.
    """
    levels = _RISING[0] if blocks else _RISING[1]
    return "".join(_level(value, top, levels) for value in values)


def _level(value: float | None, top: float, levels: str) -> str:
    if not value or value <= 0 or top <= 0:
        return " "
    return levels[min(len(levels) - 1, int(value / top * len(levels)))]


def bar(share: float, width: int, *, blocks: bool = True) -> str:
    """A line that fills `share` (of 1) of `width` characters; any share above 0 is visible."""
    parts = _FILLING[0] if blocks else _FILLING[1]
    filled = round(max(0.0, min(share, 1.0)) * width * len(parts))
    if share > 0:
        filled = max(1, filled)
    whole, rest = divmod(filled, len(parts))
    return parts[-1] * whole + (parts[rest - 1] if rest else "")


def step_for(span: timedelta, columns: int) -> timedelta:
    """How long each block must stand for so that at most this many blocks show a span of time."""
    for minutes in _STEPS:
        step = timedelta(minutes=minutes)
        if span / step + 2 <= columns:  # the first and the last block are whole, too
            return step
    longest = timedelta(minutes=_STEPS[-1])
    return longest * (int(span / longest / max(1, columns - 2)) + 1)
