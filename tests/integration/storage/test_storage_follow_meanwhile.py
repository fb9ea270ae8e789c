"""Following a log that grows while it is read: each event comes once, however slow one is, and what is kept is bounded."""

import asyncio
import gc

import pytest
from tests.integration.storage.following import around_the_next_read, positions, settle, take, waiters

from trackside.app.storage import FollowOptions, Store
from trackside.app.storage.errors import InvalidQueryError


async def test_what_is_committed_while_the_first_follower_looks_where_the_log_ends_is_not_missed(
    pushed: Store, script
) -> None:
    waiting = asyncio.ensure_future(anext(pushed.follow()))
    while not waiters(pushed):
        await asyncio.sleep(0)
    await pushed.append([script().started()])
    await waiting
    del waiting
    gc.collect()
    # The loop closes a generator that nobody has any more in a task of its own, and what was read for it may be on its way.
    while pushed._feed._followers or not pushed._feed._reader.done():
        await asyncio.sleep(0)
    await pushed.append([script().started()])
    assert not pushed._feed._begun

    around_the_next_read(pushed, after=lambda: pushed.append([script().started()]))

    assert await positions(pushed.follow(after=2), 1) == [3]


async def test_what_is_read_and_was_pushed_meanwhile_comes_once(pushed: Store, script) -> None:
    follower = pushed.follow()
    waiting = asyncio.ensure_future(positions(follower, 3))
    while pushed._feed._reader is None or not pushed._feed._reader.done():
        await asyncio.sleep(0)

    around_the_next_read(pushed, before=lambda: pushed.append([script().started()]))
    pushed._signals._hint()
    while not pushed._feed._reader.done():
        await asyncio.sleep(0)
    await pushed.append([script().started(), script().started()])

    assert await waiting == [1, 2, 3]
    assert [stored.position for stored in pushed._feed._recent._events] == [1, 2, 3]


async def test_who_begins_to_wait_while_the_feed_leaps_ahead_reads_what_lies_between(
    url: str, store: Store, script
) -> None:
    async with (
        Store.open(url, follow=FollowOptions(recent_count=8, look_every=3600)) as pushed,
        Store.open(url) as other,
    ):
        await pushed.append(script().whole())
        early = pushed.follow()
        assert await positions(early, 5) == [1, 2, 3, 4, 5]
        for _ in range(4):
            await other.append(script().whole())
        waiting: list[asyncio.Task[list[int]]] = []

        async def begin_to_wait() -> None:
            waiting.append(asyncio.create_task(positions(early, 20)))
            await settle()

        around_the_next_read(pushed, after=begin_to_wait)
        late = asyncio.ensure_future(anext(pushed.follow(after=25)))

        while not waiting:
            await asyncio.sleep(0)
        assert await waiting[0] == list(range(6, 26))
        await pushed.append([script().started()])
        assert (await late).position == 26


async def test_what_others_commit_may_be_more_than_is_read_at_once(url: str, pushed: Store, script) -> None:
    seen = [asyncio.ensure_future(positions(pushed.follow(), 1_301)) for _ in range(3)]
    while waiters(pushed) < 3:
        await asyncio.sleep(0)
    async with Store.open(url) as other:
        await other.append([event for _ in range(260) for event in script().whole()])
    await pushed.append([script().started()])

    assert await asyncio.gather(*seen) == [list(range(1, 1_302))] * 3


async def test_who_begins_at_the_end_of_more_than_is_read_at_once_waits_for_what_comes(
    url: str, pushed: Store, script
) -> None:
    waiting = asyncio.ensure_future(take(pushed.follow(), 1_301))
    while not waiters(pushed):
        await asyncio.sleep(0)
    async with Store.open(url) as other:
        await other.append([event for _ in range(260) for event in script().whole()])
    end = await pushed.subscriptions.end()
    assert end == 1_300

    late = asyncio.ensure_future(anext(pushed.follow(end)))
    while not late.done() and waiters(pushed) < 2:
        await asyncio.sleep(0)
    with pytest.raises(InvalidQueryError, match="after=1301: the log ends at 1300"):
        await anext(pushed.follow(end + 1))
    await pushed.append([script().started()])

    assert (await late).position == 1_301
    assert len(await waiting) == 1_301


async def test_who_falls_behind_what_is_kept_reads_for_itself_and_holds_up_nobody(
    url: str, store: Store, script
) -> None:
    async with Store.open(url, follow=FollowOptions(recent_count=8, look_every=3600)) as pushed:
        slow, fast = pushed.follow(), pushed.follow()
        await pushed.append([script().started()])
        assert await positions(slow, 1) == await positions(fast, 1) == [1]
        for number in range(60):
            await pushed.append(script().whole())
            assert await positions(fast, 5) == list(range(2 + 5 * number, 7 + 5 * number))
            assert len(pushed._feed._recent._events) <= 8
        assert len(slow._page) == 0  # what it has not asked for, it does not hold either

        assert await positions(slow, 300) == list(range(2, 302))


async def test_what_is_kept_is_bounded_in_bytes(url: str, store: Store, script) -> None:
    async with Store.open(url, follow=FollowOptions(recent_bytes=50_000, look_every=3600)) as pushed:
        follower = pushed.follow()
        await pushed.append([script().started()])
        await take(follower, 1)
        for _ in range(10):
            await pushed.append([script().started(text="x" * 20_000)])
        assert len(pushed._feed._recent._events) == 2
        await pushed.append([script().started(text="x" * 200_000)])
        assert len(pushed._feed._recent._events) == 1

        assert await positions(follower, 11) == list(range(2, 13))
