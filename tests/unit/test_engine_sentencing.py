"""When a supervisor ends the process of a run that does not stop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tests.contract.ways_to_run import ByManager, virtual

from trackside.app.cli.serving.isolated import limits_by, settings_of_place
from trackside.app.engine.children import BEAT, LEAST_GRACE, ChildLimits, ChildStats, Verdict
from trackside.app.engine.sentencing import Overdue
from trackside.app.settings import Settings
from trackside.app.storage.fleet import HeldRun
from trackside.harness.running.ending import StopPolicy
from trackside.harness.types import AgentLimits, AgentStanding, CancelAction, FailureReason

GOES_ON, STOPPED, FINISHED = AgentStanding


def run(**says: Any) -> HeldRun:
    given = {"agent": "work", "timeout": None, "cancel_requested": None, "is_stuck": False, **says}
    return HeldRun(run_id="r", worker_id="w", **given)


class Judges:
    """What a supervisor knows of one process that reports on its runs (or says nothing, if it is blocked at once)."""

    def __init__(self) -> None:
        self.overdue = Overdue(lease=4.0)
        self.limits = ChildLimits(grace=3.0, timeouts={"brief": 5.0})

    def judge(
        self, held: Sequence[HeldRun], now: float, *, unheard: float = 0.0, **runs: AgentStanding
    ) -> dict[str, Verdict]:
        said = {"w": ChildStats(worker_id="w", runs=runs, limits=self.limits)}
        return self.overdue.judge(held, said, now, unheard={"w": unheard})


def overdue() -> Judges:
    return Judges()


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


def test_a_run_whose_agent_has_come_to_its_end_in_time_waits_to_be_told_of_as_long_as_that_takes() -> None:
    judges, brief = overdue(), run(agent="brief")
    judges.judge([brief], 0.0, r=GOES_ON)
    assert judges.judge([brief], 7.0, r=FINISHED) == {}
    assert judges.judge([run(timeout=5.0)], 100.0, r=FINISHED) == {}


def test_a_run_with_no_time_to_stop_is_judged_only_when_it_is_heard_how_it_stood_when_its_time_was_over() -> None:
    settings = settings_of_place(
        Settings(stopping=StopPolicy(stuck_after=0.0), default_limits=AgentLimits(timeout=5.0)), "w"
    )
    in_time, late = overdue(), overdue()
    for judges in (in_time, late):
        judges.limits = limits_by(settings)
        judges.judge([run()], 0.0, r=GOES_ON)
        assert judges.judge([run()], 5.0 + BEAT, r=GOES_ON) == {}  # it has said that before
    assert in_time.judge([run()], 6.0, r=FINISHED) == {}
    assert "longer than its timeout of 5 s" in late.judge([run()], 6.0, r=GOES_ON)["w"].timed_out["r"]


@virtual
@pytest.mark.parametrize("cancel_after", [0.0, 0.9])
async def test_a_process_does_not_report_as_stuck_what_stops_within_the_least_grace(cancel_after: float) -> None:
    settings = settings_of_place(Settings(stopping=StopPolicy(cancel_after=cancel_after, stuck_after=0.0)), "w")
    assert limits_by(settings).grace == cancel_after + LEAST_GRACE

    async def tidies(input: object) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(0.9 * LEAST_GRACE)

    async with ByManager(stopping=settings.stopping) as runs:
        run = await runs.start(tidies)
        await asyncio.sleep(1)
        await run.cancel()
        await run.cancel()  # so that it has no more time of its own
        await run.ended()
        assert runs.manager.stats().stuck_total == 0


def test_a_longer_time_to_stop_is_that_of_the_settings() -> None:
    asked = StopPolicy(cancel_after=2.0, stuck_after=3.0)
    assert settings_of_place(Settings(stopping=asked), "w").stopping == asked


def test_a_run_that_somebody_wants_to_stop_does_not_wait_for_its_end_for_ever() -> None:
    judges, cancelled = overdue(), run(agent="brief", cancel_requested=CancelAction.interrupt)
    judges.judge([cancelled], 10.0, r=FINISHED)
    assert judges.judge([cancelled], 12.9, r=FINISHED) == {}
    assert "r" in judges.judge([cancelled], 13.0, r=FINISHED)["w"].stopped


def test_a_run_that_its_process_executes_no_more_is_no_reason_to_end_that() -> None:
    judges, cancelled = overdue(), run(agent="brief", cancel_requested=CancelAction.interrupt)
    judges.judge([cancelled], 0.0, r=GOES_ON)
    assert judges.judge([cancelled], 100.0, another=GOES_ON) == {}  # its end is in the spool


def test_a_process_does_not_go_on_for_ever_with_a_run_that_is_its_own_no_more() -> None:
    judges = overdue()
    judges.judge([run()], 0.0, r=GOES_ON)
    judges.judge([], 10.0, r=GOES_ON)  # it has a lease to hear of that, and then as long as any run that has to stop
    assert judges.judge([], 26.9, r=GOES_ON) == {}
    assert "run r, which it no longer owned, did not stop" in judges.judge([], 27.0, r=GOES_ON)["w"].why


def test_a_process_may_tell_for_long_of_a_run_that_was_stopped_and_has_ended_in_the_database() -> None:
    judges, cancelled = overdue(), run(cancel_requested=CancelAction.interrupt)
    judges.judge([cancelled], 0.0, r=GOES_ON)
    assert [judges.judge([], now, r=STOPPED) for now in (1.0, 100.0)] == [{}, {}]


def test_a_run_that_has_stopped_when_it_was_told_to_does_not_wait_for_its_end_for_ever() -> None:
    judges, cancelled = overdue(), run(cancel_requested=CancelAction.interrupt)
    judges.judge([cancelled], 0.0, r=STOPPED)
    assert judges.judge([cancelled], 2.9, r=STOPPED) == {}
    assert "r" in judges.judge([cancelled], 3.0, r=STOPPED)["w"].stopped
    timed_out = overdue()
    timed_out.judge([run(timeout=5.0)], 0.0, r=GOES_ON)
    assert "r" in timed_out.judge([run(timeout=5.0)], 8.0, r=STOPPED)["w"].timed_out


def test_a_run_that_its_process_has_let_go_of_is_forgotten() -> None:
    judges = overdue()
    judges.judge([run()], 0.0, r=GOES_ON)
    judges.judge([], 10.0, r=GOES_ON)
    judges.judge([], 11.0)
    assert judges.judge([], 100.0) == {}


def test_a_process_that_has_another_run_is_not_ended_for_one_that_was_lost() -> None:
    judges, other = overdue(), run()._replace(run_id="other")
    judges.judge([run(), other], 0.0, r=GOES_ON, other=GOES_ON)
    assert [judges.judge([other], now, r=GOES_ON, other=GOES_ON) for now in (1.0, 100.0)] == [{}, {}]


def test_a_process_that_has_no_run_and_says_nothing_is_blocked() -> None:
    judges = overdue()
    assert judges.judge([], 0.0, unheard=16.0) == {}
    assert "blocked its event loop" in judges.judge([], 1.0, unheard=17.0)["w"].why
    assert judges.judge([run()], 2.0, unheard=100.0) == {}  # a process with a run may
