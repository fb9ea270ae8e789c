"""Where there is no terminal, long tasks report now and then, and quick ones report nothing."""

import pytest

from trackside.app.cli.views.progress import LINE_EVERY, Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line_now_and_then_where_it_takes_long(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress("Removing", "run", total=4_000, broken_off=str, clock=clock) as progress:
        for done in range(0, 4_001, 1_000):
            progress.reach(done)
            clock.now += LINE_EVERY / 2

    assert capsys.readouterr().err == "Removing: 2,000 runs so far (50%)\nRemoving: 4,000 runs so far (100%)\n"


def test_nothing_is_said_of_what_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("Removing", "run", broken_off=str, clock=Clock()) as progress:
        progress.reach(1)
    assert not capsys.readouterr().err


def test_whoever_breaks_it_off_is_told_how_far_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        Progress("Importing", "event", total=100, broken_off=lambda events: f"{events} are there.") as progress,
    ):
        progress.reach(50, counted=7)
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "Broken off: 7 are there.\n"


def test_a_failure_is_left_to_others_to_report(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no"), Progress("Importing", "event", broken_off=str):
        raise ValueError("no")
    assert not capsys.readouterr().err
