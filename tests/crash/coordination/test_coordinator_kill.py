"""SIGKILL of processes with managers, at random and at named points: what they said is true, and all goes on (I1–I7)."""

import random
import signal
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, product
from pathlib import Path

import pytest
from crash_children import Child, Children
from crash_points import PARTING, RECOVERIES, STEPS, STEPS_OF_RECOVERY, WORKS
from log_check import assert_whole, end_of_log

LIVES_OF_ONE_DATABASE = 10

POINTS = [*product(STEPS, WORKS), *product(STEPS_OF_RECOVERY, RECOVERIES), *product(PARTING, ["Leave"])]


def settle(url: str, children: Children) -> None:
    """Have one more process end what is left."""
    assert children.make("manage", url, callers=0).wait() == 0, "somebody waits for ever"
    assert_whole(url, children.told)


def die_at_random(child: Child, moments: random.Random, *, after: Sequence[int] = (0, 1, 20, 100, 200)) -> None:
    """Let a process say one of these numbers of events, and die."""
    child.wait_for("event", moments.choice(after))
    child.wait_for("dead", patience=moments.uniform(0, 0.03))  # it never ends by itself: this is how long it may go on
    assert child.kill()


def die_at(point: tuple[str, str], url: str, children: Children, moments: random.Random) -> None:
    """Let processes work until one has reached the point so many times, or else once, and died there."""
    number = 1 if point[1] in {"Leave", "Register", *RECOVERIES} else moments.choice([1, 2, 5])
    died = comes_to(point, number, url, children, moments) or comes_to(point, 1, url, children, moments, patience=60)
    assert died, f"nobody came to the point {point}"


def comes_to(
    point: tuple[str, str],
    number: int,
    url: str,
    children: Children,
    moments: random.Random,
    *,
    patience: float = 20,
) -> bool:
    """Let a process work that dies when it has reached the point this many times; returns whether it did."""
    step, work = point
    if work in RECOVERIES:  # needs a dead process that had something to do
        die_at_random(children.make("manage", url, after=end_of_log(url)), moments, after=[100, 200])
    child = children.make("manage", url, after=end_of_log(url), fault=[step, work, number])
    if work == "Leave":
        child.wait_for("event", 50)
        child.signal(signal.SIGINT)
    died = child.wait_for("dead", patience=patience)  # by itself, as it never ends otherwise
    assert child.kill(), f"who should die at {point} came to {child.exit_code}"
    return died


def kill_again_and_again(url: str, children: Children, points: list[tuple[str, str] | None], seed: int) -> None:
    moments = random.Random(seed)
    children.make("manage", url, callers=0).finish()
    for point in points:
        if point is None:
            die_at_random(children.make("manage", url, after=end_of_log(url)), moments)
        else:
            die_at(point, url, children, moments)
        assert_whole(url, children.told, at_rest=False)
        settle(url, children)


def points_to_die_at(count: int, seed: int) -> list[tuple[str, str] | None]:
    """Each named one as often as the others, and every third at random."""
    chosen = random.Random(seed)
    named = cycle(chosen.sample(POINTS, len(POINTS)))
    return [next(named) if number % 3 else None for number in range(count)]


def some_seed() -> int:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return seed


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_process_that_is_killed_leaves_nothing_undone_and_nothing_twice(url: str, children: Children) -> None:
    seed = some_seed()
    kill_again_and_again(url, children, points_to_die_at(9, seed), seed)


@pytest.mark.long
def test_two_hundred_kills(tmp_path: Path, children: Children) -> None:
    seed = some_seed()
    points = points_to_die_at(200, seed)
    said: Counter[str] = Counter()
    for number in range(0, len(points), LIVES_OF_ONE_DATABASE):
        children.begin_anew()
        url = f"sqlite:///{tmp_path / f'runs-{number}.db'}"
        kill_again_and_again(url, children, points[number : number + LIVES_OF_ONE_DATABASE], seed + number)
        said += Counter(
            events=len(children.told.events), begun=len(children.told.begun), ended=len(children.told.ended)
        )
    print(f"acknowledged {said}")
