"""Leases of subscriptions: one consumer at a time; who comes after one whose lease has ended goes on where it stood."""

import asyncio
import threading
from typing import Any

import pytest
from sqlalchemy import update
from tests.integration.storage.subscribed import end_leases, positions
from tests.integration.storage.writer_works import OnSession

from trackside.app.storage import Store
from trackside.app.storage._rows.tables import subscriptions as table
from trackside.app.storage._writing.work import Work
from trackside.app.storage.errors import SubscriptionBusyError, SubscriptionLostError
from trackside.app.storage.subscriptions import Subscriptions


@pytest.mark.usefixtures("five")
class TestLeases:
    async def test_one_consumer_at_a_time(self, subs: Subscriptions, url: str) -> None:
        await subs.open("mail")
        consumer = await subs.acquire("mail", consumer="first", lease_seconds=20)

        async with Store.open(url) as other:
            with pytest.raises(SubscriptionBusyError, match="belongs to consumer 'first'") as busy:
                await other.subscriptions.acquire("mail")
            assert 0 < busy.value.seconds <= 20
            assert (await other.subscriptions.get("mail")).consumer == "first"

            await consumer.release()
            assert (await other.subscriptions.get("mail")).consumer is None
            await other.subscriptions.acquire("mail", consumer="second")
            await consumer.release()  # the lease of another is not given back
            assert (await other.subscriptions.get("mail")).consumer == "second"

    async def test_nobody_waits_for_a_subscription_that_another_is_at(
        self, subs: Subscriptions, store: Store, dialect: str, url: str
    ) -> None:
        if dialect == "sqlite":
            pytest.skip("one transaction at a time is all that there is")
        await subs.open("mail")
        begun, going_on = threading.Event(), threading.Event()

        def hold(session: Any) -> None:
            session.execute(update(table).values(failures=1))
            begun.set()
            going_on.wait()

        async with Store.open(url) as other:
            holding = asyncio.create_task(other._writer.write(OnSession(hold)))
            await asyncio.to_thread(begun.wait)
            try:
                with pytest.raises(SubscriptionBusyError):
                    await subs.acquire("mail")
            finally:
                going_on.set()
            await holding
        await subs.acquire("mail")

    @pytest.mark.parametrize(
        "ending",
        [{"lease_until": 0.0}, {"clock": "the start before"}, {"lease_until": table.c.lease_until + 3_000}],
        ids=["time", "restart", "clock set back"],
    )
    async def test_when_its_lease_has_ended_another_takes_over_and_the_first_can_do_nothing(
        self, subs: Subscriptions, store: Store, ending: dict[str, Any]
    ) -> None:
        await subs.open("mail", start="beginning")
        first = await subs.acquire("mail", consumer="first")
        await first.read()
        await first.park(1, "no")
        await subs.retry_parked("mail")
        await first.read_retries()
        await end_leases(store, **ending)

        second = await subs.acquire("mail", consumer="second")
        standing = await subs.get("mail")

        for step in (
            first.read(),
            first.read_retries(),
            first.acknowledge(5),
            first.park(2, "no"),
            first.note_failure("no", attempts=1),
            first.settle_retry(1),
            first.check(),
            first.renew(),
        ):
            with pytest.raises(SubscriptionLostError, match="'first' no longer has subscription 'mail'"):
                await step
        assert await subs.get("mail") == standing
        assert second.token > first.token
        assert positions((await second.read()).events) == [2, 3, 4, 5]

    async def test_a_lease_that_has_ended_unnoticed_can_still_be_renewed(
        self, subs: Subscriptions, store: Store
    ) -> None:
        await subs.open("mail")
        consumer = await subs.acquire("mail")
        await end_leases(store)

        assert await consumer.renew() is False

        with pytest.raises(SubscriptionBusyError):
            await subs.acquire("mail")

    async def test_a_reply_that_was_lost_does_not_lock_the_consumer_out(
        self, subs: Subscriptions, store: Store
    ) -> None:
        """The writer repeats what it may have committed: the second time it finds its own work."""
        await subs.open("mail", start="beginning")

        class Twice:
            def __init__(self, writer: Any) -> None:
                self._writer = writer

            async def write(self, work: Work) -> Any:
                first = await self._writer.write(work)
                second = await self._writer.write(work)
                assert first == second
                return second

        subs._writer = Twice(store._writer)
        consumer = await subs.acquire("mail")
        consumer._writer = subs._writer
        await consumer.read()
        await consumer.park(1, "no")
        await consumer.acknowledge(2)
        await consumer.note_failure("no", attempts=1)
        assert await consumer.renew() is False
        assert await subs.retry_parked("mail") == 1
        await consumer.read_retries()
        await consumer.settle_retry(1)
        await consumer.park(3, "no")
        assert await subs.drop_parked("mail", 3) == 1
        await consumer.release()
        await subs.pause("mail")
        await subs.resume("mail")
        await subs.seek("mail", 1)
        await subs.update("mail", on_failure="block")
        assert (await subs.get("mail")).cursor == 1
        await subs.delete("mail")
        assert await subs.all() == []


async def test_a_lease_does_not_end_with_the_wall_clock(subs: Subscriptions, monkeypatch: pytest.MonkeyPatch) -> None:
    await subs.open("mail")
    await subs.acquire("mail", consumer="first")

    for day in (-86_400.0, 86_400.0):
        monkeypatch.setattr("time.time", lambda day=day: 1_769_850_000.0 + day)
        with pytest.raises(SubscriptionBusyError):
            await subs.acquire("mail")
