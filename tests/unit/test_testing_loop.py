"""`VirtualTimeLoop`: time that costs nothing, orders that a seed reproduces, no test that hangs."""

import asyncio
import itertools
import logging
import threading
from datetime import UTC, datetime, timedelta

import pytest

from trackside.harness.ports import Clock
from trackside.testing import DeadlockError, HorizonError, VirtualClock, VirtualTimeLoop, run_virtual
from trackside.testing.loop import EPOCH


async def order_of(count: int, turns: int = 3) -> list[int]:
    """The order in which tasks that are all ready get their turns."""
    order: list[int] = []

    async def step(number: int) -> None:
        for _ in range(turns):
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(step(number) for number in range(count)))
    return order


def test_sleeping_a_year_takes_no_time() -> None:
    async def sleep() -> float:
        await asyncio.sleep(365 * 86_400)
        return asyncio.get_running_loop().time()

    assert run_virtual(sleep(), horizon=1e9) == 365 * 86_400


def test_time_starts_at_zero_and_moves_from_timer_to_timer() -> None:
    async def main() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        seen = [("start", loop.time())]

        async def sleeper(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            seen.append((name, loop.time()))

        await asyncio.gather(sleeper("c", 3), sleeper("a", 0.25), sleeper("b", 1))
        return seen

    assert run_virtual(main()) == [("start", 0), ("a", 0.25), ("b", 1), ("c", 3)]


def test_time_stands_still_while_code_runs() -> None:
    async def main() -> float:
        sum(range(100_000))
        await order_of(5)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 0


def test_timeouts_fire_at_their_virtual_time() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(90):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 90


def test_without_a_seed_callbacks_run_first_come_first_served() -> None:
    assert run_virtual(order_of(4)) == [0, 1, 2, 3] * 3


def test_same_seed_gives_the_same_order() -> None:
    for seed in range(20):
        assert run_virtual(order_of(6), seed=seed) == run_virtual(order_of(6), seed=seed)


def test_zero_is_a_seed_like_any_other() -> None:
    assert run_virtual(order_of(8), seed=0) != run_virtual(order_of(8))


def test_seeds_reach_every_order_of_what_is_ready() -> None:
    first_turns = {tuple(run_virtual(order_of(4), seed=seed)[:4]) for seed in range(400)}

    assert first_turns == set(itertools.permutations(range(4)))


def test_seed_shuffles_timers_that_are_due_together() -> None:
    async def main() -> tuple[int, ...]:
        order: list[int] = []
        loop = asyncio.get_running_loop()
        for number in range(3):
            loop.call_later(1, order.append, number)
        await asyncio.sleep(2)
        return tuple(order)

    assert {run_virtual(main(), seed=seed) for seed in range(100)} == set(itertools.permutations(range(3)))


@pytest.mark.parametrize("seed", range(10))
def test_turns_are_kept_apart_what_a_callback_makes_ready_comes_in_the_next(seed: int) -> None:
    order = run_virtual(order_of(5, turns=4), seed=seed)

    for start in range(0, 20, 5):
        assert set(order[start : start + 5]) == set(range(5))


def test_earlier_timers_come_first_whatever_the_seed() -> None:
    async def main() -> list[int]:
        order: list[int] = []
        for number in range(10):
            asyncio.get_running_loop().call_later(number, order.append, number)
        await asyncio.sleep(20)
        return order

    for seed in range(10):
        assert run_virtual(main(), seed=seed) == list(range(10))


def test_seed_finds_a_race_that_first_come_first_served_hides() -> None:
    async def racy() -> int:
        total = 0

        async def add() -> None:
            nonlocal total
            before = total
            if before == 1:
                await asyncio.sleep(0)
            total = before + 1

        async def reset() -> None:
            nonlocal total
            total = 0

        await asyncio.gather(add(), add(), reset())
        return total

    assert run_virtual(racy()) == 2
    assert {run_virtual(racy(), seed=seed) for seed in range(50)} > {2}


def test_deadlock_is_an_error_that_names_who_waits_and_where() -> None:
    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.create_task(waits_for_ever(), name="the-one")

    with pytest.raises(DeadlockError, match="no callback is ready, no timer is set, no thread works") as caught:
        run_virtual(main())

    assert "the-one in" in str(caught.value)
    assert "waits_for_ever → Event.wait (" in str(caught.value)
    assert "locks.py:" in str(caught.value)


def test_deadlock_of_tasks_that_swallow_cancellation_is_an_error_too(caplog: pytest.LogCaptureFixture) -> None:
    async def stubborn() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        assert not task.done()

    with pytest.raises(DeadlockError, match="stubborn"):
        run_virtual(main())


def test_timers_without_end_are_an_error() -> None:
    async def heartbeat() -> None:
        while True:
            await asyncio.sleep(10)

    with pytest.raises(HorizonError, match=r"Virtual time has reached 1\d\d\d s.*heartbeat → sleep"):
        run_virtual(heartbeat(), horizon=1_000)


def test_threads_are_waited_for_while_time_stands_still() -> None:
    release = threading.Event()

    async def main() -> tuple[str, float]:
        loop = asyncio.get_running_loop()
        loop.call_later(5, release.set)

        def work() -> str:
            sum(range(1_000_000))
            return "worked"

        worked = await asyncio.to_thread(work)
        return worked, loop.time()

    assert run_virtual(main()) == ("worked", 0)
    assert not release.is_set()


def test_job_of_a_thread_may_call_back_into_the_loop() -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        seen: list[str] = []
        await asyncio.to_thread(loop.call_soon_threadsafe, seen.append, "called")
        await asyncio.sleep(1)
        return seen

    assert run_virtual(main()) == ["called"]


def test_failing_job_raises_and_lets_time_go_on() -> None:
    async def main() -> float:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)
        await asyncio.sleep(3)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 3


def test_thread_of_ones_own_is_announced_as_real_work() -> None:
    threads: list[threading.Thread] = []

    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        done = asyncio.Event()

        def work() -> None:
            sum(range(1_000_000))
            loop.call_soon_threadsafe(done.set)

        threads.append(threading.Thread(target=work))
        threads[0].start()
        with loop.real_work():
            await done.wait()
        return loop.time()

    assert run_virtual(main()) == 0
    threads[0].join()


def test_thread_that_never_ends_is_an_error_and_not_a_hang() -> None:
    release = threading.Event()
    loop = VirtualTimeLoop(thread_patience=0.05)
    job = loop.run_in_executor(None, release.wait)

    with pytest.raises(DeadlockError, match=r"threads still work after 0\.05 s"):
        loop.run_until_complete(job)

    release.set()
    loop.run_until_complete(job)
    loop.run_until_complete(loop.shutdown_default_executor(timeout=1))
    loop.close()


def test_clock_shows_the_epoch_plus_the_loops_time() -> None:
    async def main() -> tuple[datetime, float]:
        clock: Clock = VirtualClock()
        assert clock.now() == EPOCH
        await asyncio.sleep(90)
        return clock.now(), clock.monotonic()

    assert run_virtual(main()) == (EPOCH + timedelta(seconds=90), 90)
    assert EPOCH.tzinfo is UTC


def test_clock_of_a_loop_works_outside_it() -> None:
    loop = VirtualTimeLoop()
    epoch = datetime(2000, 1, 1, tzinfo=UTC)
    clock = VirtualClock(loop, epoch=epoch)
    loop.run_until_complete(asyncio.sleep(60))
    loop.close()

    assert clock.now() == epoch + timedelta(minutes=1)


def test_debug_mode_works(caplog: pytest.LogCaptureFixture) -> None:
    loop = VirtualTimeLoop(seed=1)
    loop.set_debug(True)
    with caplog.at_level(logging.WARNING):
        assert sorted(loop.run_until_complete(order_of(3, turns=1))) == [0, 1, 2]
    loop.close()

    assert caplog.records == []


def test_run_virtual_cleans_up_as_asyncio_run_does() -> None:
    ended: list[str] = []

    async def left_over() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            ended.append("left_over")

    async def main() -> str:
        main.task = asyncio.create_task(left_over())  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        return "done"

    assert run_virtual(main()) == "done"
    assert ended == ["left_over"]
