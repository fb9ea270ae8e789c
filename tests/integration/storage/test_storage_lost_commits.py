"""A database loses its last commits while processes live on: readers of the log find what came in their place."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from sqlalchemy import delete, update
from tests.integration.storage.following import hears, waiters
from tests.integration.storage.writer_works import OnSession

from trackside.app.storage import Follower, FollowOptions, Store
from trackside.app.storage._reading import follow as follow_module
from trackside.app.storage._reading import landmarks as landmarks_module
from trackside.app.storage._rows.tables import POSITION, TOKEN, counters, events, runs, subscriptions, threads
from trackside.app.storage.errors import ReadLostError, SubscriptionLostError
from trackside.app.storage.feeding import FeedPolicy, SubscriptionFeed
from trackside.harness.lifecycle import TERMINAL_EVENTS
from trackside.harness.observer import RunLifecycleEvent


async def lose(url: str, *, after: int, **cursors: int) -> None:
    """Undo all after a position, rows and cursors included, as a failover to a lagging replica does."""

    def undo(session: Any) -> None:
        session.execute(delete(events).where(events.c.position > after))
        for table in (runs, threads):
            having = events.c[table.primary_key.columns[0].name]
            session.execute(
                delete(table).where(table.primary_key.columns[0].not_in(events.select().with_only_columns(having)))
            )
        session.execute(update(counters).where(counters.c.name == POSITION).values(value=after))
        for name, cursor in cursors.items():
            session.execute(update(subscriptions).where(subscriptions.c.name == name).values(cursor=cursor))

    async with Store.open(url) as store:
        await store._writer.write(OnSession(undo))


async def append_elsewhere(url: str, *scripts: Any) -> None:
    async with Store.open(url) as store:
        for script in scripts:
            await store.append(script.whole())


async def append_elsewhere_events(url: str, some: list[Any]) -> None:
    async with Store.open(url) as store:
        for event in some:
            await store.append([event])


async def next_ids(follower: Follower, count: int) -> list[str]:
    async with asyncio.timeout(60):
        return [(await anext(follower)).event.run_id for _ in range(count)]


@pytest.fixture
async def follower(store: Store) -> AsyncIterator[Follower]:
    async with aclosing(store.follow(0)) as follower:
        yield follower


@pytest.mark.parametrize("regrown", [0, 1, 2])
async def test_a_follower_hears_of_what_took_the_lost_positions(
    store: Store, url: str, script: Any, follower: Follower, regrown: int, caplog: pytest.LogCaptureFixture
) -> None:
    kept, lost = script(), script()
    await store.append(kept.whole())
    await append_elsewhere(url, lost)
    assert await next_ids(follower, 10) == [kept.run_id] * 5 + [lost.run_id] * 5
    await lose(url, after=7)

    waiting = asyncio.create_task(next_ids(follower, 1)) if regrown else None
    await asyncio.sleep(0)
    others = [script() for _ in range(2)]
    await append_elsewhere(url, *others[:regrown])
    found = [] if waiting is None else await waiting
    await append_elsewhere(url, *others[regrown:])
    found += await next_ids(follower, 10 - len(found))
    assert found == [others[0].run_id] * 5 + [others[1].run_id] * 5
    assert "is followed anew from 7 on" in caplog.text
    assert caplog.text.count("has lost events") == 1


async def test_who_waits_for_the_end_of_a_run_hears_of_it_though_it_got_a_lost_position(
    store: Store, url: str, script: Any, follower: Follower
) -> None:
    kept, lost, run = script(), script(), script()
    await store.append([kept.started(), run.started()])
    await store.append(lost.whole())
    assert len(await next_ids(follower, 7)) == 7
    of_run = store.follow(7, run_id=run.run_id, types=TERMINAL_EVENTS)
    waiting = asyncio.create_task(next_ids(of_run, 1))
    async with asyncio.timeout(60):
        while run.run_id not in store._feed._waiting:
            await asyncio.sleep(0.005)
    await hears(store)  # else the read that listening begins with may find the loss
    await lose(url, after=2)
    async with Store.open(url) as other:
        await other.append([run.failed()])
    assert await waiting == [run.run_id]
    of_run.end()


async def test_what_this_process_commits_in_lost_positions_is_heard_of(
    store: Store, url: str, script: Any, follower: Follower
) -> None:
    kept, lost, new = script(), script(), script()
    await store.append(kept.whole())
    await append_elsewhere(url, lost)
    assert len(await next_ids(follower, 10)) == 10
    await lose(url, after=5)
    await store.append(new.whole())
    assert await next_ids(follower, 5) == [new.run_id] * 5


async def test_who_comes_when_what_this_process_has_committed_is_lost_waits_and_does_not_read_on_and_on(
    store: Store, url: str, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.append(script().whole())
    await lose(url, after=0)
    reads = 0
    read_on = follow_module._read_on

    def read(*arguments: Any, **options: Any) -> Any:
        nonlocal reads
        reads += 1
        return read_on(*arguments, **options)

    monkeypatch.setattr(follow_module, "_read_on", read)
    async with aclosing(store.follow(0)) as follower:
        waiting = asyncio.create_task(next_ids(follower, 1))
        await asyncio.sleep(0.3)
        assert reads <= 3
        new = script()
        await append_elsewhere(url, new)
        assert await waiting == [new.run_id]


async def test_what_was_written_once_more_behind_something_new_does_not_hide_that(
    store: Store, url: str, script: Any, follower: Follower
) -> None:
    kept, lost, again, new, other = (script() for _ in range(5))
    written = again.whole()
    await append_elsewhere(url, kept)
    await store.append([lost.started()])
    await append_elsewhere_events(url, written)
    assert len(await next_ids(follower, 11)) == 11
    await lose(url, after=5)
    await append_elsewhere_events(url, [new.started(), *written[:4], other.started()])
    assert await next_ids(follower, 6) == [new.run_id, *[again.run_id] * 4, other.run_id]


async def test_nothing_that_this_process_commits_next_hides_the_loss_before_it_is_read(
    store: Store, url: str, script: Any, follower: Follower
) -> None:
    await append_elsewhere(url, script(), script())
    assert len(await next_ids(follower, 10)) == 10
    await lose(url, after=5)
    first, second = script(), script()
    async with store._feed._reading_lock:  # as while the database is still away for the reader
        await store.append(first.whole())
        await store.append(second.whole())
    assert await next_ids(follower, 10) == [first.run_id] * 5 + [second.run_id] * 5


@pytest.mark.parametrize("who", ["this process", "another one"])
async def test_nothing_hides_the_loss_while_the_log_cannot_be_read(
    store: Store, url: str, script: Any, follower: Follower, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append_elsewhere(url, script(), script())
    assert len(await next_ids(follower, 10)) == 10
    await lose(url, after=5)

    async def away(*arguments: Any) -> Any:
        tried.set()
        raise ReadLostError(database="it", why="it is away")

    tried, (first, second) = asyncio.Event(), (script(), script())
    run = store._readers.run
    monkeypatch.setattr(store._readers, "run", away)
    waiting = asyncio.create_task(next_ids(follower, 10))
    await asyncio.sleep(0)
    if who == "this process":
        await store.append(first.whole())
    else:
        await append_elsewhere(url, first)
    store._feed._fall_behind()
    await tried.wait()
    await store.append(second.whole())
    monkeypatch.setattr(store._readers, "run", run)
    assert await waiting == [first.run_id] * 5 + [second.run_id] * 5


async def test_nothing_hides_a_loss_that_was_seen_until_it_is_known_from_where_on(
    store: Store, url: str, script: Any, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append_elsewhere(url, script(), script())
    assert len(await next_ids(follower, 10)) == 10
    loop, failed, last_common = asyncio.get_running_loop(), asyncio.Event(), follow_module.last_common

    def away(connection: Any, known: Any) -> int:
        loop.call_soon_threadsafe(failed.set)
        raise ReadLostError(database="it", why="it is away")

    monkeypatch.setattr(follow_module, "last_common", away)
    waiting = asyncio.create_task(next_ids(follower, 10))
    new, own = script(), script()
    async with store._feed._reading_lock:
        await lose(url, after=5)
        await append_elsewhere(url, new)
    store._feed._fall_behind()
    await failed.wait()
    await store.append(own.whole())
    monkeypatch.setattr(follow_module, "last_common", last_common)
    assert await waiting == [new.run_id] * 5 + [own.run_id] * 5


async def test_what_is_looked_for_behind_a_loss_is_bounded(
    url: str, dialect: str, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def landmarks(connection: Any, start: int, through: int) -> Any:
        asked.append(through - start)
        return landmarks_of(connection, start, through)

    landmarks_of = landmarks_module.landmarks
    await append_elsewhere(url, *(script() for _ in range(3)))
    async with Store.open(url, follow=FollowOptions(recent_count=4)) as store, aclosing(store.follow(15)) as follower:
        waiting = asyncio.create_task(next_ids(follower, 5))
        while not waiters(store):
            await asyncio.sleep(0.005)
        await store.append(script().whole())
        await waiting
        monkeypatch.setattr(landmarks_module, "landmarks", landmarks)
        await lose(url, after=17)
        new = script()
        waiting = asyncio.create_task(next_ids(follower, 5))
        await append_elsewhere(url, new)
        assert await waiting == [new.run_id] * 5
    assert max(asked) <= 5


@pytest.mark.parametrize("looks_between", [True, False])
async def test_who_only_wants_to_know_that_the_log_grows_hears_of_it(
    store: Store, url: str, script: Any, follower: Follower, looks_between: bool
) -> None:
    await append_elsewhere(url, script(), script())
    async with asyncio.timeout(60):
        while follower.position < 10:
            await follower.skip()
        waiting = asyncio.create_task(follower.skip())
        while not store._feed.growth._waiting:
            await asyncio.sleep(0.005)
        await hears(store, growth=True)
        await lose(url, after=5)
        if looks_between:
            await waiting
            assert follower.position == 5
            waiting = asyncio.create_task(follower.skip())
        await append_elsewhere(url, script(), script())
        await waiting


async def test_a_subscription_delivers_what_took_the_positions_that_it_had_read(
    store: Store, url: str, script: Any
) -> None:
    kept, lost, new = script(), script(), script()
    await store.append(kept.whole())
    await store.subscriptions.open("s", start="beginning")
    consumer = await store.subscriptions.acquire("s", consumer="a", lease_seconds=60)
    await append_elsewhere(url, lost)
    batch = await consumer.read()
    assert batch.through == 10
    await lose(url, after=6)
    for step in (consumer.acknowledge(10), consumer.renew(), consumer.read(ahead=True)):
        with pytest.raises(SubscriptionLostError):
            await step
    await append_elsewhere(url, new)
    assert (await store.subscriptions.get("s")).cursor == 0
    for step in (consumer.acknowledge(10), consumer.renew(), consumer.read(ahead=True)):
        with pytest.raises(SubscriptionLostError):
            await step
    await consumer.release()
    consumer = await store.subscriptions.acquire("s", consumer="b", lease_seconds=60)
    batch = await consumer.read()
    assert [stored.event.run_id for stored in batch.events][-5:] == [new.run_id] * 5
    await consumer.acknowledge(batch.through)
    assert (await store.subscriptions.get("s")).cursor == 11
    await consumer.release()


async def test_one_that_waits_at_the_end_goes_on_behind_what_took_its_place(
    store: Store, url: str, script: Any
) -> None:
    await store.append(script().whole())
    await store.subscriptions.open("s", start="now")
    consumer = await store.subscriptions.acquire("s", consumer="a", lease_seconds=60)
    await append_elsewhere(url, script())
    assert len((await consumer.read()).events) == 5
    await consumer.acknowledge(10)
    await lose(url, after=5, s=5)
    await append_elsewhere(url, script(), script())
    with pytest.raises(SubscriptionLostError):
        await consumer.renew()
    await consumer.release()
    assert (await store.subscriptions.get("s")).cursor == 5


async def test_who_feeds_a_subscription_goes_on_at_once_and_waits_for_no_lease_of_its_own(
    store: Store, url: str, script: Any
) -> None:
    handled: list[str] = []

    async def handle(event: RunLifecycleEvent) -> None:
        handled.append(event.run_id)

    await append_elsewhere(url, script(), script())
    await store.subscriptions.open("s", start="beginning")
    async with (
        SubscriptionFeed(store.subscriptions, "s", handle, policy=FeedPolicy(lease_seconds=600)),
        asyncio.timeout(60),
    ):
        while len(handled) < 10 or (await store.subscriptions.get("s")).cursor < 10:
            await asyncio.sleep(0.01)
        await lose(url, after=5, s=5)
        new = script()
        await append_elsewhere(url, new)
        while new.run_id not in handled:
            await asyncio.sleep(0.01)
    assert handled[10:] == [new.run_id] * 5


async def test_a_token_that_is_given_again_is_not_taken_for_ones_own(store: Store, url: str, script: Any) -> None:
    await store.append(script().whole())
    await store.subscriptions.open("s", start="beginning")
    mine = await store.subscriptions.acquire("s", consumer="a", lease_seconds=60)
    back = update(counters).where(counters.c.name == TOKEN).values(value=mine.token - 1)
    nobody = update(subscriptions).values(consumer=None, lease_until=None, clock=None, token=0)
    await store._writer.write(OnSession(lambda session: [session.execute(back), session.execute(nobody)]))
    other = await store.subscriptions.acquire("s", consumer="b", lease_seconds=60)
    assert other.token == mine.token
    with pytest.raises(SubscriptionLostError):
        await mine.renew()
    await other.release()
