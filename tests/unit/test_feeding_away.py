"""How a feed waits for receivers that are away, hold events back, or are gone: timed by the virtual clock."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence

import pytest
from tests.contract.ways_to_run import virtual
from tests.property.feeding_model import positions
from tests.unit.fed_receivers import SIDE_BY_SIDE, Receiving, broken, feeding, log_of

from trackside.app.delivery import DeliveryError, Order
from trackside.app.storage.feeding import FeedPolicy
from trackside.harness.observer import PartlyTaken, RunLifecycleEvent


def away(retry_after: float | None = None) -> DeliveryError:
    return DeliveryError(receiver="the hook", what="an event", why="503", away=True, retry_after=retry_after)


def held_back(retry_after: float | None = None) -> DeliveryError:
    return DeliveryError(receiver="a limit", what="an event", why="later", held_back=True, retry_after=retry_after)


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
