"""Following the log: complete, in order, without end; whoever writes, however many follow."""

import asyncio
import sqlite3
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from tests.integration.storage.following import count_reads, looks, positions, settle, take, waiters

from trackside import RunManager, RunSpec
from trackside.app.storage import FollowOptions, Store
from trackside.app.storage.errors import InvalidQueryError, StoreOptionError
from trackside.harness.context import run_of


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
        await pushed.append(script().whole())  # by the positions of these, this store learns that something lies before
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
        async with Store.open(sys.argv[1], busy_timeout=60) as store:  # a file gives nobody a turn
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
