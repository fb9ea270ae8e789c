"""A file of times that all processes of a machine share: one process notes when it does something, another reads it."""

import mmap
import struct
import time
from collections.abc import Sequence
from pathlib import Path

_TIME = struct.Struct("q")


class Book:
    """This many places for one time each, by the clock that all processes of a machine share; 0 is none yet."""

    def __init__(self, path: Path, places: int | None = None) -> None:
        if places is not None:
            path.write_bytes(bytes(places * _TIME.size))
        with path.open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), 0)

    def note(self, place: int) -> None:
        """Note the present time."""
        _TIME.pack_into(self._bytes, place * _TIME.size, time.monotonic_ns())

    def at(self, place: int) -> int:
        """The time noted there, in nanoseconds; 0 if there is none yet."""
        found: int = _TIME.unpack_from(self._bytes, place * _TIME.size)[0]
        return found

    def noted(self, places: Sequence[int], *, after: int = 0) -> int:
        """How many of these places in a row have a time, going on from `after`: all of them if none is missing."""
        while after < len(places) and self.at(places[after]):
            after += 1
        return after

    def close(self) -> None:
        """Close the file."""
        self._bytes.close()
