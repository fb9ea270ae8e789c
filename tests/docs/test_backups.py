"""The how-to about backups is followed word for word, and what comes back is what was there."""

import asyncio
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from blocks import DOCS, blocks_of
from postgres_server import PostgresServer, RunningServer

from trackside import run_agent
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store


@pytest.fixture
def restored_url(postgres_server: RunningServer, postgres_names: Iterator[str]) -> Iterator[str]:
    """The address of an empty database beside the one that is backed up."""
    name = next(postgres_names)
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


async def answer(question: str) -> str:
    return "42"


async def leave_something(url: str) -> list[Any]:
    async with Store.open(url) as store:
        for run_id in ("one", "two"):
            await run_agent(answer, "Why?", run_id=run_id, observer=StorageObserver(store))
        await store.subscriptions.open("mail", start=3)
        return await store.events()


async def look_and_go_on(url: str) -> tuple[list[Any], int, list[int]]:
    """The events, the subscription's cursor, and the positions at which the next run is stored."""
    async with Store.open(url) as store:
        events = await store.events()
        mail = await store.subscriptions.get("mail")
        await run_agent(answer, "How?", run_id="three", observer=StorageObserver(store))
        return events, mail.cursor, [stored.position for stored in await store.events(run_id="three")]


def mode_of(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_a_copy_of_a_file_is_for_its_user_alone(tmp_path: Path) -> None:
    asyncio.run(leave_something(f"sqlite:///{tmp_path / 'kept.db'}"))
    (program,) = (block.text for block in blocks_of(DOCS / "howto/backups.md") if "os.replace" in block.text)

    subprocess.run([sys.executable, "-c", program, "kept.db", "copy.db"], cwd=tmp_path, umask=0, check=True)

    assert mode_of(tmp_path / "copy.db") == 0o600


def test_a_copy_by_the_program_of_sqlite_is_done_however_much_is_committed_meanwhile(tmp_path: Path) -> None:
    if shutil.which("sqlite3") is None:
        pytest.skip("SQLite's program is not installed")
    file = tmp_path / "trackside.db"
    before = asyncio.run(leave_something(f"sqlite:///{file}"))
    (said,) = (block.text for block in blocks_of(DOCS / "howto/backups.md") if "sqlite3 trackside.db" in block.text)
    (tmp_path / "copy.db.unfinished").write_text("what one that was killed has left")
    is_done = threading.Event()

    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=60)) as database:
        database.execute("CREATE TABLE long AS SELECT randomblob(60000000) AS much")
        database.execute("CREATE TABLE short AS SELECT 0 AS n")

        def commit() -> None:
            while not is_done.is_set():
                database.execute("UPDATE short SET n = n + 1")

        writer = threading.Thread(target=commit)
        writer.start()
        try:
            subprocess.run(["bash", "-euc", said], cwd=tmp_path, umask=0, timeout=120, check=True)
        finally:
            is_done.set()
            writer.join()

    copy = tmp_path / "copy.db"
    assert mode_of(copy) == 0o600
    with closing(sqlite3.connect(copy)) as copied:
        assert copied.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert copied.execute("SELECT length(much) FROM long").fetchall() == [(60_000_000,)]
        copied.executescript("DROP TABLE long; DROP TABLE short")
    after, cursor, positions = asyncio.run(look_and_go_on(f"sqlite:///{copy}"))
    assert (after, cursor) == (before, 3)
    assert positions == [len(before) + number for number in range(1, len(positions) + 1)]


def test_an_address_with_a_schema_is_one_for_programs_of_postgresql_too(
    postgres_server: RunningServer, postgres_url: str
) -> None:
    if not isinstance(postgres_server, PostgresServer):
        pytest.skip("the programs of a server elsewhere may be of another version")
    page = (DOCS / "howto/backups.md").read_text()
    (option,) = re.findall(r"`…\?(options=[^`]+runs)`", page)
    url = f"{postgres_url}{'&' if '?' in postgres_url else '?'}{option}"
    psql = [str(postgres_server.bin / "psql"), "--no-psqlrc", "--tuples-only", "--no-align", url, "--command"]
    subprocess.run([*psql, "CREATE SCHEMA runs"], check=True, capture_output=True)

    asyncio.run(leave_something(url))

    counted = subprocess.run(
        [*psql, "SELECT count(*) > 0 FROM runs.events"], check=True, capture_output=True, text=True
    )
    assert counted.stdout == "t\n"


def test_a_dump_of_postgresql_comes_back_whole_and_goes_on(
    postgres_server: RunningServer, postgres_url: str, restored_url: str, tmp_path: Path
) -> None:
    if not isinstance(postgres_server, PostgresServer):
        pytest.skip("the programs of a server elsewhere may be of another version")
    before = asyncio.run(leave_something(postgres_url))
    (said,) = (block.text for block in blocks_of(DOCS / "howto/backups.md") if "pg_restore" in block.text)
    commands = said.replace("createdb restored\n", "")  # the database is there already, under another name
    path = os.pathsep.join([str(postgres_server.bin), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {"PATH": path, "TRACKSIDE_DATABASE_URL": postgres_url, "RESTORED_URL": restored_url}
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=tmp_path, env=environment, umask=0, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert mode_of(tmp_path / "trackside.dump") == 0o600

    after, cursor, positions = asyncio.run(look_and_go_on(restored_url))

    assert after == before
    assert cursor == 3
    assert positions == [len(before) + number for number in range(1, len(positions) + 1)]
