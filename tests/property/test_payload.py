"""I9: whatever goes into a payload comes out as plain JSON, marked if it had to change, or is refused."""

import json
import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trackside.harness.payload import canonical, canonical_payload


class Colour(StrEnum):
    red = "red"


class Level(IntEnum):
    high = 3


class Shape(Enum):
    circle = 1
    square = "square"


@dataclass
class Point:
    x: Any
    y: Any = None


scalars = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**63), max_value=2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
)
keys = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)


def nested(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4))


plain = nested(scalars, keys)

nasty_scalars = (
    scalars
    | st.text(st.characters(categories=["Cs", "Lu"], include_characters="\0"))
    | st.sampled_from([math.nan, math.inf, -math.inf, 10**400, -(10**400), 2**64, -(2**63) - 1])
    | st.binary(max_size=20)
    | st.sampled_from([Colour.red, Level.high, Shape.circle, Shape.square, Decimal("1.50"), UUID(int=7)])
    | st.sampled_from([date(2026, 1, 2), time(3, 4), datetime(2026, 1, 2, tzinfo=UTC), timedelta(seconds=1.5)])
    | st.sampled_from([PurePosixPath("/a/b"), object(), len, Point, range(3), memoryview(b"x"), 1j, ...])
)
hashables = nasty_scalars | st.tuples(st.integers(), st.text(max_size=3)) | st.frozensets(st.integers(), max_size=3)
nasty = st.recursive(
    nasty_scalars | st.sets(hashables, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(hashables, inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=2).map(OrderedDict)
        | st.dictionaries(keys, inner, max_size=2).map(MappingProxyType)
        | st.builds(Point, inner, inner)
    ),
    max_leaves=20,
)


def containers(value: Any) -> Iterator[int]:
    """The identities of all lists and dicts in a plain value."""
    if isinstance(value, dict | list):
        yield id(value)
        for item in value.values() if isinstance(value, dict) else value:
            yield from containers(item)


def is_plain(value: Any) -> bool:
    """Whether a value consists of exactly the types that JSON has, with nothing that a database refuses."""
    match value:
        case dict() if type(value) is dict:
            return all(type(key) is str and is_plain(key) and is_plain(item) for key, item in value.items())
        case list() if type(value) is list:
            return all(map(is_plain, value))
        case str() if type(value) is str:
            return "\0" not in value and value.encode(errors="ignore").decode() == value
        case None | True | False:
            return True
        case int() if type(value) is int:
            return -(2**63) <= value < 2**64
        case float() if type(value) is float:
            return math.isfinite(value)
        case _:
            return False


def exactly(value: Any) -> Any:
    """A form of a plain value in which 1, 1.0 and True differ, and 0.0 and -0.0 too."""
    match value:
        case dict():
            return {key: exactly(item) for key, item in value.items()}
        case list() | tuple():
            return [exactly(item) for item in value]
        case _:
            return (type(value), repr(value))


@given(nasty)
@example("\ud83d\ude00")
@example({"a": [{2**64: b"\0"}]})
@example([2**64])
@example([-(2**63) - 1])
@example(10**400)
def test_anything_becomes_plain_json(value: Any) -> None:
    form, _ = canonical(value)

    assert is_plain(form)
    text = json.dumps(form, allow_nan=False, ensure_ascii=False).encode()
    assert exactly(json.loads(text)) == exactly(form)


@given(plain)
@example({"": -0.0})
@example([1, 1.0, True])
def test_plain_json_stays_as_it_is_and_is_not_marked(value: Any) -> None:
    form, changed = canonical(value)

    assert exactly(form) == exactly(value)
    assert not changed


@given(nasty)
@example([Shape.circle])
@example({"a": Level.high, Colour.red: Colour.red})
def test_what_is_not_marked_is_equal_and_what_is_marked_was_not_plain(value: Any) -> None:
    form, changed = canonical(value)

    if not changed:
        assert json.loads(json.dumps(form)) == json.loads(json.dumps(value, default=dict))
    else:
        assert not is_plain(value)


@given(nasty, st.integers(min_value=0, max_value=200), st.integers(min_value=1, max_value=4))
@example(["aaaaaaaaaa", "b"], 5, 4)
@example({"a": "b", "c": {"d": "e"}, "f": 1}, 2, 4)
@example([[[["a"]]], 1], 1, 2)
@example([math.nan] * 3, 5, 4)
@example([date(2026, 1, 2)] * 400, 1_000, 1)
@example([Decimal(7)] * 400 + [math.inf] * 400, 1_000, 1)
@example({(i, i): 1 for i in range(400)}, 1_500, 1)
@example({"x" * i: j for i in range(200) for j in ("\0" * i, "\ufffd" * i)}, 10_000, 1)
@example({key: 1 for i in range(500) for key in (i, str(i))}, 3_000, 1)
def test_canonical_form_is_its_own_canonical_form(value: Any, max_chars: int, max_depth: int) -> None:
    once, _ = canonical(value, max_chars=max_chars, max_depth=max_depth)
    twice, changed = canonical(once, max_chars=max_chars, max_depth=max_depth)

    assert exactly(twice) == exactly(once)
    assert not changed


@given(plain | nasty)
def test_canonical_form_shares_no_container_with_the_value(value: Any) -> None:
    form, _ = canonical(value)

    mine = set(containers(form))
    assert mine.isdisjoint(containers(value))


@given(st.dictionaries(keys.filter(lambda key: key != "sanitized"), plain | nasty, max_size=4))
def test_payload_says_that_it_was_sanitized_if_and_only_if_it_was(value: dict[str, Any]) -> None:
    _, changed = canonical(value)
    payload = canonical_payload(value)

    assert payload.get("sanitized", False) is changed


@given(st.dictionaries(hashables, st.integers(0, 9), max_size=5))
@example({1: 1, "1": 2})
@example({"\0": 1, "\ufffd": 2})
def test_no_entry_is_lost_because_its_key_becomes_the_same_text(value: dict[Any, int]) -> None:
    form, _ = canonical(value)

    assert sorted(form.values()) == sorted(value.values())


@given(nasty, st.integers(min_value=0, max_value=500))
def test_size_stays_near_the_limit(value: Any, max_chars: int) -> None:
    form, _ = canonical(value, max_chars=max_chars)

    def chars(value: Any) -> int:
        match value:
            case dict():
                return sum(len(key) + chars(item) for key, item in value.items())
            case list():
                return sum(map(chars, value))
            case str():
                return len(value)
            case _:
                return 0

    assert chars(form) <= max_chars + 6_000


@pytest.mark.parametrize("value", [[], "text", 5, None, {1}])
def test_payload_is_a_mapping(value: Any) -> None:
    with pytest.raises(ValueError, match="an event's payload is a mapping"):
        canonical_payload(value)
