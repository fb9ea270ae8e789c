"""Numbers as rows of blocks: what a line of text can show of them. Pure functions of their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

_RISING = ("▁▂▃▄▅▆▇█", ".:-=+*#@")
_FILLING = ("▏▎▍▌▋▊▉█", "#")

_STEPS = (1, 2, 5, 10, 15, 20, 30, 60, 120, 180, 240, 360, 720, 1_440, 2_880, 10_080, 20_160, 40_320)
"""How many minutes a block can stand for: what people count in, and what totals are kept by."""


def sparkline(values: Sequence[float | None], top: float, *, blocks: bool = True) -> str:
    """One character for each value, the higher the larger; what is not there or 0 is blank, and all else is seen.

    Args:
        values: what to show.
        top: what fills a line's height; rows with the same one can be compared.
        blocks: whether the terminal has block elements; else it is ASCII.
    """
    levels = _RISING[0] if blocks else _RISING[1]
    return "".join(_level(value, top, levels) for value in values)


def _level(value: float | None, top: float, levels: str) -> str:
    if not value or value <= 0 or top <= 0:
        return " "
    return levels[min(len(levels) - 1, int(value / top * len(levels)))]


def bar(share: float, width: int, *, blocks: bool = True) -> str:
    """A line that is as much of `width` characters long as `share` is of 1; what is more than 0 is seen."""
    parts = _FILLING[0] if blocks else _FILLING[1]
    filled = round(max(0.0, min(share, 1.0)) * width * len(parts))
    if share > 0:
        filled = max(1, filled)
    whole, rest = divmod(filled, len(parts))
    return parts[-1] * whole + (parts[rest - 1] if rest else "")


def step_for(span: timedelta, columns: int) -> timedelta:
    """How long each of at most so many blocks has to stand for, so that they show a span of time."""
    for minutes in _STEPS:
        step = timedelta(minutes=minutes)
        if span / step + 2 <= columns:  # the first and the last one are whole, too
            return step
    longest = timedelta(minutes=_STEPS[-1])
    return longest * (int(span / longest / max(1, columns - 2)) + 1)
