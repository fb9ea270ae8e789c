"""When a supervisor ends the process of a run that does not stop."""

from __future__ import annotations

from typing import Any

from trackside.app.engine.sentencing import Overdue
from trackside.app.storage.fleet import HeldRun
from trackside.harness.ending import StopPolicy
from trackside.harness.types import CancelAction, FailureReason


def run(**says: Any) -> HeldRun:
    given = {"agent": "work", "timeout": None, "cancel_requested": None, "is_stuck": False, **says}
    return HeldRun(run_id="r", worker_id="w", **given)


def overdue() -> Overdue:
    return Overdue(StopPolicy(cancel_after=1.0, stuck_after=2.0), {"brief": 5.0}.get)


def test_a_run_that_nobody_wants_to_stop_goes_on() -> None:
    judges = overdue()
    assert all(judges.judge([run()], now) == {} for now in (0.0, 1e6))


def test_a_cancel_counts_from_when_it_was_seen() -> None:
    judges, cancelled = overdue(), run(cancel_requested=CancelAction.interrupt)
    judges.judge([run()], 0.0)
    assert [judges.judge([cancelled], now) for now in (10.0, 12.9)] == [{}, {}]
    verdict = judges.judge([cancelled], 13.0)["w"]
    assert (verdict.stopped, verdict.timed_out) == ({"r": "the agent did not stop, and its process was ended"}, {})


def test_what_was_asked_for_counts_before_what_its_agent_may_take() -> None:
    judges, brief = overdue(), run(agent="brief")
    judges.judge([brief], 0.0)
    assert judges.judge([brief], 7.9) == {}
    assert "longer than its timeout of 5 s" in judges.judge([brief], 8.0)["w"].timed_out["r"]
    longer = overdue()
    longer.judge([run(agent="brief", timeout=100.0)], 0.0)
    assert longer.judge([run(agent="brief", timeout=100.0)], 50.0) == {}


def test_whatever_came_first_is_the_reason() -> None:
    judges = overdue()
    cancelled = run(agent="brief", cancel_requested=CancelAction.rollback)
    judges.judge([cancelled], 0.0)
    assert "could not be rolled back" in judges.judge([cancelled], 9.0)["w"].stopped["r"]


def test_a_run_that_its_own_process_calls_stuck_has_no_more_time() -> None:
    stuck = run(is_stuck=True)
    assert overdue().judge([stuck], 0.0)["w"].failure is FailureReason.stuck
    asked = run(is_stuck=True, cancel_requested=CancelAction.interrupt)
    assert "r" in overdue().judge([asked], 0.0)["w"].stopped


def test_a_run_that_has_ended_is_forgotten() -> None:
    judges, cancelled = overdue(), run(cancel_requested=CancelAction.interrupt)
    judges.judge([cancelled], 0.0)
    judges.judge([], 1.0)
    assert judges.judge([cancelled], 100.0) == {}
