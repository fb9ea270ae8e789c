"""A full disk, a locked file, a dying disk: one clear error says whether to try again, and afterwards all is well."""

import asyncio
import logging
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.app.storage.errors import DatabaseBusyError, DatabaseFullError, DatabaseGoneError, StorageError
from trackside.harness import ObserverBinding, RunManager, RunSpec, RunStatus


@pytest.mark.usefixtures("path")
async def test_a_full_disk_is_retryable_and_works_again_when_there_is_room(
    store: Store, script, blockbuster: BlockBuster
) -> None:
    blockbuster.deactivate()  # the test limits the writer's own connection
    driver = store._writer._session._driver
    driver.execute("PRAGMA max_page_count = 1")  # no larger than it is now
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


def delete(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def replace_by_a_copy(path: Path) -> None:
    copy = shutil.copy(path, path.with_name("copy"))
    delete(path)
    copy.rename(path)


@pytest.mark.parametrize("take_away", [delete, replace_by_a_copy])
async def test_what_is_written_to_a_file_that_is_not_there_any_more_is_refused(
    url: str, script, path: Path, take_away: Callable[[Path], None]
) -> None:
    async with Store.open(url) as store:
        await store.append([script().started()])
        take_away(path)
        was_there = path.exists()

        with pytest.raises(DatabaseGoneError, match="was deleted, moved or replaced") as gone:
            await store.append([script().started()])

        assert (gone.value.fault, gone.value.retryable) == ("store", False)
        assert path.exists() is was_there, "no empty file is made in its place"


async def test_all_goes_on_when_the_file_that_was_moved_away_is_moved_back(url: str, script, path: Path) -> None:
    away = path.parent / "away"
    away.mkdir()
    async with Store.open(url) as store:
        await store.append([script().started()])
        path.rename(away / path.name)
        with pytest.raises(DatabaseGoneError):
            await store.append([script().started()])
        (away / path.name).rename(path)
        await store.append([script().started()])
    async with Store.open(url) as store:
        assert len(await store.events()) == 2


async def test_a_run_whose_database_was_deleted_fails_and_says_so(url: str, path: Path) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def waits(input: object) -> None:
        begun.set()
        await go.wait()

    async with Store.open(url) as store:
        storage = ObserverBinding(StorageObserver(store), required=True)
        async with RunManager(observers=[storage], coordinator=store.coordinator()) as manager:
            going = await manager.start(RunSpec(waits))
            await begun.wait()
            delete(path)
            go.set()
            ended = await going.result()
            assert (ended.status, "was deleted, moved or replaced" in str(ended.error)) == (RunStatus.error, True)
            with pytest.raises(DatabaseGoneError):
                await manager.start(RunSpec(waits))


async def test_where_the_folder_is_called_from_does_not_matter(
    tmp_path: Path, script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with Store.open("sqlite:///relative.db") as store:
        await store.append([script().started()])
        monkeypatch.chdir("/")
        (stored,) = await store.append([script().started()])
    assert stored.position == 2


async def test_nor_does_it_where_the_process_goes_before_it_connects_once_more(
    tmp_path: Path, script, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    async with Store.open("sqlite:///relative.db", busy_timeout=0) as store:
        monkeypatch.chdir(elsewhere)
        (first,) = await store.append([script().started()])
        with closing(sqlite3.connect(tmp_path / "relative.db", isolation_level=None)) as another:
            another.execute("BEGIN IMMEDIATE")
            with pytest.raises(DatabaseBusyError):
                await store.append([script().started()])
        (second,) = await store.append([script().started()])
        assert await store.events() == [first, second]
        assert await anext(store.follow(after=1)) == second
    assert list(elsewhere.iterdir()) == []
    assert [file.name for file in tmp_path.iterdir() if file != elsewhere] == ["relative.db"]


DESCRIPTORS = textwrap.dedent("""
    import asyncio, os, resource, sys, threading
    from trackside.app.storage import Store
    from trackside.app.storage.errors import StorageError

    async def main():
        async with Store.open(sys.argv[1]) as store:
            await store.events()
            begun, go_on = threading.Event(), threading.Event()

            def hold(connection):
                begun.set()
                go_on.wait()

            holding = asyncio.create_task(store._readers.run(hold))  # the one connection that there is
            await asyncio.to_thread(begun.wait)
            free = os.open(os.devnull, os.O_RDONLY)
            os.close(free)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
            (said,) = await asyncio.gather(store.events(), return_exceptions=True)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert isinstance(said, StorageError) and said.retryable, said
            print(type(said).__name__)
            go_on.set()
            await holding
            await asyncio.gather(*(store.events() for _ in range(9)))

    asyncio.run(main())
""")


def test_a_process_without_a_descriptor_for_another_connection_is_told_that_it_may_try_again(path: Path) -> None:
    command = [sys.executable, "-c", DESCRIPTORS, f"sqlite:///{path}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said == "DatabaseNotOpenedError\n"
