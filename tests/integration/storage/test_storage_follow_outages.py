"""Following a log that cannot be read for a while: who follows hears of it, and goes on when it can be read again."""

import asyncio
from typing import Any

import pytest
from postgres_server import PostgresServer
from tests.integration.storage.following import NO_LOOKING, collect, fail_to_read, positions, settle

from trackside.app.storage import Store
from trackside.app.storage.errors import DamagedDatabaseError, DatabaseIOError, StorageError


async def test_who_follows_goes_on_when_a_server_that_was_away_is_back(
    own_postgres_server: PostgresServer, script, caplog: pytest.LogCaptureFixture
) -> None:
    url = own_postgres_server.create_database("runs")
    outage: asyncio.Future[StorageError] = asyncio.get_running_loop().create_future()
    async with Store.open(url, busy_timeout=0.2) as store, Store.open(url, busy_timeout=60) as other:
        await store.append(script().whole())
        waiting = asyncio.ensure_future(positions(store.follow(after=5, on_outage=outage.set_result), 5))
        theirs = asyncio.ensure_future(positions(other.follow(after=3), 7))
        await settle()
        await asyncio.to_thread(own_postgres_server.stop, "immediate")
        store._signals._hint()
        error = await outage
        behind = asyncio.ensure_future(positions(store.follow(), 10))
        await settle()
        assert not any(task.done() for task in (waiting, theirs, behind))
        await asyncio.to_thread(own_postgres_server.start)
        await other.append(script().whole())

        assert await waiting == [6, 7, 8, 9, 10]
        assert await theirs == [4, 5, 6, 7, 8, 9, 10]
        assert await behind == list(range(1, 11))

    assert error.retryable
    said = [record.getMessage() for record in caplog.records if "cannot be followed for now" in record.getMessage()]
    assert said == [f"the log cannot be followed for now, and is tried again until it can: {error}"]


async def test_a_follower_that_waits_for_its_database_can_be_ended(url: str, store: Store, script) -> None:
    async with Store.open(url, follow=NO_LOOKING) as store:
        outages: asyncio.Queue[StorageError] = asyncio.Queue()
        fail_to_read(store, DatabaseIOError(database="runs.db", why="gone"))
        ended, closed = (store.follow(on_outage=outages.put_nowait) for _ in range(2))
        tasks = [collect(follower)[1] for follower in (ended, closed)]
        assert {(await outages.get()).details["why"] for _ in tasks} == {"gone"}
        ended.end()
        await tasks[0]
        assert not tasks[1].done()

    await tasks[1]
    assert outages.empty()


async def test_what_a_follower_is_told_of_an_outage_may_fail_without_harm(store: Store, script) -> None:
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[Any] = loop.create_future()
    loop.set_exception_handler(lambda _, context: failed.set_result(context["exception"]))

    def hear(error: StorageError) -> None:
        raise LookupError

    works = fail_to_read(store, DatabaseIOError(database="runs.db", why="gone"))
    following = asyncio.ensure_future(positions(store.follow(on_outage=hear), 1))
    assert isinstance(await failed, LookupError)
    works()
    await store.append([script().started()])

    assert await following == [1]


async def test_when_the_log_cannot_be_read_all_who_wait_hear_of_it_and_may_go_on(
    url: str, pushed: Store, script
) -> None:
    followers = [pushed.follow() for _ in range(3)]
    waiting = [asyncio.ensure_future(anext(follower)) for follower in followers]
    await settle()
    await pushed.append([script().started()])
    await asyncio.gather(*waiting)
    waiting = [asyncio.ensure_future(anext(follower)) for follower in followers]
    await settle()
    works = fail_to_read(pushed, DamagedDatabaseError(database="runs.db", why="torn"))
    async with Store.open(url) as other:
        await other.append([script().started()])
    pushed._signals._hint()
    failures = await asyncio.gather(*waiting, return_exceptions=True)
    works()

    assert [type(failure) for failure in failures] == [DamagedDatabaseError] * 3
    assert len({id(failure) for failure in failures}) == 3
    for follower in followers:
        assert await positions(follower, 1) == [2]
