"""Several processes on one database, some of which are killed, and some stopped until others take them for dead."""

import random
import signal

import pytest
from crash_children import Child, Children
from crash_points import STEPS, WORKS
from log_check import assert_whole, end_of_log

FLEET = 3
LEASE = 0.6  # seconds


def hire(url: str, children: Children, chance: random.Random) -> Child:
    fault = [chance.choice(STEPS), chance.choice(WORKS), chance.choice([3, 10, 30])] if chance.random() < 0.5 else None
    return children.make("manage", url, after=end_of_log(url), callers=4, threads=3, fault=fault, lease=LEASE)


def lose_some(url: str, children: Children, *, rounds: int, seed: int) -> None:
    """Lose one process after another, and start others in their place; in the end, let all finish."""
    chance = random.Random(seed)
    children.make("manage", url, callers=0).wait()
    fleet = [hire(url, children, chance) for _ in range(FLEET)]
    for number in range(rounds):
        lost = fleet.pop(0)
        lost.wait_for("event", lost.said["event"] + chance.choice([1, 30, 100]))
        if number % 3:
            lost.signal(signal.SIGKILL)
            fleet.append(hire(url, children, chance))
        else:
            lost.signal(signal.SIGSTOP)
            lost.wait_for("dead", patience=2 * LEASE)  # it cannot die: this is how long it stays silent
            lost.signal(signal.SIGCONT)
            fleet.append(lost)
    fleet = [child for child in fleet if child.exit_code is None] + [children.make("manage", url, callers=0)]
    for child in fleet:
        child.let_finish()
    assert {child.wait() for child in fleet} <= {0, -signal.SIGKILL}, [child.last for child in fleet]
    if any(child.exit_code for child in fleet):  # it reached its fault only now
        assert children.make("manage", url, callers=0).wait() == 0
    assert_whole(url, children.told)


def some_seed() -> int:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return seed


def test_others_go_on_when_some_are_killed_or_stopped(url: str, children: Children) -> None:
    lose_some(url, children, rounds=4, seed=some_seed())


@pytest.mark.long
def test_a_hundred_are_killed_or_stopped(url: str, children: Children) -> None:
    lose_some(url, children, rounds=100, seed=some_seed())
    print(f"{len(children.told.events)} events acknowledged, {len(children.told.begun)} runs executed")
