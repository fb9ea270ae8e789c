"""Feeding an observer that fails: an event is tried again or parked, the others are handled, and none is lost."""

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.integration.storage.fed_observers import (
    Hopeless,
    Watching,
    WatchingBatches,
    assert_balanced,
    failing_on,
    five,
    other_store,
    sequences,
    until,
    wake_ups_alone,
)

from trackside import RunManager, RunSpec
from trackside.app.delivery import DeliveryError
from trackside.app.storage import Store, feeding
from trackside.app.storage.feeding import FeedPolicy, SubscriptionFeed
from trackside.app.storage.subscriptions import Subscriptions
from trackside.harness.errors import ThreadBusyError
from trackside.harness.observer import PartlyTaken, RunLifecycleEvent

__all__ = ["five", "other_store", "wake_ups_alone"]

AT_ONCE = FeedPolicy(first_pause=0, attempts=3)


class TestFailures:
    @pytest.mark.parametrize("kind", [Watching, WatchingBatches])
    async def test_an_event_that_keeps_failing_is_parked_and_the_others_are_handled(
        self, subs: Subscriptions, five: Any, kind: type[Watching]
    ) -> None:
        observer = kind(failing_on(3))
        async with SubscriptionFeed(subs, "mail", observer, policy=AT_ONCE) as feed:
            standing = await until(subs, lambda standing: standing.cursor == 5)
            (parked,) = await subs.parked("mail")

            assert sequences(observer.taken) == [1, 2, 4, 5]
            assert (parked.stored, parked.attempts) == (five[2], 3)
            assert parked.error == "no such address"
            assert (standing.parked, standing.failures, standing.last_error) == (1, 0, "no such address")
            await assert_balanced(feed, subs, read=5, handled=4, parked=1)

    async def test_one_that_says_that_it_will_never_work_is_parked_at_once(
        self, subs: Subscriptions, five: Any
    ) -> None:
        observer = Watching(failing_on(1, 5, error=Hopeless))
        async with SubscriptionFeed(subs, "mail", observer, policy=FeedPolicy(first_pause=3_600)):
            await until(subs, lambda standing: standing.cursor == 5)
        assert sequences(observer.given) == [1, 2, 3, 4, 5]
        assert [parked.attempts for parked in await subs.parked("mail")] == [1, 1]

    async def test_one_that_could_not_start_a_run_as_the_thread_was_busy_is_given_the_event_again(
        self, subs: Subscriptions, five: Any
    ) -> None:
        ending, summarised = asyncio.Event(), []

        async def holding(input: Any) -> None:
            await ending.wait()

        async def summarise(input: Any) -> None:
            summarised.append(input)

        async with RunManager({"holding": holding, "summarise": summarise}) as manager:
            held = await manager.start(RunSpec("holding", thread_id="t"))

            async def follow_up(event: RunLifecycleEvent) -> None:
                spec = RunSpec("summarise", event.sequence, thread_id="t", multitask="reject")
                try:
                    await (await manager.start(spec)).result()
                except ThreadBusyError:
                    ending.set()
                    await held.result()
                    raise

            async with SubscriptionFeed(subs, "mail", follow_up, policy=AT_ONCE):
                await until(subs, lambda standing: standing.cursor == 5)
        assert summarised == [1, 2, 3, 4, 5]
        assert await subs.parked("mail") == []

    async def test_one_that_could_not_start_a_run_as_it_may_never_be_one_has_the_event_parked_at_once(
        self, subs: Subscriptions, five: Any
    ) -> None:
        async def summarise(input: Any) -> None:
            pass

        async with RunManager({"summarise": summarise}) as manager:

            async def follow_up(event: RunLifecycleEvent) -> None:
                await manager.start(RunSpec("summarise", timeout=-event.sequence))

            async with SubscriptionFeed(subs, "mail", follow_up, policy=FeedPolicy(first_pause=3_600)):
                await until(subs, lambda standing: standing.cursor == 5)
        assert [parked.attempts for parked in await subs.parked("mail")] == [1] * 5

    async def test_a_blocking_one_tries_for_ever_and_shows_it(self, subs: Subscriptions, five: Any) -> None:
        works = asyncio.Event()
        await subs.update("mail", on_failure="block")
        observer = Watching(lambda event, times: None if event.sequence < 3 or works.is_set() else Hopeless())
        async with SubscriptionFeed(subs, "mail", observer, policy=AT_ONCE) as feed:
            failing = await until(subs, lambda standing: standing.failures > 5)
            assert (failing.cursor, failing.last_error, failing.parked) == (2, "It will never work.", 0)
            works.set()
            working = await until(subs, lambda standing: standing.cursor == 5)
            assert (working.failures, sequences(observer.taken)) == (0, [1, 2, 3, 4, 5])
            await assert_balanced(feed, subs, read=5, handled=5, parked=0)

    @pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, RecursionError])
    async def test_whatever_an_observer_raises_is_its_own_failure(
        self, subs: Subscriptions, five: Any, error: type[BaseException]
    ) -> None:
        observer = Watching(lambda event, times: error() if times == 1 else None)
        async with SubscriptionFeed(subs, "mail", observer, policy=AT_ONCE) as feed:
            await observer.has_taken(5)
            await assert_balanced(feed, subs, handled=5, failed_calls=5)

    async def test_one_that_hangs_is_given_up_and_tried_again(self, subs: Subscriptions, five: Any) -> None:
        calls: list[int] = []

        async def hang_once(event: RunLifecycleEvent) -> None:
            calls.append(event.sequence)
            if len(calls) == 1:
                await asyncio.Event().wait()

        policy = FeedPolicy(first_pause=0, call_limit=0.02)
        async with SubscriptionFeed(subs, "mail", hang_once, policy=policy):
            await until(subs, lambda standing: standing.cursor == 5)
        assert calls == [1, 1, 2, 3, 4, 5]

    async def test_what_was_taken_of_a_batch_does_not_come_again(self, subs: Subscriptions, five: Any) -> None:
        class Partly(WatchingBatches):
            async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
                if len(events) == 5:
                    for event in events[:2]:
                        await self._note(self.taken, event)
                    raise PartlyTaken(2, OSError("gone"))
                await super().on_events(events)

        observer = Partly()
        async with SubscriptionFeed(subs, "mail", observer, policy=AT_ONCE):
            await until(subs, lambda standing: standing.cursor == 5)
        assert sequences(observer.taken) == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize(
        "policy", [AT_ONCE, FeedPolicy(first_pause=0, attempts=1), FeedPolicy(first_pause=0, batch=4)]
    )
    async def test_of_a_batch_that_failed_only_the_event_that_fails_alone_is_parked(
        self, subs: Subscriptions, five: Any, policy: FeedPolicy
    ) -> None:
        error = OSError if policy.attempts < 5 else Hopeless
        observer = WatchingBatches(failing_on(3, error=error))
        async with SubscriptionFeed(subs, "mail", observer, policy=policy) as feed:
            await until(subs, lambda standing: standing.cursor == 5)
            (parked,) = await subs.parked("mail")

            assert (parked.stored, parked.attempts) == (five[2], policy.attempts if error is OSError else 1)
            assert sequences(observer.taken) == [1, 2, 4, 5]
            assert observer.batches == ([4, 1] if policy.batch == 4 else [5])
            await assert_balanced(feed, subs, read=5, handled=4, parked=1)

    async def test_a_batch_of_which_its_observer_says_that_it_took_all_is_handled(
        self, subs: Subscriptions, five: Any
    ) -> None:
        class All(WatchingBatches):
            async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
                await super().on_events(events)
                raise PartlyTaken(len(events), Hopeless())

        observer = All()
        async with SubscriptionFeed(subs, "mail", observer, policy=AT_ONCE) as feed:
            await until(subs, lambda standing: standing.cursor == 5)
            assert sequences(observer.taken) == [1, 2, 3, 4, 5]
            await assert_balanced(feed, subs, read=5, handled=5, parked=0, failed_calls=0)

    async def test_an_event_given_alone_that_was_taken_in_part_has_failed(self, subs: Subscriptions, five: Any) -> None:
        async def partly(event: RunLifecycleEvent) -> None:
            if event.sequence == 3:
                raise PartlyTaken(1, Hopeless())

        async with SubscriptionFeed(subs, "mail", partly, policy=AT_ONCE) as feed:
            await until(subs, lambda standing: standing.cursor == 5)
            await assert_balanced(feed, subs, read=5, handled=4, parked=1, failed_calls=1)

    async def test_a_batch_whose_receiver_asks_for_rest_is_left_alone_as_long(
        self, subs: Subscriptions, five: Any
    ) -> None:
        busy = DeliveryError(receiver="the hook", what="events", why="429", retry_after=3_600)
        observer = WatchingBatches(failing_on(3, error=lambda: busy))
        async with SubscriptionFeed(subs, "mail", observer) as feed:
            standing = await until(subs, lambda standing: standing.failures == 1)
            assert (standing.cursor, observer.batches, observer.given) == (0, [5], [])
            await assert_balanced(feed, subs, read=5, handled=0, returned=5)

    async def test_parked_events_are_tried_again_when_somebody_says_so(
        self, subs: Subscriptions, five: Any, other_store: Store
    ) -> None:
        works: set[int] = set()
        observer = Watching(lambda event, times: None if event.sequence not in {2, 3} - works else OSError("down"))
        async with SubscriptionFeed(subs, "mail", observer, policy=AT_ONCE) as feed:
            await until(subs, lambda standing: standing.cursor == 5)

            works.add(3)
            assert await other_store.subscriptions.retry_parked("mail") == 2
            await observer.has_taken(4)
            await until(subs, lambda standing: standing.parked == 1)
            while (parked := (await subs.parked("mail"))[0]).state == "retry":
                await asyncio.sleep(0.005)

            assert sequences(observer.taken) == [1, 4, 5, 3]
            assert (parked.stored.position, parked.attempts, parked.error) == (2, 4, "down")
            await assert_balanced(feed, subs, read=7, handled=4, parked=3)

    @pytest.mark.usefixtures("path")
    async def test_the_store_fails_and_comes_back(
        self,
        path: Path,
        url: str,
        database: sqlite3.Connection,
        script: Any,
        monkeypatch: pytest.MonkeyPatch,
        caplog: Any,
    ) -> None:
        monkeypatch.setattr(feeding, "_STORE_PAUSE", 0.01)
        taken: list[int] = []

        async def take(event: RunLifecycleEvent) -> None:
            if not taken:
                await asyncio.to_thread(database.execute, "BEGIN IMMEDIATE")
            taken.append(event.sequence)

        async with Store.open(url, busy_timeout=0.02) as store:
            subs = store.subscriptions
            await subs.open("mail")
            await store.append(script().whole())
            async with SubscriptionFeed(subs, "mail", take) as feed:
                while "could not be fed" not in caplog.text:
                    await asyncio.sleep(0.005)
                database.execute("ROLLBACK")
                await until(subs, lambda standing: standing.cursor == 5)
                await feed.aclose()
        # Within the same lease: it does not lock itself out. What was handled is acknowledged, and does not come again.
        assert "stayed locked" in caplog.text
        assert "Traceback" not in caplog.text
        assert caplog.text.count("could not be fed") == 1
        assert taken == [1, 2, 3, 4, 5]
