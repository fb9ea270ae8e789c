"""Generated schedules of runs: starts, cancels, failures and shutdown in every order, on a seeded loop.

The order of callbacks within a turn of the loop is part of the schedule. A failing schedule is printed with its seed
and its steps; to run it again, put these into a test of `World`.
"""

import asyncio
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.property.run_agents import TEMPERS
from tests.property.run_checks import check_step
from tests.property.run_schedules import World
from tests.property.run_watchers import MoodError, OddError

THREADS = st.sampled_from(["t0", "t1", None])
SECONDS = st.sampled_from([0, 0, 0, 0.1, 0.25, 1, 6])
MOODS = st.sampled_from(
    [MoodError, SystemExit, OddError, asyncio.CancelledError, "hang", "swallow", "starts", "takes a part"]
)
TURNS = st.sampled_from([2, 2, 2, 0, 1, 5])


class Schedules(RuleBasedStateMachine):
    """Steps that callers, agents, observers and operators may take at any time."""

    world: World

    @initialize(
        seed=st.integers(0, 2**32 - 1),
        max_running=st.integers(1, 3),
        buffer=st.booleans(),
        slow=st.booleans(),
        durable=st.booleans(),
        cancel_after=st.sampled_from([0.0, 1.5]),
    )
    def open(self, **options: Any) -> None:
        self.world = World(**options)

    @rule(
        temper=st.sampled_from(TEMPERS),
        thread_id=THREADS,
        multitask=st.sampled_from(["enqueue", "enqueue", "reject", "interrupt", "rollback"]),
        timeout=st.sampled_from([None, None, 0.5, 3]),
        after_seconds=st.sampled_from([None, None, None, 0.25, 1, 50]),
        max_tokens=st.sampled_from([None, None, 10, 25, 100]),
        turns=TURNS,
    )
    def start(self, temper: str, thread_id: str | None, turns: int, **asked: Any) -> None:
        self.world.start(temper, thread_id, **asked)
        self.world.turn(turns)

    @rule(thread_id=THREADS, key=st.sampled_from(["k0", "k1"]))
    def start_under_a_key(self, thread_id: str | None, key: str) -> None:
        self.world.start("sleeps", f"keyed-{key}", idempotency_key=key)
        self.world.turn(2)

    @rule(
        temper=st.sampled_from(["asks", "asks much"]),
        thread_id=st.sampled_from(["t0", "t1"]),
        how=st.sampled_from(["bare", "one", "one", "all", "to another"]),
        turns=TURNS,
    )
    def resume(self, temper: str, thread_id: str, how: str, turns: int) -> None:
        self.world.resume(temper, thread_id, how)
        self.world.turn(turns)

    @rule(
        temper=st.sampled_from(TEMPERS),
        thread_id=THREADS,
        timeout=st.sampled_from([None, 0.5, 3]),
        max_tokens=st.sampled_from([None, 25]),
        turns=TURNS,
    )
    def call_run_agent(self, temper: str, thread_id: str | None, turns: int, **asked: Any) -> None:
        self.world.start_embedded(temper, thread_id, **asked)
        self.world.turn(turns)

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule(turns=st.integers(1, 4))
    def take_turns(self, turns: int) -> None:
        self.world.turn(turns)

    @rule(index=st.integers(0, 5), action=st.sampled_from(["interrupt", "rollback"]), turns=TURNS)
    def cancel(self, index: int, action: str, turns: int) -> None:
        if runs := self.world.run_ids:
            self.world.cancel(runs[index % len(runs)], action)
            self.world.turn(turns)

    @rule(index=st.integers(0, 5), tells=st.booleans())
    def others_end_a_run(self, index: int, tells: bool) -> None:
        if runs := self.world.run_ids:
            self.world.run(self.world.others.end(runs[index % len(runs)], tells=tells))

    @rule(index=st.integers(0, 5), action=st.sampled_from(["interrupt", "rollback"]))
    def others_cancel_a_run(self, index: int, action: str) -> None:
        if runs := self.world.run_ids:
            self.world.run(self.world.others.cancel(runs[index % len(runs)], action))

    @rule(index=st.integers(0, 5), seconds=st.sampled_from([0, 0.25, 0.5, 0.6, 0.75, 1]))
    def others_hold_a_run_that_waits(self, index: int, seconds: float) -> None:
        if runs := self.world.run_ids:
            self.world.run(self.world.others.hold(runs[index % len(runs)], seconds))

    @precondition(lambda self: not self.world.closed)
    @rule(temper=st.sampled_from(TEMPERS), thread_id=THREADS)
    def others_leave_a_run_behind(self, temper: str, thread_id: str | None) -> None:
        self.world.run(self.world.others.hand_over(temper, thread_id))

    @rule(index=st.integers(0, 5))
    def cancel_a_caller(self, index: int) -> None:
        self.world.cancel_caller(index)

    @rule(index=st.integers(0, 5))
    def cancel_the_task_of_a_run(self, index: int) -> None:
        self.world.cancel_run_task(index)

    @rule(who=st.integers(0, 3), mood=MOODS, times=st.integers(1, 4))
    def spoil_a_mood(self, who: int, mood: Any, times: int) -> None:
        self.world.moody[who].moods.extend([mood if isinstance(mood, str) else mood()] * times)

    @rule(is_required=st.booleans())
    def a_guest_comes_and_goes(self, is_required: bool) -> None:
        self.world.receive_guest(required=is_required)

    @rule(away=st.booleans())
    def the_store_goes_away_or_comes_back(self, away: bool) -> None:
        self.world.store.away = away

    @rule(times=st.integers(1, 3))
    def the_redaction_fails(self, times: int) -> None:
        self.world.redaction.fails = times

    @rule(timeout=st.sampled_from([0, 0, 0.5, 5]))
    def flush(self, timeout: float) -> None:
        self.world.flush(timeout)

    @precondition(lambda self: not self.world.closed)
    @rule(grace=st.sampled_from([0.0, 1.0, 10.0]), chance=st.integers(0, 9), turns=TURNS)
    def close(self, grace: float, chance: int, turns: int) -> None:
        if chance == 0:  # rarely, since a schedule is more than its end
            self.world.close(grace)
            self.world.turn(turns)

    @precondition(lambda self: self.world.closed)
    @rule(grace=st.sampled_from([0.0, 1.0]))
    def close_again(self, grace: float) -> None:
        self.world.close(grace)

    @precondition(lambda self: self.world.closed)
    @rule(index=st.integers(0, 5))
    def cancel_the_closing(self, index: int) -> None:
        self.world.cancel_caller(index, "closes")

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            check_step(self.world)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle_down()
            self.world.end()


SETTINGS = settings(
    deadline=None,
    stateful_step_count=40,
    print_blob=True,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


def begin(world: World, what: str) -> asyncio.Task[Any]:
    """Start something that takes a number of steps, after doing what it needs first."""
    match what:
        case "start":
            return world.start("chats", "t0")
        case "interrupt":
            world.start("slow to stop", "t0")
            world.advance(3)
            return world.start("chats", "t0", multitask="interrupt")
        case "cancel":
            world.start("slow to stop", "t0")
            world.advance(3)
            return world.cancel(world.run_ids[0], "rollback")
        case "resume":
            world.start("asks much", "t0")
            world.advance(5)
            return world.resume("asks much", "t0", "one")
        case _:
            raise AssertionError(what)


@pytest.mark.parametrize("grace", [0.0, 1.0])
@pytest.mark.parametrize("what", ["start", "interrupt", "cancel", "resume"])
def test_manager_can_be_closed_at_any_await_point(what: str, grace: float) -> None:
    for turns in count():
        world = World(seed=turns, slow=True)
        try:
            caller = begin(world, what)
            world.step(turns)
            has_ended = caller.done()
            world.close(grace)
            check_step(world)
            world.settle_down()
            world.end()
        except BaseException as exc:
            exc.add_note(f"closed after {turns} turns, which is the seed, too")
            raise
        if has_ended:
            assert turns > 10, "that was no wait at all"
            return


def test_who_waits_for_the_end_of_a_run_that_he_stops_is_not_refused_where_another_process_takes_it() -> None:
    world = World(seed=1, max_running=1, buffer=False, slow=True)
    world.run(world.others.hand_over("quick", "t0"))
    world.close(0)
    world.turn(2)
    world.run(world.others.hold(world.run_ids[0], 0))
    world.cancel(world.run_ids[0], "interrupt")
    world.turn(2)
    world.advance(0.25)
    world.cancel_caller(0)
    world.run(world.others.end(world.run_ids[0], tells=True))
    world.cancel_caller(0)
    world.settle_down()
    world.end()


def test_schedules() -> None:
    """The same schedules each time, so that a failure here comes from the change at hand; a long run finds others."""
    run_state_machine_as_test(Schedules, settings=settings(SETTINGS, max_examples=300, derandomize=True))


@pytest.mark.long
@pytest.mark.parametrize("part", range(20))
def test_many_schedules(part: int) -> None:
    run_state_machine_as_test(Schedules, settings=settings(SETTINGS, max_examples=500, database=None))
