"""A database that loses its last commits while processes live on: whoever reads the log finds what came in their place."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from sqlalchemy import delete, update
from tests.integration.storage.test_storage_subscriptions import OnSession

from trackside.app.storage import Follower, Store
from trackside.app.storage._tables import POSITION, TOKEN, counters, events, runs, subscriptions, threads
from trackside.app.storage.errors import SubscriptionLostError
from trackside.harness.lifecycle import TERMINAL_EVENTS


async def lose(url: str, *, after: int, **cursors: int) -> None:
    """As a failover to a replica does which was behind: what came after a position is gone, and so is how it stood."""

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


async def next_ids(follower: Follower, count: int) -> list[str]:
    async with asyncio.timeout(10):
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
    await asyncio.sleep(0.1)
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


@pytest.mark.parametrize("looks_between", [True, False])
async def test_who_only_wants_to_know_that_the_log_grows_hears_of_it(
    store: Store, url: str, script: Any, follower: Follower, looks_between: bool
) -> None:
    await append_elsewhere(url, script(), script())
    async with asyncio.timeout(10):
        while follower.position < 10:
            await follower.skip()
        waiting = asyncio.create_task(follower.skip())
        await asyncio.sleep(0.1)
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
