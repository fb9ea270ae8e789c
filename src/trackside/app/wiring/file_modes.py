"""Finds which files with what runs said may be read by other users of this machine. Only looks."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["open_to_others"]


def open_to_others(database: Sequence[Path], spool: Path) -> list[Path]:
    """The files of a database and of a spool that users who are neither the owner nor of the group may read or change.

    What Trackside makes is for its user alone, but a file keeps the mode with which an older version, or a copy, has
    made it. A file that nobody can get to, because a folder above it is closed to others, is not among these. Blocks.

    Args:
        database: an SQLite file and those beside it; none: the database is on a server.
        spool: the spool's folder, which need not be there.
    """
    return [path for path in _files(database, spool) if _is_open(path)]


def _files(database: Sequence[Path], spool: Path) -> Iterator[Path]:
    yield from database
    with suppress(OSError):  # it is not there, or not to be looked into, which is said elsewhere
        yield from sorted(spool.iterdir())


def _is_open(path: Path) -> bool:
    try:
        there = path.resolve(strict=True)
        ways = all(folder.stat().st_mode & stat.S_IXOTH for folder in there.parents)
        mode = there.stat().st_mode
        return ways and stat.S_ISREG(mode) and bool(mode & (stat.S_IROTH | stat.S_IWOTH))
    except OSError:
        return False
