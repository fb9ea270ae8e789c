"""Processes that may have been left behind by one that has ended."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

PATIENCE: Final = 20.0  # seconds in which the processes that are about to end do so


def is_there(pid: int) -> bool:
    """Whether there is such a process that has not ended; one that is dead has, even if nobody has waited for it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def processes_left(folder: Path) -> list[int]:
    """The processes whose folder for temporary files this is, once those that are about to end have ended.

    A port would say less: somebody else may listen there by now.
    """
    until = time.monotonic() + PATIENCE
    while (left := _processes_of(folder)) and time.monotonic() < until:
        time.sleep(0.02)
    return left


def _processes_of(folder: Path) -> list[int]:
    wanted, found = b"TMPDIR=" + os.fsencode(folder), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:  # it has ended, or is somebody else's
            continue
    return found
