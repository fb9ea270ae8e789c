"""Handles standard streams that are closed, broken, or lack most characters. Comes first, so imports nothing heavy."""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
from typing import IO, Final

_PLAIN: Final = str.maketrans({"·": ".", "…": "~", "→": ">", "×": "x"})
"""What replaces a character of ours where there is only ASCII; equally wide, so that columns stay aligned."""


def fill_closed_streams() -> None:
    """Open any standard streams that the process was started without (`>&-`).

    Otherwise the next file to be opened, perhaps the database, would be taken for one of them. Writing to such a standard
    output fails, as it should; nobody sees what goes to such a standard error.
    """
    for descriptor, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest free number, which is this one
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def spell_out() -> None:
    """Keep a character that a stream lacks from being an error: write its replacement, or a `?` if it has none."""
    codecs.register_error("trackside.plain", _in_plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="trackside.plain")


def _in_plain(failure: UnicodeError) -> tuple[str, int]:
    if not isinstance(failure, UnicodeEncodeError):
        raise failure
    lacking = failure.object[failure.start : failure.end].translate(_PLAIN)
    return "".join(char if char.isascii() else "?" for char in lacking), failure.end


def has_no_reader(file: IO[str]) -> bool:
    """Whether nobody can read a stream any more: the reader of a pipe has gone, or a terminal is closed."""
    if not hasattr(select, "poll"):  # this system cannot say, so believe the failed write
        return True
    poller = select.poll()
    poller.register(file, 0)  # poll reports these conditions even if none is asked for
    return bool(poller.poll(0))


def discard(file: IO[str]) -> None:
    """Discard what is still written to a broken stream, so that closing it at exit does not fail as well."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file.fileno())
    os.close(nowhere)
