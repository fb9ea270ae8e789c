"""Questions as events of version 2 of the protocol: who hears what is asked, answered, and asked again."""

from __future__ import annotations

from typing import Any

from tests.unit.followed_thread import ALL, WATCH, begin, begin_attempt, events_of, follow, methods

from trackside.app.streams import FeedLimits, HubLimits, StreamHub
from trackside.app.streams.live_messages import BY_COMMAND
from trackside.app.streams.protocol import Wanted


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


def test_a_question_whose_answer_was_cancelled_before_it_began_is_asked_again() -> None:
    hub = StreamHub()
    question = {"id": "q", "value": "why?"}
    begin(hub, "a")
    hub.close("a", end={"status": "interrupted", "interrupts": [question]})
    answer: Any = {"command": {"resume": {"q": "because"}}, "options": {BY_COMMAND: True}}
    with follow(hub, WATCH, since=0) as reader:
        events_of(reader)
        begin(hub, "b", started=False, **answer)
        hub.close("b", end={"status": "cancelled"})
        failed, again = events_of(reader)
        assert methods([failed, again]) == ["failed", "input.requested"]
        assert again["params"]["data"] == {"interrupt_id": "q", "payload": "why?", "value": "why?"}
        begin(hub, "c", **answer)
        assert methods(events_of(reader)) == ["running", "input.answered"]
        begin(hub, "d", started=False, **answer)
        hub.close("d", end={"status": "cancelled"})
        assert methods(events_of(reader)) == ["failed"]


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
    hub = StreamHub(HubLimits(threads=FeedLimits(items=2, behind=1)))
    begin(hub, "a")
    with follow(hub) as reader:
        assert about(events_of(reader)) == ["running"]
        hub.close("a", end=asked("q"))
        begin(hub, "b", command={"resume": {"q": "because"}})
        hub.close("b", end={"status": "error", "error": "no"})
        assert methods(events_of(reader)) == ["gap", "running", "failed"]
        assert reader.log.in_doubt == "b"
