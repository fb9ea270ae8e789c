"""Times of crons: by the clocks of a place, including when these change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.app.server.schedules import InvalidScheduleError, Schedule, next_run

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def times(schedule: Schedule, when: datetime, count: int) -> list[str]:
    found: list[str] = []
    for _ in range(count):
        coming = schedule.after(when)
        assert coming is not None
        when = coming
        found.append(f"{when:%d %H:%M}")
    return found


@pytest.mark.parametrize(
    ("expression", "coming"),
    [
        ("* * * * *", "31 12:01"),
        ("*/5 * * * *", "31 12:05"),
        ("0 12 * * *", "01 12:00"),
        ("30 9 * * MON-FRI", "02 09:30"),
        ("0 0 L * *", "28 00:00"),
        ("0 0 29 2 *", "29 00:00"),
    ],
)
def test_the_next_time_is_later_than_now(expression: str, coming: str) -> None:
    assert times(Schedule(expression), NOON, 1) == [coming]


def test_the_clock_hangs_where_the_zone_is() -> None:
    assert times(Schedule("0 9 * * *", "Asia/Tokyo"), NOON, 2) == ["01 00:00", "02 00:00"]
    assert times(Schedule("0 9 * * *"), NOON.astimezone(timezone(timedelta(hours=-8))), 1) == ["01 09:00"]


def test_what_is_at_a_time_that_there_is_not_comes_right_behind_it() -> None:
    spring = datetime(2026, 3, 28, 12, tzinfo=UTC)  # in Berlin 02:00 is followed by 03:00 on the 29th
    assert times(Schedule("30 2 * * *", "Europe/Berlin"), spring, 2) == ["29 01:00", "30 00:30"]


def test_what_is_at_a_time_that_there_is_twice_comes_once() -> None:
    autumn = datetime(2026, 10, 24, 12, tzinfo=UTC)  # in Berlin 03:00 is followed by 02:00 on the 25th
    daily = Schedule("30 2 * * *", "Europe/Berlin")
    assert times(daily, autumn, 2) == ["25 00:30", "26 01:30"]
    assert times(daily, datetime(2026, 10, 25, 1, 10, tzinfo=UTC), 1) == ["26 01:30"]
    often = Schedule("*/30 * * * *", "Europe/Berlin")
    assert times(often, datetime(2026, 10, 25, 0, 10, tzinfo=UTC), 4) == [
        "25 00:30",
        "25 01:00",
        "25 01:30",
        "25 02:00",
    ]


@pytest.mark.parametrize(
    ("expression", "spring", "autumn"),
    [  # each for the 29th of March from 00:00 in Berlin on, and for the 25th of October from 00:00 on
        ("0 */2 * * *", ["29 02:00", "29 04:00"], ["25 00:00", "25 01:00", "25 03:00"]),
        ("0 0-23/2 * * *", ["29 01:00", "29 02:00"], ["25 00:00", "25 03:00", "25 05:00"]),
        ("*/30 2 * * *", ["30 00:00", "30 00:30"], ["25 00:00", "25 00:30", "25 01:00"]),
    ],
)
def test_a_schedule_with_a_star_has_the_times_that_there_are(
    expression: str, spring: list[str], autumn: list[str]
) -> None:
    schedule = Schedule(expression, "Europe/Berlin")

    assert times(schedule, datetime(2026, 3, 28, 23, tzinfo=UTC), 2) == spring
    assert times(schedule, datetime(2026, 10, 24, 22, tzinfo=UTC), 3) == autumn


@given(
    when=st.datetimes(datetime(2025, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC)),
    expression=st.sampled_from(
        ["* * * * *", "*/7 * * * *", "30 2 * * *", "0 0 1 * *", "15 1,2,3 * * SUN", "0 3 * 3,10 *"]
    ),
    zone=st.sampled_from([None, "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"]),
)
def test_time_only_goes_forward(when: datetime, expression: str, zone: str | None) -> None:
    schedule = Schedule(expression, zone)
    found = [when]
    for _ in range(5):
        coming = schedule.after(found[-1])
        assert coming is not None
        found.append(coming)
    assert all(earlier < later for earlier, later in pairwise(found))


def test_after_its_end_nothing_is_due() -> None:
    assert next_run("0 * * * *", None, NOON + timedelta(hours=1), NOON) == NOON + timedelta(hours=1)
    assert next_run("0 * * * *", None, NOON + timedelta(minutes=59), NOON) is None


@pytest.mark.parametrize(
    ("expression", "zone", "named"),
    [
        ("", None, "five fields"),
        ("* * * *", None, "five fields"),
        ("* * * * * *", None, "five fields"),
        ("@daily", None, "five fields"),
        ("60 * * * *", None, "minute"),
        ("*/0 * * * *", None, "minute"),
        ("* * 31 4 *", None, "day-of-month"),
        ("0," * 130 + "0 * * * *", None, "five fields"),
        ("* * * * *", "Mars/Olympus", "time zone"),
        ("* * * * *", "", "time zone"),
        ("* * * * *", "/etc/localtime", "time zone"),
        ("* * * * *", "Europe", "time zone"),
        ("* * * * *", "\0", "time zone"),
    ],
)
def test_what_is_no_schedule_is_refused(expression: str, zone: Any, named: str) -> None:
    with pytest.raises(InvalidScheduleError, match=named):
        Schedule(expression, zone)
