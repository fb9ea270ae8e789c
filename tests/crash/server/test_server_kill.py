"""SIGKILL of `trackside serve` under mixed load: what clients were told is kept, none waits for ever, nothing is doubled."""

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from forking import Forkery
from served_lives import BY_CHANCE, Lives

pytestmark = [
    pytest.mark.filterwarnings("ignore:Request failed, attempting reconnect"),
    pytest.mark.filterwarnings("ignore:Reconnecting without a Last-Event-ID"),
]

type LiveThrough = Callable[..., Awaitable[Lives]]
"""Lets a server live and be killed at each of the moments; what is left is right."""

MOMENTS = [
    "after admit 20",
    "before claim 20",
    "written start 20",
    "committed end 20",
    "before settle 20",
    "after settle 20",
    "before release 20",
    "handed back Admit 20",
    "after ask to stop 2",
    "after remember 5",
    "before push the next 10",
    "committed RequestCancel 2",
]
"""Then clients have runs in flight that are admitted and not answered, ended and not told, told and not released …"""


@pytest.fixture
def live_through(url: str, tmp_path: Path, forkery: Forkery) -> LiveThrough:
    async def live_through(moments: list[str], **more: Any) -> Lives:
        lives = Lives(url, tmp_path, seed=random.randrange(2**32), forkery=forkery, **more)
        loads = await lives.go_through(moments)
        assert sum(lives.deaths.values()) == len(moments)
        assert all(load.words.asked for load in loads)
        return lives

    return live_through


async def test_a_server_that_is_killed_keeps_what_it_has_acknowledged(live_through: LiveThrough) -> None:
    await live_through([BY_CHANCE, random.choice(MOMENTS)])


async def test_one_of_two_servers_that_is_killed_leaves_its_runs_to_the_other(live_through: LiveThrough) -> None:
    await live_through([BY_CHANCE], others=1)


@pytest.mark.long
@pytest.mark.parametrize("part", [1, 2, 3])
async def test_a_server_that_is_killed_again_and_again(part: int, live_through: LiveThrough) -> None:
    moments = [BY_CHANCE, *MOMENTS, *[BY_CHANCE] * len(MOMENTS)]
    lives = await live_through(moments, clients=2, waits_for_leases=part == 1)
    assert len(lives.deaths) > len(MOMENTS) / 2


@pytest.mark.long
async def test_one_of_two_servers_that_is_killed_again_and_again(live_through: LiveThrough) -> None:
    await live_through([BY_CHANCE, *MOMENTS], others=1, waits_for_leases=True)
