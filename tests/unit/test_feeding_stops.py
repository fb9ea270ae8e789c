"""When a feed stops delivering, and whose turn it is then: timed by the virtual clock."""

import asyncio
from typing import Any

import pytest
from tests.contract.ways_to_run import virtual
from tests.property.feeding_model import positions
from tests.unit.fed_receivers import BY_RUN, SIDE_BY_SIDE, Receiving, feeding, log_of

from trackside.app.delivery import Order
from trackside.app.storage.errors import DatabaseBusyError
from trackside.app.storage.feeding import FeedPolicy
from trackside.testing import make_event


class TestStops:
    @virtual
    async def test_all_lanes_stop_when_the_store_fails_and_nothing_is_passed(self) -> None:
        log = log_of(*"abcd")
        observer = Receiving(log, lambda position, n: 2.0 if n == 1 else 0.0)
        async with feeding(log, observer, BY_RUN) as feed:
            await asyncio.sleep(1)
            assert observer.under_way == 4
            log.fails = lambda step: DatabaseBusyError(database="this", seconds=1)
            log.tell()
            await asyncio.sleep(0.5)
            assert (observer.under_way, log.cursor) == (0, 0)
            log.fails = lambda step: None
            await asyncio.sleep(5)
            assert await feed.reach(4)
        assert not log.wrong
        assert sorted(positions(log, observer.taken)) == [1, 2, 3, 4]

    @virtual
    async def test_nothing_more_is_delivered_when_the_lease_may_have_ended_unrenewed(self) -> None:
        log = log_of(*"a" * 100)
        observer = Receiving(log, lambda position, n: 1_000.0 if position == 1 else 1.0)
        policy = FeedPolicy(order=Order.none, concurrency=2, call_limit=None, lease_seconds=30, grace=0)
        async with feeding(log, observer, policy):
            log.fails = lambda step: DatabaseBusyError(database="this", seconds=1) if step == "renew" else None
            await asyncio.sleep(60)
            assert observer.under_way == 0
        assert 10 < max(time for time, _ in observer.calls) <= 30
        assert log.cursor == 0

    @virtual
    async def test_who_has_lost_the_lease_moves_no_cursor_and_parks_nothing(self) -> None:
        log = log_of(*"abcd")
        observer = Receiving(log, lambda position, n: 2.0 if position < 4 or n > 1 else OSError("no"))
        policy = FeedPolicy(order=Order.none, concurrency=4, attempts=1, lease_seconds=30)
        async with feeding(log, observer, policy) as feed:
            observer.fails_after = 1.0
            await asyncio.sleep(0.5)
            log.kill_holder()
            await asyncio.sleep(1)
            assert (log.cursor, [*log.parked], feed.counts.parked) == (0, [], 0)
            assert await feed.reach(4)
        assert not log.wrong
        assert [len(observer.times(position)) for position in range(1, 5)] == [2, 2, 2, 2]
        assert (feed.counts.read, feed.counts.handled, feed.counts.returned) == (8, 4, 4)

    @virtual
    async def test_one_that_raises_cancelled_error_is_a_failure_like_any_other(self) -> None:
        log = log_of(*"ab")
        observer = Receiving(log, lambda position, n: asyncio.CancelledError() if n == 1 else 0.0)
        async with feeding(log, observer, SIDE_BY_SIDE) as feed:
            await feed.reach(2)
        assert (feed.counts.failed_calls, feed.counts.handled) == (2, 2)

    def test_an_interrupt_reaches_whoever_runs_the_loop_and_if_that_goes_on_it_is_a_failure_like_any_other(
        self,
    ) -> None:
        log = log_of(*"abc")
        raises = {1: 1, 2: 9}

        def do(position: int, n: int) -> BaseException | float:
            return KeyboardInterrupt() if n <= raises.get(position, 0) else 0.0

        async def feed_all() -> None:
            observer = Receiving(log, do)
            policy = FeedPolicy(order=Order.none, concurrency=2, attempts=3, first_pause=0)
            async with feeding(log, observer, policy) as feed:
                assert await feed.reach(3)
            assert (feed.counts.handled, feed.counts.parked, feed.counts.failed_calls) == (2, 1, 4)

        interrupts = 0
        with asyncio.Runner() as runner:
            fed = runner.get_loop().create_task(feed_all())
            while not fed.done():
                try:
                    runner.get_loop().run_until_complete(fed)
                except KeyboardInterrupt:
                    interrupts += 1
        assert fed.exception() is None
        assert interrupts == 4
        assert [*log.parked] == [2]


class TestTurns:
    @virtual
    async def test_who_waits_for_its_turn_does_not_look_after_each_commit(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = log_of("a")
        looks: list[float] = []
        acquire = log.acquire

        async def noted(name: str, **options: Any) -> Any:
            looks.append(asyncio.get_running_loop().time())
            return await acquire(name, **options)

        monkeypatch.setattr(log, "acquire", noted)
        async with feeding(log, Receiving(log), FeedPolicy()) as first:
            assert await first.reach(1)
            async with feeding(log, Receiving(log), FeedPolicy()) as second:
                await asyncio.sleep(0.1)
                looks.clear()
                for sequence in range(2, 202):
                    log.append([make_event(sequence=sequence)])
                    await asyncio.sleep(0.005)
                assert 1 <= len(looks) <= 3
                assert await first.reach(201)

                await first.aclose()
                await asyncio.sleep(1)
                assert (first.stats().active, second.stats().active) == (False, True)

    @virtual
    async def test_one_that_was_paused_and_waits_for_another_is_not_paused(self) -> None:
        log = log_of("a")
        async with (
            feeding(log, Receiving(log), FeedPolicy()) as first,
            feeding(log, Receiving(log), FeedPolicy()) as second,
        ):
            await log.pause("mail")
            await asyncio.sleep(60)
            assert [feed.stats().paused for feed in (first, second)] == [True, True]
            log.resume()
            await asyncio.sleep(60)
            assert sorted(feed.stats().active for feed in (first, second)) == [False, True]
            assert [feed.stats().paused for feed in (first, second)] == [False, False]

    @virtual
    async def test_closing_one_that_waits_for_its_turn_takes_no_time(self) -> None:
        log = log_of("a")
        async with feeding(log, Receiving(log), FeedPolicy()) as first:
            assert await first.reach(1)
            async with feeding(log, Receiving(log), FeedPolicy()):
                await asyncio.sleep(0.1)
                begun = asyncio.get_running_loop().time()
            assert asyncio.get_running_loop().time() - begun < 0.1
