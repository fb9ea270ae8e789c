"""SQLite: how a process sees that another one has committed. The file tells nobody, so it is looked at."""

from __future__ import annotations

import sqlite3

from trackside.app.storage._databases.growth import log_end
from trackside.app.storage._databases.signals import Mark, PolledSignals
from trackside.app.storage._databases.sqlite.connections import SqliteDatabase
from trackside.app.storage._databases.sqlite.reads import GuestReads, PooledReads


class DataVersion:
    """SQLite's own count of what other connections have committed, seen from a connection that is kept for it.

    A look takes some microseconds, past SQLAlchemy, which would take half a millisecond: an idle server does little else.
    Its transaction is over with it: one that stayed open would keep the log beside the file from ever being emptied.
    """

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._connection: sqlite3.Connection | None = None

    def look(self) -> int:
        """What it is now."""
        with self._database.translated():
            if self._connection is None:
                self._connection = self._database.connect_reader()
            ((version,),) = self._connection.execute("PRAGMA data_version").fetchall()
        return int(version)

    def close(self) -> None:
        """Let go of the connection; the next one counts anew."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class LastPosition:
    """The end of the log, for users who may open no connection that stays."""

    def __init__(self, reads: GuestReads) -> None:
        self._reads = reads

    def look(self) -> int:
        """What it is now."""
        return self._reads.read(log_end)

    def close(self) -> None:
        """Nothing is kept open."""


def sqlite_signals(database: SqliteDatabase, reads: PooledReads | GuestReads, *, every: float) -> PolledSignals:
    """The signals of a file that is read in this way, looked for `every` so many seconds."""
    mark: Mark = LastPosition(reads) if isinstance(reads, GuestReads) else DataVersion(database)
    return PolledSignals(mark, every=every)
