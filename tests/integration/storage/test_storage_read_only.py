"""Looking into a database leaves nothing there, needs no right to write, and shows what the last writer committed."""

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import pytest
from sqlalchemy import Connection

from trackside.app.storage import Store, StoredEvent, _schema
from trackside.app.storage._databases.sqlite import reads as reads_module
from trackside.app.storage._databases.sqlite.connections import SqliteDatabase
from trackside.app.storage._databases.sqlite.reads import GuestReads, reads_of
from trackside.app.storage.errors import (
    DatabaseBusyError,
    DatabaseMissingError,
    NewerDatabaseError,
    OlderDatabaseError,
    ReadOnlyDatabaseError,
    ReadOnlyStoreError,
    StorageError,
)
from trackside.harness.ports import ThreadState

LOOK = textwrap.dedent("""
    import asyncio, json, os, sys
    from trackside.app.storage import Store
    from trackside.app.storage.errors import StorageError

    async def main():
        async with Store.open(sys.argv[1], read_only=True) as store:
            return len(await store.events())

    if os.getuid() == 0:  # root may write everywhere
        os.setgid(65534), os.setuid(65534)
    try:
        print(json.dumps([asyncio.run(main()), ""]))
    except StorageError as exc:
        print(json.dumps([type(exc).__name__, str(exc)]))
""")

WRITE = textwrap.dedent("""
    import sqlite3, sys

    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    for line in sys.stdin:
        connection.execute(line)
        print(flush=True)
""")

COME_AND_GO = textwrap.dedent("""
    import sqlite3, sys

    for _ in range(int(sys.argv[2])):
        connection = sqlite3.connect(sys.argv[1], isolation_level=None)
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE counters SET value = value + 1")
        connection.execute("UPDATE threads SET title = (SELECT value FROM counters)")
        connection.execute("COMMIT")
        connection.close()
""")

PATIENCE = 60.0
"""Seconds that a guest has, in which a whole process may begin and end."""
ONE_MORE = "UPDATE threads SET title = coalesce(title, 0) + 1"


def run(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def seen_by_a_guest(path: Path) -> tuple[int | str, str]:
    """How many events a user sees who can write neither the file nor anything beside it, or why he sees none."""
    found, why = json.loads(run(LOOK, f"sqlite:///{path}"))
    return found, why


@contextmanager
def writing(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the database open and executes what `say` tells it."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITE, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.communicate()


def say(process: subprocess.Popen[str], statement: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{statement}\n")
    process.stdin.flush()
    process.stdout.readline()


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


async def refusal(url: str) -> StorageError:
    with pytest.raises(StorageError) as refused:
        async with Store.open(url, read_only=True):
            pass
    return refused.value


async def events_in(path: Path) -> list[StoredEvent]:
    async with Store.open(f"sqlite:///{path}", read_only=True) as store:
        return await store.events()


@pytest.fixture
async def recorded(path: Path, url: str, sqlite_with_tables: Path, script) -> Path:
    """A closed database with one run."""
    shutil.copy(sqlite_with_tables, path)
    async with Store.open(url) as store:
        await store.append(script().whole())
    return path


@pytest.fixture
def foreign(recorded: Path, open_folder: Path) -> Iterator[Path]:
    """The same database in a folder where nobody else may write."""
    there = open_folder / recorded.name
    shutil.copy(recorded, there)
    there.chmod(0o444)
    open_folder.chmod(0o555)
    yield there
    open_folder.chmod(0o755)


def titles(connection: Connection) -> tuple[str | None, str | None]:
    """The title that a writer changes, read from the table twice, both times as of the same moment."""
    query = "SELECT title FROM threads"
    return connection.exec_driver_sql(query).scalar_one(), connection.exec_driver_sql(query).scalar_one()


async def test_looking_changes_nothing_and_leaves_nothing_behind(recorded: Path, url: str) -> None:
    before = files(recorded.parent)

    async with Store.open(url, read_only=True) as store:
        assert len(await store.events()) == 5
        assert len(await store.runs()) == 1
        assert (await store.stats()).total.runs == 1

    assert files(recorded.parent) == before


@pytest.mark.parametrize("last", ["who looks", "who writes"])
async def test_who_looks_sees_each_commit_and_whoever_goes_last_leaves_one_file(
    recorded: Path, url: str, last: str
) -> None:
    with writing(recorded) as writer:
        async with Store.open(url, read_only=True) as store:
            for title in ("1", "2", "3"):
                await asyncio.to_thread(say, writer, ONE_MORE)
                (thread,) = await store.threads()
                assert thread.title == title
            if last == "who looks":
                await asyncio.to_thread(writer.communicate)

    assert list(files(recorded.parent)) == [recorded.name]


async def test_what_a_killed_writer_committed_is_seen_and_tidied_up(recorded: Path, url: str) -> None:
    with writing(recorded) as writer:
        await asyncio.to_thread(say, writer, ONE_MORE)
        writer.send_signal(signal.SIGKILL)
        await asyncio.to_thread(writer.wait)
    assert len(files(recorded.parent)) == 3

    async with Store.open(url, read_only=True) as store:
        (thread,) = await store.threads()

    assert thread.title == "1"
    assert list(files(recorded.parent)) == [recorded.name]


async def test_a_store_that_is_read_only_writes_nothing(recorded: Path, url: str, script) -> None:
    before = files(recorded.parent)

    async with Store.open(url, read_only=True) as store:
        with pytest.raises(ReadOnlyStoreError, match="open it without `read_only`"):
            await store.append(script().whole())
        with pytest.raises(ReadOnlyStoreError):
            await store.thread_states().save("t", ThreadState())
        with pytest.raises(ReadOnlyDatabaseError):
            await store._readers.run(lambda connection: connection.exec_driver_sql("DELETE FROM counters"))
        assert await store.thread_states().load("t") is None

    assert files(recorded.parent) == before


@pytest.mark.parametrize("there", [False, True], ids=["no file", "an empty file"])
async def test_looking_makes_no_database(path: Path, url: str, *, there: bool) -> None:
    if there:
        path.touch()
    before = files(path.parent)

    assert isinstance(await refusal(url), DatabaseMissingError)
    assert files(path.parent) == before


async def test_looking_brings_nothing_up_to_date(recorded: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(recorded.parent)
    monkeypatch.setattr(_schema, "REVISIONS", (*_schema.REVISIONS, "9998"))

    error = await refusal(url)

    assert isinstance(error, OlderDatabaseError)
    assert f"schema {_schema.REVISIONS[-2]}; this version reads 9998" in str(error)
    assert "`trackside db upgrade`" in str(error)
    assert files(recorded.parent) == before


async def test_a_newer_database_is_refused_to_who_looks_as_well(
    recorded: Path, url: str, database: sqlite3.Connection
) -> None:
    database.execute("UPDATE alembic_version SET version_num = '9999'")

    assert isinstance(await refusal(url), NewerDatabaseError)


def test_a_guest_looks_into_a_read_only_folder(foreign: Path) -> None:
    before = files(foreign.parent)

    assert seen_by_a_guest(foreign) == (5, "")
    assert files(foreign.parent) == before


def test_a_guest_who_may_write_beside_the_file_leaves_nothing_there(foreign: Path) -> None:
    foreign.parent.chmod(0o777)
    before = files(foreign.parent)

    assert seen_by_a_guest(foreign) == (5, "")
    assert files(foreign.parent) == before


def test_a_guest_looks_into_a_read_only_mount(foreign: Path) -> None:
    foreign.chmod(0o644)
    foreign.parent.chmod(0o777)
    folder = foreign.parent
    code = LOOK.replace("os.getuid() == 0", "False")  # even root cannot write to a read-only mount
    mount = f'mount --bind "{folder}" "{folder}" && mount -o remount,bind,ro "{folder}" && exec "$0" "$@"'
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("there is no unshare(1)")
    mounted = [unshare, "-m", "sh", "-c", mount]
    if subprocess.run([*mounted, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount")

    command = [*mounted, sys.executable, "-c", code, f"sqlite:///{foreign}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert json.loads(said) == [5, ""]


def test_a_guest_sees_what_a_writer_committed_who_is_there(foreign: Path) -> None:
    foreign.parent.chmod(0o755)
    foreign.chmod(0o644)
    with writing(foreign) as writer:
        assert seen_by_a_guest(foreign) == (5, "")
        for left in (4, 3):
            say(writer, f"DELETE FROM events WHERE position > {left}")
            foreign.parent.chmod(0o555)
            assert seen_by_a_guest(foreign) == (left, "")
            foreign.parent.chmod(0o755)

    assert list(files(foreign.parent)) == [foreign.name]


def test_a_guest_sees_through_a_link_what_a_writer_committed_who_is_there(foreign: Path) -> None:
    foreign.parent.chmod(0o755)
    foreign.chmod(0o644)
    link = foreign.with_name("link.db")
    link.symlink_to(foreign)
    with writing(foreign) as writer:
        say(writer, "DELETE FROM events WHERE position > 4")
        foreign.parent.chmod(0o555)
        assert seen_by_a_guest(link) == (4, "")
        foreign.parent.chmod(0o755)


def test_a_guest_sees_what_a_killed_writer_committed_or_hears_how_to(foreign: Path, tmp_path: Path) -> None:
    foreign.parent.chmod(0o755)
    foreign.chmod(0o644)
    with writing(foreign) as writer:
        say(writer, "DELETE FROM events WHERE position > 4")
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    foreign.parent.chmod(0o555)

    assert seen_by_a_guest(foreign) == (4, "")

    foreign.parent.chmod(0o755)
    foreign.with_name(f"{foreign.name}-shm").unlink()
    foreign.parent.chmod(0o555)
    kind, why = seen_by_a_guest(foreign)

    assert kind == "UnreadableDatabaseError"
    assert f"a copy of it and all files named {foreign.name}-…" in why
    copy = shutil.copytree(foreign.parent, tmp_path / "copy") / foreign.name
    (tmp_path / "copy").chmod(0o755)
    assert len(asyncio.run(events_in(copy))) == 4


def test_a_guest_who_may_not_read(foreign: Path) -> None:
    foreign.chmod(0o000)

    kind, why = seen_by_a_guest(foreign)

    assert kind == "UnreadableDatabaseError"
    assert "this user may not read the file" in why


def test_what_a_guest_read_while_a_writer_came_and_went_is_read_again(recorded: Path) -> None:
    reads = GuestReads(SqliteDatabase(path=recorded, busy_timeout=PATIENCE))
    found: list[tuple[str | None, str | None]] = []

    def read(connection: Connection) -> int:
        found.append(titles(connection))
        if len(found) == 1:
            run(COME_AND_GO, recorded, 1)
            a_while_ago = time.time_ns() - 1_000_000_000  # a fresh change would be read once more
            os.utime(recorded, ns=(a_while_ago, a_while_ago))
        if len(found) == 2:
            raise LookupError("this is what is told, as now nothing changed")
        return len(found)

    with pytest.raises(LookupError):
        reads.read(read)

    assert found == [(None, None), ("6", "6")]


def test_an_error_that_torn_pages_led_to_is_not_told(recorded: Path) -> None:
    reads = GuestReads(SqliteDatabase(path=recorded, busy_timeout=PATIENCE))
    calls = 0

    def read(connection: Connection) -> str | None:
        nonlocal calls
        calls += 1
        if calls == 1:
            run(COME_AND_GO, recorded, 1)
            raise LookupError
        return titles(connection)[0]

    assert reads.read(read) == "6"


def test_a_guest_who_never_finds_a_quiet_moment_hears_of_it(recorded: Path) -> None:
    reads = GuestReads(SqliteDatabase(path=recorded, busy_timeout=0))

    with pytest.raises(DatabaseBusyError):
        reads.read(lambda _: run(COME_AND_GO, recorded, 1))


def test_a_guest_who_reads_for_longer_than_he_waits_for_others_tries_once_more(recorded: Path) -> None:
    reads = GuestReads(SqliteDatabase(path=recorded, busy_timeout=0))
    found: list[str | None] = []

    def read(connection: Connection) -> None:
        found.append(titles(connection)[0])
        if len(found) == 1:
            run(COME_AND_GO, recorded, 1)
            a_while_ago = time.time_ns() - 1_000_000_000  # a fresh change would be read once more
            os.utime(recorded, ns=(a_while_ago, a_while_ago))

    reads.read(read)

    assert found == [None, "6"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_change_in_the_same_tick_of_the_clock_as_the_one_before_is_noticed(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    reads = GuestReads(SqliteDatabase(path=recorded, busy_timeout=PATIENCE))
    found: list[str | None] = []

    def read(connection: Connection) -> None:
        found.append(titles(connection)[0])
        if len(found) == 1:
            before = recorded.stat()
            run(COME_AND_GO, recorded, 1)
            os.utime(recorded, ns=(before.st_atime_ns, before.st_mtime_ns))
            if fails:
                raise LookupError

    now = time.time_ns()
    os.utime(recorded, ns=(now, now))
    looked_at = chain([now], iter(time.time_ns, None))  # the first look is in that tick, however late it comes
    monkeypatch.setattr(reads_module, "time_ns", lambda: next(looked_at))
    reads.read(read)

    assert found == [None, "6"]


def test_whatever_writers_do_a_guest_sees_whole_commits_and_the_newest(recorded: Path) -> None:
    reads = GuestReads(SqliteDatabase(path=recorded, busy_timeout=PATIENCE))

    def look(connection: Connection) -> tuple[int, str | None]:
        (count,) = connection.exec_driver_sql("SELECT value FROM counters WHERE name = 'position'").one()
        return count, connection.exec_driver_sql("SELECT title FROM threads").scalar_one()

    seen, commits = [reads.read(look)], 0
    while len({count for count, _ in seen}) <= 2:  # on a busy machine a writer may be done before anybody looks
        commits += 200
        with subprocess.Popen([sys.executable, "-c", COME_AND_GO, recorded, "200"]) as writer:
            while writer.poll() is None:
                seen.append(reads.read(look))
        seen.append(reads.read(look))
        assert seen[-1] == (5 + commits, str(5 + commits))

    assert all(title in {None, str(count)} for count, title in seen)
    assert seen == sorted(seen, key=lambda one: one[0])


def test_who_may_write_keeps_to_the_locks(recorded: Path) -> None:
    assert not isinstance(reads_of(SqliteDatabase(path=recorded)), GuestReads)
