"""What charts draw: numbers over time, made from the timeline that the API returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from trackside.app.server.wire.stats import Bucket, RunStats, Tokens
from trackside.harness.types import RunStatus

OUTCOMES: Final = (
    RunStatus.error,
    RunStatus.timeout,
    RunStatus.interrupted,
    RunStatus.cancelled,
    RunStatus.success,
    RunStatus.running,
    RunStatus.pending,
)
"""The order in which outcomes are stacked: failures are at the bottom, where their heights can be compared."""

MOST_MODELS: Final = 6
"""How many models have a colour of their own; the others share one."""
OTHERS: Final = "others"


class Series(Struct, frozen=True, kw_only=True):
    """One line, or one layer of the bars."""

    label: str
    tone: str
    """The custom property of the style sheets that holds its colour."""
    values: list[float | None]
    status: str | None = None
    """The outcome that it counts."""


class Chart(Struct, frozen=True, kw_only=True):
    """One chart. The unit of its numbers is `count`, `seconds` or `usd`."""

    unit: str
    stacked: bool
    series: list[Series]


class Charts(Struct, frozen=True, kw_only=True):
    """All charts of a page, over the same times."""

    starts: list[float]
    """When each step begins, in seconds since 1970."""
    width: float
    runs: str
    """The address of the runs that the charts are about; `since`, `until` and `status` narrow it."""
    zoom: str
    """The address of this page; `since` and `until` narrow it."""
    charts: dict[str, Chart]


def tones(models: Mapping[str, Tokens]) -> dict[str, str]:
    """The colours of models. The costliest have their own, given by name, so that they keep them when ranks change."""
    ranked = sorted(models, key=lambda name: (-(models[name].cost_usd or 0), -_tokens(models[name]), name))
    return {name: f"series-{place}" for place, name in enumerate(sorted(ranked[:MOST_MODELS]), 1)}


def charts_of(buckets: Sequence[Bucket], stats: RunStats, *, runs: str, zoom: str) -> Charts:
    """The charts of the overview.

    Args:
        buckets: the totals of the runs over time.
        stats: the totals over all this time.
        runs: the address of these runs.
        zoom: the address of the page.
    """
    colours = tones(stats.by_model)
    return Charts(
        starts=[bucket.start.timestamp() for bucket in buckets],
        width=buckets[0].width if buckets else 60,
        runs=runs,
        zoom=zoom,
        charts={
            "runs": Chart(unit="count", stacked=True, series=_outcomes(buckets)),
            "duration": Chart(unit="seconds", stacked=False, series=_durations(buckets)),
            "cost": Chart(unit="usd", stacked=True, series=_by_model(buckets, stats, colours, _cost)),
            "tokens": Chart(unit="count", stacked=True, series=_by_model(buckets, stats, colours, _tokens)),
        },
    )


def _outcomes(buckets: Sequence[Bucket]) -> list[Series]:
    # Include all outcomes: a chart that gets another layer is drawn anew, and runs begin and end all the time.
    return [
        Series(
            label=status.value,
            tone=status.value,
            status=status.value,
            values=[bucket.total.by_status.get(status, 0) for bucket in buckets],
        )
        for status in OUTCOMES
    ]


def _durations(buckets: Sequence[Bucket]) -> list[Series]:
    named = (("p50", "series-1", "duration_p50"), ("p95", "series-2", "duration_p95"))
    return [
        Series(label=label, tone=tone, values=[getattr(bucket.total, field) for bucket in buckets])
        for label, tone, field in named
    ]


def _by_model(
    buckets: Sequence[Bucket], stats: RunStats, colours: Mapping[str, str], number: Callable[[Tokens], float]
) -> list[Series]:
    made = [
        Series(label=name, tone=tone, values=[_of(bucket.by_model.get(name), number) for bucket in buckets])
        for name, tone in colours.items()
        if number(stats.by_model[name])
    ]
    others = [name for name in stats.by_model if name not in colours and number(stats.by_model[name])]
    if others:
        values: list[float | None] = [
            sum(_of(bucket.by_model.get(name), number) for name in others) for bucket in buckets
        ]
        made.append(Series(label=OTHERS, tone="series-0", values=values))
    return made


def _of(tokens: Tokens | None, number: Callable[[Tokens], float]) -> float:
    return 0 if tokens is None else number(tokens)


def _cost(tokens: Tokens) -> float:
    return tokens.cost_usd or 0


def _tokens(tokens: Any) -> float:
    return float(tokens.input_tokens + tokens.output_tokens)
