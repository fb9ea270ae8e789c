"""SQLite files that were open when this process was forked: it must not open them.

SQLite keeps its own account, in the memory of the process, of the locks that the process has on a file. A forked child
has a copy of that account, but none of the locks. It would believe that it keeps others from removing `…-wal` under it,
and lose what it writes; or that one of its threads is writing, and wait for ever
(https://www.sqlite.org/howtocorrupt.html, 2.6).
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any
from weakref import WeakSet

type _FileId = tuple[int, int]  # the device and the number there, whatever the path


class NotedConnection(sqlite3.Connection):
    """A connection that makes its file count as open, until it is closed or nobody has it any more."""

    def __init__(self, path: Path, *args: Any, **options: Any) -> None:
        self.file = _file_at(path)
        _open.add(self)  # before it is open: another thread may fork at any moment
        super().__init__(*args, **options)

    def close(self) -> None:
        """Close it."""
        super().close()
        _open.discard(self)


_open: WeakSet[NotedConnection] = WeakSet()
_open_at_fork: set[_FileId | None] = set()


def was_open_at_fork(path: Path) -> bool:
    """Whether a process that this one descends from had the file open as it forked."""
    return bool(_open_at_fork) and _file_at(path) in _open_at_fork


def _file_at(path: Path) -> _FileId | None:
    try:
        found = path.stat()
    except OSError:  # it is not there, or not for this user; SQLite says so
        return None
    return found.st_dev, found.st_ino


def _note_in_child() -> None:
    _open_at_fork.update(connection.file for connection in _open)
    _open_at_fork.discard(None)


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_note_in_child)
