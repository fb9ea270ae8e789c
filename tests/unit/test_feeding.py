"""How a feed delivers concurrently, in which order, and acknowledges: timed by the virtual clock."""

import asyncio
import itertools
from collections.abc import Sequence

import pytest
from tests.contract.ways_to_run import virtual
from tests.property.feeding_model import LogInMemory, positions
from tests.unit.fed_receivers import BY_RUN, SIDE_BY_SIDE, Receiving, broken, feeding, log_of

from trackside.app.delivery import Order
from trackside.app.storage._feeding import window as window_module
from trackside.app.storage.errors import DatabaseBusyError
from trackside.app.storage.feeding import FeedPolicy
from trackside.app.storage.subscriptions import OnFailure
from trackside.harness.observer import RunLifecycleEvent
from trackside.testing import make_event


class TestOrder:
    @virtual
    async def test_an_event_whose_pause_is_over_does_not_wait_for_all_that_was_read_after_it(self) -> None:
        log = log_of(*map(str, range(100)))
        observer = Receiving(log, lambda position, n: broken() if position == 1 and n < 3 else 1.0)
        policy = FeedPolicy(order=Order.none, concurrency=1, first_pause=1.0, longest_pause=1.0)
        async with feeding(log, observer, policy) as feed:
            await feed.reach(100)
        first, second, third = observer.times(1)
        assert second - first <= 2.0
        assert third - second <= 2.0

    @virtual
    async def test_a_receiver_that_empties_the_batch_it_is_given_has_it_once(self) -> None:
        class Draining(Receiving):
            async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
                await asyncio.sleep(1.0)
                while events:
                    self.taken.append(events.pop(0))  # type: ignore[attr-defined]

        log = log_of(*"aaa")
        observer = Draining(log)
        async with feeding(log, observer, BY_RUN) as feed, asyncio.timeout(60):
            await feed.reach(3)
        assert positions(log, observer.taken) == [1, 2, 3]

    @virtual
    async def test_a_receiver_that_overrides_on_event_alone_has_each_event_by_it(self) -> None:
        class Batching(Receiving):
            async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
                self.taken.extend(events)

        class Counting(Batching):
            counted = 0

            async def on_event(self, event: RunLifecycleEvent) -> None:
                self.counted += 1
                await super().on_event(event)

        log = log_of(*"aaa")
        observer = Counting(log)
        async with feeding(log, observer, BY_RUN) as feed, asyncio.timeout(60):
            await feed.reach(3)
        assert (observer.counted, positions(log, observer.taken)) == (3, [1, 2, 3])

    @virtual
    async def test_events_of_one_run_wait_for_each_other_and_runs_do_not(self) -> None:
        log = log_of(*"aabbab")
        observer = Receiving(log, lambda position, n: 1.0)
        async with feeding(log, observer, BY_RUN) as feed:
            await feed.reach(6)
        taken = positions(log, observer.taken)
        assert [[n for n in taken if n in run] for run in ({1, 2, 5}, {3, 4, 6})] == [[1, 2, 5], [3, 4, 6]]
        assert observer.most_under_way == 2

    @virtual
    async def test_without_order_as_many_as_may_be_are_under_way(self) -> None:
        log = log_of(*"aaaaaaaa")
        observer = Receiving(log, lambda position, n: 1.0)
        async with feeding(log, observer, SIDE_BY_SIDE) as feed:
            await feed.reach(8)
            assert asyncio.get_running_loop().time() < 2.5
        assert observer.most_under_way == 4

    @virtual
    async def test_one_that_fails_holds_up_its_run_alone_until_it_is_parked(self) -> None:
        log = log_of(*"abab")
        observer = Receiving(log, lambda position, n: OSError("no") if position == 1 else 0.0)
        policy = FeedPolicy(order=Order.run, concurrency=2, attempts=3, first_pause=10)
        async with feeding(log, observer, policy) as feed:
            await asyncio.sleep(3)
            assert (positions(log, observer.taken), log.cursor) == ([2, 4], 0)
            await feed.reach(4)
        assert positions(log, observer.taken) == [2, 4, 3]
        assert (log.cursor, [*log.parked]) == (4, [1])
        assert len(observer.times(1)) == 3

    @virtual
    async def test_one_that_is_parked_ahead_of_another_stays_parked_when_the_cursor_passes_it(self) -> None:
        log = log_of(*"abc")
        observer = Receiving(
            log, lambda position, n: {1: 5.0, 2: DatabaseBusyError(database="its", seconds=1)}.get(position, 0.0)
        )
        async with feeding(log, observer, FeedPolicy(order=Order.none, concurrency=2, attempts=1)) as feed:
            await asyncio.sleep(1)
            assert (log.cursor, [*log.parked]) == (0, [2])
            await feed.reach(3)
        assert (log.cursor, [*log.parked]) == (3, [2])

    @virtual
    async def test_a_blocking_one_holds_up_its_run_for_ever_and_no_other(self) -> None:
        log = log_of(*"abab", on_failure=OnFailure.block)
        observer = Receiving(log, lambda position, n: OSError("no") if position == 1 else 0.0)
        async with feeding(log, observer, BY_RUN):
            await asyncio.sleep(1_000)
            assert (positions(log, observer.taken), log.cursor, [*log.parked]) == ([2, 4], 0, [])
            assert log.failures == len(observer.times(1)) > 10

    @virtual
    async def test_how_far_others_run_ahead_is_bounded(self) -> None:
        log = log_of(*"a" * 50)
        observer = Receiving(log, lambda position, n: 1_000.0)
        policy = FeedPolicy(order=Order.none, concurrency=2, window=10, call_limit=None, grace=0)
        async with feeding(log, observer, policy) as feed:
            await asyncio.sleep(100)
            assert 5 <= feed.stats().pending <= 10
            assert feed.stats().behind_seconds > 0

    @virtual
    async def test_how_much_comes_again_after_a_death_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(window_module, "MOST_AHEAD", 20)
        log = log_of(*"a" * 100)
        observer = Receiving(log, lambda position, n: 1_000.0 if position == 1 else 0.0)
        policy = FeedPolicy(order=Order.none, concurrency=2, window=10, batch=5, call_limit=None, grace=0)
        async with feeding(log, observer, policy):
            await asyncio.sleep(100)
            assert sorted(positions(log, observer.taken)) == [*range(2, 21)]

    @virtual
    async def test_what_is_in_hand_is_bounded_by_its_bytes_and_one_that_is_larger_comes_alone(self) -> None:
        log = LogInMemory()
        sizes = [1_000] * 20 + [9_000] + [1_000] * 3
        log.append(make_event(run_id=f"{n}", sequence=1, payload={"said": "x" * size}) for n, size in enumerate(sizes))
        observer = Receiving(log, lambda position, n: 1.0)
        policy = FeedPolicy(order=Order.none, concurrency=50, max_bytes=4_000)
        async with feeding(log, observer, policy) as feed:
            await feed.reach(log.end)
        assert sorted(positions(log, observer.taken)) == [*range(1, log.end + 1)]
        assert observer.most_under_way == 4

    @virtual
    async def test_parked_events_are_tried_again_a_few_at_once_if_they_are_large(self) -> None:
        log = LogInMemory()
        log.append(make_event(run_id=f"{n}", payload={"said": "x" * 1_000}) for n in range(8))
        observer = Receiving(log, lambda position, n: OSError("no") if n == 1 else 1.0)
        policy = FeedPolicy(order=Order.none, concurrency=50, attempts=1, max_bytes=2_000)
        async with feeding(log, observer, policy) as feed:
            await feed.reach(log.end)
            log.retry_parked()
            await asyncio.sleep(60)
        assert not log.parked
        assert observer.most_under_way == 2

    @virtual
    async def test_a_pause_is_heeded_in_a_moment_also_where_there_is_no_room_to_read(self) -> None:
        log = log_of(*"a" * 50)
        observer = Receiving(log, lambda position, n: 1_000.0 if position == 1 else 0.5)
        policy = FeedPolicy(order=Order.none, concurrency=2, window=40, batch=40, call_limit=None, grace=0)
        async with feeding(log, observer, policy):
            await asyncio.sleep(5)
            await log.pause("mail")
            await asyncio.sleep(100)
            assert max(time for time, _ in observer.calls) <= 6.5

    @virtual
    async def test_an_event_that_is_tried_again_is_in_no_batch_with_others(self) -> None:
        class Batching(Receiving):
            async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
                batches.append(positions(log, events))
                await asyncio.sleep(1)
                log.handled.update(batches[-1])

        batches: list[list[int]] = []
        log = log_of("a")
        observer = Batching(log, lambda position, n: 0.0)
        async with feeding(log, observer, FeedPolicy()) as feed:
            await feed.reach(1)
            log.park(1)
            for sequence in (
                2,
                3,
            ):  # the second comes while the first is in progress, and the one that is parked behind it
                log.append([make_event(run_id="a", sequence=sequence)])
                await asyncio.sleep(0.1)
            log.retry_parked()
            await asyncio.sleep(5)
        assert (batches, [position for _, position in observer.calls]) == ([[1], [2], [3]], [1])
        assert not log.parked

    @virtual
    async def test_parked_events_that_are_tried_again_come_in_their_lane(self) -> None:
        log = log_of(*"aab")
        works: list[bool] = []
        observer = Receiving(log, lambda position, n: OSError("no") if position == 1 and not works else 0.0)
        async with feeding(log, observer, FeedPolicy(order=Order.run, attempts=1)) as feed:
            await feed.reach(3)
            log.retry_parked()
            await asyncio.sleep(1)
            assert [(parked.state, parked.attempts) for parked in log.parked.values()] == [("parked", 2)]
            works.append(True)
            log.retry_parked()
            await asyncio.sleep(1)
            assert feed.counts.handled == 3
        assert not log.parked


class TestAcknowledging:
    @virtual
    async def test_it_is_now_and_then_while_busy_and_at_once_when_idle(self) -> None:
        log = log_of(*"a" * 100)
        observer = Receiving(log, lambda position, n: 0.01)
        async with feeding(log, observer, FeedPolicy()) as feed:
            await feed.reach(100)
            busy = log.times("acknowledge")
            assert 8 <= len(busy) <= 15
            assert all(after - before >= 0.1 for before, after in itertools.pairwise(busy[:-1]))

            await asyncio.sleep(100)
            appended_at = asyncio.get_running_loop().time()
            log.append([make_event(sequence=101)])
            await feed.reach(101)
            assert log.times("acknowledge")[-1] - appended_at < 0.05

    @virtual
    async def test_what_was_handled_is_acknowledged_when_it_is_closed_by_force(self) -> None:
        log = log_of(*"ab")
        observer = Receiving(log, lambda position, n: 0.0 if position == 1 else 1_000.0)
        async with feeding(log, observer, FeedPolicy(grace=0, call_limit=None)):
            await asyncio.sleep(0.05)
        assert log.cursor == 1
