"""SQLite as the store needs it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection

from trackside.app.storage import errors
from trackside.app.storage._databases.signals import PolledSignals
from trackside.app.storage._databases.sqlite.connections import APPLICATION_ID, SqliteDatabase
from trackside.app.storage._databases.sqlite.reads import ThreadedReads, reads_of
from trackside.app.storage._databases.sqlite.session import SqliteSession
from trackside.app.storage._databases.sqlite.signals import sqlite_signals

_BUSY_STEP: Final = 0.5  # seconds; a thread that waits inside SQLite hears of nothing else


class SqliteBackend:
    """A file, the connection that writes there, and those that read."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self.busy_timeout = database.busy_timeout

    def __str__(self) -> str:
        return str(self._database)

    def check_place(self, *, create: bool) -> None:
        """See that the file is there or (with `create`) can be made."""
        self._database.check_place(create=create)

    def check_writable(self) -> None:
        """See that this user may write to the file and beside it."""
        if (why := self._database.why_read_only()) is not None:
            raise errors.ReadOnlyDatabaseError(database=str(self), why=why)

    def look[T](self, read: Callable[[Connection], T]) -> T | None:
        """What `read` finds; None if there is no file yet. Waits for nobody who writes."""
        if not self._database.place.exists():
            return None
        with closing(reads_of(self._database)) as reads:
            return reads.read(read)

    def check_owner(self, connection: Connection) -> None:
        """See that the file is ours, or empty."""
        self._database.check_owner(connection)

    def change(self, change: Callable[[Connection], Any], *, is_needed: Callable[[], bool]) -> None:
        """Let `change` change tables while nobody else writes; mark the file as ours."""
        database = replace(self._database, busy_timeout=min(self.busy_timeout, _BUSY_STEP))
        while True:
            with suppress(errors.DatabaseBusyError):
                _change(database, change)
                return
            if not is_needed():
                return

    def size(self) -> int:
        """How many bytes the file takes, with what was written beside it and is not in it yet."""
        path = self._database.file
        size = path.stat().st_size
        with suppress(FileNotFoundError):  # whoever has the file open last takes that away
            size += path.with_name(f"{path.name}-wal").stat().st_size
        return size

    def compact(self) -> None:
        """Write the file anew without its unused space; nobody else writes meanwhile.

        Raises:
            CompactBlockedError: it is done, but others read what was there before, and the disk has nothing back yet.
        """
        engine = self._database.writer()
        try:
            with self._database.translated(), engine.connect() as connection:
                driver = connection.connection.driver_connection
                assert isinstance(driver, sqlite3.Connection)
                driver.execute("VACUUM")  # not inside a transaction
                ((is_busy, *_),) = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            engine.dispose()
        if is_busy:
            raise errors.CompactBlockedError(database=str(self), seconds=self.busy_timeout)

    def session(self) -> SqliteSession:
        """What the writer writes with."""
        return SqliteSession(self._database)

    @property
    def session_beside(self) -> None:
        """Only one can write at a time."""

    def reads(self, *, standby: bool) -> ThreadedReads:
        """What readers read with."""
        return ThreadedReads(reads_of(self._database))

    def signals(self, *, every: float) -> PolledSignals:
        """Looks at the file `every` so many seconds."""
        return sqlite_signals(self._database, reads_of(self._database), every=every)


def _change(database: SqliteDatabase, change: Callable[[Connection], Any]) -> None:
    engine = database.writer()
    try:
        with database.translated(), engine.begin() as connection:
            change(connection)
            connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
    finally:
        engine.dispose()
