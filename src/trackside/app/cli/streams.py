"""The standard streams as they are: those that are closed or broken. Imports nothing heavy, as it comes first."""

from __future__ import annotations

import os
import sys
from typing import IO


def fill_closed_streams() -> None:
    """Make standard streams of those with which the process was not started (`>&-`).

    Else the next file that is opened, perhaps the database, would be what others take for them. Writing to such a
    standard output fails, as it should; of standard error nobody hears.
    """
    for descriptor, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest number that is free, which is this one
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def discard(file: IO[str]) -> None:
    """Send what is still written to a broken stream nowhere, so that closing it at exit does not fail either."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file.fileno())
    os.close(nowhere)
