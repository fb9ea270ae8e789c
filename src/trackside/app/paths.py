"""What is at a path, the same on every Python: `Path.is_file` and the like give no reason from Python 3.14 on."""

from __future__ import annotations

import stat
from pathlib import Path

__all__ = ["is_file", "is_folder", "is_there"]


def is_file(path: Path) -> bool:
    """Whether a file is there.

    Raises:
        OSError: that cannot be told: a folder on the way is closed to this user, or no file can be called that.
    """
    return stat.S_ISREG(_mode_of(path))


def is_folder(path: Path) -> bool:
    """Whether a folder is there.

    Raises:
        OSError: as `is_file`.
    """
    return stat.S_ISDIR(_mode_of(path))


def is_there(path: Path) -> bool:
    """Whether anything is there.

    Raises:
        OSError: as `is_file`.
    """
    return _mode_of(path) != 0


def _mode_of(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last is for a name with a NUL in it
        return 0
