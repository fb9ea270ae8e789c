"""The end of following: by closing, cancelling or leaving; nothing is lost with it, and nothing is kept for who has gone."""

import asyncio
import gc
import weakref
from typing import Any

import pytest
from tests.integration.storage.following import collect, positions, settle, waiters

from trackside.app.storage import Follower, Store
from trackside.app.storage.errors import FollowerBusyError, ForeignLoopError
from trackside.harness.errors import ClosedError


async def test_closing_the_store_ends_all_followers(url: str, store: Store, script) -> None:
    async with Store.open(url) as closing:
        await closing.append(script().whole())
        waiting, unasked = closing.follow(after=5), closing.follow()
        tasks = [collect(waiting), collect(closing.follow())]
        while len(tasks[1][0]) < 5:
            await asyncio.sleep(0)
        await closing.append([script().started()])

    await asyncio.gather(*(task for _, task in tasks))
    assert [stored async for stored in waiting] == [stored async for stored in unasked] == []
    with pytest.raises(ClosedError):
        closing.follow()


async def test_a_cancelled_wait_loses_nothing(pushed: Store, script) -> None:
    follower = pushed.follow()
    waiting = asyncio.ensure_future(anext(follower))
    while waiters(pushed) < 1:
        await asyncio.sleep(0.005)
    waiting.cancel()
    await asyncio.wait([waiting])
    await pushed.append([script().started()])
    assert await positions(follower, 1) == [1]

    waiting = asyncio.ensure_future(anext(follower))
    while waiters(pushed) < 1:
        await asyncio.sleep(0.005)
    # It has been told in this very moment, and has not run since.
    pushed._feed.on_commit(await rows_of(pushed, script().whole()))
    pushed._feed._tell()
    waiting.cancel()
    await asyncio.wait([waiting])

    assert waiting.cancelled()
    assert await positions(follower, 5) == [2, 3, 4, 5, 6]


async def rows_of(store: Store, events: list[Any]) -> Any:
    """The rows of a commit of which the feed is not told."""
    rows: list[Any] = []
    told, store._writer.on_commit = store._writer.on_commit, [rows.extend]
    await store.append(events)
    store._writer.on_commit = told
    return rows


async def test_a_follower_can_be_ended_from_elsewhere(pushed: Store) -> None:
    follower = pushed.follow()
    seen, task = collect(follower)
    await settle()

    await follower.aclose()
    await follower.aclose()

    await task
    assert seen == []
    with pytest.raises(StopAsyncIteration):
        await anext(follower)


async def test_a_follower_is_for_one_task(pushed: Store, script) -> None:
    follower = pushed.follow()
    waiting = asyncio.ensure_future(anext(follower))
    await settle()

    with pytest.raises(FollowerBusyError):
        await anext(follower)

    await pushed.append([script().started()])
    assert (await waiting).position == 1


async def test_followers_that_were_left_are_forgotten_with_what_was_kept_for_them(pushed: Store, script) -> None:
    await pushed.append(script().whole())

    async def follow_for_a_while() -> weakref.ref[Follower]:
        follower = pushed.follow()
        async for stored in follower:
            if stored.position == 5:
                break
        return weakref.ref(follower)

    async def wait_and_give_up() -> None:
        async for _ in pushed.follow(after=5):
            pass

    left = await asyncio.gather(*(follow_for_a_while() for _ in range(100)))
    waiting = [asyncio.create_task(wait_and_give_up()) for _ in range(100)]
    await settle()
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    del waiting, task
    gc.collect()

    assert not any(reference() for reference in left)
    assert len(pushed._feed._followers) == 0
    assert not pushed._feed._waiting
    assert not pushed._signals._listeners
    await pushed.append(script().whole())
    assert not pushed._feed._recent._events
    await settle()
    assert pushed._feed._reader is not None
    await asyncio.wait([pushed._feed._reader])
    assert {task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}} <= {
        "trackside-signals",
        "trackside-bus",
    }
    assert await positions(pushed.follow(), 10) == list(range(1, 11))


async def test_a_follower_belongs_to_the_loop_of_its_store(pushed: Store) -> None:
    with pytest.raises(ForeignLoopError):
        await asyncio.to_thread(asyncio.run, asyncio.wait_for(anext(pushed.follow()), 60))
