"""What runs say on a thread, as events of version 2 of the protocol: numbered, bounded, found again, selected."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.followed_thread import THREAD, WATCH, begin, begin_attempt, events_of, follow, methods

from trackside.app.streams import FeedLimits, HubLimits, StreamHub
from trackside.app.streams.frames import Frame, now_ms
from trackside.app.streams.live_messages import BY_COMMAND
from trackside.app.streams.protocol import log_of


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
    hub = StreamHub(HubLimits(threads=FeedLimits(items=5, behind=1)))
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


@pytest.mark.parametrize("is_first", [True, False])
def test_who_comes_to_watch_hears_that_the_run_that_a_command_asked_for_was_cancelled_before_it_began(
    *, is_first: bool
) -> None:
    hub = StreamHub()
    if not is_first:
        begin(hub, "a", options={BY_COMMAND: True})
        hub.close("a", end={"status": "success"})
        with follow(hub, WATCH) as watching:
            assert methods(events_of(watching)) == ["running", "completed"]
    begin(hub, "b", started=False, options={BY_COMMAND: True})
    hub.close("b", end={"status": "cancelled"})
    with follow(hub, WATCH) as watching:
        (told,) = events_of(watching)
    assert (told["params"]["data"]["run_id"], told["params"]["data"]["status"]) == ("b", "cancelled")
    with follow(hub, WATCH) as later:  # the next run is another one
        assert events_of(later) == []
        begin(hub, "c")
        assert methods(events_of(later)) == ["running"]


@pytest.mark.parametrize("then", ["no command", "another run"])
def test_who_comes_to_watch_hears_of_no_cancelled_run_that_is_not_the_one_asked_for(then: str) -> None:
    hub = StreamHub()
    options = None if then == "no command" else {BY_COMMAND: True}
    begin(hub, "a", started=False, options=options)
    hub.close("a", end={"status": "cancelled"})
    if then == "another run":
        begin(hub, "b", options=options)
        hub.close("b", end={"status": "success"})
        with follow(hub, WATCH) as watching:
            assert methods(events_of(watching)) == ["running", "completed"]
    with follow(hub, WATCH) as watching:
        assert events_of(watching) == []


def test_a_run_that_is_to_be_tried_again_is_told_of_while_the_next_attempt_has_not_begun() -> None:
    hub = StreamHub()
    begin(hub, "a")
    hub.close("a", end={"status": "error", "error": "lost", "retried_as": "b"})
    with follow(hub, holder="b") as reader:
        assert methods(events_of(reader))[0] == "running"


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


def known_ids(hub: StreamHub) -> set[str]:
    """The runs that lifecycle events are about, in a client's view."""
    with follow(hub, WATCH, since=0) as reader:
        return {event["event_id"].split(":")[1] for event in events_of(reader)}


RETRIED = {"status": "error", "error": "lost", "retried_as": "b"}


def test_who_comes_to_watch_a_run_of_his_own_command_hears_its_end_also_if_its_next_attempt_never_began() -> None:
    hub = StreamHub()
    begin(hub, "a", options={BY_COMMAND: True})
    hub.close("a", end=RETRIED)
    begin(hub, "b", started=False)
    hub.close("b", end={"status": "cancelled"})
    with follow(hub, WATCH) as reader:
        assert methods(events_of(reader)) == ["running", "failed"]


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
