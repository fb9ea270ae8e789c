"""An SQLite file has nothing of what was removed, and returns its room to the disk unless somebody is reading there."""

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from trackside.app.storage import Store, maintenance
from trackside.app.storage.errors import CompactBlockedError
from trackside.app.storage.maintenance import compact_database
from trackside.harness.ports import ThreadState

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
async def pruned(url: str, script) -> None:
    """A file in which a million bytes are unused."""
    run = script(start=LONG_AGO)
    async with Store.open(url) as store:
        await store.append([run.started(), *(run.message("x" * 10_000) for _ in range(100)), run.completed()])
        assert (await store.prune(older_than=None)).runs == 1


async def test_what_was_removed_is_not_in_the_file_however_sqlite_was_built(
    url: str, path: Path, script, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def as_by_default(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.execute("PRAGMA secure_delete = OFF")
        return connection

    monkeypatch.setattr(sqlite3, "connect", as_by_default)
    run = script(start=LONG_AGO, thread_id="ada")
    said = ["I am Ada", *("I am Ada, and there is more to say: " + "x" * 10_000 for _ in range(10))]
    async with Store.open(url) as store:
        await store.append([run.started(), *map(run.message, said), run.completed()])
        await store.thread_states().save("ada", ThreadState({"name": "I am Ada"}))
        await store.items.put(("memories", "ada"), "name", {"text": "I am Ada"})
    assert b"I am Ada" in await asyncio.to_thread(path.read_bytes)

    async with Store.open(url) as store:
        await store.items.delete(("memories", "ada"), "name")
        await store.threads_of(None).remove("ada")
        await store.sweeper().sweep()

    assert b"I am Ada" not in await asyncio.to_thread(path.read_bytes)


@pytest.mark.usefixtures("pruned")
def test_the_room_that_nothing_fills_is_given_back(url: str, path: Path) -> None:
    before = path.stat().st_size

    compact_database(url)

    assert path.stat().st_size < before - 1_000_000


@pytest.mark.usefixtures("pruned")
def test_how_much_a_file_takes_is_told_though_somebody_has_just_closed_it(
    url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.stat().st_size
    monkeypatch.setattr(Path, "exists", lambda *_, **__: True)  # what was beside it goes away after a look

    compacted = compact_database(url)

    assert (compacted.bytes_before, compacted.bytes_after) == (before, path.stat().st_size)


@pytest.mark.usefixtures("pruned")
def test_who_reads_what_was_there_is_named_as_the_reason_why_nothing_is_given_back(
    url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "BUSY_TIMEOUT", 0.05)
    before = path.stat().st_size
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM runs").fetchall()
        with pytest.raises(CompactBlockedError, match=r"others still read it after 0\.05 s") as blocked:
            compact_database(url)
        assert path.stat().st_size == before
        assert blocked.value.retryable

    compact_database(url)

    assert path.stat().st_size < before - 1_000_000
