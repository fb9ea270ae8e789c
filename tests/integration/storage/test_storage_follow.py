"""Following the log: complete, in order, without end; whoever writes, however many follow, however slow they are."""

import asyncio
import gc
import sqlite3
import sys
import textwrap
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from postgres_server import PostgresServer

from trackside import RunLifecycleEvent, RunManager, RunSpec
from trackside.app.storage import Follower, FollowOptions, Store, StoredEvent
from trackside.app.storage.errors import (
    DamagedDatabaseError,
    DatabaseIOError,
    FollowerBusyError,
    ForeignLoopError,
    InvalidQueryError,
    StorageError,
    StoreOptionError,
)
from trackside.harness.context import run_of
from trackside.harness.errors import ClosedError

NO_LOOKING = FollowOptions(look_every=3600)
"""What other processes commit is never seen by itself: what comes, comes by push."""


@pytest.fixture
async def pushed(url: str, store: Store) -> AsyncIterator[Store]:
    """A store that is only told of its own commits."""
    async with Store.open(url, follow=NO_LOOKING) as store:
        yield store


async def take(follower: Follower, count: int) -> list[StoredEvent]:
    async with asyncio.timeout(60):
        return [await anext(follower) for _ in range(count)]


async def positions(follower: Follower, count: int) -> list[int]:
    return [stored.position for stored in await take(follower, count)]


async def settle() -> None:
    """Let everything happen that needs no more than the loop."""
    for _ in range(10):
        await asyncio.sleep(0)


def waiters(store: Store) -> int:
    return sum(map(len, store._feed._waiting.values()))


def looks(store: Store) -> int:
    """How often the database was looked at for commits of others; never where it tells of them."""
    return getattr(store._signals, "looks", 0)


def count_reads(store: Store) -> list[Any]:
    """Every read of the database from now on."""
    reads: list[Any] = []
    run = store._readers.run

    async def counted(read: Callable[..., Any]) -> Any:
        reads.append(read)
        return await run(read)

    store._readers.run = counted  # type: ignore[method-assign]
    return reads


def fail_to_read(store: Store, error: StorageError) -> Callable[[], None]:
    """Have every read of a store fail, until what this gives is called."""
    run = store._readers.run

    async def fail(read: Callable[..., Any]) -> Any:
        raise error

    def work() -> None:
        store._readers.run = run  # type: ignore[method-assign]

    store._readers.run = fail  # type: ignore[method-assign]
    return work


async def test_what_is_there_comes_first_and_then_what_is_appended(pushed: Store, script) -> None:
    await pushed.append(script().whole())
    start, middle, end = pushed.follow(), pushed.follow(after=3), pushed.follow(after=5)

    assert await positions(start, 5) == [1, 2, 3, 4, 5]
    assert await positions(middle, 2) == [4, 5]
    waiting = [asyncio.ensure_future(anext(follower)) for follower in (start, middle, end)]
    await settle()
    (appended, *_) = await pushed.append(script().whole())

    assert await asyncio.gather(*waiting) == [appended] * 3
    assert await positions(end, 4) == [7, 8, 9, 10]
    assert await take(start, 4) == await pushed.events(after=6)


async def test_an_empty_log_is_waited_on(pushed: Store, script) -> None:
    follower = pushed.follow()
    first = asyncio.ensure_future(anext(follower))
    await settle()
    assert not first.done()

    await pushed.append(script().whole())

    assert (await first).position == 1
    assert await positions(follower, 4) == [2, 3, 4, 5]


async def test_every_single_append_wakes_those_who_wait_though_nobody_looks(pushed: Store, script) -> None:
    follower = pushed.follow()
    for number in range(1, 21):
        waiting = asyncio.ensure_future(take(follower, 1))
        await settle()
        await pushed.append([script().started()])
        assert [stored.position for stored in await waiting] == [number]

    assert looks(pushed) == 0


async def test_followers_that_start_at_any_time_see_everything_once(store: Store, script) -> None:
    total = 4 * 25 * 5
    started: list[asyncio.Task[list[int]]] = []

    async def produce() -> None:
        for number in range(25):
            await store.append(script().whole())
            if number % 5 == 0:
                started.append(asyncio.create_task(positions(store.follow(), total)))

    await asyncio.gather(*(produce() for _ in range(4)))

    assert len(started) == 20
    for seen in await asyncio.gather(*started):
        assert seen == list(range(1, total + 1))


async def test_a_thousand_followers_have_one_reader(pushed: Store, script) -> None:
    await pushed.append(script().whole())
    reads = count_reads(pushed)
    tasks = [asyncio.ensure_future(positions(pushed.follow(after=5), 50)) for _ in range(1_000)]
    while waiters(pushed) < 1_000:
        await asyncio.sleep(0)
    for _ in range(10):
        await pushed.append(script().whole())

    for seen in await asyncio.gather(*tasks):
        assert seen == list(range(6, 56))
    assert len(reads) <= 3


async def test_what_another_store_commits_is_read_once_for_all(url: str, pushed: Store, script) -> None:
    reads = count_reads(pushed)
    tasks = [asyncio.ensure_future(positions(pushed.follow(), 11)) for _ in range(200)]
    while not pushed._feed.holds(0):  # else it begins behind what comes, and each has to read that for itself
        await asyncio.sleep(0.01)
    await settle()
    async with Store.open(url) as other:
        await other.append(script().whole())
        await pushed.append(script().whole())  # that something lies before these is how this store learns of it
        await other.append([script().started()])
        pushed._signals._hint()

        for seen in await asyncio.gather(*tasks):
            assert seen == list(range(1, 12))
    # Each would have made one of its own, at least; on a busy machine the one for all comes in several parts.
    assert len(reads) < len(tasks) / 4


async def test_commits_of_others_are_noticed_by_looking_and_nobody_looks_without_need(
    url: str, store: Store, script
) -> None:
    async with Store.open(url) as other:
        follower = store.follow()
        await other.append(script().whole())
        assert await positions(follower, 5) == [1, 2, 3, 4, 5]  # all there is: nobody had to wait
        assert looks(store) == 0
        for number in range(6, 10):
            waiting = asyncio.ensure_future(positions(follower, 1))
            await settle()
            await other.append([script().started()])
            assert await waiting == [number]
    assert not store._signals._listeners


WRITER = textwrap.dedent("""
    import asyncio, sys
    from datetime import UTC, datetime
    from trackside.app.storage import Store
    from trackside.harness.ids import new_id
    from trackside.harness.observer import LifecycleEventType, RunLifecycleEvent

    async def produce(store, runs):
        for _ in range(runs):
            run_id = new_id()
            for sequence, kind in enumerate(["run_started", "human_message", "run_completed"], 1):
                event = RunLifecycleEvent(
                    new_id(), LifecycleEventType(kind), run_id, "shared", sequence, datetime.now(UTC), {}
                )
                await store.append([event])

    async def main():
        async with Store.open(sys.argv[1]) as store:
            print("open", flush=True)
            sys.stdin.readline()
            await asyncio.gather(*(produce(store, 20) for _ in range(3)))

    asyncio.run(main())
""")


async def test_what_looks_for_all_who_follow_is_in_no_run(store: Store, script) -> None:
    async def following(input: Any) -> None:
        await anext(store.follow())

    store._feed._behind = True  # as others' commits leave it that come while nobody waits
    async with RunManager({"following": following}) as manager:
        run = await manager.start(RunSpec("following"))
        while waiters(store) < 1:
            await asyncio.sleep(0.005)
        waiting = asyncio.create_task(anext(store.follow(thread_id="another")))
        while waiters(store) < 2:
            await asyncio.sleep(0.005)
        await store.append(script().whole())
        await run.result()
    assert [task.get_name() for task in asyncio.all_tasks() if run_of(task) is not None] == []
    assert store._feed._reader is not None
    assert run_of(store._feed._reader) is None
    waiting.cancel()
    await asyncio.wait({waiting})


async def test_two_processes_write_and_followers_miss_nothing_and_see_nothing_twice(
    url: str, store: Store, script
) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, url, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    await child.stdout.readline()
    theirs, ours = 3 * 20 * 3, 3 * 20 * 5
    small = FollowOptions(recent_count=16)
    async with Store.open(url, follow=small, read_only=True) as reader:
        followers = [store.follow() for _ in range(50)] + [reader.follow() for _ in range(50)]
        tasks = [asyncio.ensure_future(positions(follower, theirs + ours)) for follower in followers]
        await settle()
        child.stdin.write(b"go\n")

        async def produce() -> None:
            for _ in range(20):
                await store.append(script().whole())

        await asyncio.gather(*(produce() for _ in range(3)))

        for seen in await asyncio.gather(*tasks):
            assert seen == list(range(1, theirs + ours + 1))
    assert await child.wait() == 0


def around_the_next_read(
    store: Store,
    *,
    before: Callable[[], Awaitable[Any]] | None = None,
    after: Callable[[], Awaitable[Any]] | None = None,
) -> None:
    """Let something happen between the moment in which the store is about to read and the one that its read sees, or
    between that one and the answer."""
    run = store._readers.run

    async def hooked(read: Callable[..., Any]) -> Any:
        store._readers.run = run  # type: ignore[method-assign]
        if before is not None:
            await before()
        found = await run(read)
        if after is not None:
            await after()
        return found

    store._readers.run = hooked  # type: ignore[method-assign]


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


async def test_filters_are_those_of_events_for_what_is_there_and_for_what_comes(pushed: Store, script) -> None:
    early, late = script(thread_id="t"), script()
    await pushed.append([early.started(agent="rare"), early.thread("busy"), late.started()])
    filters: list[dict[str, Any]] = [
        {"run_id": early.run_id},
        {"thread_id": "t"},
        {"agent": "rare"},
        {"agent": "chat"},
        {"types": "run_completed"},
        {"types": ["run_started", "human_message"]},
        {"since": early.start + timedelta(seconds=2)},
        {"agent": "rare", "types": ["human_message"], "run_id": early.run_id, "thread_id": "t"},
    ]
    whole, new = (
        [collect(pushed.follow(**chosen)) for chosen in filters],
        [collect(pushed.follow(after=3, **chosen)) for chosen in filters],
    )
    await settle()
    await pushed.append([early.message(), late.message()])
    await pushed.append([early.completed(), late.failed(), early.thread("idle"), *script(thread_id="t").whole()])

    for after, followed in ((0, whole), (3, new)):
        for chosen, (seen, task) in zip(filters, followed, strict=True):
            expected = await pushed.events(after, **chosen)
            assert expected, chosen
            async with asyncio.timeout(60):
                while len(seen) < len(expected):
                    await asyncio.sleep(0)
            await settle()
            assert seen == expected, chosen
            task.cancel()


async def test_what_comes_while_an_owner_is_looked_up_is_not_gone_past_for_want_of_its_agent(
    pushed: Store, script
) -> None:
    hers, others = script(), script()
    await pushed.threads_of(None).create(hers.thread_id, belongs_to="ada")
    await pushed.append([hers.started()])
    waiting = asyncio.ensure_future(anext(pushed.follow(after=1, agent="chat", owner="ada")))
    while not waiters(pushed):
        await asyncio.sleep(0)
    await pushed.append([others.started()])

    around_the_next_read(pushed, before=lambda: pushed.append([hers.completed()]))

    async with asyncio.timeout(60):
        assert (await waiting).position == 3


async def test_what_is_wanted_is_not_held_up_by_others_that_go_on_without_end(pushed: Store, script) -> None:
    hers = script()
    await pushed.threads_of(None).create(hers.thread_id, belongs_to="ada")
    await pushed.append([hers.started()])
    follower = pushed.follow(owner="ada")
    await take(follower, 1)
    run = pushed._readers.run

    async def among_others(read: Callable[..., Any]) -> Any:
        found = await run(read)
        await pushed.append([script().started()])
        return found

    pushed._readers.run = among_others  # type: ignore[method-assign]
    await pushed.append([script().started(), hers.completed()])

    assert await positions(follower, 1) == [3]


async def test_who_had_a_thread_follows_nothing_of_another_who_has_begun_it_anew(pushed: Store, script) -> None:
    async def next_of_ada(after: int, *events: RunLifecycleEvent) -> str:
        """Of which run the next event is that ada gets who waits for it while these come."""
        async with asyncio.timeout(60), aclosing(pushed.follow(after=after, owner="ada")) as follower:
            waiting = asyncio.ensure_future(anext(follower))
            while not waiters(pushed):
                await asyncio.sleep(0)
            await pushed.append(events)
            return (await waiting).event.run_id

    threads = pushed.threads_of(None)
    hers = script()
    await threads.create(hers.thread_id, belongs_to="ada")
    await pushed.append([hers.started()])
    assert await next_of_ada(1, hers.completed()) == hers.run_id
    await threads.remove(hers.thread_id)
    await pushed.sweeper().sweep()
    await threads.create(hers.thread_id, belongs_to="bob")
    anew, others = script(thread_id=hers.thread_id), script()
    await pushed.append([anew.started()])
    await threads.create(others.thread_id, belongs_to="ada")

    assert await next_of_ada(3, anew.completed(), others.started()) == others.run_id


async def test_who_has_a_thread_anew_follows_nothing_of_who_had_it_before(pushed: Store, script) -> None:
    threads = pushed.threads_of(None)
    hers = script()
    anew = script(thread_id=hers.thread_id)
    async with asyncio.timeout(60), aclosing(pushed.follow()) as anybody:  # for whom the latest events are kept
        await threads.create(hers.thread_id, belongs_to="ada")
        waiting = asyncio.ensure_future(anext(anybody))
        while not waiters(pushed):
            await asyncio.sleep(0)
        await pushed.append(hers.whole())
        await waiting
        await threads.remove(hers.thread_id)
        await pushed.sweeper().sweep()
        await threads.create(hers.thread_id, belongs_to="bob")
        assert pushed._feed.holds(0)
        async with aclosing(pushed.follow(after=0, owner="bob")) as his:
            following = asyncio.ensure_future(anext(his))
            while waiters(pushed) < 1 and not following.done():
                await asyncio.sleep(0)
            await pushed.append(anew.whole())
            assert (await following).event.run_id == anew.run_id
        async with aclosing(pushed.follow(after=0, owner="ada")) as former:
            waiting = asyncio.ensure_future(anext(former))
            while not waiters(pushed):
                await asyncio.sleep(0)
            assert not waiting.done()
            waiting.cancel()
            await asyncio.wait({waiting})


def collect(follower: Follower) -> tuple[list[StoredEvent], asyncio.Task[None]]:
    """What a follower gives, as it comes."""
    seen: list[StoredEvent] = []

    async def follow() -> None:
        async for stored in follower:
            seen.append(stored)  # noqa: PERF401  # a comprehension shows nothing before it ends

    return seen, asyncio.create_task(follow())


async def test_who_waits_for_something_rare_is_neither_woken_nor_left_behind(url: str, store: Store, script) -> None:
    rare = script()
    async with Store.open(url, follow=FollowOptions(recent_count=8, look_every=3600)) as pushed:
        follower = pushed.follow(run_id=rare.run_id)
        waiting = asyncio.ensure_future(anext(follower))
        await pushed.append([script().started()])
        while rare.run_id not in pushed._feed._waiting:
            await asyncio.sleep(0)
        (waiter,) = pushed._feed._waiting[rare.run_id].values()
        for _ in range(20):
            await pushed.append(script().whole())
        assert pushed._feed._waiting[rare.run_id] == {follower: waiter}
        reads = count_reads(pushed)

        await pushed.append([rare.started()])

        assert (await waiting).event.run_id == rare.run_id
        assert follower.position == 102
        assert not reads


async def test_the_log_may_have_lost_events_that_were_removed(
    pushed: Store, database: sqlite3.Connection, script
) -> None:
    for _ in range(4):
        await pushed.append(script().whole())
    database.execute("DELETE FROM events WHERE position BETWEEN 6 AND 10 OR position > 15")
    follower = pushed.follow()

    assert await positions(follower, 10) == [1, 2, 3, 4, 5, 11, 12, 13, 14, 15]
    waiting = asyncio.ensure_future(anext(follower))
    await settle()
    await pushed.append(script().whole())
    assert (await waiting).position == 21
    assert await positions(pushed.follow(after=20), 1) == [21]


async def test_a_position_of_an_event_that_was_removed_was_given_out_all_the_same(
    url: str, pushed: Store, database: sqlite3.Connection, script
) -> None:
    await pushed.append(script().whole())
    early = pushed.follow()
    assert await positions(early, 5) == [1, 2, 3, 4, 5]
    async with Store.open(url) as other:
        await other.append(script().whole())
    database.execute("DELETE FROM events WHERE position > 5")

    waiting = asyncio.ensure_future(anext(pushed.follow(after=10)))
    while not waiters(pushed):
        await asyncio.sleep(0)
    await pushed.append([script().started()])

    assert (await waiting).position == 11
    assert await positions(early, 1) == [11]


async def test_a_position_that_nobody_was_given_is_refused(url: str, pushed: Store, script) -> None:
    await pushed.append(script().whole())
    with pytest.raises(InvalidQueryError, match="after=6: the log ends at 5"):
        await anext(pushed.follow(after=6))

    following = asyncio.ensure_future(positions(pushed.follow(), 7))
    await settle()
    async with Store.open(url) as other:
        await other.append([script().started()])
        # This store has not heard of it; but the position was given out, and so it is there.
        next_one = asyncio.ensure_future(anext(pushed.follow(after=6)))
        await pushed.append([script().started()])
    assert (await next_one).position == 7
    assert await following == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"after": -1}, "after"),
        ({"after": "5"}, "after"),
        ({"after": True}, "after"),
        ({"after": 2**63}, "after"),
        ({"run_id": "\0"}, "run_id"),
        ({"thread_id": 7}, "thread_id"),
        ({"agent": b"chat"}, "agent"),
        ({"types": "run_begun"}, "types"),
        ({"types": ["run_started", None]}, "types"),
        ({"since": "yesterday"}, "since"),
        ({"on_outage": "print"}, "on_outage"),
    ],
)
async def test_bad_arguments_are_refused_at_once(store: Store, arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidQueryError, match=field):
        store.follow(**arguments)


@pytest.mark.parametrize(
    "options", [{"recent_count": 0}, {"recent_bytes": 1.5}, {"look_every": 0}, {"look_every": "1"}]
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(StoreOptionError, match=next(iter(options))):
        FollowOptions(**options)


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


async def test_who_follows_goes_on_when_a_server_that_was_away_is_back(
    own_postgres_server: PostgresServer, script, caplog: pytest.LogCaptureFixture
) -> None:
    url = own_postgres_server.create_database("runs")
    outage: asyncio.Future[StorageError] = asyncio.get_running_loop().create_future()
    async with Store.open(url, busy_timeout=0.2) as store, Store.open(url) as other:
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


async def test_waiting_does_not_keep_the_log_beside_the_file_from_being_emptied(
    path: Path, store: Store, database: sqlite3.Connection, script
) -> None:
    follower = store.follow()
    waiting = asyncio.ensure_future(anext(follower))
    while not looks(store):
        await asyncio.sleep(0)
    await store.append(script().whole())
    await waiting
    waiting = asyncio.ensure_future(positions(follower, 9))
    while looks(store) < 3:
        await asyncio.sleep(0)

    assert database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0

    await store.append(script().whole())
    assert await waiting == list(range(2, 11))


async def test_a_follower_belongs_to_the_loop_of_its_store(pushed: Store) -> None:
    with pytest.raises(ForeignLoopError):
        await asyncio.to_thread(asyncio.run, asyncio.wait_for(anext(pushed.follow()), 10))
