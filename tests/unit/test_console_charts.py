"""What the overview's charts are made of, and how the doctor's advice is split up."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from trackside.app.dashboard.chart_series import MOST_MODELS, OTHERS, charts_of, tones
from trackside.app.dashboard.pages.system import steps
from trackside.app.server.wire.stats import Bucket, RunStats, Tokens, Totals
from trackside.harness.types import RunStatus

START = datetime(2026, 1, 1, tzinfo=UTC)


def tokens(cost: float | None) -> Tokens:
    """The tokens of calls to a model that cost this much."""
    return Tokens(input_tokens=2, output_tokens=1, cache_read_tokens=0, reasoning_tokens=0, cost_usd=cost)


def totals(**by_status: int) -> Totals:
    """The totals of runs that ended like this."""
    return Totals(
        runs=sum(by_status.values()),
        by_status={RunStatus(status): number for status, number in by_status.items()},
        total_input_tokens=0,
        total_output_tokens=0,
        llm_call_count=0,
        tool_call_count=0,
        message_count=0,
        cost_usd=None,
        duration_p50=None,
        duration_p95=None,
    )


def test_models_that_cost_least_share_a_layer_and_the_others_keep_their_colours_when_ranks_change() -> None:
    models = {f"m{number}": tokens(float(number)) for number in range(1, MOST_MODELS + 3)}
    total = totals(success=3, error=1)
    stats = RunStats(total=total, by_agent=[], by_model=models, by_caller={})
    bucket = Bucket(total=total, by_agent=[], by_model=models, by_caller={}, start=START, width=60)
    charts = charts_of([bucket], stats, runs="/ui/runs", zoom="/ui").charts
    cost = charts["cost"].series
    assert [series.label for series in cost] == ["m3", "m4", "m5", "m6", "m7", "m8", OTHERS]
    assert cost[-1].values == [1.0 + 2.0]
    assert sum(series.values[0] or 0 for series in charts["tokens"].series) == 3 * len(models)
    assert {series.label: series.values for series in charts["runs"].series if any(series.values)} == {
        "error": [1],
        "success": [3],
    }
    turned = {**models, "m3": tokens(100.0), "m8": tokens(3.5)}
    assert tones(turned) == tones(models)


@pytest.mark.parametrize(
    ("advice", "parts"),
    [
        ("trackside db upgrade", [(True, "trackside db upgrade")]),
        ("look at them: trackside parked x", [(False, "look at them: "), (True, "trackside parked x")]),
        ("run `trackside prune` first", [(False, "run "), (True, "trackside prune"), (False, " first")]),
        ("upgrade trackside", [(False, "upgrade trackside")]),
    ],
)
def test_commands_in_an_advice_can_be_copied_by_themselves(advice: str, parts: list[tuple[bool, str]]) -> None:
    assert steps(advice) == parts
