"""Generated schedules of runs: starts, cancels, failures and shutdown in every order, on a seeded loop.

The order of callbacks within a turn of the loop is part of the schedule. A failing one is printed with its seed and
its steps; run it again by putting these into a test of `World`.
"""

import asyncio
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
from tests.property.run_schedules import TEMPERS, MoodError, World

THREADS = st.sampled_from(["t0", "t1", None])
SECONDS = st.sampled_from([0, 0, 0, 0.1, 0.25, 1, 6])
MOODS = st.sampled_from([MoodError, SystemExit, asyncio.CancelledError, "hang", "swallow", "starts", "takes a part"])


class Schedules(RuleBasedStateMachine):
    """Steps that callers, agents, observers and operators may take at any time."""

    world: World

    @initialize(seed=st.integers(0, 2**32 - 1), max_running=st.integers(1, 3), buffer=st.booleans(), slow=st.booleans())
    def open(self, seed: int, max_running: int, buffer: bool, slow: bool) -> None:
        self.world = World(seed, max_running=max_running, buffer=buffer, slow=slow)

    @rule(
        temper=st.sampled_from(TEMPERS),
        thread_id=THREADS,
        multitask=st.sampled_from(["enqueue", "enqueue", "reject", "interrupt", "rollback"]),
        timeout=st.sampled_from([None, None, 0.5, 3]),
        after_seconds=st.sampled_from([None, None, None, 0.25, 1, 50]),
    )
    def start(
        self, temper: str, thread_id: str | None, multitask: str, timeout: float | None, after_seconds: float | None
    ) -> None:
        self.world.start(temper, thread_id, multitask=multitask, timeout=timeout, after_seconds=after_seconds)

    @rule(thread_id=THREADS, key=st.sampled_from(["k0", "k1"]))
    def start_under_a_key(self, thread_id: str | None, key: str) -> None:
        self.world.start("sleeps", f"keyed-{key}", idempotency_key=key)

    @rule(thread_id=THREADS)
    def resume(self, thread_id: str | None) -> None:
        self.world.start("asks", thread_id, command={"resume": "this"})

    @rule(temper=st.sampled_from(TEMPERS), thread_id=THREADS, timeout=st.sampled_from([None, 0.5, 3]))
    def call_run_agent(self, temper: str, thread_id: str | None, timeout: float | None) -> None:
        self.world.start_embedded(temper, thread_id, timeout=timeout)

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule(index=st.integers(0, 5), action=st.sampled_from(["interrupt", "rollback"]))
    def cancel(self, index: int, action: str) -> None:
        if runs := self.world.run_ids:
            self.world.cancel(runs[index % len(runs)], action)

    @rule(index=st.integers(0, 5), tells=st.booleans())
    def others_end_a_run(self, index: int, tells: bool) -> None:
        if runs := self.world.run_ids:
            self.world.run(self.world.others.end(runs[index % len(runs)], tells=tells))

    @rule(index=st.integers(0, 5), action=st.sampled_from(["interrupt", "rollback"]))
    def others_cancel_a_run(self, index: int, action: str) -> None:
        if runs := self.world.run_ids:
            self.world.run(self.world.others.cancel(runs[index % len(runs)], action))

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

    @precondition(lambda self: not self.world.closed)
    @rule(grace=st.sampled_from([0.0, 1.0, 10.0]), chance=st.integers(0, 9))
    def close(self, grace: float, chance: int) -> None:
        if chance == 0:  # a schedule is more than its end
            self.world.close(grace)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            self.world.check_step()

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


def test_schedules() -> None:
    run_state_machine_as_test(Schedules, settings=settings(SETTINGS, max_examples=300))


@pytest.mark.long
@pytest.mark.parametrize("part", range(20))
def test_many_schedules(part: int) -> None:
    run_state_machine_as_test(Schedules, settings=settings(SETTINGS, max_examples=500, database=None))
