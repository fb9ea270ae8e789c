"""Times and payloads come back unchanged, and every payload is stored in its canonical form: I9, I10."""

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.app.storage._rows.encoding import (
    MAX_PAYLOAD_CHARS,
    encode_events,
    json_of,
    json_text,
    time_of,
    time_text,
)
from trackside.harness.observer import LifecycleEventType, RunLifecycleEvent
from trackside.harness.payload import canonical_payload

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
json_values = st.recursive(
    scalars | texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20
)
zones = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


def event_with(payload: object) -> RunLifecycleEvent:
    return RunLifecycleEvent("e", LifecycleEventType.HUMAN_MESSAGE, "r", "t", 1, datetime.now(UTC), payload)


def same_json(one: object, other: object) -> bool:
    """Equal even where Python is lax: True is not 1, and 1 is not 1.0."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@given(st.dictionaries(texts, json_values))
def test_json_comes_back_equal(payload: dict) -> None:
    (row,) = encode_events([event_with(payload)])

    assert same_json(json_of(row.payload), payload)
    assert row.event.payload == payload
    assert json.loads(row.payload) == payload


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=zones))
def test_a_time_comes_back_exactly(when: datetime) -> None:
    assert time_of(time_text(when)) == when


@given(st.lists(st.datetimes(timezones=zones, min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1))))
def test_times_sort_as_text_like_times(times: list[datetime]) -> None:
    assert sorted(map(time_text, times)) == [time_text(when) for when in sorted(times)]


@dataclass
class Point:
    x: int


CYCLE: list = []
CYCLE.append(CYCLE)
DEEP: list = []
for _ in range(20_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "value",
    [
        "NUL \0",
        "half \ud83d",
        math.nan,
        -math.inf,
        10**400,
        b"\xff",
        {1, 2},
        datetime(2026, 1, 1, tzinfo=UTC),
        Point(1),
        CYCLE,
        DEEP,
        {1: 2},
        "x" * (MAX_PAYLOAD_CHARS + 20_000),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_payload_of_a_foreign_emitter_is_stored_in_canonical_form(value: object) -> None:
    (row,) = encode_events([event_with({"value": value})])

    assert json.loads(row.payload)["sanitized"] is True
    assert json_of(row.payload) == row.event.payload


def test_a_payload_that_is_canonical_already_is_not_touched() -> None:
    for payload in ({"value": {"x" * 3_000_000}}, {"value": DEEP}, {"value": [math.nan, CYCLE]}):
        canonical = canonical_payload(payload)
        (row,) = encode_events([event_with(canonical)])

        assert json_of(row.payload) == canonical


def test_json_is_compact_and_readable() -> None:
    assert json_text({"ü": [1, 2.5, None]}) == '{"ü":[1,2.5,null]}'
