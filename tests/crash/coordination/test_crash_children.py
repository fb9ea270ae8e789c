"""How long a test waits for the processes that it lets work."""

import signal
from collections.abc import Callable
from threading import Condition
from typing import override

import pytest
from crash_children import PATIENCE, Child


class Slow(Condition):
    """Each thing that a process says comes a long time after the one before; after the last one nothing comes."""

    def __init__(self, *said: str) -> None:
        super().__init__()
        self.child = Child(self)
        self.now = 0.0
        self._said = [*said]

    @override
    def wait(self, timeout: float | None = None) -> bool:
        if not self._said:
            self.now += timeout or 0.0
            return False
        self.now += 0.9 * PATIENCE
        kind, _, rest = self._said.pop(0).partition(" ")
        self.child.hear(kind, rest)
        return True


type Says = Callable[..., Slow]


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Says:
    def make(*said: str) -> Slow:
        slow = Slow(*said)
        monkeypatch.setattr("threading._time", lambda: slow.now)
        return slow

    return make


def test_a_process_may_take_its_time_as_long_as_something_is_said(says: Says) -> None:
    child = says("born 1", "event a", "left 2", "event b", f"dead {-signal.SIGKILL}").child
    assert child.wait_for("event", 2)
    assert child.wait() == -signal.SIGKILL


def test_a_process_is_stuck_once_nothing_is_said_any_more(says: Says) -> None:
    child = says("born 1", "event a").child
    assert child.wait() is None
    assert child.said["event"] == 1


def test_whoever_has_a_limit_waits_no_longer_whatever_is_said(says: Says) -> None:
    child = says("born 1", "event a", "dead 0").child
    assert not child.wait_for("dead", patience=PATIENCE)
