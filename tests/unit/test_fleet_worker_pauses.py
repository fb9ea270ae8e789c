"""How long a worker leaves to others the runs that it has no agent for."""

from __future__ import annotations

from trackside.app.engine.worker import ForeignPauses, foreign_pause


def test_what_others_have_not_seen_is_passed_on_at_once_and_what_nobody_wants_less_and_less_often() -> None:
    pauses = [foreign_pause(passed_on) for passed_on in range(40)]

    assert pauses[0] < 0.05
    assert pauses == sorted(pauses)
    assert pauses[-1] == 2.0
    assert foreign_pause(10**9) == 2.0


def test_of_what_nobody_wants_a_hundred_come_round_in_a_second_and_each_in_a_minute() -> None:
    now = 1_000.0
    pauses = ForeignPauses(clock=lambda: now)

    few = [pauses.after(40) for _ in range(10)]
    fresh = pauses.after(0)
    many = [pauses.after(40) for _ in range(20_000)]

    assert all(2.0 <= pause < 2.1 for pause in few)
    assert fresh == foreign_pause(0)
    within = [sum(second <= pause < second + 1 for pause in many) for second in range(2, 60)]
    assert max(within) <= 101
    assert min(within) >= 90
    assert max(many) == 60.0
    now += 3_600.0
    assert pauses.after(40) == 2.0
