"""The differences between two states, and how values and conversations are read, however large or strange."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.app.dashboard.conversation import MOST, conversation_in
from trackside.app.dashboard.difference import Change, difference
from trackside.app.dashboard.folding import PARTS, TEXT, folded, short
from trackside.app.dashboard.pages.thread import apart

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


def told(old: Any, new: Any) -> list[tuple[str, str]]:
    return [(change.kind, change.path) for change in difference(old, new).changes]


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"b": 1}, [("removed", "a"), ("added", "b")]),
        ({"a": {"b c": 1}}, {"a": {"b c": 2}}, [("changed", "a['b c']")]),
        ({"a": True}, {"a": 1}, [("changed", "a")]),
        ([1, 2, 3], [1, 3], [("removed", "[1]")]),
        ([1, 2], [0, 1, 2], [("added", "[0]")]),
        ([1, 2, 3], [1, 5, 3], [("changed", "[1]")]),
        ({}, [], [("changed", "")]),
        (
            {"m": [{"id": "a", "t": 1}, {"id": "b"}]},
            {"m": [{"id": "b"}, {"id": "a", "t": 2}, {"id": "c"}]},
            [("changed", "m[1].t"), ("added", "m[2]"), ("changed", "m")],
        ),
    ],
)
def test_each_place_that_is_different_is_told_once(old: Any, new: Any, changes: list[tuple[str, str]]) -> None:
    assert told(old, new) == changes


def test_old_and_new_are_told() -> None:
    assert difference({"a": [1]}, {"a": [2]}).changes == [Change(path="a[0]", kind="changed", old=1, new=2)]


@given(JSON, JSON)
def test_there_is_a_difference_where_values_are_not_the_same(old: Any, new: Any) -> None:
    assert difference(old, old).changes == []
    are_same = msgspec.json.encode(old, order="sorted") == msgspec.json.encode(new, order="sorted")
    assert (difference(old, new).changes == []) == are_same


def test_elements_in_another_order_are_told_by_their_ids() -> None:
    one, other = {"id": "a", "text": "x"}, {"id": "b", "text": "y"}
    moved = difference({"m": [one, other]}, {"m": [other, one]}).changes
    assert moved == [Change(path="m", kind="changed", old=["a", "b"], new=["b", "a"])]
    assert difference([{"id": "gone"}, one, other], [one, other, {"id": "new"}]).changes == [
        Change(path="[0]", kind="removed", old={"id": "gone"}),
        Change(path="[2]", kind="added", new={"id": "new"}),
    ]


def test_there_are_no_more_changes_than_can_be_read() -> None:
    found = difference({"rows": [*range(100_000)]}, {"rows": [-one for one in range(100_000)]}, most=50)
    assert len(found.changes) == 50
    assert found.is_cut


@given(JSON)
def test_a_small_value_is_shown_whole(value: Any) -> None:
    tree = folded(value)
    assert tree.hidden == 0 or not isinstance(value, str | list | dict)
    assert msgspec.json.decode(short(value, 10_000)) == value


def test_of_a_large_value_so_much_is_shown() -> None:
    tree = folded({"text": "x" * 5_000_000, "rows": [{"a": [*range(10)]}] * 100_000})
    assert tree.parts[0].hidden == 5_000_000 - TEXT
    assert tree.parts[1].hidden > 99_000

    def count(part: Any) -> int:
        return 1 + sum(map(count, part.parts))

    assert count(tree) <= PARTS
    assert short({"text": "x" * 5_000_000}, 30) == '{"text": "xxxxxxxxxxxxxxxxxxxx…'


def test_messages_are_read_in_all_forms() -> None:
    found = conversation_in(
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url"}]},
                {"type": "ai", "content": "", "tool_calls": [{"name": "f", "args": {"a": 1}, "id": "1"}]},
                {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "g", "arguments": "{}"}}]},
                {"type": "tool", "content": "x", "tool_call_id": "1", "status": "error"},
                {"type": "remove", "content": ""},
            ]
        }
    )
    assert found is not None
    assert [one.speaker for one in found.messages] == ["human", "ai", "ai", "tool", "remove"]
    assert found.messages[0].text == "Hi\n[image_url]"
    assert [(call.name, call.arguments) for one in found.messages for call in one.calls] == [
        ("f", '{"a":1}'),
        ("g", "{}"),
    ]
    assert found.messages[3].failed


@pytest.mark.parametrize("values", [None, {}, {"messages": "hi"}, {"messages": [{"a": 1}]}, {"messages": []}, [1], 5])
def test_what_is_no_conversation_is_none(values: Any) -> None:
    assert conversation_in(values) is None


def test_of_many_and_long_messages_the_newest_and_the_beginnings_are_told() -> None:
    found = conversation_in([{"role": "user", "content": "x" * 50_000}] * 1_000)
    assert found is not None
    assert (len(found.messages), found.earlier) == (MOST, 1_000 - MOST)
    assert found.messages[0].hidden == 30_000


@pytest.mark.parametrize(
    ("said", "speaker"),
    [
        ({"type": "HumanMessageChunk"}, "human"),
        ({"type": "AIMessageChunk"}, "ai"),
        ({"type": "message", "role": "assistant"}, "ai"),
        ({"role": "function"}, "tool"),
        ({"role": "developer"}, "system"),
        ({"role": "critic"}, "critic"),
    ],
)
def test_who_says_a_message_is_told_in_whichever_form_it_is(said: dict[str, str], speaker: str) -> None:
    found = conversation_in([{**said, "content": "Hi", "name": "Ada", "tool_call_id": "c1"}])
    assert found is not None
    (message,) = found.messages
    assert (message.speaker, message.name, message.answers) == (speaker, "Ada", "c1")


def test_parts_that_are_texts_are_read_and_calls_are_told_apart() -> None:
    texts = [{"type": kind, kind: kind} for kind in ("text", "thinking", "reasoning", "refusal")]
    calls = [{"type": kind, "name": "f"} for kind in ("tool_use", "tool_call", "function_call", "input_json_delta")]
    found = conversation_in([{"type": "ai", "content": [*texts, *calls, {"type": "image"}]}])
    assert found is not None
    assert found.messages[0].text == "text\nthinking\nreasoning\nrefusal\n[image]"


def test_messages_of_many_letters_or_lines_are_folded() -> None:
    found = conversation_in(["x" * 1_200, "x" * 1_201, "\n" * 18, "\n" * 19])
    assert found is not None
    assert [message.is_long for message in found.messages] == [False, True, False, True]


def test_long_texts_that_begin_alike_are_shown_from_where_they_differ() -> None:
    same = "x" * 5_000
    assert apart(f"{same}old", f"{same}new") == (f"…{'x' * 60}old", f"…{'x' * 60}new")
    assert apart("a" * 3_000, "b") == (f"{'a' * 2_000}…", "b")
    assert apart("", {"b": 1}) == ("", '{"b": 1}')
