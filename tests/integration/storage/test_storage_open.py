"""A database is made, opened again, or refused with one line that says what to do; what is not ours stays unchanged."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster
from tests.unit.full_executor import full_executor

from trackside.app.storage import Store
from trackside.app.storage._databases.sqlite.connections import APPLICATION_ID
from trackside.app.storage.errors import (
    DamagedDatabaseError,
    DatabaseMissingError,
    DatabaseUrlError,
    FolderMissingError,
    ForeignDatabaseError,
    NewerDatabaseError,
    NotADatabaseError,
    ReadOnlyDatabaseError,
    SqliteTooOldError,
    StorageError,
    StoreOptionError,
)
from trackside.harness.errors import ClosedError


async def refusal(url: str, **options: object) -> StorageError:
    with pytest.raises(StorageError) as refused:
        async with Store.open(url, **options):
            pass
    return refused.value


async def test_what_was_stored_is_there_when_opened_again(url: str, script) -> None:
    run = script()
    async with Store.open(url) as store:
        before = await store.append(run.whole())
    async with Store.open(url, create=False, synchronous="NORMAL") as store:
        after = await store.events()
        (later,) = await store.append([script().started()])

    assert after == before
    assert later.position == len(before) + 1


@pytest.mark.usefixtures("path")
async def test_who_opens_waits_for_nobody_who_writes(url: str, script, database: sqlite3.Connection) -> None:
    async with Store.open(url) as store:
        await store.append(script().whole())
    await asyncio.to_thread(database.execute, "BEGIN IMMEDIATE")

    async with Store.open(url, busy_timeout=0) as store:
        assert len(await store.events()) == 5


async def test_a_closed_database_is_one_file(url: str, path: Path, script) -> None:
    async with Store.open(url) as store:
        await store.append(script().whole())
        await store.events()

    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.usefixtures("path")
async def test_commits_are_flushed_to_the_disk_unless_told_otherwise(url: str, blockbuster: BlockBuster) -> None:
    blockbuster.deactivate()  # the test looks into the writer's own connection
    async with Store.open(url) as store:
        full = store._writer._session._driver.execute("PRAGMA synchronous").fetchone()
    async with Store.open(url, synchronous="NORMAL") as store:
        normal = store._writer._session._driver.execute("PRAGMA synchronous").fetchone()
        journal = store._writer._session._driver.execute("PRAGMA journal_mode").fetchone()
        references = store._writer._session._driver.execute("PRAGMA foreign_keys").fetchone()

    assert (full, normal, journal, references) == ((2,), (1,), ("wal",), (1,))


async def test_connections_that_read_cannot_write(store: Store) -> None:
    with pytest.raises(ReadOnlyDatabaseError):
        await store._readers.run(lambda connection: connection.exec_driver_sql("DELETE FROM counters"))


async def test_a_missing_folder(tmp_path: Path) -> None:
    error = await refusal(f"sqlite:///{tmp_path}/none/runs.db")

    assert isinstance(error, FolderMissingError)
    assert f"{tmp_path}/none" in str(error)


async def test_a_missing_database_is_not_made_by_one_who_only_looks(url: str, path: Path) -> None:
    error = await refusal(url, create=False)

    assert isinstance(error, DatabaseMissingError)
    assert not path.exists()


async def test_a_folder_whose_name_is_not_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script) -> None:
    here = tmp_path / os.fsdecode(b"caf\xe9")
    here.mkdir()
    monkeypatch.chdir(here)

    async with Store.open("sqlite:///runs.db") as store:
        stored = await store.append(script().whole())
    async with Store.open("sqlite:///runs.db", read_only=True) as store:
        found = await store.events()

    assert found == stored
    assert [file.name for file in here.iterdir()] == ["runs.db"]
    assert [folder.name for folder in tmp_path.iterdir()] == [here.name], "nothing is beside it"


async def test_a_name_that_is_too_long_for_a_file(tmp_path: Path) -> None:
    error = await refusal(f"sqlite:///{tmp_path}/{'x' * 300}.db")

    assert isinstance(error, DatabaseUrlError)
    assert "File name too long" in str(error)


@pytest.mark.parametrize(
    ("option", "value"), [("create", "no"), ("create", None), ("read_only", 1), ("limits", 5), ("follow", "soon")]
)
async def test_an_option_of_another_kind_is_named(url: str, option: str, value: Any) -> None:
    error = await refusal(url, **{option: value})

    assert isinstance(error, StoreOptionError)
    assert f"{option}={value!r}" in str(error)


async def test_a_coordinator_hands_over_or_does_not(store: Store) -> None:
    with pytest.raises(StoreOptionError, match="hands_over='x'"):
        store.coordinator(hands_over="x")  # type: ignore[arg-type]


async def test_a_folder_is_no_database(tmp_path: Path) -> None:
    assert isinstance(await refusal(f"sqlite:///{tmp_path}"), NotADatabaseError)


async def test_a_file_that_is_no_database_stays_as_it_is(url: str, path: Path) -> None:
    path.write_text("My diary. " * 1_000)

    assert isinstance(await refusal(url), NotADatabaseError)
    assert path.read_text() == "My diary. " * 1_000


@pytest.mark.parametrize("statement", ["CREATE TABLE accounts (name TEXT)", "PRAGMA application_id = 1234"])
async def test_a_database_of_another_program_stays_as_it_is(url: str, path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.execute("PRAGMA user_version = 7")
    before = path.read_bytes()

    assert isinstance(await refusal(url), ForeignDatabaseError)
    assert path.read_bytes() == before


async def test_an_empty_file_becomes_a_database(url: str, path: Path, script) -> None:
    path.touch()

    async with Store.open(url) as store:
        await store.append(script().whole())

    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)


async def test_a_database_of_a_newer_version(url: str, path: Path) -> None:
    async with Store.open(url):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()

    error = await refusal(url)

    assert isinstance(error, NewerDatabaseError)
    assert "9999" in str(error)
    assert "upgrade Trackside" in str(error)


async def test_a_damaged_database_says_so(url: str, path: Path, script) -> None:
    async with Store.open(url) as store:
        await store.append(script().whole())
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))

    assert isinstance(await refusal(url), DamagedDatabaseError)


@pytest.mark.usefixtures("path")
async def test_an_sqlite_that_is_too_old(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))

    assert isinstance(await refusal(url), SqliteTooOldError)


async def test_a_closed_store_takes_and_tells_nothing(url: str, script) -> None:
    async with Store.open(url) as store:
        pass
    await store.aclose()

    with pytest.raises(ClosedError):
        await store.append([script().started()])
    with pytest.raises(ClosedError):
        await store.events()


READ_ONLY = textwrap.dedent("""
    import asyncio, os, sys
    from trackside.app.storage import Store

    async def main():
        async with Store.open(sys.argv[1]):
            pass

    if os.getuid() == 0:  # root may write everywhere
        os.setgid(65534), os.setuid(65534)
    try:
        asyncio.run(main())
    except Exception as exc:
        print(type(exc).__name__, exc)
""")


def opened_by_somebody_else(path: Path) -> str:
    command = [sys.executable, "-c", READ_ONLY, f"sqlite:///{path}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_read_only_folder(open_folder: Path) -> None:
    open_folder.chmod(0o555)

    said = opened_by_somebody_else(open_folder / "runs.db")

    assert said.startswith("ReadOnlyDatabaseError")
    assert f"the folder {open_folder} is read-only" in said


def test_a_read_only_file(open_folder: Path) -> None:
    path = open_folder / "runs.db"
    path.touch()
    path.chmod(0o444)
    open_folder.chmod(0o777)

    said = opened_by_somebody_else(path)

    assert said.startswith("ReadOnlyDatabaseError")
    assert "the file is read-only" in said


def test_a_link_in_a_read_only_folder_to_where_this_user_may_write(open_folder: Path) -> None:
    links, place = open_folder / "links", open_folder / "place"
    links.mkdir()
    place.mkdir()
    (links / "runs.db").symlink_to(place / "runs.db")
    links.chmod(0o555)
    place.chmod(0o777)

    said = opened_by_somebody_else(links / "runs.db")

    links.chmod(0o755)
    assert said == ""
    assert [(file.name, file.stat().st_mode & 0o777) for file in place.iterdir()] == [("runs.db", 0o600)]


async def test_plain_functions_that_fill_the_loops_threads_hold_up_neither_facts_nor_closing(url: str) -> None:
    async with Store.open(url) as store, full_executor():
        await store.facts()
        await store.aclose()
        with pytest.raises(ClosedError):
            await store.facts()
