"""How a feed delivers concurrently, waits for receivers, and acknowledges: timed by the virtual clock."""

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.contract.ways_to_run import virtual
from tests.property.feeding_model import LogInMemory, positions

from trackside.app.delivery import DeliveryError, Order
from trackside.app.storage._feeding import window as window_module
from trackside.app.storage.errors import DatabaseBusyError, InvalidSubscriptionError
from trackside.app.storage.feeding import FeedPolicy, SubscriptionFeed
from trackside.app.storage.subscriptions import OnFailure
from trackside.harness.observer import PartlyTaken, RunLifecycleEvent
from trackside.testing import make_event

SIDE_BY_SIDE = FeedPolicy(order=Order.none, concurrency=4)
BY_RUN = FeedPolicy(order=Order.run, concurrency=4)


class Receiving:
    """An observer that records when it was called and with what, and does what it is told to."""

    def __init__(self, log: LogInMemory, do: Callable[[int, int], BaseException | float] = lambda position, n: 0.0):
        self._log = log
        self._do = do
        self._times: Counter[str] = Counter()
        self.calls: list[tuple[float, int]] = []
        self.taken: list[RunLifecycleEvent] = []
        self.under_way = self.most_under_way = 0
        self.fails_after = 0.0

    def times(self, position: int) -> list[float]:
        return [time for time, called in self.calls if called == position]

    async def on_event(self, event: RunLifecycleEvent) -> None:
        loop, position = asyncio.get_running_loop(), self._log.position_of(event)
        self.calls.append((loop.time(), position))
        self._times[event.event_id] += 1
        done = self._do(position, self._times[event.event_id])
        if isinstance(done, BaseException):
            await asyncio.sleep(self.fails_after)
            raise done
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(done)
        finally:
            self.under_way -= 1
        self.taken.append(event)
        self._log.handled.add(position)


def log_of(*runs: str, on_failure: OnFailure = OnFailure.park) -> LogInMemory:
    log = LogInMemory(on_failure)
    log.append(make_event(run_id=run, sequence=position) for position, run in enumerate(runs, 1))
    return log


def feeding(log: LogInMemory, observer: Receiving, policy: FeedPolicy) -> SubscriptionFeed:
    return SubscriptionFeed(log.subscriptions, "mail", observer, policy=policy)


def away(retry_after: float | None = None) -> DeliveryError:
    return DeliveryError(receiver="the hook", what="an event", why="503", away=True, retry_after=retry_after)


def broken(retry_after: float | None = None) -> DeliveryError:
    return DeliveryError(receiver="the hook", what="an event", why="500", retry_after=retry_after)


def held_back(retry_after: float | None = None) -> DeliveryError:
    return DeliveryError(receiver="a limit", what="an event", why="later", held_back=True, retry_after=retry_after)


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


class TestAway:
    @virtual
    async def test_a_receiver_that_is_away_is_tried_with_one_event_at_a_time_until_it_is_back(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "trackside.subscriptions")
        log = log_of(*"abcdefgh")
        loop = asyncio.get_running_loop()
        observer = Receiving(log, lambda position, n: away() if loop.time() < 1_000 else 1.0)
        observer.fails_after = 0.5
        policy = FeedPolicy(order=Order.none, concurrency=4, attempts=2, first_pause=1, longest_pause=60)
        async with feeding(log, observer, policy) as feed:
            await asyncio.sleep(900)
            assert (log.cursor, feed.counts.parked, feed.counts.handled) == (0, 0, 0)
            assert log.failures > 10
            assert log.last_error == "the hook did not take an event: 503."
            await feed.reach(8)

        tries = [time for time, _ in observer.calls if 1 < time < 1_000]
        pauses = [after - before - 0.5 for before, after in itertools.pairwise(tries)]
        assert all(30 <= pause <= 61 for pause in pauses[6:])
        assert all(pause > 0.1 for pause in pauses)  # one at a time
        assert (log.cursor, observer.most_under_way) == (8, 4)
        left, back = [record.getMessage() for record in caplog.records]
        assert left == (
            "the receiver of subscription mail is away, and is tried again until it is back: "
            "the hook did not take an event: 503."
        )
        assert back == "the receiver of subscription mail is back"

    @pytest.mark.parametrize(
        ("said", "least", "most"), [(300.0, 300, 301), (86_400.0, 3_600, 3_601), (float("nan"), 0, 2)]
    )
    @pytest.mark.parametrize("kind", [away, broken])
    def test_it_is_left_alone_for_as_long_as_it_says_within_reason(
        self, kind: Callable[[float], DeliveryError], said: float, least: float, most: float
    ) -> None:
        @virtual
        async def test() -> None:
            log = log_of("a")
            observer = Receiving(log, lambda position, n: kind(said) if n == 1 else 0.0)
            async with feeding(log, observer, FeedPolicy(first_pause=1)) as feed:
                await feed.reach(1)
            first, second = observer.times(1)
            assert least <= second - first <= most

        test()

    @virtual
    async def test_a_call_that_began_before_it_went_away_does_not_say_that_it_is_back(self) -> None:
        log = log_of(*"abcd")
        loop = asyncio.get_running_loop()
        observer = Receiving(log, lambda position, n: 3.0 if position == 1 else away() if loop.time() < 4 else 0.0)
        policy = FeedPolicy(order=Order.none, concurrency=2, first_pause=10)
        async with feeding(log, observer, policy) as feed:
            await feed.reach(4)
        assert [position for time, position in observer.calls if time < 5] == [1, 2]

    @virtual
    async def test_calls_that_find_it_away_at_the_same_time_are_one_failure(self) -> None:
        log = log_of(*"abcd")
        loop = asyncio.get_running_loop()
        observer = Receiving(log, lambda position, n: away() if loop.time() < 1 else 0.0)
        observer.fails_after = 0.5
        async with feeding(log, observer, FeedPolicy(order=Order.none, concurrency=4, first_pause=10)) as feed:
            await feed.reach(4)
        assert len(log.times("note_failure")) == 1

    @virtual
    async def test_it_is_left_alone_for_longer_if_a_call_that_began_earlier_is_told_so(self) -> None:
        class Late(Receiving):
            async def on_event(self, event: RunLifecycleEvent) -> None:
                if log.position_of(event) == 2 and not self.times(2):
                    self.calls.append((loop.time(), 2))
                    await asyncio.sleep(0.3)
                    raise away(retry_after=100)
                await super().on_event(event)

        log = log_of(*"ab")
        loop = asyncio.get_running_loop()
        observer = Late(log, lambda position, n: away() if n == 1 and position == 1 else 0.0)
        async with feeding(log, observer, FeedPolicy(order=Order.none, concurrency=2, first_pause=1)) as feed:
            await feed.reach(2)
        assert [time > 100 for time, _ in observer.calls] == [False, False, True, True]

    @virtual
    async def test_what_fails_while_it_is_away_does_not_end_the_pause_and_what_is_refused_does(self) -> None:
        log = log_of(*"abcd")
        failures = {(1, 1): away(), (2, 1): OSError("no"), (3, 1): ValueError("malformed")}
        failures[3, 1].retryable = False  # type: ignore[attr-defined]
        observer = Receiving(log, lambda position, n: failures.get((position, n), 0.0))
        async with feeding(log, observer, FeedPolicy(order=Order.none, first_pause=10)) as feed:
            await feed.reach(4)
        (away_at, *_), (failed_at, *_), refused_at, (next_at,) = (observer.times(n) for n in (1, 2, 3, 4))
        assert failed_at - away_at >= 5
        assert refused_at[0] - failed_at >= 10
        assert next_at - refused_at[0] < 1
        assert [*log.parked] == [3]

    @virtual
    async def test_what_is_held_back_comes_again_when_it_says_however_often_and_holds_up_its_run_alone(self) -> None:
        log = log_of(*"abab")
        observer = Receiving(log, lambda position, n: held_back(100) if position == 1 and n <= 20 else 0.0)
        policy = FeedPolicy(order=Order.run, concurrency=2, attempts=2, first_pause=0.1)
        async with feeding(log, observer, policy) as feed:
            await asyncio.sleep(50)
            assert (positions(log, observer.taken), log.cursor, log.failures) == ([2, 4], 0, 0)
            await feed.reach(4)
        assert feed.counts.failed_calls == 0
        assert positions(log, observer.taken) == [2, 4, 1, 3]
        assert [*log.parked] == []
        assert [later - earlier for earlier, later in itertools.pairwise(observer.times(1))] == pytest.approx(
            [100.0] * 20, abs=1
        )

    @virtual
    async def test_an_event_that_was_held_back_has_all_its_attempts_and_waits_longer_each_time(self) -> None:
        log = log_of("a")
        observer = Receiving(log, lambda position, n: held_back() if n <= 5 else OSError("no"))
        async with feeding(log, observer, FeedPolicy(attempts=3, first_pause=1.0, longest_pause=100)) as feed:
            await feed.reach(1)
        assert ([*log.parked], log.parked[1].attempts) == ([1], 3)
        pauses = [later - earlier for earlier, later in itertools.pairwise(observer.times(1))]
        assert all(2**n / 2 <= pause <= 2**n + 1 for n, pause in enumerate(pauses))

    @virtual
    async def test_what_operators_see_of_failures_is_none_of_what_was_held_back(self) -> None:
        log = log_of("a")
        said = [held_back(10), OSError("no"), held_back(10), held_back(10), OSError("no again")]
        observer = Receiving(log, lambda position, n: said[n - 1] if n <= len(said) else 0.0)
        seen: list[tuple[int, str | None]] = []
        async with feeding(log, observer, FeedPolicy(attempts=9, first_pause=4.0, longest_pause=4.0)) as feed:
            for number in range(1, len(said) + 1):
                while len(observer.times(1)) < number:
                    await asyncio.sleep(0.1)
                await asyncio.sleep(1.0)
                seen.append((log.failures, log.last_error))
            await feed.reach(1)
        assert seen == [(0, None), (1, "no"), (1, "no"), (1, "no"), (2, "no again")]
        assert feed.counts.failed_calls == 2

    @virtual
    async def test_a_batch_that_is_held_back_has_not_failed(self) -> None:
        class Batching(Receiving):
            tries = 0

            async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
                self.tries += 1
                if self.tries == 1:
                    raise held_back(10)
                if self.tries == 2:
                    self.taken.append(events[0])
                    raise PartlyTaken(1, held_back(10))
                self.taken.extend(events)

        log = log_of(*"aaa")
        observer = Batching(log, lambda position, n: held_back(10) if n == 1 else 0.0)
        async with feeding(log, observer, FeedPolicy(order=Order.run)) as feed:
            await feed.reach(3)
        assert (feed.counts.failed_calls, log.times("note_failure")) == (0, [])

    @virtual
    async def test_a_parked_event_that_is_tried_again_is_not_parked_anew_because_it_is_held_back(self) -> None:
        log = log_of("a")
        observer = Receiving(log, lambda position, n: [OSError("no"), held_back(10), held_back(10), 0.0][n - 1])
        async with feeding(log, observer, FeedPolicy(attempts=1)) as feed:
            await feed.reach(1)
            log.retry_parked()
            await asyncio.sleep(60)
        assert (positions(log, observer.taken), [*log.parked]) == ([1], [])

    @virtual
    async def test_closing_does_not_wait_for_a_receiver_that_is_away(self) -> None:
        log = log_of(*"ab")
        async with feeding(log, Receiving(log, lambda position, n: away(3_000)), SIDE_BY_SIDE) as feed:
            await asyncio.sleep(10)
            await feed.aclose()
            assert asyncio.get_running_loop().time() < 11
        assert (log.cursor, feed.counts.returned, log.holder) == (0, 2, None)


class TestGone:
    @virtual
    async def test_a_receiver_that_is_gone_pauses_the_subscription_until_somebody_resumes_it(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        log = log_of(*"abc")
        gone = DeliveryError(receiver="the hook", what="an event", why="410", disables=True)
        observer = Receiving(log, lambda position, n: gone if (position, n) == (2, 1) else 0.0)
        async with feeding(log, observer, FeedPolicy()) as feed:
            await asyncio.sleep(1_000)
            assert (log.paused, log.cursor, [*log.parked]) == (True, 1, [])
            assert log.last_error == "the hook did not take an event: 410."
            assert (feed.stats().paused, feed.stats().active) == (True, False)
            assert "subscription mail is paused until somebody resumes it" in caplog.text

            log.resume()
            await asyncio.sleep(1)
            assert await feed.reach(3)
        assert positions(log, observer.taken) == [1, 2, 3]


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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"concurrency": 2}, "concurrency=2: in the order of the log there is one call at a time"),
        ({"order": "none", "concurrency": 5_000}, "concurrency=5000: it is at most 1000"),
        ({"order": "none", "concurrency": 0}, "concurrency=0"),
        ({"order": "random"}, "order='random': it is one of log, run, none"),
        ({"window": 0}, "window=0"),
    ],
)
def test_a_policy_that_does_not_fit(options: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidSubscriptionError, match=said):
        FeedPolicy(**options)  # type: ignore[arg-type]


def test_a_policy_takes_what_settings_say() -> None:
    assert FeedPolicy(order="none", concurrency=3).order is Order.none  # type: ignore[arg-type]


class Patient:
    order = Order.none
    concurrency = 8
    attempts = 12
    longest_pause = 20.0
    call_limit = 300.0

    async def on_event(self, event: RunLifecycleEvent) -> None: ...


class Counting:
    """Has something else under one of the policy's names."""

    def __init__(self) -> None:
        self.attempts: list[str] = []

    @property
    def longest_pause(self) -> str:
        return "a while"

    async def on_event(self, event: RunLifecycleEvent) -> None: ...


def test_a_policy_suits_what_a_class_says_unless_somebody_says_otherwise() -> None:
    patient = FeedPolicy(order=Order.none, concurrency=8, attempts=12, longest_pause=20.0, call_limit=300.0)
    assert FeedPolicy.suiting(Patient()) == patient
    assert FeedPolicy.suiting(Patient(), attempts=3, order=Order.log, call_limit=1.0) == FeedPolicy(
        attempts=3, longest_pause=20.0, call_limit=1.0
    )
    assert FeedPolicy.suiting(Counting()) == FeedPolicy()
