"""The log beside an SQLite file (`…-wal`): how long it may become.

SQLite copies what is in the log to the file as it goes, and begins the log anew from its start at a commit at which
everything is copied and nobody reads from the log. If several readers read all the time, that moment may not come: the
log grows for as long as they do, reads become slower with it, and the disk fills up. So the writer looks how long the
log is, and beyond a bound waits for the readers for a moment: those that begin then read the file alone, as the log has
nothing that the file lacks.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from time import monotonic
from typing import Final

BEGUN_ANEW: Final = 16 * 1_048_576
"""Bytes that are kept of a longer log when it begins anew: overwriting them is faster than letting it grow again."""
LONG: Final = 32 * 1_048_576
"""Bytes beyond which a log that does not begin anew by itself is made to."""
_LOOKS_APART: Final = 0.05
"""Seconds: asking the system lets other threads have the interpreter, costing a small commit a seventh of its time."""
_PATIENCE: Final = 50  # milliseconds for which nobody writes; readers that take longer are not waited for


class WriteAheadLog:
    """The log beside one file, for the one connection at a time that writes there.

    Args:
        path: the database's.
        busy_timeout: that of the connection, in seconds.
    """

    def __init__(self, path: Path, *, busy_timeout: float) -> None:
        self._path = path.with_name(f"{path.name}-wal")
        self._busy_timeout = round(busy_timeout * 1_000)
        self._bound = LONG
        self._looks_at = 0.0

    def keep_short(self, connection: sqlite3.Connection) -> None:
        """After a commit: make it begin anew if it has become long, unless somebody reads for long; looks now and then.

        Such a reader has time until the log has grown by as much again. Nothing depends on it: what fails is tried
        again then.
        """
        if (now := monotonic()) < self._looks_at:
            return
        self._looks_at = now + _LOOKS_APART
        try:
            size = self._path.stat().st_size
        except OSError:
            return
        if size <= self._bound:
            return
        self._bound = size + LONG
        connection.execute(f"PRAGMA busy_timeout = {_PATIENCE}")
        try:
            ((is_busy, *_),) = connection.execute("PRAGMA wal_checkpoint(RESTART)")
            if not is_busy:
                self._bound = LONG
        finally:
            connection.execute(f"PRAGMA busy_timeout = {self._busy_timeout}")
