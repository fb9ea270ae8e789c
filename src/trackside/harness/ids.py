"""Identifiers: UUID version 7, so that ids made later sort later.

RFC 9562, section 5.7, with the monotonic counter of section 6.2, method 1: within a millisecond (and while a clock
stands still or goes back) the 12 bits after the version count up; the last 62 bits are random.
"""

from __future__ import annotations

import os
import random
import threading
import time
import uuid


class _Uuid7Source:
    """Makes ids for one process; a forked child starts from fresh randomness, so the two never make the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reseed()

    def _reseed(self) -> None:
        self._bits = random.Random(os.urandom(16)).getrandbits
        self._ticks = 0

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._reseed()

    def next(self) -> str:
        with self._lock:
            # 48 bits of milliseconds and 12 bits of counter in one number that only ever grows.
            ticks = (time.time_ns() // 1_000_000) << 12
            if ticks <= self._ticks:
                ticks = self._ticks + 1
            self._ticks = ticks
            low = self._bits(62)
        h = f"{ticks:015x}"
        t = f"{low | (1 << 63):016x}"
        return f"{h[:8]}-{h[8:12]}-7{h[12:]}-{t[:4]}-{t[4:]}"


_source = _Uuid7Source()
os.register_at_fork(after_in_child=_source.after_fork)

new_id = _source.next
"""A new id: a UUIDv7 in its usual 36-character form; greater than every id made in this process before."""


def is_uuid(text: str) -> bool:
    """Whether `text` is a UUID in the form that HTTP clients expect."""
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
