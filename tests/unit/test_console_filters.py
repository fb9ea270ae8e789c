"""What the filters in a page's address mean, and what the page says of those that make no sense."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.app.dashboard.filters import Filters, moment_of
from trackside.app.dashboard.time_ranges import stamp, time_range
from trackside.app.dashboard.wording import cost, count, duration, percent, size, twin_name, visible

NOW = datetime(2026, 11, 26, 3, 30, tzinfo=UTC)
NAMES = ("text", "status", "since", "until", "range", "cost", "length", "place")


def filters(**said: str | list[str]) -> Filters:
    """The filters as the address has them."""
    return Filters({name: [one] if isinstance(one, str) else one for name, one in said.items()}, NAMES, NOW)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("1h", "2026-11-26T02:30:00"),
        ("7d", "2026-11-19T03:30:00"),
        ("today", "2026-11-26T00:00:00"),
        ("today+05:30", "2026-11-25T18:30:00"),
        ("today-08:00", "2026-11-25T08:00:00"),
        ("today-03:30+00:00", "2026-11-26T00:00:00"),
        ("today-04:00-03:00", "2026-11-25T03:00:00"),
        ("2026-01-31", "2026-01-31T00:00:00"),
        ("2026-01-31T08:00+02:00", "2026-01-31T06:00:00"),
    ],
)
def test_moments_are_said_in_many_ways(said: str, meant: str) -> None:
    assert moment_of(said, NOW) == datetime.fromisoformat(meant).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "said", "began"),
    [
        ("2026-03-29T12:00+02:00", "today+02:00+01:00", "2026-03-29T00:00+01:00"),
        ("2026-10-25T23:30+01:00", "today+01:00+02:00", "2026-10-25T00:00+02:00"),
        ("2026-04-24T12:00+03:00", "today+03:00+02:00", "2026-04-24T01:00+03:00"),
    ],
)
def test_a_day_on_which_clocks_change_begins_when_it_began(now: str, said: str, began: str) -> None:
    assert moment_of(said, datetime.fromisoformat(now)) == datetime.fromisoformat(began)


@pytest.mark.parametrize(
    "said", ["5", "yesterday", "today+99:00", "today+01:00+99:00", "0001-01-01T00:00+10:00", "999999999d", "-1h"]
)
def test_what_is_no_moment_is_said_beside_it(said: str) -> None:
    found = filters(since=said)
    found.time()
    assert found.problems.keys() == {"since"}
    assert found.query == {}


def test_what_people_call_a_filter_is_taken_for_it_unless_its_own_name_is_there() -> None:
    given = {"thread": ["t"], "run": ["r"], "text": ["x"]}
    found = Filters(given, ("thread_id", "text"), NOW, also={"thread": "thread_id", "run": "text"})
    assert (found.said("thread_id"), found.said("text"), found.address()) == ("t", "x", "thread_id=t&text=x")


def test_times_that_enclose_nothing_are_said() -> None:
    found = filters(since="1h", until="2h")
    found.time()
    assert found.problems.keys() == {"until"}
    found = filters(range="24h", until="1h")
    found.time()
    assert found.problems == {}
    assert found.query == {"since": stamp(time_range({"range": ["24h"]}, NOW).since), "until": "2026-11-26T02:30:00Z"}
    found = filters(range="9y")
    found.time()
    assert found.problems.keys() == {"since"}


def test_amounts_are_what_they_can_be() -> None:
    for said, dollars in {"0.5": 0.5, "$2": 2.0, " 1e-3 ": 0.001, "0": 0.0}.items():
        found = filters(cost=said)
        found.dollars("cost")
        assert found.query == {"cost": dollars}
    for said in ("nan", "inf", "-1", "1_0", "much", "1e9", "$"):
        found = filters(cost=said)
        found.dollars("cost")
        assert found.problems.keys() == {"cost"}, said
    for said, seconds in {"90": 90.0, "5m": 300.0, "0": 0.0}.items():
        found = filters(length=said)
        found.seconds("length")
        assert found.query == {"length": seconds}
    for said in ("-1", "long", "9" * 400, "99999999w"):
        found = filters(length=said)
        found.seconds("length")
        assert found.problems.keys() == {"length"}, said


@given(st.dictionaries(st.sampled_from(NAMES), st.text(min_size=1, max_size=300), max_size=8))
def test_whatever_is_said_is_taken_or_refused_and_stays_in_the_address(said: dict[str, str]) -> None:
    found = Filters({name: [value] for name, value in said.items()}, NAMES, NOW)
    found.text("text")
    found.choices("status", ("error", "success"))
    found.time()
    found.dollars("cost")
    found.seconds("length")
    found.position("place")
    assert bool(found) is bool(said)
    assert found.query.keys() | found.problems.keys() <= set(NAMES)
    address = parse_qs(found.address(before="a/b", after=None), keep_blank_values=True)
    assert address == {name: [value.strip()] for name, value in said.items()} | {"before": ["a/b"]}


@given(st.text())
def test_every_sign_of_a_name_can_be_seen(name: str) -> None:
    assert visible(name).isprintable()


@pytest.mark.parametrize(
    ("write", "numbers"),
    [
        (count, {9_999: "9,999", 9_999.6: "10k", 12_345: "12.3k", 999_499: "999k", 999_999: "1M", 999_999_999: "1G"}),
        (count, {1_000: "1,000", -999_999: "-1M", 12_345_678_901: "12.3G", 5e12: "5,000G"}),
        (duration, {0.9994: "999 ms", 0.9996: "1.00 s", 9.996: "10.0 s", 59.94: "59.9 s", 59.96: "1 min 0 s"}),
        (duration, {60: "1 min 0 s", 3_599.9: "59 min 59 s", 90_061: "1 d 1 h"}),
        (size, {1_023: "1023 bytes", 1_024: "1.0 KiB", 1_048_575: "1.0 MiB"}),
        (cost, {0: "$0", 0.00004: "< $0.0001", 0.0001: "$0.0001", 0.0123: "$0.0123", 1_234.5: "$1,234.50"}),
        (percent, {0: "0 %", 0.0004: "< 0.1 %", 0.048: "4.8 %", 0.9994: "> 99.9 %", 1: "100 %"}),
    ],
)
def test_the_unit_of_a_number_is_that_of_what_is_written(write: Callable[[Any], str], numbers: dict[Any, str]) -> None:
    assert {number: write(number) for number in numbers} == numbers


def test_the_address_of_a_twin_is_called_short() -> None:
    assert twin_name("/threads/01a216bf-eeb3-7000-827d-ffddad475f9b/state?limit=1") == "/threads/…ad475f9b/state"
    assert twin_name("/stats/now") == "/stats/now"
