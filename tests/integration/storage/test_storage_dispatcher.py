"""Dispatching to all durable observers of an app: each has a subscription; all are opened, fed and closed together."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from trackside.app.delivery import Order
from trackside.app.storage import Store, StoredEvent, dispatcher, feeding
from trackside.app.storage._feeding import delivery
from trackside.app.storage.dispatcher import Dispatcher, DurableObserver
from trackside.app.storage.errors import InvalidSubscriptionError
from trackside.app.storage.feeding import FeedPolicy, SubscriptionFeed
from trackside.app.storage.subscriptions import SubscriptionFilter
from trackside.harness.errors import NotAnObserverError
from trackside.harness.observer import RunLifecycleEvent

LONG = 3_600.0


@pytest.fixture(autouse=True)
def wake_ups_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a test hang if a feed has to look for itself because nobody told it."""
    monkeypatch.setattr(feeding, "LOOK_EVERY", LONG)
    monkeypatch.setattr(delivery, "LOOK_EVERY", LONG)


@pytest.fixture
async def other_store(store: Store, url: str) -> AsyncIterator[Store]:
    """Another store on the same database, as another process would have it."""
    async with Store.open(url) as other:
        yield other


class Taking:
    """An observer that notes what it took, and whether it was closed."""

    def __init__(self) -> None:
        self.taken: list[RunLifecycleEvent] = []
        self.closed = 0

    async def on_event(self, event: RunLifecycleEvent) -> None:
        self.taken.append(event)

    async def aclose(self) -> None:
        self.closed += 1


def events_of(stored: Sequence[StoredEvent]) -> list[RunLifecycleEvent]:
    return [one.event for one in stored]


class TestDispatching:
    async def test_each_observer_gets_what_it_wants_and_is_closed(self, store: Store, script: Any) -> None:
        earlier = await store.append(script().whole())
        everything, ends, new = Taking(), Taking(), Taking()
        durable = [
            DurableObserver(name="everything", observer=everything, start="beginning"),
            DurableObserver(name="ends", observer=ends, start=0, filter=SubscriptionFilter.of(types="run_completed")),
            DurableObserver(name="new", observer=new),
        ]
        async with Dispatcher(store.subscriptions, durable) as dispatching:
            later = await store.append(script().whole())
            report = await dispatching.drain(LONG)
            stats = dispatching.stats()

        assert (report.complete, report.through, report.delivered) == (True, 10, ("everything", "ends", "new"))
        assert everything.taken == events_of([*earlier, *later])
        assert ends.taken == events_of([earlier[3], later[3]])
        assert new.taken == events_of(later)
        assert [(one.subscription, one.active, one.handled_total) for one in stats] == [
            ("everything", True, 10),
            ("ends", True, 2),
            ("new", True, 5),
        ]
        assert [one.closed for one in (everything, ends, new)] == [1, 1, 1]
        assert {one.consumer for one in await store.subscriptions.all()} == {None}

    async def test_it_goes_on_where_it_was(self, store: Store, script: Any) -> None:
        first, second = Taking(), Taking()
        async with Dispatcher(store.subscriptions, [DurableObserver(name="mail", observer=first)]) as dispatching:
            before = await store.append(script().whole())
            await dispatching.drain(LONG)
        between = await store.append(script().whole())
        async with Dispatcher(store.subscriptions, [DurableObserver(name="mail", observer=second)]) as dispatching:
            await dispatching.drain(LONG)
        assert (first.taken, second.taken) == (events_of(before), events_of(between))

    async def test_one_of_two_processes_feeds_and_the_other_takes_over(
        self, store: Store, other_store: Store, script: Any
    ) -> None:
        first, second = Taking(), Taking()
        async with Dispatcher(store.subscriptions, [DurableObserver(name="mail", observer=first)]) as feeding_first:
            await feeding_first.drain(LONG)
            waiting = DurableObserver(name="mail", observer=second)
            async with Dispatcher(other_store.subscriptions, [waiting]) as feeding_then:
                before = await store.append(script().whole())
                await feeding_first.drain(LONG)
                assert (await feeding_then.drain(LONG)).elsewhere == ("mail",)
                assert [one.active for one in feeding_then.stats()] == [False]

                await feeding_first.aclose()
                after = await store.append(script().whole())
                while len(second.taken) < 5:
                    await asyncio.sleep(0.005)
                assert (await feeding_then.drain(LONG)).delivered == ("mail",)
        assert (first.taken, second.taken) == (events_of(before), events_of(after))

    async def test_what_an_observer_wants_now_changes_its_subscription_and_is_said(
        self, store: Store, script: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "trackside.subscriptions")
        await store.subscriptions.open("mail", types="run_failed")
        wanting = DurableObserver(
            name="mail",
            observer=Taking(),
            filter=SubscriptionFilter.of(types="run_completed"),
            on_failure="block",  # type: ignore[arg-type]  # as settings say it
        )
        async with Dispatcher(store.subscriptions, [wanting]):
            standing = await store.subscriptions.get("mail")
        assert (standing.filter.types, standing.on_failure) == (("run_completed",), "block")
        assert "subscription mail was changed: its filter was" in caplog.text


class TestFailures:
    async def test_one_that_cannot_be_opened_says_so_and_the_others_are_fed(
        self, store: Store, script: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        observer = Taking()
        durable = [
            DurableObserver(name="ahead", observer=Taking(), start=1_000),
            DurableObserver(name="mail", observer=observer),
        ]
        async with Dispatcher(store.subscriptions, durable) as dispatching:
            stored = await store.append(script().whole())
            report = await dispatching.drain(LONG)
            assert {name: type(exc) for name, exc in dispatching.failures.items()} == {
                "ahead": InvalidSubscriptionError
            }
        assert (report.delivered, report.elsewhere) == (("mail",), ("ahead",))
        assert observer.taken == events_of(stored)
        assert "subscription ahead could not be opened, and is not fed" in caplog.text

    @pytest.mark.usefixtures("path")
    async def test_a_store_that_fails_at_the_start_is_tried_again(
        self,
        url: str,
        database: sqlite3.Connection,
        script: Any,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(dispatcher, "_OPEN_PAUSE", 0.01)
        observer = Taking()
        async with Store.open(url, busy_timeout=0.02) as store:
            await asyncio.to_thread(database.execute, "BEGIN IMMEDIATE")
            async with Dispatcher(
                store.subscriptions, [DurableObserver(name="mail", observer=observer)]
            ) as dispatching:
                assert "subscription mail could not be opened, and is tried again" in caplog.text
                assert (await dispatching.drain(0)).late == ("mail",)
                database.execute("ROLLBACK")
                assert (await dispatching.drain(LONG)).complete
                stored = await store.append(script().whole())
                await dispatching.drain(LONG)
        assert observer.taken == events_of(stored)

    async def test_a_drain_ends_in_time_and_says_who_is_late(self, store: Store, script: Any) -> None:
        hanging = asyncio.Event()

        async def hang(event: RunLifecycleEvent) -> None:
            await hanging.wait()

        durable = [
            DurableObserver(name="slow", observer=hang, policy=FeedPolicy(grace=0)),
            DurableObserver(name="quick", observer=Taking()),
        ]
        async with Dispatcher(store.subscriptions, durable) as dispatching:
            await dispatching.drain(LONG)
            await store.append(script().whole())
            while dispatching.stats()[1].handled_total < 5 or not dispatching.stats()[0].pending:
                await asyncio.sleep(0.005)
            while "quick" in (report := await dispatching.drain(0.05)).late:
                pass  # what it has taken is not yet stored
        assert (report.complete, report.late, report.delivered) == (False, ("slow",), ("quick",))

    async def test_observers_are_closed_although_closing_is_cancelled(self, store: Store, script: Any) -> None:
        began, ended, last = asyncio.Event(), asyncio.Event(), Taking()

        async def hang(event: RunLifecycleEvent) -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        durable = [
            DurableObserver(name="hanging", observer=hang, policy=FeedPolicy(grace=LONG)),
            DurableObserver(name="last", observer=last),
        ]
        async with Dispatcher(store.subscriptions, durable) as dispatching:
            await store.append(script().whole())
            await began.wait()
            closing = asyncio.create_task(dispatching.aclose())
            await asyncio.sleep(0)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            await ended.wait()
        assert last.closed == 1

    async def test_an_observer_that_cannot_be_closed_keeps_nobody_from_it(
        self, store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dispatcher, "_CLOSE_LIMIT", 0.01)

        class Failing(Taking):
            async def aclose(self) -> None:
                raise OSError("it was not open")

        class Hanging(Taking):
            async def aclose(self) -> None:
                await asyncio.Event().wait()

        last = Taking()
        durable = [
            DurableObserver(name=name, observer=observer)
            for name, observer in (("failing", Failing()), ("hanging", Hanging()), ("last", last))
        ]
        async with Dispatcher(store.subscriptions, durable) as dispatching:
            pass
        await dispatching.aclose()
        assert last.closed == 1
        assert "observer failing could not be closed: it was not open" in caplog.text
        assert "observer hanging could not be closed" in caplog.text


class TestArguments:
    async def test_names_are_unique(self, store: Store) -> None:
        twice = [DurableObserver(name="mail", observer=Taking()) for _ in range(2)]
        with pytest.raises(InvalidSubscriptionError, match="name='mail': each observer has one of its own"):
            Dispatcher(store.subscriptions, twice)

    @pytest.mark.parametrize(
        ("field", "value"),
        [("name", ""), ("start", "tomorrow"), ("start", -1), ("on_failure", "cry"), ("filter", {}), ("policy", 5)],
    )
    def test_what_does_not_fit_is_refused(self, field: str, value: Any) -> None:
        with pytest.raises(InvalidSubscriptionError, match=f"{field}="):
            DurableObserver(**{"name": "mail", "observer": Taking(), field: value})

    def test_the_servers_own_subscription_is_none_of_a_users(self) -> None:
        says = "name='run-webhooks': it is the server's own subscription, whose events this would take: give it another name"
        with pytest.raises(InvalidSubscriptionError, match=says):
            DurableObserver(name="run-webhooks", observer=Taking())

    @pytest.mark.parametrize("observer", [7, None, Taking], ids=repr)
    def test_only_observers_can_be_fed(self, store: Store, observer: Any) -> None:
        with pytest.raises(NotAnObserverError):
            DurableObserver(name="mail", observer=observer)
        with pytest.raises(NotAnObserverError):
            SubscriptionFeed(store.subscriptions, "mail", observer)

    def test_a_class_says_how_it_is_fed(self) -> None:
        class Hook(Taking):
            order = Order.none
            concurrency = 8

        assert DurableObserver(name="hook", observer=Hook()).policy == FeedPolicy(order=Order.none, concurrency=8)
        assert FeedPolicy.suiting(Hook(), order="log") == FeedPolicy()
        assert FeedPolicy.suiting(Hook(), concurrency=2, attempts=1).concurrency == 2
        chosen = FeedPolicy(order=Order.run)
        assert DurableObserver(name="hook", observer=Hook(), policy=chosen).policy == chosen
