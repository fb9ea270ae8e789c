"""What runs say on a thread, as events of version 2 of the protocol: numbered, bounded, found again, selected."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.app.streams import FeedLimits, HubLimits, StreamHub
from trackside.app.streams.frames import Frame, now_ms
from trackside.app.streams.live_messages import BY_COMMAND
from trackside.app.streams.protocol import EventReader, Wanted, log_of, read_events
from trackside.harness import RunSpec
from trackside.harness.types import RunRecord, RunStatus

THREAD = "11111111-1111-4111-8111-111111111111"
ALL = Wanted(
    channels=("values", "updates", "messages", "tools", "lifecycle", "input", "tasks", "custom", "checkpoints")
)
WATCH = Wanted(channels=("lifecycle", "input"))


def begin(hub: StreamHub, run_id: str, *, started: bool = True, **more: Any) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    run = RunRecord(run_id=run_id, thread_id=THREAD, agent="agent", status=RunStatus.running, created_at=now)
    hub.begin(run, RunSpec("agent", **{"stream_mode": ("values", "messages-tuple"), **more}), started=started)


def events_of(reader: EventReader) -> list[dict[str, Any]]:
    said = b"".join(reader.pieces()).decode()
    return [json.loads(one.partition("data: ")[2]) for one in said.split("\r\n\r\n") if one]


def methods(events: list[dict[str, Any]]) -> list[str]:
    return [event["params"]["data"].get("event", event["method"]) for event in events]


def follow(hub: StreamHub, wanted: Wanted = ALL, since: int | None = None, **more: Any) -> EventReader:
    return read_events(hub.threads, THREAD, wanted, since, **more)


def test_events_are_made_once_whoever_reads_first() -> None:
    hub = StreamHub()
    begin(hub, "a")
    hub.publish("a", "values", {"x": 1})
    with follow(hub) as one, follow(hub) as other:
        assert events_of(one) == events_of(other)
        assert all(mine is theirs for mine, theirs in zip(one.log.items, other.log.items, strict=True))
        hub.close("a", end={"status": "success"})
        assert methods(events_of(one)) == methods(events_of(other)) == ["completed"]


def test_what_is_not_kept_is_a_gap_and_nothing_is_said_twice() -> None:
    hub = StreamHub(HubLimits(threads=FeedLimits(items=5)))
    begin(hub, "a")
    with follow(hub) as reader:
        first = events_of(reader)
        for number in range(20):
            hub.publish("a", "values", {"number": number})
            follow(hub).__exit__(None, None, None)  # somebody else keeps up
        gap, *rest = events_of(reader)
    assert (gap["method"], gap["params"]["data"]["through_seq"]) == ("gap", rest[0]["seq"] - 1)
    assert gap["seq"] > first[-1]["seq"]
    assert [event["params"]["data"]["number"] for event in rest] == [15, 16, 17, 18, 19]


def test_who_comes_when_more_was_said_than_is_kept_is_told_so() -> None:
    hub = StreamHub(HubLimits(threads=FeedLimits(items=5)))
    begin(hub, "a")
    log_of(hub.threads.feed_of(THREAD))
    for number in range(20):
        hub.publish("a", "values", {"number": number})
    with follow(hub, since=0) as reader:
        events = events_of(reader)
    assert events[0]["method"] == "gap"
    assert [event["params"]["data"].get("number") for event in events[1:]] == [15, 16, 17, 18, 19]


def test_a_number_of_another_numbering_is_a_gap() -> None:
    hub = StreamHub()
    begin(hub, "a")
    with follow(hub, since=17) as reader:
        assert [event["method"] for event in events_of(reader)] == ["gap", "lifecycle"]


def test_who_only_watches_does_not_hear_again_of_an_end_that_was_watched() -> None:
    hub = StreamHub()
    begin(hub, "a", options={BY_COMMAND: True})
    hub.close("a", end={"status": "success"})
    with follow(hub, WATCH) as first:
        assert methods(events_of(first)) == ["running", "completed"]
    with follow(hub, WATCH) as second, follow(hub) as reads:
        assert events_of(second) == []
        assert methods(events_of(reads)) == ["running", "completed"]
        begin(hub, "b")
        assert methods(events_of(second)) == ["running"]


def test_the_end_of_the_last_run_is_not_told_behind_the_beginning_of_the_next() -> None:
    hub = StreamHub()
    with follow(hub) as reader, follow(hub, WATCH) as watching:
        begin(hub, "b")
        reader.log.recall("a", "agent", {"status": "success"}, {"x": 1}, is_first=True, is_past=True)
        assert {event["event_id"].split(":")[1] for event in events_of(reader)} == {"b"}
        hub.close("b", end={"status": "success"})
        assert methods(events_of(watching)) == ["running", "completed"]
        assert reader.log.watched


def test_where_another_run_is_let_in_that_has_not_begun_nothing_is_told_of_the_last_one() -> None:
    hub = StreamHub()
    begin(hub, "a")
    hub.close("a", end={"status": "success"})
    with follow(hub, holder="b") as reader, follow(hub, holder="a") as of_the_last:
        assert events_of(reader) == []
        assert methods(events_of(of_the_last)) == ["running", "completed"]
        begin(hub, "b", started=False)
        hub.close("b", end={"status": "cancelled"})
        assert methods(events_of(reader)) == ["failed"]
    with follow(hub, holder="b") as reader:
        assert methods(events_of(reader)) == ["running", "completed", "failed"], (
            "it was cancelled as the stream was opened"
        )


def test_a_run_that_is_to_be_tried_again_is_told_of_while_the_next_attempt_has_not_begun() -> None:
    hub = StreamHub()
    begin(hub, "a")
    hub.close("a", end={"status": "error", "error": "lost", "retried_as": "b"})
    with follow(hub, holder="b") as reader:
        assert methods(events_of(reader))[0] == "running"


def test_who_watches_a_thread_that_waits_hears_what_it_asks() -> None:
    hub = StreamHub()
    begin(hub, "a")
    hub.close("a", end={"status": "interrupted", "interrupts": [{"id": "q", "value": "why?"}]})
    for _ in range(2):
        with follow(hub, WATCH) as watcher:
            assert methods(events_of(watcher)) == ["running", "input.requested", "interrupted"]
    begin(hub, "b", command={"resume": "because"})
    with follow(hub, WATCH) as watcher:
        assert events_of(watcher)[1]["params"]["data"] == {"interrupt_ids": ["q"]}


def test_who_watches_a_thread_that_waits_at_a_breakpoint_is_asked_nothing() -> None:
    hub = StreamHub()
    begin(hub, "one", options={BY_COMMAND: True})
    hub.close("one", end={"status": "interrupted", "interrupts": [{"id": "c", "value": None, "next": ["pay"]}]})
    with follow(hub, WATCH) as watcher:
        assert methods(events_of(watcher)) == ["running", "interrupted"]


def test_a_run_that_is_tried_again_is_one_run_to_clients() -> None:
    hub = StreamHub()
    begin(hub, "a")
    hub.close("a", end={"status": "error", "error": "lost", "retried_as": "b"})
    begin(hub, "b")
    hub.close("b", end={"status": "success"})
    with follow(hub, WATCH, since=0) as reader:
        events = events_of(reader)
    assert methods(events) == ["running", "running", "completed"]
    assert {event["event_id"].split(":")[1] for event in events} == {"a"}


def begin_attempt(hub: StreamHub, run_id: str, retry_of: str, *, started: bool = True) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    run = RunRecord(
        run_id=run_id,
        thread_id=THREAD,
        agent="agent",
        status=RunStatus.running,
        created_at=now,
        attempt=2,
        retry_of=retry_of,
    )
    hub.begin(run, RunSpec("agent"), started=started)


def known_ids(hub: StreamHub) -> set[str]:
    """The runs that lifecycle events are about, in a client's view."""
    with follow(hub, WATCH, since=0) as reader:
        return {event["event_id"].split(":")[1] for event in events_of(reader)}


RETRIED = {"status": "error", "error": "lost", "retried_as": "b"}


def test_an_attempt_is_known_as_the_first_also_if_it_begins_before_the_end_of_that_is_told() -> None:
    hub = StreamHub()
    begin(hub, "a")
    begin_attempt(hub, "b", "a")
    hub.close("a", end=RETRIED)
    begin_attempt(hub, "c", "b")
    hub.close("b", end={**RETRIED, "retried_as": "c"})
    hub.close("c", end={"status": "success"})
    assert known_ids(hub) == {"a"}


def test_an_attempt_is_known_as_the_first_also_where_that_was_never_heard_of() -> None:
    hub = StreamHub()
    begin_attempt(hub, "b", "a")
    assert known_ids(hub) == {"a"}


def test_an_attempt_is_known_as_the_first_of_those_that_were_never_heard_of_where_that_is_noted() -> None:
    hub = StreamHub()
    log_of(hub.threads.feed_of(THREAD)).note_next("b", "a")
    begin_attempt(hub, "c", "b")
    assert known_ids(hub) == {"a"}


def test_an_attempt_whose_begin_was_not_heard_is_known_as_it_was_noted() -> None:
    hub = StreamHub()
    feed = hub.threads.feed_of(THREAD)
    log_of(feed).note_next("b", "a")
    feed.note_part("b", Frame(700, "values", "values", b'{"x":1}', (), now_ms(), None))
    assert known_ids(hub) == {"a"}


def test_an_attempt_that_somebody_asks_for_is_known_as_itself() -> None:
    hub = StreamHub()
    begin(hub, "a")
    hub.close("a", end={"status": "error", "error": "no"})
    begin_attempt(hub, "b", "a")
    assert known_ids(hub) == {"a", "b"}


def test_an_attempt_that_ends_before_it_has_begun_is_the_end_of_the_first() -> None:
    hub = StreamHub()
    begin(hub, "a")
    hub.close("a", end=RETRIED)
    begin_attempt(hub, "b", "a", started=False)
    hub.close("b", end={"status": "cancelled"})
    assert known_ids(hub) == {"a"}
    with follow(hub, since=0) as reader:
        assert methods(events_of(reader)) == ["running", "failed"]
        assert reader.log.tree() == {"namespace": [], "status": "failed", "graph_name": "agent"}


@pytest.mark.parametrize(
    ("end", "event", "error"),
    [
        ({"status": "error", "error": "no", "error_type": "ValueError"}, "failed", "ValueError: no"),
        ({"status": "timeout"}, "failed", "the run took too long"),
        ({"status": "cancelled"}, "failed", "the run was cancelled"),
    ],
)
def test_every_end_is_one_that_all_clients_take_for_an_end(end: dict[str, Any], event: str, error: str) -> None:
    hub = StreamHub()
    begin(hub, "a")
    hub.publish("a", "messages-tuple", [{"type": "AIMessageChunk", "id": "m", "content": "half"}, {}])
    hub.close("a", end=end)
    with follow(hub) as reader:
        events = events_of(reader)
    assert methods(events)[-2:] == ["error", event]
    assert events[-1]["params"]["data"]["error"] == error


def test_a_forgotten_thread_begins_with_larger_numbers() -> None:
    hub = StreamHub()
    numbers = []
    for run_id in ("a", "b"):
        begin(hub, run_id)
        hub.close(run_id, end={"status": "success"})
        with follow(hub, since=0) as reader:
            numbers += [event["seq"] for event in events_of(reader)]
        hub.threads.forget([THREAD])
    assert numbers == sorted(numbers)


def test_behind_the_newest_event_of_a_thread_that_has_none_nothing_is_missing_also_where_others_were_forgotten() -> (
    None
):
    hub = StreamHub()
    hub.threads.feed_of("other").note_state(b"{}", at=now_ms() - 60_000)
    hub.threads.forget(["other"])
    with follow(hub) as reader:
        newest = reader.log.newest
        begin(hub, "b")
        hub.close("b", end={"status": "success"})
        events = events_of(reader)
        with follow(hub, since=newest) as later, follow(hub, since=reader.log.newest) as last:
            assert events_of(later) == events
            assert events_of(last) == []
    assert methods(events) == ["running", "completed"]


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


def test_a_question_that_was_answered_in_vain_is_said_again_once() -> None:
    hub = StreamHub()
    question = {"id": "q", "value": "why?"}
    begin(hub, "a")
    hub.close("a", end={"status": "interrupted", "interrupts": [question]})
    with follow(hub, WATCH, since=0) as reader:
        begin(hub, "b", command={"resume": {"q": "because"}})
        hub.close("b", end={"status": "error", "retried_as": "c"})
        begin_attempt(hub, "c", "b")
        hub.close("c", end={"status": "error", "error": "no"})
        said = ["running", "input.requested", "interrupted", "running", "input.answered", "running", "failed"]
        assert methods(events_of(reader)) == said
        assert reader.log.in_doubt == "c"
        reader.log.ask_again("a", [question])
        assert events_of(reader) == []
        reader.log.ask_again("c", [question, {"id": "stays", "value": "?"}, {"next": ["node"]}])
        reader.log.ask_again("c", [question])
        assert methods(events_of(reader)) == ["input.requested"]
        begin(hub, "d", command={"resume": {"q": "because"}})
        reader.log.catch_up()
        reader.log.ask_again("c", [question])
        assert methods(events_of(reader)) == ["running", "input.answered"]
        hub.close("d", end={"status": "success"})
        assert (methods(events_of(reader)), reader.log.in_doubt) == (["completed"], None)


def asked(*names: str) -> dict[str, Any]:
    return {"status": "interrupted", "interrupts": [{"id": name, "value": name} for name in names]}


def about(events: list[dict[str, Any]]) -> list[str]:
    """For events of questions, what they are about; for all others, what they are."""
    said = [(event["method"], event["params"]["data"]) for event in events]
    return [
        f"{method} {data.get('interrupt_id') or ' '.join(data['interrupt_ids'])}"
        if method.startswith("input.")
        else data["event"]
        for method, data in said
    ]


def test_who_begins_anew_hears_once_what_is_open_and_of_no_answer_in_vain() -> None:
    hub = StreamHub()
    begin(hub, "a")
    hub.close("a", end=asked("q", "r", "s"))
    begin(hub, "b", command={"resume": {"q": "because", "r": "so"}})
    hub.close("b", end={"status": "error", "error": "no"})
    with follow(hub, since=0) as reader:
        whole = events_of(reader)
        reader.log.ask_again("b", [{"id": "q", "value": "q"}, {"id": "s", "value": "s"}])
        whole += events_of(reader)
    with follow(hub, WATCH) as watcher, follow(hub, WATCH, holder="c") as waiting:
        assert about(events_of(watcher)) == about(events_of(waiting)) == ["input.requested s", "input.requested q"]
        assert events_of(watcher) == []
    with follow(hub) as reader:
        events = events_of(reader)
        assert about(events) == ["input.requested s", "running", "input.answered r", "failed", "input.requested q"]
    ids = [event["event_id"] for event in whole]
    assert about(whole)[4:7] == ["interrupted", "running", "input.answered q r"]
    assert [event["event_id"] for event in events] == [ids[3], *ids[5:]]
    begin(hub, "c", command={"resume": {"q": "because"}})
    with follow(hub, WATCH) as watcher, follow(hub, Wanted(channels=("values",))) as reads:
        assert about(events_of(watcher)) == ["input.requested s", "running", "input.answered q"]
        assert events_of(reads) == []
        hub.close("c", end={"status": "success"})
        assert about(events_of(watcher)) == ["completed"]
    with follow(hub) as reader:
        assert about(events_of(reader)) == ["running", "input.answered q", "completed"]


def test_a_question_that_is_asked_again_by_the_run_that_brought_its_answer_is_not_answered_for_who_begins_anew() -> (
    None
):
    hub = StreamHub()
    begin(hub, "a")
    hub.close("a", end=asked("q"))
    begin(hub, "b", command={"resume": {"q": "many"}})
    hub.close("b", end=asked("q"))
    for wanted in (WATCH, ALL):
        with follow(hub, wanted) as reader:
            assert about(events_of(reader)) == ["running", "input.requested q", "interrupted"]


def test_what_a_failed_run_has_left_open_is_asked_where_nothing_is_known_of_it_and_its_end_is_past() -> None:
    hub = StreamHub()
    with follow(hub, WATCH) as watcher, follow(hub) as reader:
        watcher.passes_past = True
        says = {"status": "error", "error": "no", "interrupts": [{"id": "q", "value": "q"}]}
        watcher.log.recall("a", "agent", says, None, is_first=True, is_past=True)
        assert about(events_of(watcher)) == ["input.requested q"]
        assert about(events_of(reader)) == ["failed", "input.requested q"]
    assert reader.log.open_questions == ["q"]


def test_what_a_failed_run_has_left_open_is_asked_where_its_thread_is_known_from_that_run_on() -> None:
    hub = StreamHub()
    questions = [{"id": "q", "value": "q"}, {"next": ["node"]}]
    begin(hub, "b", command={"resume": {"q": "because"}})
    hub.close("b", end={"status": "error", "error": "no"})
    with follow(hub) as reader:
        assert about(events_of(reader)) == ["running", "failed"]
        assert reader.log.in_doubt == "b"
        reader.log.ask_again("b", questions)
        assert (about(events_of(reader)), reader.log.open_questions) == (["input.requested q"], ["q"])
    with follow(hub, WATCH) as watcher:
        assert about(events_of(watcher)) == ["input.requested q"]
        begin(hub, "c", command={"resume": {"q": "because"}})
        hub.close("c", end={"status": "success"})
        begin(hub, "d")
        hub.close("d", end={"status": "error"})
        said = ["running", "input.answered q", "completed", "running", "failed"]
        assert about(events_of(watcher)) == said
        assert watcher.log.in_doubt is None, "the run before has come to something"


def test_what_a_failed_run_has_left_open_is_asked_where_the_end_that_asked_it_is_not_kept() -> None:
    hub = StreamHub(HubLimits(threads=FeedLimits(items=2)))
    begin(hub, "a")
    with follow(hub) as reader:
        assert about(events_of(reader)) == ["running"]
        hub.close("a", end=asked("q"))
        begin(hub, "b", command={"resume": {"q": "because"}})
        hub.close("b", end={"status": "error", "error": "no"})
        assert methods(events_of(reader)) == ["gap", "running", "failed"]
        assert reader.log.in_doubt == "b"
