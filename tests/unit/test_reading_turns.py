"""Turns at the connections that read from PostgreSQL: in order, however long the line, and no place is lost."""

import asyncio
import random
from typing import Any

import pytest

from trackside.app.storage._databases.postgres.turns import Turns
from trackside.harness.errors import ClosedError
from trackside.testing import run_virtual

PATIENCE = 5.0


async def fail(turns: Turns, seconds: float) -> None:
    await turns.take()
    await asyncio.sleep(seconds)
    turns.give_back(succeeded=False)


async def use(turns: Turns, seconds: float, begun: dict[int, float], number: int) -> None:
    await turns.take()
    begun[number] = asyncio.get_running_loop().time()
    try:
        await asyncio.sleep(seconds)
    finally:
        turns.give_back(succeeded=True)


def stand_still() -> None:
    """Let a minute pass in which the event loop does nothing."""
    loop: Any = asyncio.get_running_loop()
    loop._virtual_time += 60.0


def test_a_long_line_gets_its_turns_in_order_however_long_that_takes() -> None:
    async def check() -> None:
        turns, begun = Turns(4, PATIENCE), dict[int, float]()
        async with asyncio.TaskGroup() as group:
            for number in range(400):
                group.create_task(use(turns, 1.0, begun, number))
        assert begun == {number: number // 4 for number in range(400)}

    run_virtual(check())


def test_who_waits_gives_up_when_no_place_becomes_free_and_not_before() -> None:
    async def check() -> None:
        loop, turns, begun = asyncio.get_running_loop(), Turns(2, PATIENCE), dict[int, float]()
        async with asyncio.TaskGroup() as group:
            group.create_task(use(turns, 4.0, begun, 0))
            group.create_task(use(turns, 100.0, begun, 1))
            await asyncio.sleep(0)
            group.create_task(use(turns, 50.0, begun, 2))  # from second 4 on
            await asyncio.sleep(1)
            with pytest.raises(TimeoutError):
                await turns.take()
            assert loop.time() == 4.0 + PATIENCE
            await asyncio.sleep(20)  # those that hold the places have held them for long
            with pytest.raises(TimeoutError):
                await turns.take()
            assert loop.time() == 29.0 + PATIENCE
        await turns.take()
        await turns.take()  # both are free again: who gave up has left nothing in the line
        assert begun == {0: 0, 1: 0, 2: 4}

    run_virtual(check())


def test_a_line_that_only_failures_move_is_given_up() -> None:
    """As before a locked table: each read waits out its time, fails, and makes way for the next one, which will fail."""

    async def check() -> None:
        turns = Turns(4, PATIENCE)
        ends = await asyncio.gather(*(fail(turns, 4.0) for _ in range(40)), return_exceptions=True)
        assert ends[:8] == [None] * 8
        assert {type(end) for end in ends[8:]} == {TimeoutError}
        assert asyncio.get_running_loop().time() == 8.0

    run_virtual(check())


def test_time_in_which_the_loop_stood_still_says_nothing_of_those_who_have_places() -> None:
    """What they were waiting for has come meanwhile, and they have not had a turn of the loop to see it."""

    async def check() -> None:
        loop = asyncio.get_running_loop()
        turns, had = Turns(1, PATIENCE), 0

        async def reads() -> None:
            nonlocal had
            await turns.take()
            had += 1
            for seconds in (1.0, 0.0, 0.0, 0.0):
                await asyncio.sleep(seconds)
            turns.give_back(succeeded=True)

        loop.call_later(0.5, stand_still)
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(reads())
        assert had == 3

        await turns.take()
        begun = loop.time()
        loop.call_later(0.5, stand_still)
        with pytest.raises(TimeoutError):
            await turns.take()
        assert 60.0 + PATIENCE / 2 < loop.time() - begun <= 60.0 + PATIENCE

    run_virtual(check())


def test_who_waits_counts_from_a_success_that_comes_right_after_the_loop_stood_still() -> None:
    """The time in which it stood still was before that, and is not added to it."""

    async def check() -> None:
        loop, turns, begun = asyncio.get_running_loop(), Turns(1, PATIENCE), dict[int, float]()
        loop.call_later(0.5, stand_still)
        async with asyncio.TaskGroup() as group:
            group.create_task(use(turns, 0.6, begun, 0))
            group.create_task(use(turns, 1_000.0, begun, 1))
            await asyncio.sleep(0)
            with pytest.raises(TimeoutError):
                await turns.take()
            assert (begun[1], loop.time()) == (60.5, 60.5 + PATIENCE)

    run_virtual(check())


@pytest.mark.parametrize("seed", range(20))
def test_no_place_is_lost_whoever_is_cancelled_and_whenever(seed: int) -> None:
    async def check() -> None:
        chance, turns, held = random.Random(seed), Turns(3, PATIENCE), 0

        async def holds() -> None:
            nonlocal held
            await turns.take()
            held += 1
            assert held <= 3
            try:
                await asyncio.sleep(chance.choice((0, 0, 0.1, 1)))
            finally:
                held -= 1
                turns.give_back(succeeded=True)

        tasks = [asyncio.create_task(holds()) for _ in range(60)]
        for _ in range(80):
            await asyncio.sleep(chance.choice((0, 0, 0, 0.1)))
            chance.choice(tasks).cancel()
        await asyncio.wait(tasks)
        assert not [error for task in tasks if not task.cancelled() and (error := task.exception())]
        for _ in range(3):
            await turns.take()
        with pytest.raises(TimeoutError):
            await turns.take()

    run_virtual(check())


def test_who_waits_when_it_is_closed_is_told_and_who_has_a_place_keeps_it() -> None:
    async def check() -> None:
        turns, begun = Turns(1, PATIENCE), dict[int, float]()
        has_one = asyncio.create_task(use(turns, 3.0, begun, 0))
        await asyncio.sleep(0)
        waits = [asyncio.create_task(turns.take()) for _ in range(3)]
        await asyncio.sleep(1)
        turns.close(lambda: ClosedError(what="store"))
        for wait in waits:
            with pytest.raises(ClosedError):
                await wait
        assert not has_one.done()
        await has_one
        assert begun == {0: 0}
        with pytest.raises(ClosedError):
            await turns.take()

    run_virtual(check())
