"""Which value contains which, by definition, and in how many comparisons."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.app.storage.containment import MOST_COMPARISONS, MOST_WANTED, Wanted, contains
from trackside.app.storage.errors import InvalidQueryError

LEAVES = st.sampled_from([None, True, False, 0, 1, 0.0, 1.0, -0.0, "", "1", "a", 2**63, 2**64, float(2**64), -(2**70)])
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=12,
)


def has(having: Any, wanted: Any) -> bool:
    """The same by definition, with any number of comparisons."""
    if isinstance(wanted, dict):
        return isinstance(having, dict) and all(key in having and has(having[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return isinstance(having, list) and all(any(has(one, other) for one in having) for other in wanted)
    if isinstance(wanted, bool) or isinstance(having, bool):
        return having is wanted
    return bool(having == wanted)


@given(VALUES, VALUES)
def test_a_value_contains_what_it_has(having: Any, wanted: Any) -> None:
    assert contains(having, wanted) == has(having, wanted)
    assert contains([having, wanted], [wanted, wanted])


def test_plain_values_are_looked_up_however_many_are_wanted() -> None:
    many = list(range(MOST_WANTED - 2))
    assert Wanted("values", {"l": many}).is_in({"l": many})
    assert not Wanted("values", {"l": many}).is_in({"l": many[1:]})


def test_what_is_wanted_once_is_compared_with_however_much_there_is() -> None:
    much = {"l": [0] * MOST_COMPARISONS + [{"k": [1]}]}
    wanted = Wanted("values", {"l": [{"k": [1]}]})
    assert wanted.is_in(much)
    assert wanted.is_in(much)


@pytest.mark.parametrize(
    "wanted",
    [[{}] * 1_000, [[]] * 1_000, [2**64] * 1_000, [[[[0]]]] * 1_000, [{"k": [0]}] * 1_000],
    ids=["objects", "lists", "numbers", "lists in lists", "lists in objects"],
)
def test_a_look_compares_no_more_than_so_much(wanted: list[Any]) -> None:
    having = {"l": [1] * 1_000 + [[[[1] * 1_000]], {"k": [1] * 1_000}, [], {}, 2**64, [[[0]]], {"k": [0]}]}
    look = Wanted("values", {"l": wanted})
    with pytest.raises(InvalidQueryError, match="comparisons"):
        for _ in range(3):  # the limit covers all of it together
            assert look.is_in(having)


@pytest.mark.parametrize(
    ("wanted", "why"), [([0] * MOST_WANTED, "more than"), ("deep", "deeper")], ids=["many", "deep"]
)
def test_what_is_wanted_has_bounds(wanted: Any, why: str) -> None:
    for _ in range(3_000 if wanted == "deep" else 1):
        wanted = {"a": wanted}
    with pytest.raises(InvalidQueryError, match=why):
        Wanted("values", wanted)
