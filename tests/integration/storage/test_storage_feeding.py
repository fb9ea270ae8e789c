"""Feeding an observer from a subscription: in order, at least once, across pauses, stops and hand-overs."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import update
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

from trackside.app.delivery import DeliveryError, Order
from trackside.app.storage import Store, StoredEvent
from trackside.app.storage._feeding.window import MOST_AHEAD
from trackside.app.storage._rows.tables import subscriptions as table
from trackside.app.storage._writing.work import UnitOfWork, Work
from trackside.app.storage.errors import InvalidSubscriptionError, UnknownSubscriptionError
from trackside.app.storage.feeding import FeedPolicy, SubscriptionFeed
from trackside.app.storage.subscriptions import SubscriptionConsumer, Subscriptions
from trackside.harness.errors import NotAnObserverError
from trackside.harness.observer import RunLifecycleEvent

__all__ = ["five", "other_store", "wake_ups_alone"]


class EndLeases(Work):
    """As if the time of all leases were up."""

    @property
    def size(self) -> int:
        return 1

    def apply(self, unit: UnitOfWork) -> None:
        unit.session.execute(update(table).values(lease_until=0.0))


class TestDelivery:
    @pytest.mark.parametrize("kind", [Watching, WatchingBatches])
    async def test_what_is_there_and_what_comes_arrives_in_order_and_once(
        self, subs: Subscriptions, store: Store, five: Any, script: Any, kind: type[Watching]
    ) -> None:
        observer = kind()
        async with SubscriptionFeed(subs, "mail", observer, policy=FeedPolicy(batch=2)) as feed:
            await observer.has_taken(5)
            later = await store.append(script().whole())
            await observer.has_taken(10)
            await until(subs, lambda standing: standing.cursor == 10)

            assert observer.taken == [stored.event for stored in (*five, *later)]
            await assert_balanced(feed, subs, read=10, handled=10, parked=0, failed_calls=0)

    async def test_as_much_at_once_as_is_never_read_ahead_may_be_asked_for(
        self, subs: Subscriptions, five: Any
    ) -> None:
        observer = WatchingBatches()
        policy = FeedPolicy(batch=2 * MOST_AHEAD, window=4 * MOST_AHEAD)
        async with SubscriptionFeed(subs, "mail", observer, policy=policy):
            await observer.has_taken(len(five))

    async def test_what_another_process_appends_arrives(
        self, subs: Subscriptions, five: Any, other_store: Store, script: Any
    ) -> None:
        observer = Watching()
        async with SubscriptionFeed(subs, "mail", observer):
            await until(subs, lambda standing: standing.cursor == 5)
            await other_store.append(script().whole())
            await observer.has_taken(10)

    async def test_an_async_function_is_an_observer(self, subs: Subscriptions, five: Any) -> None:
        taken = []

        async def take(event: RunLifecycleEvent) -> None:
            taken.append(event)

        async with SubscriptionFeed(subs, "mail", take):
            await until(subs, lambda standing: standing.cursor == 5)
        assert taken == [stored.event for stored in five]
        with pytest.raises(NotAnObserverError):
            SubscriptionFeed(subs, "mail", 7)  # type: ignore[arg-type]

    async def test_only_what_is_wanted_arrives_and_the_rest_is_passed(
        self, subs: Subscriptions, store: Store, five: Any
    ) -> None:
        await subs.open("ends", types="run_completed", start="beginning")
        observer = Watching()
        async with SubscriptionFeed(subs, "ends", observer):
            await observer.has_taken(1)
        assert sequences(observer.taken) == [4]
        assert (await subs.get("ends")).cursor == 5


def by_run(events: Sequence[RunLifecycleEvent]) -> dict[str, list[RunLifecycleEvent]]:
    """The events of each run, in the order in which they came."""
    runs: dict[str, list[RunLifecycleEvent]] = {}
    for event in events:
        runs.setdefault(event.run_id, []).append(event)
    return runs


class Slowly(Watching):
    """Takes one event sooner than another."""

    async def on_event(self, event: RunLifecycleEvent) -> None:
        for _ in range(3 * (event.sequence % 3)):
            await asyncio.sleep(0)
        await super().on_event(event)


class TestOrder:
    @pytest.mark.parametrize("start", ["beginning", 7])
    @pytest.mark.parametrize("order", Order)
    async def test_a_late_subscriber_gets_what_a_live_one_got_while_events_go_on(
        self, subs: Subscriptions, store: Store, script: Any, order: Order, start: Any
    ) -> None:
        policy = FeedPolicy(order=order, concurrency=1 if order is Order.log else 4, batch=3, window=8)
        live, late = Slowly(), Slowly()
        await subs.open("mail", start="beginning")
        stored: list[StoredEvent] = []

        async def go_on() -> None:
            for _ in range(6):
                for pair in zip(script().whole(), script().whole(), strict=True):
                    stored.extend(await store.append(pair))

        async with SubscriptionFeed(subs, "mail", live, policy=policy) as feeding_live:
            going_on = asyncio.create_task(go_on())
            await live.has_taken(15)
            await subs.open("late", start=start)
            async with SubscriptionFeed(subs, "late", late, policy=policy) as feeding_late:
                await going_on
                assert await feeding_live.reach(60)
                assert await feeding_late.reach(60)

        missed = 0 if start == "beginning" else start
        assert sorted(sequences(live.taken)) == sorted(sequences([one.event for one in stored]))
        wanted = [one.event for one in stored[missed:]]
        if order is Order.none:
            assert len(late.taken) == len(wanted)
            assert all(event in late.taken for event in wanted)
        else:
            assert by_run(late.taken) == by_run(wanted)
            assert by_run(live.taken) == by_run([one.event for one in stored])
        if order is Order.log:
            assert late.taken == wanted

    @pytest.mark.parametrize("order", [Order.run, Order.none])
    async def test_only_runs_of_the_wanted_agent_arrive_side_by_side_and_the_others_are_passed(
        self, subs: Subscriptions, store: Store, script: Any, order: Order
    ) -> None:
        wanted: list[RunLifecycleEvent] = []
        await subs.open("search", agent="search", start="beginning")
        for agent in ("chat", "search") * 4 + ("chat",):
            run = script()
            events = [run.started(agent=agent), run.thread("busy"), run.message(), run.completed(), run.thread("idle")]
            await store.append(events)
            wanted += events if agent == "search" else []
        observer = Slowly()

        policy = FeedPolicy(order=order, concurrency=3, batch=4, window=7)
        async with SubscriptionFeed(subs, "search", observer, policy=policy) as feed:
            assert await feed.reach(45)

        assert sorted(event.event_id for event in observer.taken) == sorted(event.event_id for event in wanted)
        assert order is Order.none or by_run(observer.taken) == by_run(wanted)
        assert (await subs.get("search")).cursor == 45

    async def test_retention_leaves_what_is_in_hand_however_much_behind_it_is_done(
        self, subs: Subscriptions, store: Store, script: Any
    ) -> None:
        """I30: the cursor stays at the first that is not done, and runs that have events behind it stay."""
        hangs = asyncio.Event()
        runs = [script() for _ in range(3)]
        for run in runs:
            await store.append(run.whole())
        await subs.open("mail", start="beginning")

        class HangsOnce(Watching):
            async def on_event(self, event: RunLifecycleEvent) -> None:
                if event.run_id == runs[1].run_id and event.sequence == 1:
                    await hangs.wait()
                await super().on_event(event)

        observer = HangsOnce(lambda event, times: Hopeless() if event.run_id == runs[2].run_id else None)
        policy = FeedPolicy(order=Order.none, concurrency=4)
        async with SubscriptionFeed(subs, "mail", observer, policy=policy) as feed:
            await until(subs, lambda standing: standing.cursor == 5 and standing.parked == 5)
            pruned = await store.prune(older_than=None)
            hangs.set()
            assert await feed.reach(15)

        assert pruned.runs == 1
        assert {stored.event.run_id for stored in await store.events()} == {run.run_id for run in runs[1:]}
        assert (await store.prune(older_than=None)).runs == 1  # the other one has parked events

    async def test_one_that_is_parked_ahead_of_others_stays_parked_and_comes_again_when_told(
        self, subs: Subscriptions, five: Sequence[StoredEvent]
    ) -> None:
        first_may_end = asyncio.Event()
        works: list[bool] = []
        observer = Watching(lambda event, times: None if event.sequence != 3 or works else Hopeless())

        async def take(event: RunLifecycleEvent) -> None:
            if event.sequence == 1:
                await first_may_end.wait()
            await observer.on_event(event)

        policy = FeedPolicy(order=Order.none, concurrency=2)
        async with SubscriptionFeed(subs, "mail", take, policy=policy) as feed:
            standing = await until(subs, lambda standing: standing.parked == 1)
            await observer.has_taken(3)
            assert (standing.cursor, sequences(observer.taken)) == (0, [2, 4, 5])

            first_may_end.set()
            await feed.reach(5)
            assert [parked.stored for parked in await subs.parked("mail")] == [five[2]]
            works.append(True)
            await subs.retry_parked("mail")
            await until(subs, lambda standing: standing.parked == 0)
            await assert_balanced(feed, subs, read=6, handled=5, parked=1)

    async def test_a_receiver_that_is_gone_pauses_its_subscription(self, subs: Subscriptions, five: Any) -> None:
        gone = DeliveryError(receiver="the hook", what="an event", why="410 Gone", disables=True)
        observer = Watching(lambda event, times: gone if (event.sequence, times) == (3, 1) else None)
        async with SubscriptionFeed(subs, "mail", observer) as feed:
            standing = await until(subs, lambda standing: standing.state == "paused" and standing.consumer is None)
            assert (standing.cursor, standing.failures, standing.parked) == (2, 1, 0)
            assert standing.last_error == "the hook did not take an event: 410 Gone."
            await subs.resume("mail")
            await observer.has_taken(5)
        assert sequences(observer.taken) == [1, 2, 3, 4, 5]
        assert feed.counts.failed_calls == 1


class TestStopping:
    async def test_closing_finishes_what_is_in_hand(self, subs: Subscriptions, five: Any) -> None:
        works = asyncio.Event()
        taken: list[int] = []

        async def take(event: RunLifecycleEvent) -> None:
            if event.sequence == 2:
                begun.set()
                await works.wait()
            taken.append(event.sequence)

        begun = asyncio.Event()
        feed = SubscriptionFeed(subs, "mail", take)
        async with feed:
            await begun.wait()
            closing = asyncio.create_task(feed.aclose())
            await asyncio.sleep(0)
            works.set()
            await closing

        assert taken == [1, 2, 3, 4, 5]
        assert (await subs.get("mail")).cursor == 5
        await assert_balanced(feed, subs, read=5, handled=5)

    async def test_what_does_not_end_in_time_is_left_to_the_next_one(self, subs: Subscriptions, five: Any) -> None:
        observer = Watching()

        async def hang_on_third(event: RunLifecycleEvent) -> None:
            await observer.on_event(event)
            if event.sequence == 3:
                await asyncio.Event().wait()

        async with SubscriptionFeed(subs, "mail", hang_on_third, policy=FeedPolicy(grace=0)) as feed:
            await observer.has_taken(3)
        await assert_balanced(feed, subs, read=5, handled=2, returned=3)

        again = Watching()
        async with SubscriptionFeed(subs, "mail", again):
            await again.has_taken(3)
        assert again.taken == [stored.event for stored in five[2:]]

    async def test_closing_does_not_wait_for_another_try(self, subs: Subscriptions, five: Any) -> None:
        observer = Watching(failing_on(2))
        async with SubscriptionFeed(subs, "mail", observer, policy=FeedPolicy(first_pause=3_600)) as feed:
            await until(subs, lambda standing: standing.failures == 1)
        assert (await subs.get("mail")).cursor == 1
        await assert_balanced(feed, subs, read=5, handled=1, returned=4)

    async def test_it_may_be_closed_before_it_began_and_twice(self, subs: Subscriptions, five: Any) -> None:
        feed = SubscriptionFeed(subs, "mail", Watching())
        await feed.aclose()
        async with feed:
            await feed.aclose()
        assert feed.counts.read == 0

    async def test_it_ends_with_its_subscription(
        self, subs: Subscriptions, store: Store, five: Any, script: Any
    ) -> None:
        observer = Watching()
        async with SubscriptionFeed(subs, "mail", observer) as feed:
            await observer.has_taken(5)
            await subs.delete("mail")
            while feed.failure is None:
                await asyncio.sleep(0.005)
        assert isinstance(feed.failure, UnknownSubscriptionError)
        with pytest.raises(UnknownSubscriptionError):
            async with SubscriptionFeed(subs, "mail", observer):
                pass


class TestHandOver:
    async def test_one_of_two_processes_feeds_and_the_other_takes_over(
        self, subs: Subscriptions, store: Store, five: Any, other_store: Store, script: Any
    ) -> None:
        first, second = Watching(), Watching()
        async with SubscriptionFeed(subs, "mail", first, consumer="first") as feeding_first:
            await until(subs, lambda standing: standing.cursor == 5)
            async with SubscriptionFeed(other_store.subscriptions, "mail", second, consumer="second"):
                await store.append(script().whole())
                await until(subs, lambda standing: standing.cursor == 10)
                assert (len(first.taken), len(second.given)) == (10, 0)

                await feeding_first.aclose()
                await store.append(script().whole())
                await second.has_taken(5)
                assert len(first.taken) == 10
                assert (await subs.get("mail")).consumer == "second"

    async def test_one_that_has_lost_its_lease_stops_and_what_it_did_not_finish_comes_again(
        self, subs: Subscriptions, store: Store, five: Any, other_store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: list[int] = []
        stopped = asyncio.Event()

        async def hang(event: RunLifecycleEvent) -> None:
            given.append(event.sequence)
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

        second, renew = Watching(), SubscriptionConsumer.renew

        async def renew_late(consumer: SubscriptionConsumer) -> bool:
            await second.has_taken(5)  # else it may be this one that has what nobody else has taken yet
            return await renew(consumer)

        monkeypatch.setattr(SubscriptionConsumer, "renew", renew_late)
        async with SubscriptionFeed(subs, "mail", hang, policy=FeedPolicy(lease_seconds=1, grace=0)) as losing:
            while not given:
                await asyncio.sleep(0.005)
            async with SubscriptionFeed(other_store.subscriptions, "mail", second):
                await store._writer.write(EndLeases())
                await second.has_taken(5)
                await stopped.wait()  # its renewal has told it
                assert given == [1]
                assert losing.counts.handled == 0

    async def test_pause_and_resume_under_way(self, subs: Subscriptions, store: Store, five: Any, script: Any) -> None:
        observer = Watching()
        async with SubscriptionFeed(subs, "mail", observer):
            await until(subs, lambda standing: standing.cursor == 5)
            await subs.pause("mail")
            await until(subs, lambda standing: standing.consumer is None)
            await store.append(script().whole())
            assert len(observer.given) == 5

            await subs.resume("mail")
            await observer.has_taken(10)

    async def test_a_pause_is_heeded_within_a_batch(self, subs: Subscriptions, five: Any) -> None:
        going_on = asyncio.Event()

        async def take(event: RunLifecycleEvent) -> None:
            if event.sequence == 2:
                await subs.pause("mail")
                await going_on.wait()

        policy = FeedPolicy(lease_seconds=1)
        async with SubscriptionFeed(subs, "mail", take, policy=policy) as feed:
            while not feed.stats().paused:  # the next renewal says so
                await asyncio.sleep(0.005)
            going_on.set()
            standing = await until(subs, lambda standing: standing.consumer is None)
            assert standing.cursor == 2
            await assert_balanced(feed, subs, read=5, handled=2, returned=3)

    async def test_a_replay_under_way_delivers_the_same_again(
        self, subs: Subscriptions, five: Sequence[StoredEvent]
    ) -> None:
        observer = Watching()
        async with SubscriptionFeed(subs, "mail", observer):
            await observer.has_taken(5)
            await subs.seek("mail", 2)
            await observer.has_taken(8)
        assert observer.taken == [stored.event for stored in (*five, *five[2:])]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch", 0),
        ("batch", 1.5),
        ("attempts", 0),
        ("first_pause", -1),
        ("longest_pause", "1"),
        ("call_limit", 0),
        ("lease_seconds", 0.5),
        ("grace", None),
    ],
)
def test_a_policy_that_does_not_fit(field: str, value: Any) -> None:
    with pytest.raises(InvalidSubscriptionError, match=f"{field}="):
        FeedPolicy(**{field: value})


def test_pauses_grow_and_differ() -> None:
    policy = FeedPolicy(first_pause=1, longest_pause=8)
    for attempts, longest in ((1, 1), (2, 2), (4, 8), (5, 8), (10_000, 8)):
        pauses = {policy.pause(attempts) for _ in range(50)}
        assert longest / 2 <= min(pauses) < max(pauses) <= longest
