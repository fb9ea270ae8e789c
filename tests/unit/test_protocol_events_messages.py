"""Messages and other parts as events of version 2 of the protocol: blocks, calls, and parts that contain anything."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.followed_thread import begin, events_of, follow, methods

from trackside.app.streams import StreamHub


def says(**message: Any) -> list[Any]:
    return [{"type": "AIMessageChunk", "id": "m", "content": "", **message}, {}]


def call(args: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"name": "f", "args": args, "id": "c", "index": 0, **more}]


def deep(depth: int = 60_000) -> str:
    return '{"a": ' + "[" * depth + "]" * depth + "}"


ODD: list[Any] = [
    says(tool_call_chunks=call({"a": 1})),
    says(tool_call_chunks=call(7)),
    says(tool_call_chunks=call("{", index=[1])),
    says(tool_call_chunks=call(deep())),
    says(tool_call_chunks=7),
    says(content=[{"type": "text", "text": 7, "index": {}}, {"type": ["text"]}, 7]),
    says(content=[{"type": "text", "text": "a", "extras": 7, "index": 0}]),
    says(content=[{"type": "text", "text": 7, "extras": {"a": 1}, "index": 0}]),
    says(usage_metadata={"a": 1, "b": {"c": 1}}),
    says(usage_metadata={"a": {"c": 1}, "b": 1}),
    says(response_metadata=7),
    [{"type": "ai", "id": "n", "content": [{"type": "tool_call", "name": "search"}]}, {}],
    [{"type": "ai", "id": "o", "content": "", "invalid_tool_calls": 7}, {}],
    [{"type": ["ai"], "id": {}, "content": ""}, 7],
]


@given(st.lists(st.sampled_from(ODD), max_size=6))
def test_a_message_may_contain_anything_and_what_comes_behind_it_comes(odd: list[Any]) -> None:
    hub = StreamHub()
    begin(hub, "a")
    for message in odd:
        hub.publish("a", "messages-tuple", message)
    hub.publish("a", "custom", "behind")
    hub.close("a", end={"status": "success"})
    with follow(hub) as reader:
        events = events_of(reader)
    assert (methods(events)[0], methods(events)[-1]) == ("running", "completed")
    assert {"payload": "behind"} in [event["params"]["data"] for event in events]
    assert "gap" not in [event["method"] for event in events], "odd parts are shown, as they are or as text"


def test_a_call_whose_arguments_are_no_text_is_shown_with_them_as_they_are() -> None:
    hub = StreamHub()
    begin(hub, "a")
    for args in ({"a": 1}, [1], deep()):
        hub.publish("a", "messages-tuple", says(id=str(args)[:9], tool_call_chunks=call(args)))
    hub.close("a", end={"status": "success"})
    with follow(hub) as reader:
        data = [event["params"]["data"] for event in events_of(reader)]
    finished = [one["content"] for one in data if one["event"] == "content-block-finish"]
    assert [(block["type"], block["args"]) for block in finished] == [
        ("tool_call", {"a": 1}),
        ("invalid_tool_call", [1]),
        ("invalid_tool_call", deep()),
    ]


def piece(args: str, call_id: str | None, index: int | None) -> dict[str, Any]:
    return {"name": call_id and f"tool-{call_id}", "args": args, "id": call_id, "index": index}


ROME, OSLO = '{"city": "Rome"}', '{"city": "Oslo"}'


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([[piece(ROME, "a", None), piece(OSLO, "b", None)]], id="no-index"),
        pytest.param([[piece(ROME, "a", None)], [piece(OSLO, "b", None)]], id="no-index-and-a-chunk-each"),
        pytest.param([[piece(ROME, "a", 0)], [piece(OSLO, "b", 0)]], id="one-index-for-all"),
        pytest.param([[piece(ROME, "a", 0), piece(OSLO, "b", 0)]], id="one-index-for-all-in-a-chunk"),
        pytest.param([[piece(ROME[:4], "a", 0)], [piece(ROME[4:], None, 0), piece(OSLO, "b", 1)]], id="in-pieces"),
        pytest.param([[piece(ROME[:4], "a", 0)], [piece(ROME[4:], "a", 0)], [piece(OSLO, "b", 0)]], id="id-each-time"),
    ],
)
@pytest.mark.parametrize("in_blocks", [False, True])
def test_calls_side_by_side_are_blocks_of_their_own(chunks: list[list[dict[str, Any]]], *, in_blocks: bool) -> None:
    hub = StreamHub()
    begin(hub, "a")
    for calls in chunks:
        blocks = [{"type": "tool_call_chunk", **call} for call in calls]
        hub.publish(
            "a", "messages-tuple", says(**({"content_blocks": blocks} if in_blocks else {"tool_call_chunks": calls}))
        )
    hub.close("a", end={"status": "success"})
    with follow(hub) as reader:
        data = [event["params"]["data"] for event in events_of(reader)]
    finished = [(one["index"], one["content"]) for one in data if one["event"] == "content-block-finish"]
    assert finished == [
        (0, {"type": "tool_call", "id": "a", "name": "tool-a", "args": {"city": "Rome"}}),
        (1, {"type": "tool_call", "id": "b", "name": "tool-b", "args": {"city": "Oslo"}}),
    ]
    started = [one["tool_call_id"] for one in data if one["event"] == "tool-started"]
    assert started == ["a", "b"]


def test_of_what_a_block_cites_piece_by_piece_all_is_left() -> None:
    def cites(page: str) -> dict[str, Any]:
        return says(content_blocks=[{"type": "text", "index": 0, "text": "", "annotations": [{"url": page}]}])

    hub = StreamHub()
    begin(hub, "a")
    hub.publish("a", "messages-tuple", says(content_blocks=[{"type": "text", "index": 0, "text": "Rome is old."}]))
    for page in ("one", "two", "three"):
        hub.publish("a", "messages-tuple", cites(page))
    hub.close("a", end={"status": "success"})
    with follow(hub) as reader:
        data = [event["params"]["data"] for event in events_of(reader)]
    (finished,) = [one["content"] for one in data if one["event"] == "content-block-finish"]
    assert finished["text"] == "Rome is old."
    assert [cited["url"] for cited in finished["annotations"]] == ["one", "two", "three"]


@pytest.mark.parametrize("mode", ["checkpoint-marks", "checkpoints", "tasks", "custom", "updates", "values"])
@pytest.mark.parametrize("data", [7, [], {"payload": 1, "__interrupt__": 7}, {"config": 7}, {"id": []}])
def test_a_part_of_any_mode_may_contain_anything(mode: str, data: Any) -> None:
    hub = StreamHub()
    begin(hub, "a", stream_mode=("messages-tuple", "checkpoint-marks"))
    hub.publish("a", mode, data)
    hub.publish("a", mode, data, ("inside",))
    hub.close("a", end={"status": "interrupted", "interrupts": ["cut", {"id": "q", "value": "why?"}]})
    with follow(hub) as reader:
        events = events_of(reader)
    assert "input.requested" in [event["method"] for event in events]
    assert "interrupted" in methods([event for event in events if event["method"] == "lifecycle"])


def test_what_no_event_can_be_made_of_is_a_gap_and_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("of a form that nobody has thought of")

    monkeypatch.setattr("trackside.app.streams.protocol._messages.MessageEvents.take", fail)
    monkeypatch.setattr("trackside.app.streams.protocol._messages.MessageEvents.end", fail)
    hub = StreamHub()
    begin(hub, "a")
    for _ in range(2):
        hub.publish("a", "messages-tuple", says())
    hub.publish("a", "custom", 1)
    hub.close("a", end={"status": "success"})
    with follow(hub) as reader, follow(hub, since=0) as later:
        events = events_of(reader)
        assert [event["method"] for event in events] == ["lifecycle", "gap", "gap", "custom", "lifecycle"]
        assert events_of(later) == events
    assert [record.message for record in caplog.records] == [
        "something that run a has said does not reach those who follow its thread: KeyError"
    ]
