"""The log beside an SQLite file stays short though somebody always reads, and long reads hold up no writer."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from trackside.app.storage import Store
from trackside.app.storage._databases.sqlite import wal

MEGABYTE = 1_048_576
SAID = "x" * 100_000


@pytest.fixture(autouse=True)
def soon_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "LONG", 2 * MEGABYTE)
    monkeypatch.setattr(wal, "_LOOKS_APART", 0.0)


@contextmanager
def read_without_a_gap(path: Path) -> Generator[None]:
    """Two connections take turns to read: each begins before the other ends, so that somebody is always reading."""
    stopped = threading.Event()

    def read() -> None:
        with closing(connected(path)) as one, closing(connected(path)) as other:
            begin(one)
            for before, behind in cycle([(one, other), (other, one)]):
                if stopped.wait(0.002):
                    break
                begin(behind)
                before.rollback()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        stopped.set()
        reader.join()


def connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def begin(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM workers").fetchall()


def length_of_log(path: Path) -> int:
    return path.with_name(f"{path.name}-wal").stat().st_size


async def write(store: Store, script: Any, megabytes: int) -> None:
    run = script()
    await store.append([run.started()])
    for _ in range(10 * megabytes):
        await store.append([run.message(SAID)])


async def test_it_stays_short_though_somebody_reads_at_every_moment(
    store: Store, path: Path, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "_PATIENCE", 10_000)  # each reads for moments only, however late he has his turn
    with read_without_a_gap(path):
        await write(store, script, 30)
        assert length_of_log(path) < 10 * MEGABYTE


async def test_who_reads_for_long_is_waited_for_now_and_then_alone_and_the_log_is_short_again_behind_him(
    store: Store, path: Path, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "_PATIENCE", 1)
    asked: list[str] = []
    await store.append([script().started()])
    connection = store._writer._session._driver  # type: ignore[union-attr]
    connection.execute(f"PRAGMA journal_size_limit = {MEGABYTE}")
    connection.set_trace_callback(lambda said: asked.append(said) if "wal_checkpoint" in said else None)
    with closing(connected(path)) as reader:
        begin(reader)
        await write(store, script, 20)
        assert length_of_log(path) > 20 * MEGABYTE
        assert 5 <= len(asked) <= 12

    await write(store, script, 4)
    assert length_of_log(path) < 4 * MEGABYTE


async def test_it_stays_short_where_a_link_leads_to_the_file(
    path: Path, sqlite_with_tables: Path, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "_PATIENCE", 10_000)
    shutil.copy(sqlite_with_tables, path)
    link = path.with_name("link.db")
    link.symlink_to(path)
    async with Store.open(f"sqlite:///{link}") as store:
        with read_without_a_gap(path):
            await write(store, script, 20)
            assert length_of_log(path) < 10 * MEGABYTE
