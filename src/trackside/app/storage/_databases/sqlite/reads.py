"""SQLite: how a file is read by those who may write there, and by those who may not. Neither leaves anything behind."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from time import monotonic, sleep, time_ns
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection

from trackside.app.storage import errors
from trackside.app.storage._databases.backend import Dialect
from trackside.app.storage._databases.sqlite.connections import READERS, SqliteDatabase
from trackside.harness.threads import in_own_thread

_TICK: Final = 0.02
"""Seconds in which a file may change twice and have the same time: systems take the time from a clock that ticks."""


class PooledReads:
    """Reads on a few connections that are kept, under SQLite's locks, which need the right to write."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._engine = database.readers()

    def read[T](self, read: Callable[[Connection], T]) -> T:
        """What `read` finds; all its queries see the same moment.

        Raises:
            StorageError: the database cannot be read.
        """
        with self._database.translated(), self._engine.begin() as connection:
            return read(connection)

    def rows(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The rows that one statement finds. By itself it sees one moment, so there is no transaction around it.

        Each statement lets go of the GIL, and beside a busy event loop it takes long to win it back.

        Raises:
            StorageError: the database cannot be read.
        """
        with self._database.translated():
            connection = self._engine.raw_connection()
            try:
                driver = connection.driver_connection
                assert isinstance(driver, sqlite3.Connection)
                return driver.execute(statement, values).fetchall()
            finally:
                connection.close()

    def close(self) -> None:
        """Let go of the connections. May be called again."""
        self._engine.dispose()


class _State(NamedTuple):
    """What tells whether a database file has changed, and whether there is more to know than what is in it."""

    more_beside_it: bool
    file: tuple[int, int, int] | None
    is_fresh: bool
    """Whether the file has changed so recently that the next change might leave no trace."""


class GuestReads:
    """Reads where nothing may be written, so that no lock can be taken unless a writer has made the place for it.

    While nothing is in the log beside the file, the file is all there is: it is read as it is, and what was found holds
    if the file is still the same afterwards and nothing is beside it. Otherwise somebody is writing, and that writer's
    locks are there.
    """

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._locking = database.guests(locking=True)
        self._file_alone = database.guests(locking=False)

    def read[T](self, read: Callable[[Connection], T]) -> T:
        """What `read` finds; all its queries see the same moment. `read` is called again if that moment did not last.

        Raises:
            UnreadableDatabaseError: this user may not read it, or what its last writer left can only be read by
                somebody who may write there.
            StorageError: the database cannot be read.
        """
        until = monotonic() + self._database.busy_timeout
        for tries in count(1):
            before = self._state()
            try:
                found = self._read(read, locking=before.more_beside_it)
            except Exception:  # whatever torn pages lead to, or a writer that has just gone; else it is raised
                if self._state() == before and not before.is_fresh:
                    raise
            else:
                if before.more_beside_it or (self._state() == before and not before.is_fresh):
                    return found
            if tries > 1 and monotonic() >= until:  # the first try alone may take that long
                break
            if before.is_fresh:
                sleep(_TICK)
        raise errors.DatabaseBusyError(database=str(self._database), seconds=self._database.busy_timeout)

    def rows(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The rows that one statement finds; as `read`."""
        return self.read(lambda connection: rows_of(connection, statement, values))

    def _read[T](self, read: Callable[[Connection], T], *, locking: bool) -> T:
        engine = self._locking if locking else self._file_alone
        try:
            with self._database.translated(), engine.begin() as connection:
                return read(connection)
        except errors.ReadOnlyDatabaseError as exc:
            raise self._database.unreadable(exc.details["why"]) from exc

    def _state(self) -> _State:
        path = self._database.file
        # The file first: what gets into it from beside it between the two looks changes it for the next state.
        file = _stat(path)
        beside = [_stat(path.with_name(path.name + ending)) for ending in ("-wal", "-journal")]
        return _State(
            more_beside_it=any(found is not None and found.st_size > 0 for found in beside),
            file=None if file is None else (file.st_ino, file.st_size, file.st_mtime_ns),
            is_fresh=file is not None and abs(time_ns() - file.st_mtime_ns) < _TICK * 1e9,
        )

    def close(self) -> None:
        """Nothing is kept open."""


def rows_of(connection: Connection, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The rows that a statement in the database's own words finds."""
    return [tuple(row) for row in connection.exec_driver_sql(statement, tuple(values))]


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


class ThreadedReads:
    """Reads in a few threads, so that neither the writer nor the loop waits for them."""

    dialect: Dialect = "sqlite"

    def __init__(self, reads: PooledReads | GuestReads) -> None:
        self._reads = reads
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="trackside-reader")

    async def read[T](self, read: Callable[[Connection], T]) -> T:
        """What `read` finds; all its queries see the same moment. `read` is called again if that moment did not last.

        Raises:
            StorageError: the database cannot be read.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._reads.read, read)

    async def rows(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The rows that one statement finds.

        Raises:
            StorageError: the database cannot be read.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._reads.rows, statement, values)

    async def aclose(self) -> None:
        """Let running reads end, and close the connections. May be called again."""
        await in_own_thread(self._close)

    def _close(self) -> None:
        self._threads.shutdown()
        self._reads.close()


def reads_of(database: SqliteDatabase) -> PooledReads | GuestReads:
    """How this user reads the database, which is there.

    Raises:
        UnreadableDatabaseError: this user may not read it.
    """
    if database.why_read_only() is None:
        return PooledReads(database)
    if not os.access(database.place, os.R_OK):
        raise database.unreadable("this user may not read the file")
    return GuestReads(database)
