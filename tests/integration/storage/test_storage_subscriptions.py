"""Durable subscriptions: each event that is wanted comes until it is handled, and the cursor passes nothing else (I25)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import delete
from tests.integration.storage.subscribed import positions
from tests.integration.storage.writer_works import OnSession

from trackside.app.storage import Store, StoredEvent
from trackside.app.storage._rows.tables import events, runs, threads
from trackside.app.storage._subscriptions import reads
from trackside.app.storage.errors import (
    InvalidQueryError,
    InvalidSubscriptionError,
    ReadOnlyStoreError,
    SubscriptionConflictError,
    SubscriptionLostError,
    SubscriptionPausedError,
    UnknownSubscriptionError,
)
from trackside.app.storage.subscriptions import Subscription, SubscriptionFilter, Subscriptions


def remove_all(session: Any) -> None:
    for gone in (events, runs, threads):
        session.execute(delete(gone))


@pytest.mark.usefixtures("five")
class TestOpening:
    async def test_it_begins_where_it_was_told_to(self, subs: Subscriptions) -> None:
        for start, cursor in (("beginning", 0), ("now", 5), (3, 3)):
            opened = await subs.open(f"from {start}", start=start)
            assert (opened.cursor, opened.behind) == (cursor, 5 - cursor)

    async def test_now_is_resolved_once(self, subs: Subscriptions, store: Store, url: str, script: Any) -> None:
        await subs.open("mail")  # and its process dies before it has read anything
        await store.append(script().whole())

        async with Store.open(url) as other:
            again = await other.subscriptions.open("mail", start="now")
            consumer = await other.subscriptions.acquire("mail")
            batch = await consumer.read()

        assert (again.cursor, positions(batch.events)) == (5, [6, 7, 8, 9, 10])

    async def test_it_is_there_again_with_the_same_wishes(self, subs: Subscriptions) -> None:
        opened = await subs.open("mail", types=["run_failed", "run_completed"], start=1)

        again = await subs.open("mail", types=("run_completed", "run_failed", "run_failed"), start="beginning")

        assert again == opened

    async def test_other_wishes_are_refused_under_the_same_name(self, subs: Subscriptions) -> None:
        opened = await subs.open("mail", agent="chat")

        with pytest.raises(SubscriptionConflictError, match="'mail' exists already, with filter"):
            await subs.open("mail", agent="search")
        with pytest.raises(SubscriptionConflictError, match="with on_failure park and not block"):
            await subs.open("mail", agent="chat", on_failure="block")

        assert await subs.get("mail") == opened

    async def test_update_changes_wishes_and_makes_the_consumer_begin_again(self, subs: Subscriptions) -> None:
        await subs.open("mail", agent="chat", start="beginning")
        consumer = await subs.acquire("mail")
        batch = await consumer.read()

        updated = await subs.update("mail", filter=SubscriptionFilter.of(types="run_completed"), on_failure="block")

        assert (updated.filter.agent, updated.filter.types, updated.on_failure) == (None, ("run_completed",), "block")
        with pytest.raises(SubscriptionLostError):
            await consumer.acknowledge(batch.through)
        consumer = await subs.acquire("mail")
        assert positions((await consumer.read()).events) == [4]

    async def test_they_are_listed_by_name_and_deleted_with_all_that_is_theirs(self, subs: Subscriptions) -> None:
        for name in ("mail", "audit", "hook"):
            await subs.open(name, start="beginning")
        consumer = await subs.acquire("hook")
        await consumer.read()
        await consumer.park(1, "no")

        await subs.delete("hook")

        assert [subscription.name for subscription in await subs.all()] == ["audit", "mail"]
        with pytest.raises(SubscriptionLostError):
            await consumer.acknowledge(2)
        with pytest.raises(UnknownSubscriptionError, match="no subscription 'hook'"):
            await subs.delete("hook")
        anew = await subs.open("hook", start="beginning")
        assert (anew.cursor, anew.parked) == (0, 0)
        consumer_of_the_new_one = await subs.acquire("hook")
        assert consumer_of_the_new_one.token > consumer.token  # so the old one's steps are no good here either
        with pytest.raises(SubscriptionLostError):
            await consumer.acknowledge(2)

    async def test_a_store_for_looking_only_shows_them(self, subs: Subscriptions, url: str) -> None:
        await subs.open("mail")
        async with Store.open(url, read_only=True) as looking:
            assert [subscription.name for subscription in await looking.subscriptions.all()] == ["mail"]
            for step in (looking.subscriptions.open("mail"), looking.subscriptions.acquire("mail")):
                with pytest.raises(ReadOnlyStoreError):
                    await step


@pytest.mark.usefixtures("five")
class TestReading:
    async def test_what_is_not_acknowledged_comes_again_the_same(
        self, subs: Subscriptions, five: Sequence[StoredEvent]
    ) -> None:
        await subs.open("mail", start="beginning")
        async with await subs.acquire("mail") as consumer:
            first = await consumer.read(2)
            again = await consumer.read(3)
            await consumer.acknowledge(first.through)
            rest = await consumer.read()
        async with await subs.acquire("mail") as consumer:
            from_the_cursor = await consumer.read()

        assert list(again.events) == list(five[:3])
        assert list(first.events) == list(five[:2])
        assert (rest, list(from_the_cursor.events)) == (from_the_cursor, list(five[2:]))
        assert rest.at_end

    @pytest.mark.parametrize(
        ("wishes", "wanted"),
        [
            ({"types": "run_completed"}, [4, 9]),
            ({"types": ["run_started", "human_message"]}, [1, 3, 6, 8]),
            ({"agent": "search"}, [6, 7, 8, 9, 10]),
            ({"thread_id": "t-2"}, [6, 7, 8, 9, 10]),
            ({"run_id": "r-2", "types": "run_completed"}, [9]),
            ({"agent": "search", "thread_id": "t-1"}, []),
        ],
        ids=str,
    )
    async def test_only_what_is_wanted_comes(
        self, subs: Subscriptions, store: Store, script: Any, wishes: dict[str, Any], wanted: list[int]
    ) -> None:
        run = script(run_id="r-2", thread_id="t-2")
        events = [run.started(agent="search"), run.thread("busy"), run.message(), run.completed(), run.thread("idle")]
        await store.append(events)
        await subs.open("mail", start="beginning", **wishes)
        consumer = await subs.acquire("mail")

        batch = await consumer.read()

        assert (positions(batch.events), batch.through, batch.at_end) == (wanted, 10, True)

    async def test_a_rare_wish_is_looked_for_in_stretches(
        self, subs: Subscriptions, store: Store, script: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reads, "STRETCH", 2)
        last = script()
        await store.append([last.started(), last.failed()])
        await subs.open("mail", types="run_failed", start="beginning")
        consumer = await subs.acquire("mail")

        batches = [await consumer.read() for _ in range(5)]

        assert [(positions(batch.events), batch.through) for batch in batches[:3]] == [([], 2), ([], 4), ([], 6)]
        assert (positions(batches[3].events), batches[3].through, batches[3].at_end) == ([7], 7, True)
        assert batches[4] == batches[3]
        assert (await subs.get("mail")).cursor == 0
        await consumer.renew()  # which takes along what was looked at for nothing
        assert (await subs.get("mail")).cursor == 6

    async def test_who_gives_the_lease_back_leaves_the_cursor_behind_what_nobody_wants(
        self, subs: Subscriptions
    ) -> None:
        await subs.open("mail", types="run_failed", start="beginning")
        async with await subs.acquire("mail") as consumer:
            assert (await consumer.read()).events == ()
        assert (await subs.get("mail")).cursor == 5

    async def test_large_events_are_read_a_few_at_once_and_none_is_passed(
        self, subs: Subscriptions, store: Store, script: Any
    ) -> None:
        run = script()
        await store.append([run.started(), *(run.message("x" * 100_000) for _ in range(4)), run.message()])
        await subs.open("mail", start=5)
        async with await subs.acquire("mail") as consumer:
            found = [await consumer.read(100, ahead=True, max_bytes=250_000) for _ in range(2)]
            await consumer.acknowledge(found[-1].through)
        await subs.seek("mail", 6)
        async with await subs.acquire("mail") as consumer:
            alone = await consumer.read(100, max_bytes=1)

        assert [(positions(batch.events), batch.through, batch.at_end) for batch in found] == [
            ([6, 7, 8, 9], 9, False),
            ([10, 11], 11, True),
        ]
        assert (positions(alone.events), alone.through, alone.at_end) == ([7], 7, False)

    async def test_replay_is_the_history(self, subs: Subscriptions, store: Store, five: Sequence[StoredEvent]) -> None:
        await subs.open("live", start="beginning")
        async with await subs.acquire("live") as consumer:
            live = (await consumer.read()).events
            await consumer.acknowledge(5)

        await subs.seek("live", "beginning")
        await subs.open("fresh", start="beginning")
        replayed = [(await (await subs.acquire(name)).read()).events for name in ("live", "fresh")]

        assert replayed == [live, live]
        assert list(live) == await store.events() == list(five)


@pytest.mark.usefixtures("five")
class TestAcknowledging:
    async def test_the_cursor_only_moves_ahead(self, subs: Subscriptions) -> None:
        await subs.open("mail", start="beginning")
        consumer = await subs.acquire("mail")
        await consumer.read()

        cursors = []
        for position in (3, 2, 3, 0, 5):
            await consumer.acknowledge(position)
            cursors.append((await subs.get("mail")).cursor)

        assert cursors == [3, 3, 3, 3, 5]

    async def test_what_was_not_read_cannot_be_acknowledged(self, subs: Subscriptions) -> None:
        await subs.open("mail", start="beginning")
        consumer = await subs.acquire("mail")
        await consumer.read(2)

        with pytest.raises(InvalidSubscriptionError, match="position=3: only what was read can be acknowledged"):
            await consumer.acknowledge(3)

        assert (await subs.get("mail")).cursor == 0

    async def test_an_event_that_is_committed_meanwhile_is_not_passed(
        self, subs: Subscriptions, store: Store, script: Any
    ) -> None:
        await subs.open("mail", types="run_failed", start="beginning")
        consumer = await subs.acquire("mail")
        batch = await consumer.read()
        run = script()
        await store.append([run.started(), run.failed()])

        await consumer.acknowledge(batch.through)

        assert positions((await consumer.read()).events) == [7]


@pytest.mark.usefixtures("five")
class TestPausingAndSeeking:
    async def test_a_paused_one_gives_nothing_and_keeps_its_place(self, subs: Subscriptions) -> None:
        await subs.open("mail", start="beginning")
        consumer = await subs.acquire("mail")
        await consumer.read(2)

        await subs.pause("mail")

        assert (await subs.get("mail")).state == "paused"
        await consumer.acknowledge(2)  # it is handled: why should it come again
        assert await consumer.renew() is True
        for step in (consumer.read(), consumer.read_retries()):
            with pytest.raises(SubscriptionPausedError):
                await step
        await consumer.release()
        with pytest.raises(SubscriptionPausedError):
            await subs.acquire("mail")
        await subs.resume("mail")
        assert positions((await (await subs.acquire("mail")).read()).events) == [3, 4, 5]

    @pytest.mark.parametrize(("to", "then"), [("beginning", 1), (1, 2), (4, 5), ("now", None)])
    async def test_seek_moves_the_cursor_back_and_ahead_under_a_consumer(
        self, subs: Subscriptions, to: Any, then: int | None
    ) -> None:
        await subs.open("mail", start="beginning")
        consumer = await subs.acquire("mail")
        batch = await consumer.read(3)
        await consumer.acknowledge(2)

        await subs.seek("mail", to)

        with pytest.raises(SubscriptionLostError):
            await consumer.acknowledge(batch.through)
        found = (await (await subs.acquire("mail")).read()).events
        assert next(iter(positions(found)), None) == then


@pytest.mark.usefixtures("five")
class TestRetention:
    async def test_what_a_live_subscription_has_not_passed_or_has_parked_stays(
        self, subs: Subscriptions, store: Store
    ) -> None:
        await subs.open("mail", start="beginning")
        await subs.open("slow", start=4)
        await subs.pause("slow")  # it is live all the same
        async with await subs.acquire("mail") as consumer:
            await consumer.read()
            await consumer.park(1, "no")
            await consumer.acknowledge(5)

        assert (await store.prune(older_than=None)).runs == 0
        await subs.drop_parked("mail")
        assert (await store.prune(older_than=None)).runs == 0
        await subs.delete("slow")
        assert (await store.prune(older_than=None)).runs == 1

    async def test_an_event_that_was_pruned_under_the_consumer_is_passed_and_not_parked(
        self, subs: Subscriptions, store: Store
    ) -> None:
        await subs.open("mail", start="now")
        await subs.seek("mail", "beginning")
        consumer = await subs.acquire("mail")
        await consumer.read()
        # A prune that looked at the cursor before the seek does what it began.
        await store._writer.write(OnSession(remove_all))

        await consumer.park(1, "no")

        assert await subs.parked("mail") == []
        assert (await subs.get("mail")).cursor == 1

    async def test_lag_says_how_far_behind_and_since_when(
        self, subs: Subscriptions, five: Sequence[StoredEvent]
    ) -> None:
        def lag(subscription: Subscription) -> Any:
            return subscription.behind, subscription.oldest_at

        assert lag(await subs.open("behind", start=2)) == (3, five[2].event.occurred_at)
        assert lag(await subs.open("ahead", start="now")) == (0, None)


BAD: dict[str, list[tuple[Any, ...]]] = {
    "name": [("",), ("a\0b",), ("\ud800",), ("x" * 256,), (7,), (None,)],
    "types": [([],), ("run_exploded",), (["run_failed", 3],), (7,)],
    "run_id": [("",), (7,)],
    "thread_id": [("\0",)],
    "agent": [(b"chat",)],
    "start": [(-1,), (6,), (1.5,), (True,), ("yesterday",), (2**63,), (None,)],
    "on_failure": [("explode",), (None,)],
}


@pytest.mark.usefixtures("five")
class TestBadInput:
    @pytest.mark.parametrize(("field", "value"), [(field, value) for field in BAD for (value,) in BAD[field]])
    async def test_opening(self, subs: Subscriptions, field: str, value: Any) -> None:
        with pytest.raises(InvalidSubscriptionError, match=f"^A subscription cannot have {field}="):
            await subs.open(**{"name": "mail", field: value})
        assert await subs.all() == []

    @pytest.mark.parametrize("value", [-1, 6, "later", None, 1.0])
    async def test_seeking(self, subs: Subscriptions, value: Any) -> None:
        opened = await subs.open("mail", start=2)
        with pytest.raises(InvalidSubscriptionError, match="position="):
            await subs.seek("mail", value)
        assert await subs.get("mail") == opened

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("lease_seconds", 0),
            ("lease_seconds", 3_601),
            ("lease_seconds", "30"),
            ("lease_seconds", float("nan")),
            ("consumer", ""),
            ("consumer", 7),
        ],
    )
    async def test_acquiring(self, subs: Subscriptions, field: str, value: Any) -> None:
        await subs.open("mail")
        with pytest.raises(InvalidSubscriptionError, match=f"{field}="):
            await subs.acquire("mail", **{field: value})

    async def test_consuming(self, subs: Subscriptions) -> None:
        await subs.open("mail", start="beginning")
        consumer = await subs.acquire("mail")
        for field, step in (
            ("limit", consumer.read(0)),
            ("limit", consumer.read_retries(True)),
            ("max_bytes", consumer.read(max_bytes=0)),
            ("max_bytes", consumer.read_retries(max_bytes=0)),
            ("position", consumer.acknowledge(-1)),
            ("position", consumer.acknowledge("1")),  # type: ignore[arg-type]
            ("attempts", consumer.park(1, "no", attempts=0)),
            ("after", subs.parked("mail", after=-1)),
            ("limit", subs.parked("mail", limit=0)),
            ("position", subs.retry_parked("mail", "1")),  # type: ignore[arg-type]
            ("filter", subs.update("mail", filter={"agent": "x"})),  # type: ignore[arg-type]
            ("on_failure", subs.update("mail", on_failure="explode")),
        ):
            with pytest.raises(InvalidSubscriptionError, match=f"{field}="):
                await step

    @pytest.mark.parametrize("until", [datetime(2026, 1, 31), "2026-01-31T00:00:00Z"])
    async def test_until_when_is_a_time_that_all_clocks_agree_on(self, subs: Subscriptions, until: Any) -> None:
        await subs.open("mail")
        for decide in (subs.retry_parked, subs.drop_parked):
            with pytest.raises(InvalidQueryError, match="until="):
                await decide("mail", until=until)

    async def test_names_that_are_not_there(self, subs: Subscriptions) -> None:
        name = "x'; DROP TABLE subscriptions; --"
        for step in (
            subs.get(name),
            subs.update(name),
            subs.pause(name),
            subs.resume(name),
            subs.seek(name, 0),
            subs.delete(name),
            subs.acquire(name),
            subs.parked(name),
            subs.retry_parked(name),
            subs.drop_parked(name, 1),
        ):
            with pytest.raises(UnknownSubscriptionError):
                await step
