"""Numbers as blocks: every value is visible, a larger one looks larger, and nothing is wider than it may be."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.app.cli.arguments import ArgumentError, read_step
from trackside.app.cli.views.charts import bar, sparkline, step_for
from trackside.app.cli.views.trends import length_of


def test_what_is_larger_is_not_smaller_and_nothing_is_blank() -> None:
    assert sparkline([0, None, 0.001, 1, 4, 8], 8) == "  ▁▂▅█"
    assert sparkline([0, None, 0.001, 1, 4, 8], 8, blocks=False) == "  .:+@"
    assert sparkline([1, 2], 0) == "  "


@given(st.floats(0, 1), st.integers(1, 60), st.booleans())
def test_a_bar_fits_and_shows_every_share(share: float, width: int, blocks: bool) -> None:
    drawn = bar(share, width, blocks=blocks)
    assert len(drawn) <= width
    assert bool(drawn) == (share > 0)
    assert blocks or drawn.isascii()


@given(st.timedeltas(timedelta(0), timedelta(days=30_000)), st.integers(10, 240))
def test_blocks_stand_for_as_little_as_fits_the_columns(span: timedelta, columns: int) -> None:
    step = step_for(span, columns)
    assert span / step + 1 <= columns
    minutes = step // timedelta(minutes=1)
    assert minutes % 60 == 0 or 60 % minutes == 0


@pytest.mark.parametrize(
    ("typed", "said"),
    [("minute", "1 min"), ("hour", "1 h"), ("day", "1 d"), ("week", "7 d"), ("15m", "15 min"), ("90m", None)],
)
def test_steps_are_those_that_totals_are_kept_by(typed: str, said: str | None) -> None:
    if said is None:
        with pytest.raises(ArgumentError, match="is neither whole hours nor minutes that divide one"):
            read_step(typed, "--by")
    else:
        assert length_of(read_step(typed, "--by")) == said
