"""The kit notices: each observer, adapter, store and coordinator broken in one way fails the test about it."""

from typing import Any

import pytest
from tests.contract.memory_fleet import FleetMember
from tests.contract.memory_log import MemoryLog
from tests.contract.mutants import agents, coordinators, fleets, observers, stores

from trackside.harness.memory import MemoryCoordinator

pytest_plugins = ["pytester"]

SOUND: list[tuple[Any, type]] = [
    (observers, observers.Sound),
    (observers, observers.SoundForEnds),
    (agents, agents.Sound),
    (agents, agents.SoundLeaver),
    (stores, MemoryLog),
    (coordinators, MemoryCoordinator),
    (fleets, FleetMember),
]
ROOMS = [observers, agents, stores, coordinators, fleets]
MUTANTS: list[tuple[Any, type, str]] = [(room, mutant, test) for room in ROOMS for mutant, test in room.MUTANTS.items()]


@pytest.fixture(autouse=True)
def few_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the plugins of all packages installed here would take most of the time."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def outcomes(pytester: pytest.Pytester, room: Any, kind: type, story: str | None = None) -> tuple[list[Any], list[Any]]:
    """The reports of the tests that passed and of those that failed, out of all tests or of one."""
    pytester.makepyfile(
        test_suite=f"""
        import {kind.__module__} as kinds
        from {room.__name__} import suite

        TestSuite = suite(kinds.{kind.__name__})
        """
    )
    chosen = [] if story is None else [f"test_suite.py::TestSuite::{story}"]
    ran = pytester.inline_run("-p", "pytest_trackside", "-p", "no:cacheprovider", *chosen)
    passed, _, failed = ran.listoutcomes()
    return passed, failed


def name(room: Any, kind: type) -> str:
    return f"{room.__name__.rpartition('.')[2]}-{kind.__name__}"


@pytest.mark.parametrize(("room", "kind"), SOUND, ids=[name(*sound) for sound in SOUND])
def test_what_is_sound_passes(pytester: pytest.Pytester, room: Any, kind: type) -> None:
    passed, failed = outcomes(pytester, room, kind)
    assert not failed, failed[0].longreprtext
    assert {test for of_room, _, test in MUTANTS if of_room is room} <= {story_of(report) for report in passed}


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.long)], ids=["one", "all"])
@pytest.mark.parametrize(("room", "mutant", "test"), MUTANTS, ids=[name(*mutant[:2]) for mutant in MUTANTS])
def test_a_mutant_is_caught(pytester: pytest.Pytester, room: Any, mutant: type, test: str, *, whole: bool) -> None:
    _, failed = outcomes(pytester, room, mutant, None if whole else test)
    assert test in {story_of(report) for report in failed}
    for report in failed:
        assert " is broken: " in report.longrepr.reprcrash.message.splitlines()[0]


def story_of(report: Any) -> str:
    return str(report.nodeid).partition("::TestSuite::")[2].partition("[")[0]
