"""Events that are parked: passed by the cursor, shown, and retried or dropped when somebody says so; none is lost."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import Connection
from tests.integration.storage.subscribed import end_leases, positions

from trackside.app.storage import Store
from trackside.app.storage.errors import InvalidSubscriptionError, NotParkedError
from trackside.app.storage.subscriptions import SubscriptionFilter, Subscriptions


@pytest.mark.usefixtures("five")
class TestParking:
    async def test_a_parked_event_is_passed_seen_and_retried(self, subs: Subscriptions, five: Any) -> None:
        await subs.open("mail", start="beginning")
        consumer = await subs.acquire("mail")
        await consumer.read()
        await consumer.acknowledge(1)
        await consumer.park(2, "no\0 way \ud800", attempts=3)

        (parked,) = await subs.parked("mail")
        standing = await subs.get("mail")

        assert (parked.stored, parked.state, parked.attempts) == (five[1], "parked", 3)
        assert parked.error == "no\N{REPLACEMENT CHARACTER} way ?"
        assert (standing.parked, standing.cursor, standing.last_error) == (1, 2, parked.error)
        assert positions((await consumer.read()).events) == [3, 4, 5]
        assert await consumer.read_retries() == []

        assert await subs.retry_parked("mail", 2) == 1
        (again,) = await consumer.read_retries()
        assert again.stored == five[1]
        await consumer.park(2, "still no", attempts=4)
        (parked,) = await subs.parked("mail")
        assert (parked.state, parked.attempts, parked.error) == ("parked", 4, "still no")
        assert (await subs.get("mail")).cursor == 2

        await subs.retry_parked("mail")
        await consumer.read_retries()
        await consumer.settle_retry(2)
        assert await subs.parked("mail") == []

    async def test_large_events_are_retried_a_few_at_once(self, subs: Subscriptions, store: Store, script: Any) -> None:
        run = script()
        await store.append([run.started(), *(run.message("x" * 100_000) for _ in range(3))])
        await subs.open("mail", start=6)
        consumer = await subs.acquire("mail")
        for stored in (await consumer.read()).events:
            await consumer.park(stored.position, "no")
        await subs.retry_parked("mail")

        found = await consumer.read_retries(max_bytes=150_000)

        assert [parked.stored.position for parked in found] == [7, 8]

    async def test_what_was_settled_while_one_looked_for_retries_is_not_retried_again(
        self, subs: Subscriptions, store: Store
    ) -> None:
        await subs.open("mail", start="beginning")
        consumer = await subs.acquire("mail")
        await consumer.read()
        await consumer.park(1, "no")
        await consumer.park(2, "no")
        await subs.retry_parked("mail")
        await consumer.read_retries()
        looked, go_on = asyncio.Event(), asyncio.Event()
        run = store._readers.run

        async def slowly[T](read: Callable[[Connection], T]) -> T:
            found = await run(read)
            looked.set()
            await go_on.wait()
            return found

        store._readers.run = slowly  # type: ignore[method-assign]
        looking = asyncio.create_task(consumer.read_retries())
        await looked.wait()
        store._readers.run = run  # type: ignore[method-assign]
        await consumer.settle_retry(1)
        await consumer.park(2, "still no", attempts=2)
        go_on.set()

        assert await looking == []
        await subs.retry_parked("mail", 2)
        assert [again.stored.position for again in await consumer.read_retries()] == [2]

    async def test_only_what_was_read_can_be_parked(self, subs: Subscriptions) -> None:
        await subs.open("mail", start="beginning")
        consumer = await subs.acquire("mail")
        await consumer.read(3)

        await consumer.acknowledge(1)
        for position in (1, 4, 0):
            with pytest.raises(
                InvalidSubscriptionError, match="only an event that was read and not acknowledged can be"
            ):
                await consumer.park(position, "no")
        with pytest.raises(InvalidSubscriptionError, match="it is not being retried"):
            await consumer.settle_retry(1)

        assert await subs.parked("mail") == []

    async def test_an_event_is_parked_ahead_of_others_and_stays_when_they_are_passed(self, subs: Subscriptions) -> None:
        await subs.open("mail", start="beginning")
        async with await subs.acquire("mail") as consumer:
            await consumer.read(2)
            assert positions((await consumer.read(2, ahead=True)).events) == [3, 4]
            await consumer.park(2, "no")
            await consumer.park(4, "no")
            before = await subs.get("mail")
            await subs.retry_parked("mail", 2)
            assert await consumer.read_retries() == []  # what is before it comes first

            await consumer.acknowledge(3)
            assert [parked.stored.position for parked in await consumer.read_retries()] == [2]
            assert positions((await consumer.read(ahead=True)).events) == [5]
            await consumer.acknowledge(5)
            assert not consumer._parked_ahead  # it keeps nothing that it has passed

        assert (before.cursor, before.parked) == (0, 2)
        assert [(parked.stored.position, parked.state) for parked in await subs.parked("mail")] == [
            (2, "retry"),
            (4, "parked"),
        ]

    async def test_what_was_parked_ahead_and_is_handled_when_it_is_read_again_is_not_parked_any_more(
        self, subs: Subscriptions
    ) -> None:
        await subs.open("mail", start="beginning")
        consumer = await subs.acquire("mail")
        await consumer.read(3)
        await consumer.park(2, "no")

        await consumer.read(3)  # from the cursor, as after a failure of the store
        await consumer.acknowledge(3)

        assert await subs.parked("mail") == []

    async def test_what_was_parked_ahead_comes_again_after_a_death_and_is_handled_or_parked_anew(
        self, subs: Subscriptions, store: Store
    ) -> None:
        await subs.open("mail", start="beginning")
        died = await subs.acquire("mail")
        await died.read()
        await died.park(2, "no")
        await died.park(3, "no")
        await end_leases(store)

        async with await subs.acquire("mail") as consumer:
            assert positions((await consumer.read()).events) == [1, 2, 3, 4, 5]
            await consumer.park(3, "still no")
            await consumer.acknowledge(5)

        assert [(parked.stored.position, parked.error) for parked in await subs.parked("mail")] == [(3, "still no")]

    async def test_an_event_that_is_handled_in_a_replay_is_not_parked_any_more(self, subs: Subscriptions) -> None:
        await subs.open("mail", start="beginning")
        async with await subs.acquire("mail") as consumer:
            await consumer.read()
            for position in (1, 2, 3):
                await consumer.park(position, "no")
        await subs.seek("mail", "beginning")
        await subs.retry_parked("mail")
        async with await subs.acquire("mail") as consumer:
            assert await consumer.read_retries() == []  # they come anyway
            await consumer.read()
            await consumer.acknowledge(1)
            await consumer.park(2, "no again")

        parked = [(event.stored.position, event.error, event.state) for event in await subs.parked("mail")]

        assert parked == [(2, "no again", "parked"), (3, "no", "retry")]

    @pytest.mark.parametrize("wanted", [{"types": "run_completed"}, {"agent": "another"}], ids=["type", "agent"])
    async def test_what_is_parked_and_not_wanted_any_more_stays_parked_in_a_replay(
        self, subs: Subscriptions, wanted: Any
    ) -> None:
        await subs.open("mail", start="beginning")
        async with await subs.acquire("mail") as consumer:
            await consumer.read()
            await consumer.park(1, "no")
        await subs.update("mail", filter=SubscriptionFilter.of(**wanted))
        await subs.seek("mail", "beginning")
        async with await subs.acquire("mail") as consumer:
            batch = await consumer.read()
            await consumer.acknowledge(batch.through)

        assert [event.stored.position for event in await subs.parked("mail")] == [1]
        assert (await subs.get("mail")).cursor == 5

    async def test_parked_events_are_dropped_one_or_all(self, subs: Subscriptions, store: Store) -> None:
        await subs.open("mail", start="beginning")
        consumer = await subs.acquire("mail")
        await consumer.read()
        for position in (1, 2, 3):
            await consumer.park(position, "no")

        assert await subs.drop_parked("mail", 2) == 1
        for decide in (subs.drop_parked, subs.retry_parked):
            with pytest.raises(NotParkedError, match="no event parked at position 2"):
                await decide("mail", 2)
        assert [parked.stored.position for parked in await subs.parked("mail", after=1)] == [3]
        assert await subs.drop_parked("mail") == 2
        assert await subs.drop_parked("mail") == 0
        assert len(await store.events()) == 5

    @pytest.mark.parametrize("drops", [True, False])
    async def test_what_was_parked_since_somebody_has_looked_is_not_decided_on(
        self, subs: Subscriptions, drops: bool
    ) -> None:
        await subs.open("mail", start="beginning")
        consumer = await subs.acquire("mail")
        await consumer.read()
        for position in (1, 3):
            await consumer.park(position, "no")
        until = max(parked.parked_at for parked in await subs.parked("mail"))
        assert (await subs.get("mail")).last_parked_at == until
        await consumer.park(2, "the receiver is away")

        decide = subs.drop_parked if drops else subs.retry_parked
        assert await decide("mail", until=until.astimezone(timezone(timedelta(hours=2)))) == 2
        left = {parked.stored.position: parked.state.value for parked in await subs.parked("mail")}
        assert left == ({2: "parked"} if drops else {1: "retry", 2: "parked", 3: "retry"})
        assert (await subs.get("mail")).to_retry == (0 if drops else 2)
        assert await decide("mail") == len(left)
        assert (await subs.get("mail")).last_parked_at == (None if drops else max(await self.times(subs)))

    @staticmethod
    async def times(subs: Subscriptions) -> list[datetime]:
        return [parked.parked_at for parked in await subs.parked("mail")]

    async def test_failures_are_shown_until_something_is_handled(self, subs: Subscriptions) -> None:
        await subs.open("mail", start="beginning", on_failure="block")
        consumer = await subs.acquire("mail")
        await consumer.read()
        await consumer.note_failure("x" * 10_000, attempts=7)

        failing = await subs.get("mail")
        await consumer.acknowledge(1)
        handled = await subs.get("mail")

        assert (failing.failures, len(failing.last_error or ""), failing.last_error_at is None) == (7, 2_000, False)
        assert (handled.failures, handled.last_error) == (0, failing.last_error)
