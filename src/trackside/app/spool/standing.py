"""What is in a spool, for code that only looks: changes nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from trackside.app.spool._file import SpoolFile, bytes_in, entries_in, waiting_files
from trackside.app.spool.spool import DAMAGED_FILE, REFUSED_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolStanding:
    """How many records, each the rest of a run, wait in a folder, were refused, or could not be read; and its size."""

    waiting: int
    refused: int
    damaged: int
    bytes: int


def look_into(folder: Path) -> SpoolStanding:
    """What is in the folder of a spool; nothing, if there is none. Takes no lock. Blocks.

    Raises:
        OSError: it cannot be read.
    """
    return SpoolStanding(
        waiting=sum(_waiting_in(path) for path in waiting_files(folder)),
        refused=_lines_in(folder / REFUSED_FILE),
        damaged=_lines_in(folder / DAMAGED_FILE),
        bytes=bytes_in(folder),
    )


def left_in(folder: Path) -> int:
    """How many records wait in the folder of a spool that no process has in hand, as far as this user may see; blocks."""
    try:
        found = {path: _waiting_in(path) for path in waiting_files(folder)}
        return sum(waiting for path, waiting in found.items() if waiting and _is_left(path))
    except OSError:
        return 0


def nearest_place(path: Path) -> Path:
    """The path, or the nearest of the folders above it that can be seen to be there; never raises."""
    return next((place for place in (path, *path.parents) if os.access(place, os.F_OK)), Path("/"))


def why_unwritable(folder: Path) -> str | None:
    """Why nothing could be kept in the folder of a spool, which need not be there yet; None if it could."""
    place = nearest_place(folder)
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return None
    return f"ends of runs that the database does not take could not be kept: {place} is no folder that can be written"


def _waiting_in(path: Path) -> int:
    try:
        return len(entries_in(path))
    except FileNotFoundError:  # it has been delivered meanwhile
        return 0


def _is_left(path: Path) -> bool:
    file = SpoolFile.adopt(path)
    if file is None:
        return False
    file.close()
    return True


def _lines_in(path: Path) -> int:
    try:
        with path.open("rb") as lines:
            return sum(1 for line in lines if line.strip())
    except FileNotFoundError:
        return 0
