"""Each thing that agents put into payloads but JSON does not know (I9), by name."""

import datetime as dt
import json
import math
import numbers
import sqlite3
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pytest
from unsayable import UnsayableError

from trackside.harness.errors import PayloadError
from trackside.harness.payload import MAX_CHARS, MAX_DEPTH, canonical, canonical_payload, copied


class Mood(StrEnum):
    good = "good"


class Level(IntEnum):
    high = 3


class Shape(Enum):
    circle = 1


class Pair(NamedTuple):
    left: int
    right: int


@dataclass
class Point:
    x: int
    y: list[int] = field(default_factory=list)


class Model:
    def __init__(self, **values: Any) -> None:
        self.values = values

    def model_dump(self) -> dict[str, Any]:
        return self.values


class Spot(msgspec.Struct):
    x: int
    near: "list[Spot] | msgspec.UnsetType" = msgspec.UNSET


class Plain:
    def __repr__(self) -> str:
        return "<plain>"


class OtherInt:
    """A whole number of another library, like NumPy's."""

    def __int__(self) -> int:
        return 5

    __index__ = __trunc__ = __int__


class OtherFloat:
    def __float__(self) -> float:
        return 0.5


numbers.Integral.register(OtherInt)
numbers.Real.register(OtherFloat)


class Alone:
    """An array of one value without dimensions, like NumPy's and PyTorch's."""

    ndim = 0

    def __init__(self, value: Any) -> None:
        self.value = value

    def item(self) -> Any:
        return self.value

    def __len__(self) -> int:
        raise TypeError("len() of unsized object")

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("iteration over a 0-d array")


class AloneInItself(Alone):
    def __init__(self) -> None:
        super().__init__(self)

    def __repr__(self) -> str:
        return "array(itself)"


class Standin:
    """Has all methods of what it stands for, as proxies do, but stands for None."""

    def __len__(self) -> int:
        raise TypeError("object of type 'NoneType' has no len()")

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("'NoneType' object is not iterable")

    def __repr__(self) -> str:
        return "None"


class Table:
    """As of pandas: it has keys, and going through it gives these."""

    def __init__(self, *columns: tuple[str, list[int]]) -> None:
        self.columns = columns

    def keys(self) -> Iterator[str]:
        return iter(self)

    def items(self) -> Iterator[tuple[str, list[int]]]:
        return iter(self.columns)

    def __getitem__(self, key: str) -> list[int]:
        return dict(self.columns)[key]

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self.columns)

    def __len__(self) -> int:
        return len(self.columns[0][1])


def row_of(query: str) -> sqlite3.Row:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.row_factory = sqlite3.Row
        row: sqlite3.Row = connection.execute(query).fetchone()
        return row


CHANGED: list[tuple[str, Any, Any]] = [
    ("NUL in text", "a\0b", "a\ufffdb"),
    ("NUL in a key", {"\0": 1}, {"\ufffd": 1}),
    ("lone high surrogate", "\ud83d!", "\ufffd!"),
    ("lone low surrogate", "\ude00", "\ufffd"),
    ("surrogates that make a pair", "\ud83d\ude00", "😀"),
    ("lone surrogate in a key", {"\ud800": 1}, {"\ufffd": 1}),
    ("NaN", math.nan, "NaN"),
    ("infinity", [math.inf, -math.inf], ["Infinity", "-Infinity"]),
    ("bytes", b"hi", "aGk="),
    ("bytearray and memoryview", [bytearray(b"hi"), memoryview(b"hi")], ["aGk=", "aGk="]),
    ("set", {3, 1, 2}, [1, 2, 3]),
    ("frozenset", frozenset("the quick brown fox jumps"), sorted(set("the quick brown fox jumps"))),
    ("datetime", dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "2026-01-02T03:04:05+00:00"),
    ("date and time", [dt.date(2026, 1, 2), dt.time(3, 4)], ["2026-01-02", "03:04:00"]),
    ("timedelta", dt.timedelta(minutes=1.5), 90.0),
    ("UUID", UUID(int=0), "00000000-0000-0000-0000-000000000000"),
    ("Decimal", Decimal("1.50"), "1.50"),
    ("path", PurePosixPath("/a/b"), "/a/b"),
    ("plain enum", Shape.circle, 1),
    ("10**400", 10**400, "1" + "0" * 400),
    ("10**5000", 10**5000, hex(10**5000)),
    ("first integer beyond 64 bits", 2**64, "18446744073709551616"),
    ("first negative integer beyond 64 bits", -(2**63) - 1, "-9223372036854775809"),
    ("integer key", {1: "a"}, {"1": "a"}),
    ("None and bool keys", {None: 1, True: 2}, {"None": 1, "True": 2}),
    ("tuple key", {(1, "a"): 2}, {"[1, 'a']": 2}),
    ("bytes key", {b"hi": 1}, {"aGk=": 1}),
    ("keys that become the same text", {1: "a", "1": "b"}, {"1": "a", "1 (2)": "b"}),
    ("named tuple", Pair(1, 2), [1, 2]),
    ("deque", deque([1, 2]), [1, 2]),
    ("data class", Point(1, [2]), {"x": 1, "y": [2]}),
    ("struct", Spot(1, [Spot(2)]), {"x": 1, "near": [{"x": 2}]}),
    ("model", Model(a={1}), {"a": [1]}),
    ("row of a database", row_of("SELECT 1 AS id, 'Ada' AS name"), {"id": 1, "name": "Ada"}),
    ("row with two columns of one name", row_of("SELECT 1 AS id, 2 AS id"), [1, 2]),
    ("table with two columns of one name", Table(("id", [1, 2]), ("id", [3, 4])), {"id": [1, 2], "id (2)": [3, 4]}),
    ("any object", Plain(), "<plain>"),
    ("type", Point, repr(Point)),
    ("generator", (i for i in [0]), None),
    ("complex", 1j, "1j"),
    ("whole number of another library", OtherInt(), 5),
    ("number of another library", [OtherFloat()], [0.5]),
    ("key that is such a number", {OtherInt(): 1}, {"5": 1}),
    (
        "array of one value",
        {"n": Alone(3), "yes": Alone(True), "at": Alone(dt.date(2026, 1, 2))},
        {"n": 3, "yes": True, "at": "2026-01-02"},
    ),
    ("array of one value that is no number", Alone(math.nan), "NaN"),
    ("array of itself", AloneInItself(), "array(itself)"),
    ("proxy of nothing", Standin(), "None"),
    ("fraction", Fraction(10**400, 3), repr(Fraction(10**400, 3))),
]
KEPT: list[tuple[str, Any, Any]] = [
    ("64 bits", [2**64 - 1, -(2**63)], [2**64 - 1, -(2**63)]),
    ("emoji", "😀 ünï\u2028", "😀 ünï\u2028"),
    ("control characters", "\x01\x7f\ufeff\ufffe", "\x01\x7f\ufeff\ufffe"),
    ("tuple", (1, (2,)), [1, [2]]),
    ("string enum", [Mood.good], ["good"]),
    ("string enum key", {Mood.good: Mood.good}, {"good": "good"}),
    ("integer enum", Level.high, 3),
    ("long number in text", "1" * 40, "1" * 40),
    ("escaped NUL in text", "\\u0000", "\\u0000"),
    ("empty", [{}, [], "", None], [{}, [], "", None]),
]


@pytest.mark.parametrize(("value", "form"), [it[1:] for it in CHANGED], ids=[it[0] for it in CHANGED])
def test_what_json_lacks_gets_a_form_that_json_has_and_is_marked(value: Any, form: Any) -> None:
    plain, changed = canonical(value)

    assert changed
    if form is not None:
        assert plain == form
    assert canonical_payload({"it": value}) == {"it": plain, "sanitized": True}
    assert json.loads(json.dumps(plain, allow_nan=False).encode()) == plain


@pytest.mark.parametrize(("value", "form"), [it[1:] for it in KEPT], ids=[it[0] for it in KEPT])
def test_what_json_has_is_not_marked(value: Any, form: Any) -> None:
    plain, changed = canonical(value)

    assert (plain, changed) == (form, False)
    assert type(plain) is type(form)
    assert canonical_payload({"it": value}) == {"it": form}


def test_texts_of_enums_come_back_as_plain_text() -> None:
    ((key, value),) = canonical({Mood.good: Mood.good})[0].items()

    assert type(key) is type(value) is str


def test_cycle_is_cut_where_it_closes() -> None:
    value: dict[str, Any] = {"a": 1}
    value["self"] = [value]

    assert canonical(value) == ({"a": 1, "self": ["[truncated: contains itself]"]}, True)


def test_cycle_of_objects_is_cut_where_it_closes() -> None:
    point: Any = Point(1)
    point.y = point
    model = Model()
    model.values["me"] = model

    assert canonical([point, model])[0] == [
        {"x": 1, "y": "[truncated: contains itself]"},
        {"me": "[truncated: contains itself]"},
    ]


def test_same_container_twice_is_no_cycle_and_is_copied_twice() -> None:
    shared: list[int] = []
    plain, changed = canonical([shared, shared, {1}])

    assert plain == [[], [], [1]]
    assert changed
    assert plain[0] is not plain[1]
    assert plain[0] is not shared


@pytest.mark.parametrize(
    "wrap", [lambda v: [v], lambda v: {"a": v}, lambda v: (v,), Point], ids=["[]", "{}", "()", "Point"]
)
def test_depth_of_20_000_is_cut_at_the_limit(wrap: Any) -> None:
    value: Any = "deep"
    for _ in range(20_000):
        value = wrap(value)

    plain, changed = canonical(value)

    depth = 0
    while isinstance(plain, dict | list):
        plain = plain[0] if isinstance(plain, list) else plain.get("a", plain.get("x"))
        depth += 1
    assert (depth, plain, changed) == (MAX_DEPTH, f"[truncated: nested deeper than {MAX_DEPTH}]", True)


def test_plain_value_one_level_too_deep_is_cut_too() -> None:
    value: Any = "deep"
    for _ in range(MAX_DEPTH + 1):
        value = [value]

    plain, changed = canonical(value)

    assert changed
    assert str(plain).count("[") == MAX_DEPTH + 1  # one of them is the text that says so
    assert f"[truncated: nested deeper than {MAX_DEPTH}]" in str(plain)


def test_depth_at_the_limit_is_kept() -> None:
    value: Any = "deep"
    for _ in range(MAX_DEPTH):
        value = [value]

    assert canonical(value) == (value, False)


def test_text_of_300_mib_is_cut_and_says_by_how_much() -> None:
    size = 300 * 1024 * 1024
    payload = canonical_payload({"text": "x" * size, "after": "y"})

    text = payload["text"]
    assert text.startswith("x" * 1_000_000)
    assert text.endswith(f"x… [truncated: {size - (MAX_CHARS - len('text'))} characters]")
    assert payload["…"] == "[truncated: 1 more keys]"
    assert payload["sanitized"] is True
    assert len(json.dumps(payload)) < MAX_CHARS + 200


def test_unclean_text_of_100_mib_costs_no_more_than_what_is_kept() -> None:
    text, changed = canonical("\ud800" * (100 * 1024 * 1024), max_chars=10)

    assert (text[:10], changed) == ("\ufffd" * 10, True)


def test_list_of_a_million_numbers_is_cut_like_a_text_of_as_many_characters() -> None:
    plain, changed = canonical(list(range(2_000)), max_chars=1_000, max_depth=1)

    assert changed
    assert plain == [*range(1_000), "… [truncated: more items]"]


def test_payload_a_little_over_the_limit_is_kept_whole_so_that_a_cut_one_stays_as_it_is() -> None:
    cut, _ = canonical({"a": "x" * 200_000}, max_chars=100_000)

    assert canonical(cut, max_chars=100_000) == (cut, False)
    assert canonical("x" * 100_001, max_chars=100_000) == ("x" * 100_001, False)


@dataclass
class RaisingField:
    x: int = 1

    def __getattribute__(self, name: str) -> Any:
        if name == "x":
            raise OSError("no disk")
        return super().__getattribute__(name)


class RaisingRepr:
    def __repr__(self) -> str:
        raise OSError("no disk")


class RaisingDump:
    def model_dump(self) -> dict[str, Any]:
        raise OSError("no disk")


class RaisingItems(dict[str, int]):
    def items(self) -> Any:
        raise OSError("no disk")

    def __eq__(self, other: object) -> bool:
        raise OSError("no disk")

    __hash__ = None  # type: ignore[assignment]


class RaisingIteration(set[int]):
    def __iter__(self) -> Any:
        raise OSError("no disk")


@pytest.mark.parametrize("value", [RaisingField(), RaisingRepr(), RaisingDump(), RaisingItems(a=1), RaisingIteration()])
def test_value_whose_own_code_fails_is_refused_and_says_why(value: Any) -> None:
    with pytest.raises(PayloadError, match="cannot be kept: reading it raised OSError: no disk") as caught:
        canonical_payload({"it": value})

    assert isinstance(caught.value.__cause__, OSError)


class RaisingUnsayably:
    def __repr__(self) -> str:
        raise UnsayableError


def test_value_whose_own_code_fails_with_an_error_that_cannot_be_said_is_refused_all_the_same() -> None:
    with pytest.raises(PayloadError, match="reading it raised UnsayableError, whose message cannot be read"):
        canonical(RaisingUnsayably())


class Endless:
    def model_dump(self) -> Any:
        return Endless()


class EndlessRepr:
    def __repr__(self) -> str:
        return repr(self)


def test_value_whose_own_code_recurses_is_refused_or_cut() -> None:
    with pytest.raises(PayloadError, match="recurses without end"):
        canonical(EndlessRepr())
    assert canonical(Endless()) == (f"[truncated: nested deeper than {MAX_DEPTH}]", True)


def test_caller_close_to_the_recursion_limit_gets_a_payload_error_at_worst() -> None:
    value: Any = "deep"
    for _ in range(MAX_DEPTH - 1):
        value = {"a": value}
    outcomes: list[object] = []

    def deeper(levels: int) -> None:
        if levels:
            deeper(levels - 1)
        else:
            try:
                outcomes.append(canonical([value, {1}]))
            except PayloadError as exc:
                outcomes.append(exc)

    deeper(sys.getrecursionlimit() - 250)

    assert isinstance(outcomes[0], PayloadError | tuple)


def test_payload_does_not_change_when_the_callers_value_does() -> None:
    value: dict[str, Any] = {"a": {"b": [1]}, "raw": {b"x"}}
    payload = canonical_payload(value)
    value["a"]["b"].append(2)
    value["a"]["c"] = 3

    assert payload["a"] == {"b": [1]}


def test_mark_that_is_there_already_stays() -> None:
    once = canonical_payload({"a": {1}})

    assert canonical_payload(once) == once == {"a": [1], "sanitized": True}


@pytest.mark.parametrize("own", ["mine", False, None])
def test_an_entry_that_is_called_as_the_mark_is_not_lost_for_it(own: Any) -> None:
    once = canonical_payload({"a": {1}, "sanitized": own})

    assert once == {"a": [1], "sanitized": True, "sanitized (3)": own}
    assert canonical_payload(once) == once
    assert canonical_payload({"a": 1, "sanitized": own}) == {"a": 1, "sanitized": own}


def test_what_is_copied_stays_as_it_is_and_what_it_holds_is_the_same() -> None:
    held = object()
    value: Any = {"list": [1, (held, [2])], 3: {"text": "x"}}
    value["itself"] = value
    copy = copied(value)
    value["list"][1][1].append(4)
    value[3].clear()
    assert copy["itself"] is copy
    assert {**copy, "itself": None} == {"list": [1, (held, [2])], 3: {"text": "x"}, "itself": None}


def test_what_is_nested_too_deep_to_be_copied_is_itself() -> None:
    value: list[Any] = []
    for _ in range(sys.getrecursionlimit()):
        value = [value]
    assert copied(value) is value
