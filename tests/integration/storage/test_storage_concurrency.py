"""Many producers, several processes, bounded queues, cancelled callers: nobody waits for ever, and nothing is lost."""

import asyncio
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest
from blockbuster import BlockBuster
from tests.integration.storage.conftest import held_up

from trackside.app.storage import Store, WriteLimits
from trackside.app.storage.errors import ForeignLoopError
from trackside.harness.errors import ClosedError


async def test_256_producers_get_dense_positions_in_the_order_of_their_runs(store: Store, script) -> None:
    async def produce() -> list[int]:
        return [stored.position for event in script().whole() for stored in await store.append([event])]

    positions = await asyncio.gather(*(produce() for _ in range(256)))

    assert sorted(position for run in positions for position in run) == list(range(1, 256 * 5 + 1))
    assert all(run == sorted(run) for run in positions)
    events = await store.events(limit=2_000)
    assert [event.position for event in events] == list(range(1, 256 * 5 + 1))


async def in_queue(store: Store, asked: Sequence[Coroutine[Any, Any, Any]]) -> list[asyncio.Future[Any]]:
    """Ask for all of this while the store's writer is held up, and return when all of it waits there."""
    writing = [asyncio.ensure_future(one) for one in asked]
    async with asyncio.timeout(30):
        while store.writer_stats().pending < len(writing):
            await asyncio.sleep(0)
    return writing


async def test_what_waits_is_committed_together(url: str, script) -> None:
    commits: list[int] = []

    async with Store.open(url) as store:
        commit = store._writer._commit
        async with held_up(store):
            store._writer._commit = lambda jobs: [commits.append(len(jobs)), commit(jobs)][1]
            appends = await in_queue(store, [store.append(script().whole()) for _ in range(200)])
        await asyncio.gather(*appends)

    assert commits == [200]


@pytest.mark.usefixtures("path")
async def test_a_batch_is_a_handful_of_statements(store: Store, script, blockbuster: BlockBuster) -> None:
    blockbuster.deactivate()  # the test looks into the writer's own connection
    await store.append(script().whole())
    statements: list[str] = []
    store._writer._session._driver.set_trace_callback(statements.append)

    await store.append([event for _ in range(200) for event in script().whole()])

    # `executemany` would make one statement per row, and fight for the GIL for each.
    assert len(statements) < 50


async def test_a_transaction_takes_no_more_than_its_limits(url: str, script) -> None:
    commits: list[int] = []

    async with Store.open(url, limits=WriteLimits(batch_count=7)) as store:
        commit = store._writer._commit
        async with held_up(store):
            store._writer._commit = lambda jobs: [commits.append(len(jobs)), commit(jobs)][1]
            appends = await in_queue(store, [store.append(script().whole()) for _ in range(50)])
        await asyncio.gather(*appends)
    async with Store.open(url, limits=WriteLimits(batch_bytes=1)) as store:
        commit = store._writer._commit
        store._writer._commit = lambda jobs: [commits.append(-len(jobs)), commit(jobs)][1]
        await asyncio.gather(*(store.append(script().whole()) for _ in range(5)))

    assert commits == [7] * 7 + [1] + [-1] * 5


@pytest.mark.parametrize("limits", [WriteLimits(waiting_count=3), WriteLimits(waiting_bytes=1)])
async def test_callers_wait_for_room_and_all_get_through_in_order(url: str, script, limits: WriteLimits) -> None:
    runs = [script() for _ in range(40)]

    async with Store.open(url, limits=limits) as store:
        appends = [asyncio.ensure_future(store.append(run.whole())) for run in runs]
        await asyncio.sleep(0)
        in_queue = store._writer._jobs.qsize()
        await asyncio.gather(*appends)
        first = [event.event.run_id for event in await store.events(types=["run_started"])]

    assert in_queue <= 3
    assert first == [run.run_id for run in runs]


async def test_who_is_cancelled_while_waiting_for_room_stores_nothing_and_holds_up_nobody(url: str, script) -> None:
    runs = [script() for _ in range(9)]

    async with Store.open(url, limits=WriteLimits(waiting_count=1)) as store:
        appends = [asyncio.ensure_future(store.append(run.whole())) for run in runs]
        await asyncio.sleep(0)
        for append in appends[1::2]:
            append.cancel()
        outcomes = await asyncio.gather(*appends, return_exceptions=True)
        stored = [event.event.run_id for event in await store.events(types=["run_started"])]

    assert [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes] == [False, True] * 4 + [False]
    assert stored == [run.run_id for run in runs[::2]]


async def test_a_place_given_in_the_moment_of_a_cancel_is_given_on(url: str, script) -> None:
    first, second, third = script(), script(), script()

    async with Store.open(url, limits=WriteLimits(waiting_count=1)) as store:

        async def append_first() -> None:
            await store.append(first.whole())
            # In this very step the waiting caller got the place, and it has not run since.
            waiting.cancel()

        cancelling = asyncio.ensure_future(append_first())
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(store.append(second.whole()))
        await asyncio.sleep(0)
        await asyncio.gather(cancelling, store.append(third.whole()))

        assert waiting.cancelled()
        assert [event.event.run_id for event in await store.events(types=["run_started"])] == [
            first.run_id,
            third.run_id,
        ]


async def test_a_cancelled_caller_does_not_take_its_write_back(store: Store, script) -> None:
    run = script()
    append = asyncio.ensure_future(store.append(run.whole()))
    await asyncio.sleep(0)
    append.cancel()
    with pytest.raises(asyncio.CancelledError):
        await append

    await store.append(script().whole())

    assert len(await store.events(run_id=run.run_id)) == 5


async def test_closing_writes_what_was_accepted_and_refuses_the_rest(url: str, script) -> None:
    async with Store.open(url, limits=WriteLimits(waiting_count=2)) as store:
        appends = [asyncio.ensure_future(store.append(script().whole())) for _ in range(6)]
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    async with Store.open(url) as store:
        stored = await store.runs()

    assert [type(outcome) for outcome in outcomes] == [list, list] + [ClosedError] * 4
    assert len(stored) == 2


async def test_closing_may_be_cancelled_and_done_again(url: str, script) -> None:
    async with Store.open(url) as store:
        append = asyncio.ensure_future(store.append(script().whole()))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(store._writer.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await store.aclose()

        assert len(await append) == 5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("trackside-reader")]


def test_a_store_says_when_it_is_used_in_another_loop(url: str, script) -> None:
    async def open_store():
        context = Store.open(url)
        return context, await context.__aenter__()

    loop = asyncio.new_event_loop()
    context, store = loop.run_until_complete(open_store())
    for use in (lambda: store.append(script().whole()), store.runs):
        with pytest.raises(ForeignLoopError):
            asyncio.run(use())
    loop.run_until_complete(context.__aexit__(None, None, None))
    loop.close()


def test_a_loop_that_ends_without_closing_its_store_leaves_what_was_stored(url: str, script) -> None:
    child = textwrap.dedent("""
        import asyncio, sys
        from datetime import UTC, datetime
        from trackside.app.storage import Store
        from trackside.harness.observer import LifecycleEventType, RunLifecycleEvent

        async def main():
            event = RunLifecycleEvent("e", LifecycleEventType.RUN_STARTED, "r", "t", 1, datetime.now(UTC), {})
            await (await Store.open(sys.argv[1]).__aenter__()).append([event])
            print("stored", flush=True)
            sys.exit()

        asyncio.run(main())
    """)

    said = subprocess.run([sys.executable, "-c", child, url], capture_output=True, text=True, check=True, timeout=60)

    assert said.stdout == "stored\n"


PRODUCE = textwrap.dedent("""
    import asyncio, sys
    from datetime import UTC, datetime
    from trackside.app.storage import Store
    from trackside.harness.ids import new_id
    from trackside.harness.observer import LifecycleEventType, RunLifecycleEvent

    KINDS = ["run_started", "thread_status_updated", "human_message", "run_completed"]

    async def produce(store, runs):
        for _ in range(runs):
            run_id = new_id()
            for sequence, kind in enumerate(KINDS, 1):
                event = RunLifecycleEvent(
                    new_id(), LifecycleEventType(kind), run_id, "shared", sequence, datetime.now(UTC), {"status": "busy"}
                )
                (stored,) = await store.append([event])
                print(stored.position)

    async def main():
        async with Store.open(sys.argv[1], busy_timeout=60) as store:  # a file gives nobody a turn
            await asyncio.gather(*(produce(store, 10) for _ in range(8)))

    asyncio.run(main())
""")


def test_two_processes_on_one_file_share_the_positions(url: str, database: sqlite3.Connection) -> None:
    command = [sys.executable, "-W", "error", "-c", PRODUCE, url]
    producers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [producer.communicate(timeout=120)[0] for producer in producers]

    assert [producer.returncode for producer in producers] == [0, 0]
    mine, yours = ([int(line) for line in output.split()] for output in said)
    assert sorted(mine + yours) == list(range(1, 2 * 320 + 1))
    assert database.execute("SELECT count(*), min(position), max(position) FROM events").fetchone() == (640, 1, 640)
    assert database.execute("SELECT count(*), min(last_sequence) FROM runs").fetchone() == (160, 4)


async def test_two_stores_may_take_turns_with_one_run(url: str, script) -> None:
    run = script()
    async with Store.open(url) as one, Store.open(url) as other:
        for store in (one, other, one, other):
            await store.append([run.message() if run.sequence else run.started()])
        (event,) = await one.append([last := run.completed()])

        assert await other.append([last]) == [event]
        assert [stored.position for stored in await other.events(run_id=run.run_id)] == [1, 2, 3, 4, 5]


async def test_reads_see_one_moment_while_others_write(store: Store, script) -> None:
    stop = asyncio.Event()

    async def produce() -> None:
        while not stop.is_set():
            await store.append(script().whole())

    producers = [asyncio.ensure_future(produce()) for _ in range(4)]
    for _ in range(30):
        stats = await store.stats()
        assert stats.total.runs == sum(totals.runs for totals in stats.by_agent.values())
        events = await store.events(limit=10_000)
        assert [event.position for event in events] == list(range(1, len(events) + 1))
        assert len(events) % 5 == 0  # each append is five events: nobody sees a part of it
    stop.set()
    await asyncio.gather(*producers)
