"""SIGKILL of processes that deliver to webhooks and brokers: every event arrives, or is parked if refused for good.

What arrives twice has the same bytes, what has to be ordered is so at first, and no cursor passes what has not arrived.
"""

import random
from pathlib import Path

import pytest
from crash_children import Children
from delivery_fleet import Brokers, Fleet
from delivery_receivers import Endpoints

LIVES = (1, 30, 100)
LONG_LIVES = (1, 30, 300, 1_000)


def deliver_over(
    url: str, folder: Path, children: Children, brokers: Brokers, *, deaths: int, lives: tuple[int, ...]
) -> None:
    """Deliver while this many processes are killed, and check what came of it."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    fleet = Fleet(url, folder, children, brokers, seed=seed)
    with Endpoints(*fleet.endpoints.values()):
        fleet.begin()
        fleet.lose(deaths, lives=lives)
        fleet.end()
    counts = fleet.check()
    print(f"{fleet.deaths} killed who delivered, {fleet.restarts} restarts of brokers: {dict(fleet.kills)}")
    for name, count in counts.items():
        print(f"{name}: {count}")
    assert fleet.deaths >= deaths
    assert all(count.deliveries for count in counts.values())


def test_every_event_arrives_whoever_is_killed(url: str, tmp_path: Path, children: Children, brokers: Brokers) -> None:
    deliver_over(url, tmp_path, children, brokers, deaths=3, lives=LIVES)


@pytest.mark.long
@pytest.mark.parametrize("part", [1, 2, 3, 4])
def test_every_event_arrives_over_two_hundred_kills(
    part: int, url: str, tmp_path: Path, children: Children, brokers: Brokers
) -> None:
    deliver_over(url, tmp_path, children, brokers, deaths=50, lives=LONG_LIVES)
