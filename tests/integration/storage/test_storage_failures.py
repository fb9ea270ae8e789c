"""A full disk, a locked file, a dying disk: one clear error that says whether to try again, and then all is well again."""

import asyncio
import logging
import sqlite3
import subprocess
import sys
import textwrap

import pytest
from blockbuster import BlockBuster

from trackside.app.storage import Store
from trackside.app.storage.errors import DatabaseBusyError, DatabaseFullError, StorageError


@pytest.mark.usefixtures("path")
async def test_a_full_disk_is_retryable_and_works_again_when_there_is_room(
    store: Store, script, blockbuster: BlockBuster
) -> None:
    blockbuster.deactivate()  # the test limits the writer's own connection
    driver = store._writer._session._driver
    driver.execute("PRAGMA max_page_count = 1")  # as small as it is now
    big = script()
    first = big.started(metadata={"text": "x" * 500_000})

    with pytest.raises(DatabaseFullError) as full:
        await store.append([first])
    assert await store.events() == []

    store._writer._session._driver.execute("PRAGMA max_page_count = 1000000")
    (stored,) = await store.append([first])

    assert (full.value.retryable, full.value.fault) == (True, "store")
    assert stored.position == 1


FILE_LIMIT = textwrap.dedent("""
    import asyncio, resource, sys
    from datetime import UTC, datetime
    from trackside.app.storage import Store
    from trackside.app.storage.errors import StorageError
    from trackside.harness.ids import new_id
    from trackside.harness.observer import LifecycleEventType, RunLifecycleEvent

    def started():
        run_id = new_id()
        payload = {"agent": "chat", "metadata": {"text": "x" * 20_000}}
        return RunLifecycleEvent(new_id(), LifecycleEventType.RUN_STARTED, run_id, "t", 1, datetime.now(UTC), payload)

    async def main():
        async with Store.open(sys.argv[1]) as store:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
            stored = 0
            try:
                while True:
                    event = started()
                    stored += len(await store.append([event]))
            except StorageError as exc:
                print(exc.retryable, exc.fault, type(exc).__name__)
            assert len(await store.events()) == stored
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            await store.append([event])
            events = await store.events()
            assert [e.position for e in events] == list(range(1, stored + 2))
            assert events[-1].event == event

    asyncio.run(main())
""")


@pytest.mark.usefixtures("path")
def test_a_file_that_may_not_grow_is_retryable_and_works_again(url: str, database: sqlite3.Connection) -> None:
    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", FILE_LIMIT, url], capture_output=True, text=True, timeout=60, check=False
    )

    assert (said.stdout, said.stderr) == ("True store DatabaseIOError\n", "")
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.usefixtures("path")
async def test_a_locked_database_is_retryable_and_works_again(url: str, script, database: sqlite3.Connection) -> None:
    event = script().started()
    async with Store.open(url, busy_timeout=0.05) as store:
        await asyncio.to_thread(database.execute, "BEGIN IMMEDIATE")
        with pytest.raises(DatabaseBusyError, match=r"0\.05 s") as busy:
            await store.append([event])
        await asyncio.to_thread(database.execute, "ROLLBACK")

        assert busy.value.retryable
        assert [stored.position for stored in await store.append([event])] == [1]


@pytest.mark.usefixtures("path")
async def test_each_caller_of_a_transaction_that_failed_gets_its_own_exception(
    url: str, script, database: sqlite3.Connection
) -> None:
    async with Store.open(url, busy_timeout=0.05) as store:
        await asyncio.to_thread(database.execute, "BEGIN IMMEDIATE")
        outcomes = await asyncio.gather(*(store.append(script().whole()) for _ in range(3)), return_exceptions=True)
        await asyncio.to_thread(database.execute, "ROLLBACK")

    assert [type(outcome) for outcome in outcomes] == [DatabaseBusyError] * 3
    assert len({id(outcome) for outcome in outcomes}) == 3


@pytest.mark.usefixtures("path")
async def test_a_failure_that_nobody_waits_for_is_logged(
    url: str, script, database: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async with Store.open(url, busy_timeout=0.05) as store:
        await asyncio.to_thread(database.execute, "BEGIN IMMEDIATE")
        append = asyncio.ensure_future(store.append(script().whole()))
        await asyncio.sleep(0)
        append.cancel()
        with pytest.raises(DatabaseBusyError):
            await store.append(script().whole())
        await asyncio.to_thread(database.execute, "ROLLBACK")

    assert [record.levelno for record in caplog.records if "nobody waits" in record.message] == [logging.WARNING]


async def test_a_defect_of_ours_reaches_the_caller_and_the_writer_goes_on(
    store: Store, script, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store._writer._session, "save", lambda changes: 1 / 0)
        with pytest.raises(StorageError, match="ZeroDivisionError") as failed:
            await store.append(script().whole())

    assert not failed.value.retryable
    assert (store.writer_stats().failures_total, store.writer_stats().events_total) == (1, 0)
    assert [stored.position for stored in await store.append(script().whole())] == [1, 2, 3, 4, 5]


@pytest.mark.usefixtures("path")
async def test_a_table_that_somebody_dropped_is_no_driver_exception(
    store: Store, script, database: sqlite3.Connection
) -> None:
    await asyncio.to_thread(database.execute, "DROP TABLE usage")
    await asyncio.to_thread(database.execute, "DROP TABLE events")

    with pytest.raises(StorageError, match="no such table"):
        await store.append(script().whole())
    with pytest.raises(StorageError, match="no such table"):
        await store.events()
