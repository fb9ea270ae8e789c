"""Feeding an observer from a subscription: in order, at least once, across failures of the observer and hand-overs."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from trackside import RunManager, RunSpec
from trackside.app.delivery import DeliveryError, Order
from trackside.app.storage import Store, StoredEvent, feeding
from trackside.app.storage._feeding import delivery
from trackside.app.storage._feeding.window import MOST_AHEAD
from trackside.app.storage._rows.tables import subscriptions as table
from trackside.app.storage._writing.work import UnitOfWork, Work
from trackside.app.storage.errors import InvalidSubscriptionError, UnknownSubscriptionError
from trackside.app.storage.feeding import FeedPolicy, SubscriptionFeed
from trackside.app.storage.subscriptions import Subscription, SubscriptionConsumer, Subscriptions
from trackside.harness.errors import NotAnObserverError, ThreadBusyError, TracksideError
from trackside.harness.observer import PartlyTaken, RunLifecycleEvent

AT_ONCE = FeedPolicy(first_pause=0, attempts=3)


class Watching:
    """An observer that remembers what it was given, and fails as it is told to."""

    def __init__(
        self, fail: Callable[[RunLifecycleEvent, int], BaseException | None] = lambda event, times: None
    ) -> None:
        self.given: list[RunLifecycleEvent] = []
        self.taken: list[RunLifecycleEvent] = []
        self._fail = fail
        self._times: Counter[str] = Counter()
        self._changed = asyncio.Condition()

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await self._note(self.given, event)
        self._times[event.event_id] += 1
        if (failure := self._fail(event, self._times[event.event_id])) is not None:
            raise failure
        await self._note(self.taken, event)

    async def _note(self, where: list[RunLifecycleEvent], event: RunLifecycleEvent) -> None:
        async with self._changed:
            where.append(event)
            self._changed.notify_all()

    async def has_taken(self, number: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.taken) >= number)


class WatchingBatches(Watching):
    """As `Watching`, but takes batches, all or nothing."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.batches: list[int] = []

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        self.batches.append(len(events))
        failures = [failure for event in events if (failure := self._fail(event, 1)) is not None]
        if failures:
            raise failures[0]
        for event in events:
            await self._note(self.taken, event)


class EndLeases(Work):
    """As if the time of all leases were up."""

    @property
    def size(self) -> int:
        return 1

    def apply(self, unit: UnitOfWork) -> None:
        unit.session.execute(update(table).values(lease_until=0.0))


@pytest.fixture(autouse=True)
def wake_ups_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feed that has to look for itself, because it was not told, hangs its test."""
    monkeypatch.setattr(feeding, "LOOK_EVERY", 3_600.0)
    monkeypatch.setattr(delivery, "LOOK_EVERY", 3_600.0)


@pytest.fixture
def subs(store: Store) -> Subscriptions:
    return store.subscriptions


@pytest.fixture
async def other_store(store: Store, url: str) -> AsyncIterator[Store]:
    """Another store on the same database, as another process would have it."""
    async with Store.open(url) as other:
        yield other


@pytest.fixture
async def five(store: Store, script: Any) -> Sequence[StoredEvent]:
    """One whole run, events 1 to 5, and a subscription to it."""
    await store.subscriptions.open("mail", start="beginning")
    return await store.append(script().whole())


async def until(subs: Subscriptions, holds: Callable[[Subscription], bool]) -> Subscription:
    """Wait until the subscription stands like this."""
    while not holds(standing := await subs.get("mail")):
        await asyncio.sleep(0.005)
    return standing


def failing_on(*sequences: int, error: Callable[[], BaseException] = lambda: LookupError("no such address")) -> Any:
    return lambda event, times: error() if event.sequence in sequences else None


def sequences(events: Sequence[RunLifecycleEvent]) -> list[int]:
    return [event.sequence for event in events]


async def assert_balanced(feed: SubscriptionFeed, subs: Subscriptions, **counts: int) -> None:
    await feed.aclose()
    found = feed.counts
    assert {name: getattr(found, name) for name in counts} == counts
    assert found.read == found.handled + found.parked + found.returned
    assert found.pending == 0
    assert (await subs.get("mail")).consumer is None


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


class Hopeless(TracksideError):
    """It will never work."""

    fault = "observer"


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
