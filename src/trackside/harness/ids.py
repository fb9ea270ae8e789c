"""Identifiers: UUID version 7, so that ids made later sort later.

RFC 9562, section 5.7, with the monotonic counter of section 6.2, method 1: within a millisecond (and while a clock
stands still or goes back) the 12 bits after the version count up; 60 bits at the end are random. The randomness is drawn
in blocks, and the text put together from parts that change rarely, because every event needs an id.
"""

from __future__ import annotations

import os
import threading
import uuid
from functools import lru_cache
from time import time_ns
from typing import Final

_COUNTS = [f"{count:03x}" for count in range(4096)]
_POOL_DIGITS = 15 * 512  # an id takes 15 of them
_ASSISTANTS: Final = uuid.UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")  # as for LangGraph's servers: ids stay the same


class _Uuid7Source:
    """Makes ids for one process; a forked child starts from fresh randomness, so the two never make the same."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything, as a forked child must."""
        self._lock = threading.Lock()
        self._pool = ""
        self._used = _POOL_DIGITS
        self._begin(0)  # a clock that is set before 1970 stays here

    def next(self) -> str:
        with self._lock:
            return self._next()

    def several(self, count: int) -> list[str]:
        with self._lock:
            return [self._next() for _ in range(count)]

    def _next(self) -> str:
        now = time_ns()
        if now > self._last_ns:
            self._begin(now // 1_000_000)
        elif self._count == 4095:
            self._begin(self._millisecond + 1)
        else:
            self._count += 1
        start = self._used
        if start == _POOL_DIGITS:
            self._pool = os.urandom(_POOL_DIGITS // 2).hex()
            start = 0
        middle = start + 3
        end = self._used = start + 15
        pool = self._pool
        return f"{self._prefix}{_COUNTS[self._count]}-8{pool[start:middle]}-{pool[middle:end]}"

    def _begin(self, millisecond: int) -> None:
        self._millisecond = millisecond
        self._last_ns = millisecond * 1_000_000 + 999_999
        self._prefix = f"{millisecond >> 16:08x}-{millisecond & 0xFFFF:04x}-7"
        self._count = 0


_source = _Uuid7Source()
if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_source.reset)

new_id = _source.next
"""A new id: a UUIDv7 in its usual 36-character form; greater than every id made in this process before."""

new_ids = _source.several
"""This many new ids, in order."""


def is_uuid(text: str) -> bool:
    """Whether `text` is a UUID in the form that HTTP clients expect."""
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


@lru_cache(1_024)
def assistant_id_of(agent: str) -> str:
    """The id by which LangGraph's clients know the agent that goes by this name; as lasting as the name."""
    return str(uuid.uuid5(_ASSISTANTS, agent))
