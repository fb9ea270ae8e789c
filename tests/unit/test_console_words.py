"""What pages say in a few words of runs, events, threads, subscriptions, processes and agents."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from trackside.app.dashboard.filters import Filters
from trackside.app.dashboard.pages import (
    agents,
    log,
    overview,
    run,
    run_actions,
    runs,
    subscription_actions,
    threads,
    workers,
)
from trackside.app.dashboard.pages import subscriptions as pages
from trackside.app.server.failures import HttpError
from trackside.app.storage.subscriptions import SubscriptionState
from trackside.harness.types import LifecycleEventType, RunStatus

NOW = datetime.now(UTC)


def some(**fields: Any) -> Any:
    return SimpleNamespace(**fields)


@pytest.mark.parametrize(
    ("kind", "payload", "line"),
    [
        ("run_started", {"agent": "chat", "trigger": "cron"}, "chat · cron"),
        ("run_failed", {"error_type": "ValueError", "error": "ValueError: no\nroute"}, "ValueError: no route"),
        ("run_failed", {"error_type": "ValueError", "error": "no route"}, "ValueError · no route"),
        ("thread_status_updated", {"previous": "busy", "status": "idle"}, "busy → idle"),
        ("human_message", {"message": {"content": [{"type": "text"}]}}, '[{"type":"text"}]'),
        ("human_message", {"message": "Hi"}, "payload"),
        ("run_completed", {}, "payload"),
        ("run_cancelled", {"reason": "x" * 900}, "x" * 300),
    ],
)
def test_what_an_event_says_is_said_once_and_on_one_line(kind: str, payload: Any, line: str) -> None:
    assert log.says(some(event_type=LifecycleEventType(kind), payload=payload)) == line


@pytest.mark.parametrize(
    ("error_type", "error", "why"),
    [
        ("ValueError", "no route\n  at all", "ValueError: no route"),
        ("ValueError", "\n ValueError: no route", "ValueError: no route"),
        ("ValueError", None, "ValueError"),
        (None, "no route", "no route"),
        ("E" * 100, "E" * 400, f"{'E' * 300}…"),
        (None, None, ""),
    ],
)
def test_why_a_run_has_failed_is_said_on_one_line(error_type: str | None, error: str | None, why: str) -> None:
    assert runs.why_of(some(error=error, error_type=error_type)) == why


@pytest.mark.parametrize(
    ("title", "name"),
    [
        (None, None),
        (" \n ", None),
        ("A  title\nof two lines", "A title of two lines"),
        ("\u200b", "⟨U+200B⟩"),
        ("a\u202eb", "a⟨U+202E⟩b"),
        ("a" * 301, f"{'a' * 300}…"),
    ],
)
def test_a_run_is_called_what_can_be_read(title: str | None, name: str | None) -> None:
    assert runs.name_of(some(title=title)) == name


def test_a_run_has_taken_as_long_as_it_goes_on() -> None:
    began = NOW - timedelta(hours=1)
    known: dict[str, Any] = {"started_at": began, "duration_seconds": None, "status": RunStatus.running}
    asked = datetime.now(UTC)
    seconds = runs.seconds_of(some(**known)) or 0
    assert (asked - began).total_seconds() <= seconds <= (datetime.now(UTC) - began).total_seconds()
    assert runs.seconds_of(some(**known | {"started_at": asked + timedelta(hours=1)})) == 0  # by a worker's clock
    assert runs.seconds_of(some(**known | {"status": RunStatus.cancelled})) is None
    assert runs.seconds_of(some(**known | {"duration_seconds": 2.5})) == 2.5
    assert runs.seconds_of(some(**known | {"started_at": None})) is None


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("customer=acme", {"customer": "acme"}),
        (" n = 1 , vip=true,a=b=c", {"n": 1, "vip": True, "a": "b=c"}),
        ('{"a": {"b": 1}}', {"a": {"b": 1}}),
    ],
)
def test_metadata_are_typed_as_pairs_or_as_json(said: str, wanted: Any) -> None:
    filters = Filters({"metadata": [said]}, threads.FILTERS, NOW)
    threads._read_metadata(filters)
    assert (filters.problems, msgspec.json.decode(filters.query["metadata"])) == ({}, wanted)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"metadata": ["acme"]}, "write customer=acme"),
        ({"metadata": ["=acme"]}, "write customer=acme"),
        ({"metadata": ['{"a": '], "since": ["1h"]}, "write customer=acme"),
        ({"metadata": ["a=1"], "since": ["1h"]}, "cannot be combined"),
        ({"metadata": ["a=1"], "until": ["1h"]}, "cannot be combined"),
        ({"metadata": ["a=1"], "id_prefix": ["01"]}, "cannot be combined"),
    ],
)
def test_metadata_that_cannot_be_looked_for_are_said_to_be_none(said: dict[str, list[str]], problem: str) -> None:
    filters = Filters(said, threads.FILTERS, NOW)
    threads._read_metadata(filters)
    assert (problem in filters.problems["metadata"], filters.query) == (True, {})


def test_subscriptions_that_somebody_should_look_at_come_first() -> None:
    fields = {"state": SubscriptionState.active, "parked": 0, "behind": 0, "failures": 0}
    a, behind, parked, failing, paused = (
        some(name=name, **fields | more)
        for name, more in {
            "a": {},
            "behind": {"behind": 9},
            "parked": {"parked": 1},
            "failing": {"failures": 1, "parked": 1},
            "paused": {"state": SubscriptionState.paused, "failures": 1},
        }.items()
    )
    found = overview.troubled([a, behind, failing, parked, paused])
    assert [one.name for one in found] == ["paused", "failing", "parked", "behind", "a"]
    states = [pages.state_of(one) for one in found]
    assert states == ["paused", "failing", "parked", "active", "active"]


def test_places_of_a_fleet_are_those_of_workers_that_live_and_not_of_what_is_inside_of_them() -> None:
    fields: dict[str, Any] = {"kind": "worker", "isolated_in": None, "seconds_left": 9.0, "draining": False}
    changes: list[dict[str, Any]] = [
        {},
        {"draining": True},
        {"seconds_left": 0.0, "draining": True},
        {"isolated_in": "w"},
        {"kind": "server"},
    ]
    processes = [some(**fields | change) for change in changes]
    assert [workers.state_of(one) for one in processes] == ["alive", "draining", "gone", "alive", "alive"]
    assert [workers._has_places(one) for one in processes] == [True, True, False, False, False]


def test_a_length_of_time_leads_to_the_runs_that_took_just_as_long() -> None:
    assert [overview._seconds(length) for length in (None, 0.0, 1.2349)] == [None, "0.000", "1.234"]


@pytest.mark.parametrize(
    ("schema", "takes", "example"),
    [
        (None, True, {"messages": [{"role": "user", "content": ""}]}),
        ({"properties": {}}, True, {"messages": [{"role": "user", "content": ""}]}),
        ({"properties": {"messages": {}, "n": {}}}, True, {"messages": [{"role": "user", "content": ""}]}),
        (
            {"properties": {"text": {"type": "string"}, "n": {"type": "integer"}, "any": True}},
            False,
            {"text": "", "n": 0, "any": None},
        ),
    ],
)
def test_an_agent_is_offered_what_it_takes(schema: Any, takes: bool, example: Any) -> None:
    assert (agents._takes_messages(schema), agents._example(schema)) == (takes, example)


def test_a_position_is_typed_as_it_is_shown() -> None:
    for said, number in {"1": 1, " 1,234 ": 1_234, "007": 7, "9" * 18: 10**18 - 1}.items():
        assert subscription_actions._number(said) == number
    for said in ("", "0", "-1", "1.5", "٣", "9" * 19):
        with pytest.raises(HttpError, match="is not a position"):
            subscription_actions._number(said)
    assert subscription_actions._start(some(to="position", position="7")) == 6, "it goes on behind it"
    assert subscription_actions._start(some(to="now", position="")) == "now"
    moves = [subscription_actions._moved(by) for by in (0, 1, -2_000)]
    assert moves == [
        "was there already",
        "moved ahead; up to 1 event will be skipped",
        "moved back; up to 2,000 events will be delivered again",
    ]


def test_a_place_in_the_events_of_a_run_is_written_in_digits() -> None:
    wrong: list[str] = []
    assert [run._position(text, wrong) for text in ("0", "0007", str(2**63 - 1))] == [0, 7, 2**63 - 1]
    assert wrong == []
    assert [run._position(text, wrong) for text in ("", "-1", "٣", "²", str(2**63))] == [0] * 5
    assert len(wrong) == 5


def test_each_run_is_selected_once_and_not_too_many_are() -> None:
    assert runs._selected(some(body=some(run_ids=["a", "b", "a"]))) == ["a", "b"]
    for count, why in ((0, "select a run first"), (201, "201 runs are selected; select at most 200")):
        with pytest.raises(HttpError, match=why):
            runs._selected(some(body=some(run_ids=[str(number) for number in range(count)])))


def test_a_fork_names_no_place_of_the_thread_that_it_leaves() -> None:
    place = {"thread_id": "t", "checkpoint_id": "c", "checkpoint_ns": "below", "checkpoint_map": {"": "c"}}
    config = {"tags": ["x"], "configurable": {**place, "user": "ada"}}
    assert run_actions._without_place(config) == {"tags": ["x"], "configurable": {"user": "ada"}}
    assert [run_actions._without_place(one) for one in (None, {"tags": []})] == [None, {"tags": []}]
