"""Messages that come in pieces, as mode `messages` presents them: everything said so far, with each piece."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.app.streams import StreamHub
from trackside.app.streams._messages import MessageSteps
from trackside.app.streams._partial_json import whole_json

TOO_DEEP = 60_000
"""More levels than any Python can read with a thread's stack."""


def steps(*pieces: Any) -> list[tuple[str, Any]]:
    taking = MessageSteps()
    return [step for piece in pieces for step in taking.take(piece)]


def chunk(content: Any = "", **more: Any) -> list[Any]:
    return [{"type": "AIMessageChunk", "id": "m", "content": content, **more}, {"langgraph_node": "model"}]


def test_a_message_is_introduced_once_and_then_grows() -> None:
    found = steps(chunk("Hel"), chunk("lo"), chunk("", usage_metadata={"input_tokens": 2}))
    assert [event for event, _ in found] == ["messages/metadata"] + ["messages/partial"] * 3
    assert found[0][1] == {"m": {"metadata": {"langgraph_node": "model"}}}
    assert [data[0]["content"] for _, data in found[1:]] == ["Hel", "Hello", "Hello"]
    assert {data[0]["type"] for _, data in found[1:]} == {"ai"}


def test_a_message_that_comes_whole_is_complete() -> None:
    tool = {"type": "tool", "id": "t", "content": "42", "tool_call_id": "c"}
    assert steps([tool, {}]) == [("messages/metadata", {"t": {"metadata": {}}}), ("messages/complete", [tool])]


def test_the_arguments_of_a_call_are_read_as_far_as_they_go() -> None:
    def call(args: str | None, **more: Any) -> dict[str, Any]:
        return {"name": None, "args": args, "id": None, "index": 0, "type": "tool_call_chunk", **more}

    found = steps(
        chunk(tool_call_chunks=[call("", name="search", id="c1")]),
        chunk(tool_call_chunks=[call('{"query": "wea')]),
        chunk(tool_call_chunks=[call('ther", "days": 3')]),
        chunk(tool_call_chunks=[call("}")]),
    )
    calls = [data[0]["tool_calls"] for event, data in found if event == "messages/partial"]
    assert [one[0]["args"] for one in calls] == [
        {},
        {"query": "wea"},
        {"query": "weather", "days": 3},
        {"query": "weather", "days": 3},
    ]
    assert {(one[0]["name"], one[0]["id"]) for one in calls} == {("search", "c1")}
    assert all("tool_call_chunks" not in data[0] for event, data in found if event == "messages/partial")


def test_calls_side_by_side_are_told_apart_by_their_index_and_what_is_no_json_is_invalid() -> None:
    found = steps(
        chunk(tool_call_chunks=[{"name": "a", "args": "{", "id": "1", "index": 0}]),
        chunk(tool_call_chunks=[{"name": "b", "args": "nonsense", "id": "2", "index": 1}]),
        chunk(tool_call_chunks=[{"args": '"x": 1}', "index": 0}]),
    )
    last = found[-1][1][0]
    assert [(call["name"], call["args"]) for call in last["tool_calls"]] == [("a", {"x": 1})]
    assert [call["name"] for call in last["invalid_tool_calls"]] == ["b"]


def test_blocks_of_content_grow_each_by_its_index_and_tokens_are_added_up() -> None:
    found = steps(
        chunk([{"type": "text", "text": "one ", "index": 0}], usage_metadata={"output_tokens": 1, "d": {"x": 1}}),
        chunk([{"type": "text", "text": "two", "index": 0}], usage_metadata={"output_tokens": 2, "d": {"x": 2}}),
        chunk([{"type": "text", "text": "other", "index": 1}]),
        chunk("plain"),
    )
    last = found[-1][1][0]
    assert [block["text"] for block in last["content"]] == ["one two", "other", "plain"]
    assert last["usage_metadata"] == {"output_tokens": 3, "d": {"x": 3}}


def test_thoughts_beside_the_content_grow_as_it_does() -> None:
    thoughts = ("First ", "this, ", "then that.")
    found = steps(*(chunk(additional_kwargs={"reasoning_content": text}) for text in thoughts), chunk("Yes."))
    shown = [(data[0]["content"], data[0]["additional_kwargs"]["reasoning_content"]) for _, data in found[1:]]
    assert shown == [
        ("", "First "),
        ("", "First this, "),
        ("", "First this, then that."),
        ("Yes.", "First this, then that."),
    ]


def test_what_is_said_about_a_message_with_each_piece_is_said_once() -> None:
    about = {"model_name": "gpt", "usage": {"tier": "free"}}
    found = steps(chunk("a", response_metadata=about), chunk("b", response_metadata=about | {"finish_reason": "stop"}))
    assert found[-1][1][0]["response_metadata"] == about | {"finish_reason": "stop"}


def test_which_block_or_call_it_is_may_be_said_with_each_piece() -> None:
    call = {"name": "search", "id": "1", "index": 0, "type": "tool_call_chunk"}
    block = {"type": "text", "id": "b", "index": 0, "name": "answer"}
    found = steps(
        chunk([block | {"text": "a"}], tool_call_chunks=[call | {"args": '{"q": '}]),
        chunk([block | {"text": "b"}], tool_call_chunks=[call | {"args": "1}"}]),
    )
    last = found[-1][1][0]
    assert last["content"] == [block | {"text": "ab"}]
    assert last["tool_calls"] == [{"name": "search", "args": {"q": 1}, "id": "1", "type": "tool_call"}]


def test_what_was_said_before_stays_as_it_was() -> None:
    first = chunk("a", response_metadata={"x": 1}, additional_kwargs={"deep": {"er": ["one"], "text": "c"}})
    as_it_was = copy.deepcopy(first)
    more = chunk("b", response_metadata={"y": 2}, additional_kwargs={"deep": {"er": ["two"], "text": "d"}})
    found = steps(first, more)
    assert first == as_it_was
    assert found[1][1][0]["content"] == "a"
    assert found[1][1][0]["additional_kwargs"] == {"deep": {"er": ["one"], "text": "c"}}
    assert found[2][1][0]["additional_kwargs"] == {"deep": {"er": ["one", "two"], "text": "cd"}}
    assert found[2][1][0]["response_metadata"] == {"x": 1, "y": 2}


@pytest.mark.parametrize("piece", [None, 1, "text", [], [1, 2], ["m", {}]])
def test_what_is_no_message_says_nothing(piece: Any) -> None:
    assert steps(piece) == []


def test_a_message_that_comes_alone_is_a_part_of_both_modes() -> None:
    hub = StreamHub()
    message = {"type": "ai", "content": "hello", "id": "m"}
    hub.publish("run", "messages", message)
    hub.publish("run", "messages", [message, {"node": "n"}])
    frames = hub.read("run").take()
    assert [(frame.mode, frame.event) for frame in frames] == [
        ("messages-tuple", "messages"),
        ("messages", "messages/metadata"),
        ("messages", "messages/complete"),
        ("messages", "messages/complete"),
    ]
    assert json.loads(frames[0].data) == [message, {}]


@dataclass
class FrameworkMessage:
    """A message as LangChain has it: not a mapping."""

    content: str
    type: str = "ai"
    id: str = "m"


@pytest.mark.parametrize(
    "given", [FrameworkMessage("hello"), (FrameworkMessage("hello"), {"node": "n"})], ids=["alone", "pair"]
)
def test_a_framework_s_message_is_said_as_one_that_is_plain(given: Any) -> None:
    plain = {"content": "hello", "type": "ai", "id": "m"}
    hub = StreamHub()
    hub.publish("object", "messages", given)
    hub.publish("plain", "messages", (plain, {"node": "n"}) if isinstance(given, tuple) else plain)
    said, expected = (
        [(frame.mode, frame.event, frame.data) for frame in hub.read(run).take()] for run in ("object", "plain")
    )
    assert said == expected
    assert ("messages", "messages/complete") in [(mode, event) for mode, event, _ in said]


def test_the_names_of_what_is_added_up_say_nothing_of_agents_inside() -> None:
    hub = StreamHub()
    inside = "inside:1", "deeper:2"
    hub.publish("run", "messages", chunk("a"), inside)
    hub.publish("run", "messages", {"type": "ai", "content": "hello", "id": "n"}, inside)
    frames = hub.read("run").take()
    assert [(frame.mode, frame.event) for frame in frames] == [
        ("messages", "messages/metadata"),
        ("messages", "messages/partial"),
        ("messages-tuple", "messages|inside:1|deeper:2"),
        ("messages", "messages/metadata"),
        ("messages", "messages/complete"),
    ]
    assert {frame.namespace for frame in frames} == {inside}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("{", {}),
        ('{"a', {}),
        ('{"a"', {}),
        ('{"a":', {}),
        ('{"a": tr', {}),
        ('{"a": 1, "b": [1, {"c": "d', {"a": 1, "b": [1, {"c": "d"}]}),
        ('{"a": "x\\', {"a": "x"}),
        ('{"a": "x\\u00', {}),
        ('{"a": "}]", "b"', {"a": "}]"}),
        ("[1, 2", [1, 2]),
        ("no", None),
        ('{"a": 1}}', None),
        ('{"a": ' + "[" * TOO_DEEP, None),
        ("[" * TOO_DEEP + "]" * TOO_DEEP, None),
    ],
)
def test_json_is_read_as_far_as_it_goes(text: str, value: Any) -> None:
    assert whole_json(text) == value


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=4), st.integers(0, 200))
def test_every_beginning_of_an_object_is_an_object_with_no_other_names(value: dict[str, Any], length: int) -> None:
    text = json.dumps(value, ensure_ascii=False)
    found = whole_json(text[: max(1, length)])
    assert isinstance(found, dict)
    assert found.keys() <= value.keys()


def sign_by_sign(text: str) -> Any:
    """What `whole_json` returns, found in the plainest way."""
    open_ones: list[str] = []
    in_string = escaped = False
    last_whole = ""
    for at, sign in enumerate(text):
        if in_string:
            in_string = escaped or sign != '"'
            escaped = sign == "\\" and not escaped
            continue
        in_string = sign == '"'
        if sign in "{[":
            open_ones.insert(0, {"{": "}", "[": "]"}[sign])
        elif sign in "}]" and not open_ones:
            last_whole = text
            break
        elif sign in "}]":
            del open_ones[0]
        if sign in "{[}]":
            last_whole = text[: at + 1] + "".join(open_ones)
        elif sign == "," and open_ones:
            last_whole = text[:at] + "".join(open_ones)
    said = text[:-1] if escaped else text
    for one in (text, said + '"' * in_string + "".join(open_ones), last_whole):
        try:
            return msgspec.json.decode(one)
        except msgspec.DecodeError:
            continue
    return None


@given(
    st.one_of(
        st.text(alphabet='{}[],:"\\ a0.', max_size=16),
        st.builds(
            lambda value, length: json.dumps(value, ensure_ascii=False)[:length],
            st.dictionaries(st.text(max_size=3), VALUES, max_size=4),
            st.integers(0, 200),
        ),
    )
)
def test_what_a_text_says_so_far_is_what_one_finds_sign_by_sign(text: str) -> None:
    assert whole_json(text) == sign_by_sign(text)


ODD: list[dict[str, Any]] = [
    {"tool_call_chunks": [{"name": "f", "args": {"a": 1}, "id": "c", "index": 0}]},
    {"tool_call_chunks": [{"name": "f", "args": [1], "id": "c", "index": [0]}]},
    {"tool_call_chunks": [{"name": "f", "args": '{"a": ' + "[" * TOO_DEEP, "id": "c", "index": 0}]},
    {"tool_call_chunks": 7},
    {"tool_call_chunks": {"a": 1}},
    {"content": 7},
    {"content": {"type": "text", "text": "alone"}},
    {"content": [7, None, {"type": ["text"], "index": {}}]},
    {"usage_metadata": {"a": {"b": 1}}},
    {"usage_metadata": {"a": 1}},
    {"response_metadata": 7},
]


@given(st.lists(st.sampled_from(ODD), min_size=1, max_size=5))
def test_a_message_may_contain_anything(odd: list[dict[str, Any]]) -> None:
    hub = StreamHub()
    for more in [{"content": "before"}, *odd, {"content": "behind"}]:
        hub.publish("run", "messages", [{"type": "AIMessageChunk", "id": "m", **more}, {}])
    last = [frame for frame in hub.read("run").take() if frame.mode == "messages"][-1]
    assert last.event == "messages/partial"
    assert "behind" in json.dumps(json.loads(last.data)[0]["content"])


def test_arguments_that_are_no_text_are_shown_as_they_are() -> None:
    shown = [steps(chunk(**more))[-1][1][0] for more in ODD[:3]]
    assert [call["args"] for call in shown[0]["tool_calls"]] == [{"a": 1}]
    assert [call["args"] for call in shown[1]["invalid_tool_calls"]] == [[1]]
    assert [len(call["args"]) for call in shown[2]["invalid_tool_calls"]] == [TOO_DEEP + 6]


class Unequal:
    """Cannot be compared with anything, like arrays of numbers."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("neither true nor false")

    __hash__ = None  # type: ignore[assignment]


def test_what_cannot_be_added_up_is_shown_as_it_came_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    unequal = chunk(additional_kwargs=Unequal())
    found = steps(chunk("a"), unequal, unequal, chunk("b"))
    assert [event for event, _ in found[1:]] == ["messages/partial", *["messages/complete"] * 2, "messages/partial"]
    assert found[2][1] == [unequal[0]]
    assert found[-1][1][0]["content"] == "ab"
    assert [record.message for record in caplog.records] == ["a message of an odd form is shown as it came: ValueError"]
