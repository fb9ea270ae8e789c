"""A caller that only wants to know that something has happened hears of it, and nothing reads event by event for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.integration.storage.following import count_reads, fail_to_read

from trackside.app.storage import Store
from trackside.app.storage._databases.growth import log_end
from trackside.app.storage.errors import DamagedDatabaseError, DatabaseBusyError
from trackside.harness.errors import ClosedError


async def skipped(follower: Any) -> int:
    """Have a follower skip what there is, and return its position."""
    async with asyncio.timeout(30):
        await follower.skip()
    return int(follower.position)


async def test_what_comes_is_skipped_together_whoever_writes_it_and_not_read(store: Store, url: str, script) -> None:
    async with Store.open(url) as other:
        await store.append(script().whole())
        follower = store.follow(0)
        assert await skipped(follower) == 5
        reads = count_reads(store)

        for number in range(2, 5):
            writer = (other, store)[number % 2]
            waiting = asyncio.create_task(skipped(follower))
            await asyncio.sleep(0)
            await writer.append([event for _ in range(200) for event in script().whole()])
            position = await waiting
            while position < 5 + (number - 1) * 1_000:  # what others commit may become visible in parts
                position = await skipped(follower)
            assert position == 5 + (number - 1) * 1_000

        assert {read.__name__ for read in reads} <= {log_end.__name__}
        assert not store._feed._begun


async def test_one_that_wants_a_run_skips_what_is_there_of_it_and_hears_nothing_of_others(store: Store, script) -> None:
    run, other = script(), script()
    follower = store.follow(0, run_id=run.run_id)
    waiting = asyncio.create_task(skipped(follower))
    await store.append(other.whole())
    await asyncio.sleep(0)
    assert not waiting.done()
    await store.append(run.whole())
    assert await waiting == 10

    waiting = asyncio.create_task(skipped(follower))
    await store.append(script().whole())
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


async def test_a_database_that_is_away_is_waited_for_and_a_broken_one_is_told(store: Store, url: str, script) -> None:
    heard: list[Exception] = []
    follower = store.follow(0, on_outage=heard.append)
    back = fail_to_read(store, DatabaseBusyError(database="here", seconds=1))
    waiting = asyncio.create_task(skipped(follower))
    async with Store.open(url) as other:
        await other.append(script().whole())
    async with asyncio.timeout(30):
        while not heard:
            await asyncio.sleep(0)
    back()
    assert await waiting == 5

    fail_to_read(store, DamagedDatabaseError(database="here", why="no"))
    waiting = asyncio.create_task(skipped(follower))
    async with Store.open(url) as other:
        await other.append(script().whole())
    with pytest.raises(DamagedDatabaseError):
        await waiting


async def test_closing_the_store_ends_the_wait(url: str) -> None:
    async with Store.open(url) as store:
        waiting = asyncio.create_task(skipped(store.follow(0)))
        await asyncio.sleep(0)
    with pytest.raises(ClosedError):
        await waiting
