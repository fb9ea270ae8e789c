"""The rows of a run along a time axis: nested, placed in percent, with gaps, whatever clocks say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.app.dashboard.pages._timeline import LEAD, Happened, Ran, Span, Timeline, ticks_of, timeline_of

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def run(seconds: float | None = 10.0, *, waited: float = 0.0, **fields: Any) -> Ran:
    start = None if seconds is None else START
    end = None if seconds is None else START + timedelta(seconds=seconds)
    known = {"started_at": start, "ended_at": end, "duration_seconds": seconds, "status": "success", **fields}
    return Ran(run_id="r", agent="lead", created_at=START - timedelta(seconds=waited), **known)


def call(kind: str, name: str, at: float, seconds: float = 0.0, caller: str = LEAD, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "name": name, "caller": caller, "at": at, "seconds": seconds, **more}


def drawn(calls: Any = (), of: Ran | None = None, **options: Any) -> Timeline:
    return timeline_of(of or run(), calls=calls, now=START + timedelta(seconds=20), **options)


def shape(timeline: Timeline) -> list[tuple[int, str, str]]:
    return [(row.depth, row.kind, row.name) for row in timeline.rows]


def test_calls_are_placed_in_percent_of_the_run() -> None:
    timeline = drawn([call("chat", "gpt", 2.5, 5.0, input_tokens=7, output_tokens=3)])
    top, row = timeline.rows
    assert (top.span, top.seconds) == (Span(left=0.0, width=100.0), 10.0)
    assert (row.span, row.seconds) == (Span(left=25.0, width=50.0), 5.0)
    assert (row.input_tokens, row.output_tokens) == (7, 3)


def test_what_an_agent_did_stands_below_the_call_that_made_it_run() -> None:
    calls = [
        call("chat", "big", 0, 1),
        call("invoke_agent", "researcher", 1, 6),
        call("execute_tool", "search", 2, 1, caller="researcher"),
        call("invoke_agent", "reader", 3, 2, caller="researcher"),
        call("chat", "small", 4, 1, caller="reader"),
        call("execute_tool", "write", 8, 1),
    ]
    timeline = drawn(calls, costs={"researcher": 0.5, LEAD: 1.0})
    assert shape(timeline)[1:] == [
        (1, "chat", "big"),
        (1, "invoke_agent", "researcher"),
        (2, "execute_tool", "search"),
        (2, "invoke_agent", "reader"),
        (3, "chat", "small"),
        (1, "execute_tool", "write"),
    ]
    assert timeline.rows[2].cost == 0.5


def test_callers_whom_nobody_is_known_to_have_called_have_a_row_that_spans_their_calls() -> None:
    calls = [
        call("chat", "gpt", 4, 1, caller="critic", input_tokens=5, output_tokens=1),
        call("chat", "gpt", 6, 2, caller="critic", input_tokens=6, output_tokens=2),
        call("execute_tool", "search", 1, 1),
    ]
    timeline = drawn(calls, costs={"critic": 0.25})
    assert shape(timeline)[1:] == [
        (1, "execute_tool", "search"),
        (1, "caller", "critic"),
        (2, "chat", "gpt"),
        (2, "chat", "gpt"),
    ]
    head = timeline.rows[2]
    assert (head.span, head.input_tokens, head.output_tokens, head.cost) == (Span(left=40, width=40), 11, 3, 0.25)


def test_agents_that_call_each_other_in_circles_come_to_an_end() -> None:
    calls = [
        call("invoke_agent", "b", 1, 1, caller="a"),
        call("invoke_agent", "a", 2, 1, caller="b"),
        call("invoke_agent", "c", 3, 1, caller="c"),
    ]
    names = sorted(name for _, kind, name in shape(drawn(calls)) if kind == "invoke_agent")
    assert names == ["a", "b", "c"]


def test_time_in_which_nothing_was_called_is_a_gap() -> None:
    timeline = drawn([call("chat", "gpt", 1, 2), call("execute_tool", "search", 2, 2), call("chat", "gpt", 8, 2)])
    assert timeline.idle_seconds == pytest.approx(5.0)
    assert timeline.rows[0].gaps == (Span(left=0, width=10), Span(left=40, width=40))


def test_calls_that_nobody_has_timed_are_moments_and_leave_no_gaps() -> None:
    timeline = drawn([call("execute_tool", "search", 5)])
    assert (timeline.idle_seconds, timeline.rows[0].gaps) == (None, ())
    assert (timeline.rows[1].seconds, timeline.rows[1].span) == (None, Span(left=50, width=0))


def test_runs_that_it_started_stand_among_its_calls() -> None:
    child = Ran(
        run_id="c",
        agent="helper",
        status="error",
        created_at=START + timedelta(seconds=1),
        started_at=START + timedelta(seconds=2),
        ended_at=START + timedelta(seconds=4),
        duration_seconds=2.0,
        cost=0.1,
        error="ValueError",
    )
    timeline = drawn([call("chat", "gpt", 1, 1), call("chat", "gpt", 5, 1)], children=[child])
    assert [row.kind for row in timeline.rows] == ["run", "chat", "child", "chat"]
    row = timeline.rows[2]
    assert (row.span, row.run_id, row.status, row.error) == (Span(left=20, width=20), "c", "error", "ValueError")


def test_a_run_that_goes_on_is_drawn_until_now() -> None:
    going = run(None, status="running", started_at=START)
    timeline = drawn((), going, events=[Happened(name="run_started", at=START)])
    assert timeline.seconds == 20.0
    assert timeline.rows[0].goes_on
    assert timeline.rows[1].marks[0].left == 0.0


def test_a_run_that_has_not_started_has_the_time_that_it_waits() -> None:
    assert drawn((), run(None, status="pending")).seconds == 20.0


def test_a_long_wait_is_said_and_not_drawn() -> None:
    wait, top = drawn((), run(waited=7_200)).rows
    assert (wait.kind, wait.seconds, wait.span) == ("wait", 7_200.0, None)
    assert top.span == Span(left=0.0, width=100.0)


def test_what_a_clock_that_is_off_puts_outside_is_drawn_at_the_edge_and_said() -> None:
    early, late = START - timedelta(hours=1), START + timedelta(hours=1)
    child = Ran(run_id="c", agent="far", status="success", created_at=late, started_at=late, ended_at=early)
    timeline = drawn(children=[child], events=[Happened(name="run_started", at=early)])
    spans = [row.span for row in timeline.rows if row.span is not None]
    assert all(0 <= span.left <= 100 and 0 <= span.width <= 100 - span.left for span in spans)
    assert "the clock of a machine is off" in timeline.notes[0]
    assert drawn((), run(ended_at=early)).notes[0].startswith("The run's own times are not in order")
    assert drawn((), run(None, status="running", started_at=late)).seconds > 0


def test_rows_beyond_what_a_page_holds_are_counted() -> None:
    calls = [call("chat", "gpt", number / 200) for number in range(1_000)]
    assert (len(drawn(calls).rows), drawn(calls).omitted) == (300, 701)
    assert (len(drawn(calls, most=None).rows), drawn(calls, most=None).omitted) == (1_001, 0)


def test_the_axis_has_round_times() -> None:
    assert [tick.label for tick in ticks_of(10)] == ["0", "2 s", "4 s", "6 s", "8 s", "10 s"]
    assert [tick.label for tick in ticks_of(0.0721)] == ["0", "20 ms", "40 ms", "60 ms"]
    assert [tick.label for tick in ticks_of(2.9)] == ["0", "0.5 s", "1 s", "1.5 s", "2 s", "2.5 s"]
    assert [tick.label for tick in ticks_of(600)] == ["0", "2 min", "4 min", "6 min", "8 min", "10 min"]
    assert [tick.label for tick in ticks_of(90_000)] == ["0", "6 h", "12 h", "18 h", "24 h"]


@given(st.floats(min_value=1e-4, max_value=1e9))
def test_the_axis_never_has_more_ticks_than_fit(seconds: float) -> None:
    ticks = ticks_of(seconds)
    assert 2 <= len(ticks) <= 7
    assert [tick.left for tick in ticks] == sorted({tick.left for tick in ticks})
    assert ticks[0].left == 0
    assert ticks[-1].left <= 100.001


_anything = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "kind": st.sampled_from(["chat", "execute_tool", "invoke_agent", "else", None]),
                "name": st.sampled_from(["a", "b", "c", 7, None]),
                "caller": st.sampled_from(["a", "b", LEAD, None, 3]),
                "at": _anything,
                "seconds": _anything,
                "input_tokens": _anything,
                "error_type": _anything,
            },
        ),
        max_size=12,
    )
)
def test_whatever_an_imported_run_lists_each_of_its_calls_is_drawn_once_and_within_the_run(calls: Any) -> None:
    timeline = drawn(calls, most=None)
    known = [one for one in calls if one.get("kind") in {"chat", "execute_tool", "invoke_agent"}]
    rows = [row for row in timeline.rows if row.kind in {"chat", "execute_tool", "invoke_agent"}]
    assert len(rows) == len(known)
    for row in timeline.rows:
        assert row.span is None or (0 <= row.span.left <= 100 and 0 <= row.span.width <= 100.001 - row.span.left)
