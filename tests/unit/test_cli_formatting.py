"""How times, amounts and other people's text look."""

import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trackside.app.cli.formatting import abridged, ago, cost, count, duration, message_text, moment, one_line, printable
from trackside.app.cli.records.questions import question_text
from trackside.app.cli.views.appearance import look_of, words_of
from trackside.app.cli.views.overviews import shortened
from trackside.app.cli.views.usage import usage_line, used_in
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "just now"),
        (0.4, "just now"),
        (1, "1 s ago"),
        (89, "89 s ago"),
        (90, "1 min ago"),
        (3 * 60 + 59, "3 min ago"),
        (2 * 3600, "2 h ago"),
        (47 * 3600, "1 d ago"),
        (29 * 86400, "29 d ago"),
    ],
)
def test_ago(seconds: float, text: str) -> None:
    assert ago(NOW - timedelta(seconds=seconds), NOW) == text


def test_what_is_older_than_a_month_has_a_date() -> None:
    assert ago(NOW - timedelta(days=60), NOW) == f"{(NOW - timedelta(days=60)).astimezone():%Y-%m-%d}"


def test_a_moment_has_its_date_unless_it_is_today() -> None:
    assert moment(NOW, NOW) == f"{NOW.astimezone():%H:%M:%S}"
    assert moment(NOW - timedelta(days=2), NOW) == f"{(NOW - timedelta(days=2)).astimezone():%Y-%m-%d %H:%M:%S}"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (-1, "0 ms"),
        (0.0004, "0 ms"),
        (0.084, "84 ms"),
        (0.9996, "1.0 s"),
        (1.84, "1.8 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.6, "1 h 00 min"),
        (4320, "1 h 12 min"),
        (100_000, "27 h 46 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("usd", "text"),
    [(0, "$0.00"), (0.00001, "<$0.0001"), (0.0123, "$0.0123"), (1, "$1.00"), (1234.5, "$1,234.50")],
)
def test_cost(usd: float, text: str) -> None:
    assert cost(usd) == text


def test_count() -> None:
    assert [count(number, "token") for number in (0, 1, 1234)] == ["0 tokens", "1 token", "1,234 tokens"]


def test_nothing_in_a_text_can_steer_a_terminal() -> None:
    every = "".join(map(chr, range(0x500))) + "\u2028\u2029\u202e\u2066\N{STEAM LOCOMOTIVE}"

    shown = printable(every)

    assert {character for character in shown if unicodedata.category(character) == "Cc"} == {"\n"}
    assert shown.endswith("\N{REPLACEMENT CHARACTER}" * 4 + "\N{STEAM LOCOMOTIVE}")
    assert printable("a\r\nb\tc") == "a\nb    c"
    assert one_line(" a\n\n  b\x1b[2J ") == "a b\N{REPLACEMENT CHARACTER}[2J"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        (None, ""),
        ([{"type": "text", "text": "a"}, "b", {"type": "image"}], "ab[image]"),
        ({"odd": 1}, '{"odd": 1}'),
        ([3], "3"),
    ],
)
def test_message_text(content: Any, text: str) -> None:
    assert message_text(content) == text


def test_usage_says_only_what_there_is() -> None:
    assert usage_line({}) == ""
    assert usage_line({"total_tokens": 0, "llm_call_count": 0, "cost_usd": None}) == ""
    assert usage_line({"tool_call_count": 2, "cost_usd": 0.0}) == "2 tool calls · $0.00"


def test_of_what_was_used_only_what_is_of_the_right_kind_is_known() -> None:
    fits = {"input_tokens": 1, "output_tokens": 2, "cost_usd": 0.5}
    odd = {"input_tokens": None, "output_tokens": 3, "cost_usd": "0.12"}
    said = {
        "total_tokens": "9 k",
        "total_input_tokens": True,
        "total_output_tokens": -1,
        "llm_call_count": 2.5,
        "tool_call_count": 10**13,
        "message_count": 4,
        "cost_usd": "0.12",
        "token_usage_by_model": {"fits": fits, "odd": odd, "none": 7},
        "token_usage_by_caller": [fits],
        "last_ai_message": "well",
    }
    by_model = {"fits": fits, "odd": {"output_tokens": 3}}
    assert used_in(said) == {
        "message_count": 4,
        "token_usage_by_model": by_model,
        "token_usage_by_caller": {},
        "last_ai_message": "well",
    }
    for no_object in (None, [1, 2], "text", 5):
        assert used_in(no_object) == {}


def test_ids_are_cut_where_they_still_differ() -> None:
    same_time = ["01a212fd-5086-7000-83c4-f1887bebbf96", "01a212fd-5086-7001-81be-3d9daf8db6e3"]
    other = "01a212fe-0000-7000-9000-000000000000"

    assert shortened([other]) == {other: "01a212fe-0000"}
    assert shortened([*same_time, other, other]) == {
        same_time[0]: "01a212fd-5086-7000",
        same_time[1]: "01a212fd-5086-7001",
        other: "01a212fe-0000",
    }
    assert shortened(["t-1", "t-10", ""]) == {"t-1": "t-1", "t-10": "t-10", "": ""}


@pytest.mark.parametrize(
    ("interrupt", "text"),
    [
        ({"value": "May I?"}, "May I?"),
        ({"value": {"question": "May I?"}}, '{"question": "May I?"}'),
        ({"value": None}, "null"),
        ({"value": None, "next": ["publish", "notify"]}, "before publish, notify"),
        ({"value": {"tool": "pay", "arguments": {"to": "Ann", "usd": 5}}}, 'may pay(to="Ann", usd=5) be called?'),
        ({"value": {"tool": "pay", "arguments": "5 $", "kind": "approval"}}, "may pay(5 $) be called?"),
        ({"value": {"tool": "pay", "arguments": {}, "kind": "external"}}, "what does pay() return?"),
        ({"value": {"tool": "pay"}}, '{"tool": "pay"}'),
    ],
)
def test_a_question_is_its_text_its_json_or_what_comes_next(interrupt: dict[str, Any], text: str) -> None:
    assert question_text(interrupt) == text


def test_a_long_text_says_how_long_it_is() -> None:
    assert abridged("x" * 2_000) == "x" * 2_000
    assert abridged("x" * 12_345) == "x" * 2_000 + " … (12,345 characters)"


def event(kind: LifecycleEventType, **payload: Any) -> RunLifecycleEvent:
    return RunLifecycleEvent("e", kind, "r", "t", 1, NOW, payload)


@pytest.mark.parametrize(
    ("said", "looks", "words"),
    [
        (event(LifecycleEventType.RUN_STARTED, agent="a.py:b", metadata={}), "started", "a.py:b"),
        (event(LifecycleEventType.HUMAN_MESSAGE, message={"content": [{"type": "text", "text": "hi"}]}), "human", "hi"),
        (event(LifecycleEventType.RUN_COMPLETED), "completed", ""),
        (
            event(
                LifecycleEventType.RUN_COMPLETED, status="interrupted", interrupts=[{"value": "a?"}, {"value": "b?"}]
            ),
            "waiting",
            "a?\nb?",
        ),
        (
            event(
                LifecycleEventType.RUN_COMPLETED,
                status="interrupted",
                interrupts=[{"id": "1", "value": "a?"}, {"id": "2", "value": {"tool": "pay", "arguments": {"usd": 5}}}],
            ),
            "waiting",
            "[1] a?\n[2] may pay(usd=5) be called?",
        ),
        (event(LifecycleEventType.RUN_FAILED, error="no", error_type="KeyError"), "failed", "KeyError: no"),
        (event(LifecycleEventType.RUN_FAILED, error="KeyError: 'x'", error_type="KeyError"), "failed", "KeyError: 'x'"),
        (event(LifecycleEventType.RUN_FAILED, error="Odd without a message", error_type="Odd"), "failed", "Odd"),
        (event(LifecycleEventType.RUN_FAILED, error="no"), "failed", "no"),
        (
            event(LifecycleEventType.RUN_FAILED, status="timeout", error="1 s", error_type="TimeoutError"),
            "timed out",
            "1 s",
        ),
        (event(LifecycleEventType.RUN_CANCELLED, cancel_mode="interrupt"), "cancelled", "on request"),
        (event(LifecycleEventType.RUN_CANCELLED, cancel_mode="shutdown", reason="closed"), "cancelled", "closed"),
        (event(LifecycleEventType.RUN_CANCELLED, cancel_mode="new kind"), "cancelled", "new kind"),
        (event(LifecycleEventType.THREAD_STATUS_UPDATED, status="idle", previous="busy"), "thread", "idle"),
        # Somebody else's emitter.
        (event(LifecycleEventType.HUMAN_MESSAGE, message="hi"), "human", ""),
        (event(LifecycleEventType.RUN_COMPLETED, interrupts=["odd", None]), "completed", ""),
        (event(LifecycleEventType.RUN_COMPLETED, interrupts=3), "completed", ""),
        (event(LifecycleEventType.RUN_CANCELLED, cancel_mode=["odd"]), "cancelled", "['odd']"),
        (event(LifecycleEventType.RUN_STARTED), "started", ""),
    ],
)
def test_every_event_has_a_label_and_words(said: RunLifecycleEvent, looks: str, words: str) -> None:
    assert (look_of(said).label, words_of(said)) == (looks, words)
