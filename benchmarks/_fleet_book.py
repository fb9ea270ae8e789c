"""A file of times that all processes of a machine share: who does something notes when, and another one reads it."""

import mmap
import struct
import time
from collections.abc import Sequence
from pathlib import Path

_TIME = struct.Struct("q")


class Book:
    """So many places for a time each, of the clock that all processes of a machine have; 0 is none yet."""

    def __init__(self, path: Path, places: int | None = None) -> None:
        if places is not None:
            path.write_bytes(bytes(places * _TIME.size))
        with path.open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), 0)

    def note(self, place: int) -> None:
        """It is now."""
        _TIME.pack_into(self._bytes, place * _TIME.size, time.monotonic_ns())

    def at(self, place: int) -> int:
        """When that was, in nanoseconds; 0 if it was not yet."""
        found: int = _TIME.unpack_from(self._bytes, place * _TIME.size)[0]
        return found

    def noted(self, places: Sequence[int], *, after: int = 0) -> int:
        """How many of these have a time, one after the other, from so many on: all of them if none is missing."""
        while after < len(places) and self.at(places[after]):
            after += 1
        return after

    def close(self) -> None:
        """Let go of the file."""
        self._bytes.close()
