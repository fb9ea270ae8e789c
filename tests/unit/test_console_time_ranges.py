"""Which time a page's address means, and that the API's timeline accepts the steps made from it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.app.dashboard.time_ranges import LAST, stamp, time_range, usual_for
from trackside.app.storage._reading.stats import chosen_buckets

NOW = datetime(2026, 11, 26, 7, 13, 42, tzinfo=UTC)
MOMENTS = st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC))


@pytest.mark.parametrize(
    ("age", "name"),
    [
        (None, "24h"),
        (timedelta(), "15min"),
        (timedelta(minutes=15), "15min"),
        (timedelta(minutes=16), "1h"),
        (timedelta(hours=5), "6h"),
        (timedelta(hours=7), "24h"),
        (timedelta(days=90), "24h"),
    ],
)
def test_without_a_word_it_is_the_shortest_time_that_has_all_runs_and_a_day_at_most(
    age: timedelta | None, name: str
) -> None:
    assert usual_for(None if age is None else NOW - age, NOW) == name


@pytest.mark.parametrize("name", LAST)
def test_a_time_until_now_is_at_least_that_long_and_begins_with_a_whole_step(name: str) -> None:
    found = time_range({"range": [name]}, NOW)
    length = LAST[name][0]
    assert found.problem is None
    assert length <= NOW - found.since < length + found.width
    assert (found.since - datetime(1970, 1, 1, tzinfo=UTC)) % found.width == timedelta(0)
    assert 10 <= (NOW - found.since) / found.width <= 80


@given(MOMENTS, MOMENTS)
def test_the_timeline_takes_the_steps_of_any_time(one: datetime, other: datetime) -> None:
    found = time_range({"since": [stamp(min(one, other))], "until": [stamp(max(one, other))]}, NOW)
    until = NOW if found.until is None else found.until
    chosen_buckets(since=found.since, until=until, width=found.width, agent=None, status=None)


def test_an_end_alone_is_that_of_a_day_and_a_beginning_alone_goes_on_until_now() -> None:
    ended = time_range({"until": ["2026-03-02T00:00"]}, NOW)
    assert (ended.since, ended.until) == (datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))
    begun = time_range({"since": ["2026-11-26T08:00+01:00"]}, NOW)
    assert (begun.since, begun.until) == (datetime(2026, 11, 26, 7, tzinfo=UTC), None)
    assert begun.query == {"since": "2026-11-26T07:00:00Z"}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"range": ["forever"]}, "there is no range 'forever'"),
        ({"since": ["soon"]}, "'soon' is not a time"),
        ({"since": ["2026-03-02"], "until": ["2026-03-01"]}, "is not before"),
        ({"since": ["2999-01-01"]}, "is in the future"),
        ({"since": ["1900-01-01"]}, "before 1970"),
        ({"until": ["0001-01-01"]}, "too long ago"),
        ({"since": ["1971-01-01"], "until": ["9999-12-31"]}, "too long to be shown"),
        ({"since": ["9999-12-31T23:59-23:59"]}, "is not a time"),
    ],
)
def test_what_makes_no_sense_is_said_and_the_usual_time_shown(said: dict[str, list[str]], why: str) -> None:
    found = time_range(said, NOW)
    assert found.problem is not None
    assert why in found.problem
    assert found.query == time_range({}, NOW).query
