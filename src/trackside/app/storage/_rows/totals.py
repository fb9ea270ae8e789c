"""Sums over ended runs, kept in the transaction that ends them, so that nobody has to read all runs for a total.

A run counts in the minute, the hour and the day of UTC in which it was created, under its agent and its status. Those
that have not ended are few, and are found by their status: they are counted when somebody asks, so no sum is ever
corrected until retention removes runs.

Durations are counted in bins, from which percentiles follow. As in HdrHistogram (http://hdrhistogram.org) each power of two
is divided evenly, here into `_BINS` bins, so that a bin is between 1/64 and 1/32 of its durations wide and its middle at
most 1/64, 1.6 %, from any of them. A bin is computed from the bits of a duration, so every machine finds the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import frexp, ldexp
from operator import add
from typing import Any

from trackside.app.storage._rows.encoding import time_of
from trackside.app.storage._rows.fold import RunRow, UsageRow

MINUTE, HOUR, DAY = 60, 3600, 86_400

PERIODS = (MINUTE, HOUR, DAY)
"""The periods, in seconds, for which sums are kept; each is a multiple of the one before."""

NO_AGENT = ""
"""The agent under which runs count that have none, or one without a name."""

_NANO = 1_000_000_000
_BINS = 32
_AT_ONCE = 2.0**-20  # seconds; what takes less than a microsecond took no time
_BIN_AT_ONCE = -20 * _BINS

type _Place = tuple[int, str, str]
"""Minute, agent and status."""


class Totals:
    """The sums over some runs, or what a transaction changes in such sums."""

    def __init__(self) -> None:
        self.runs: dict[_Place, Sequence[int]] = {}
        """Runs; tokens in and out, calls of models and tools, messages; runs with a price, and nano-dollars."""
        self.durations: dict[tuple[int, str, str, int], int] = defaultdict(int)
        """Ended runs by bin."""
        self.usage: dict[tuple[int, str, str, str, str], Sequence[int]] = {}
        """By kind and name: runs; tokens in, out, from a cache and for reasoning; runs with a price, and nano-dollars."""

    def take(self, run: RunRow) -> None:
        """Count a run if it has ended in this transaction."""
        facts, end = run.stored or run.start, run.end
        if facts is None or end is None:
            return
        place = (minute_of(facts.created_at), facts.agent or NO_AGENT, str(run.fold.status))
        used = (
            end.total_input_tokens,
            end.total_output_tokens,
            end.llm_call_count,
            end.tool_call_count,
            end.message_count,
        )
        self.count(place, 1, used, cost_usd=end.cost_usd, duration=end.duration_seconds)
        for usage in end.usage:
            self.count_usage(place, usage, 1)

    def count(
        self,
        place: _Place,
        runs: int,
        used: Sequence[int] = (0, 0, 0, 0, 0),
        *,
        cost_usd: float | None = None,
        duration: float | None = None,
    ) -> None:
        """Add a run (1) or subtract it (-1), with what it used."""
        amounts = (1, *used, *priced(cost_usd))
        _add(self.runs, place, amounts if runs == 1 else [runs * amount for amount in amounts])
        if duration is not None:
            self.durations[*place, bin_of(duration)] += runs

    def count_usage(self, place: _Place, usage: UsageRow, runs: int) -> None:
        """Add (1) or subtract (-1) what a run used of one model, or what one caller of a model used."""
        kind, name, *tokens, cost_usd = usage
        amounts = (1, *tokens, *priced(cost_usd))
        _add(self.usage, (*place, kind, name), amounts if runs == 1 else [runs * amount for amount in amounts])

    def __bool__(self) -> bool:
        return bool(self.runs)

    def run_rows(self) -> list[Sequence[Any]]:
        """What to add to `run_totals`, in the order of its key."""
        return _rows(self.runs)

    def duration_rows(self) -> list[Sequence[Any]]:
        """What to add to `duration_totals`, in the order of its key."""
        return _rows({place: (runs,) for place, runs in self.durations.items()})

    def usage_rows(self) -> list[Sequence[Any]]:
        """What to add to `usage_totals`, in the order of its key."""
        return _rows(self.usage)


def minute_of(time: str) -> int:
    """The minutes from 1970 to a time that is given as text."""
    return _minute(time[: len("2026-01-31T09:30")])


@lru_cache(maxsize=1024)
def _minute(time: str) -> int:
    return int(time_of(f"{time}Z").timestamp()) // MINUTE


def nano_dollars(cost_usd: float) -> int:
    """A price in the unit in which prices are summed up, without the errors of sums of fractions."""
    return round(cost_usd * _NANO)


def priced(cost_usd: float | None) -> tuple[int, int]:
    """What a run adds to the runs with a price, and to the nano-dollars."""
    return (0, 0) if cost_usd is None else (1, nano_dollars(cost_usd))


def dollars(nano: int) -> float:
    """A sum of `nano_dollars`."""
    return nano / _NANO


def bin_of(duration: float) -> int:
    """The bin in which a duration counts."""
    if duration < _AT_ONCE:
        return _BIN_AT_ONCE
    fraction, power = frexp(duration)  # the fraction is from 0.5 up to 1
    return power * _BINS + int(fraction * 2 * _BINS) - _BINS


def middle_of(bin_: int) -> float:
    """The duration in the middle of a bin, in seconds."""
    if bin_ == _BIN_AT_ONCE:
        return 0.0
    power, part = divmod(bin_, _BINS)
    return ldexp((_BINS + part + 0.5) / (2 * _BINS), power)


def _add[K](sums: dict[K, Sequence[int]], key: K, amounts: Sequence[int]) -> None:
    known = sums.get(key)
    sums[key] = amounts if known is None else [*map(add, known, amounts)]


def _rows(sums: Mapping[Any, Sequence[int]]) -> list[Sequence[Any]]:
    """Rows for each period, sorted, so that concurrent writers never wait for each other in a circle."""
    rows: list[Sequence[Any]] = []
    for seconds in PERIODS:
        minutes = seconds // MINUTE
        grouped: dict[tuple[Any, ...], Sequence[int]] = {}
        for (minute, *rest), amounts in sums.items():
            _add(grouped, (minute // minutes, *rest), amounts)
        rows.extend((seconds, *key, *amounts) for key, amounts in sorted(grouped.items()) if any(amounts))
    return rows
