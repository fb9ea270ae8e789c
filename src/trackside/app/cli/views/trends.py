"""Totals of runs over time, as rows of blocks, one below another, that share their times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from rich.text import Text

from trackside.app.cli.formatting import cost, count, duration
from trackside.app.cli.views.appearance import RUN_LOOKS
from trackside.app.cli.views.charts import sparkline, step_for
from trackside.app.cli.views.output import OutputConsole
from trackside.app.cli.views.overviews import look_text

if TYPE_CHECKING:
    from trackside.app.storage import TimeBucket

_GAP = 2
_LABEL = 13
_NOTE = 14  # the usual width of the largest "up to 1,234,567"
_LEAST = 10  # blocks; with fewer, a chart says nothing
_MOST = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """What one row shows about each bucket; rows with the same `scale` can be compared."""

    label: Text
    values: Sequence[float | None]
    scale: str
    word: Callable[[float], str]


def blocks_that_fit(console: OutputConsole, *, asked: bool = False) -> int:
    """How many blocks a row has on this screen; 0 if it is too narrow, or there is none and no chart was asked for."""
    if not (console.is_screen or asked):
        return 0
    room = console.width - _LABEL - _NOTE - 2 * _GAP
    return min(room, _MOST) if room >= _LEAST else 0


def step_of(since: datetime, until: datetime, blocks: int) -> timedelta:
    """How long each block stands for if nobody named a length."""
    return step_for(max(until - since, timedelta(0)), blocks)


def print_trends(console: OutputConsole, buckets: Sequence[TimeBucket], blocks: int) -> None:
    """Print totals over time: how runs ended, how long they took, what they used. Shows the newest blocks that fit."""
    shown = buckets[-blocks:]
    if not any(bucket.total.runs for bucket in shown):
        return
    console.print()
    console.print(Text(_title(shown, len(buckets)), "dim"), no_wrap=True, overflow="ellipsis")
    rows = _rows(console, shown)
    tops = {row.scale: max(_most(other) for other in rows if other.scale == row.scale) for row in rows}
    for row in rows:
        line = row.label.copy()
        line.truncate(_LABEL, pad=True)
        drawn = sparkline(row.values, tops[row.scale], blocks=console.is_unicode)
        line.append(" " * _GAP).append(drawn, row.label.style)
        line.append(f"{' ' * _GAP}up to {row.word(_most(row))}", "dim")
        console.print(line, no_wrap=True, overflow="ellipsis")


def _rows(console: OutputConsole, buckets: Sequence[TimeBucket]) -> list[_Row]:
    totals = [bucket.total for bucket in buckets]
    rows = [
        _Row(
            label=look_text(console, look),
            values=[total.by_status.get(status, 0) for total in totals],
            scale="runs",
            word=lambda number: f"{number:,.0f}",
        )
        for status, look in RUN_LOOKS.items()
    ]
    rows += [
        _Row(label=Text("median"), values=[total.duration_p50 for total in totals], scale="time", word=duration),
        _Row(label=Text("95 % within"), values=[total.duration_p95 for total in totals], scale="time", word=duration),
        _Row(
            label=Text("tokens"),
            values=[total.total_input_tokens + total.total_output_tokens for total in totals],
            scale="tokens",
            word=lambda number: f"{number:,.0f}",
        ),
        _Row(label=Text("cost"), values=[total.cost_usd for total in totals], scale="cost", word=cost),
    ]
    return [row for row in rows if _most(row)]


def _most(row: _Row) -> float:
    return max((value or 0 for value in row.values), default=0)


def _title(shown: Sequence[TimeBucket], all_: int) -> str:
    begin, last = shown[0], shown[-1]
    end = last.start + last.width
    said = f"FROM {begin.start.astimezone():%Y-%m-%d %H:%M} TO {end.astimezone():%Y-%m-%d %H:%M}"
    left_out = f"; {count(all_ - len(shown), 'block')} before do not fit" if all_ > len(shown) else ""
    return f"{said}, EACH BLOCK {length_of(begin.width)}{left_out}"


def length_of(width: timedelta) -> str:
    """The length of a block in words: `15 min`, `1 h`, `2 d`."""
    minutes = width // timedelta(minutes=1)
    for unit, name in ((1_440, "d"), (60, "h")):
        if minutes % unit == 0:
            return f"{minutes // unit} {name}"
    return f"{minutes} min"
