"""How long a worker leaves to others what it has no agent for."""

from __future__ import annotations

from trackside.app.engine.worker import foreign_pause


def test_what_others_have_not_seen_is_passed_on_at_once_and_what_nobody_wants_less_and_less_often() -> None:
    pauses = [foreign_pause(passed_on) for passed_on in range(40)]

    assert pauses[0] < 0.05
    assert pauses == sorted(pauses)
    assert pauses[-1] == 2.0
    assert foreign_pause(10**9) == 2.0
