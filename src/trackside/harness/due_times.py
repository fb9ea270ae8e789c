"""What is to happen at times of the wall clock, behind one timer of the event loop."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Hashable
from datetime import datetime

LOOK_EVERY = 60.0
"""Seconds after which the wall clock is looked at again: it may be set meanwhile, and goes on while the machine sleeps,
when timers of the loop do not."""

_SPARE = 64  # entries of what has left that the heap may have in any case


class DueTimes[T: Hashable]:
    """Calls `on_due` with each of the things that it has, on the event loop, once the time of that is there.

    Those that are due at one time come in the order in which they were added. They have left by then. There is one timer
    however many there are, and none without any.

    Args:
        on_due: what is called; it may add and discard. If it raises, the loop hears of that, and the others come all
            the same.
        now: the wall clock, aware UTC.
    """

    def __init__(self, on_due: Callable[[T], object], *, now: Callable[[], datetime]) -> None:
        self._on_due = on_due
        self._now = now
        self._heap: list[tuple[datetime, int, T]] = []
        self._turns: dict[T, int] = {}
        """What is there, each with the number of its entry in the heap; other entries are of what has left."""
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __contains__(self, what: T) -> bool:
        return what in self._turns

    def add(self, what: T, due_at: datetime) -> None:
        """Have this come at that time, in place of the one that it had. Nothing is added any more after `close`."""
        if self._closed:
            return
        number = self._turns[what] = next(self._numbers)
        heapq.heappush(self._heap, (due_at, number, what))
        self._tidy()
        if self._timer is None or self._heap[0][1] == number:
            self._arm()

    def discard(self, what: T) -> None:
        """Have this not come any more, if it is there."""
        if self._turns.pop(what, None) is not None:
            self._tidy()
            if not self._turns:
                self._arm()

    def close(self) -> None:
        """Have nothing come any more. May be called again."""
        self._closed = True
        self._turns.clear()
        self._heap.clear()
        self._arm()

    def _look(self) -> None:
        try:
            while self._turns and (first := self._first())[0] <= self._now():
                heapq.heappop(self._heap)
                del self._turns[first[2]]
                self._on_due(first[2])
        finally:
            self._arm()

    def _first(self) -> tuple[datetime, int, T]:
        while self._has_left(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0]

    def _has_left(self, entry: tuple[datetime, int, T]) -> bool:
        return self._turns.get(entry[2]) != entry[1]

    def _tidy(self) -> None:
        """Let go of what has left, before that is most of the heap."""
        if len(self._heap) > 2 * len(self._turns) + _SPARE:
            self._heap = [entry for entry in self._heap if not self._has_left(entry)]
            heapq.heapify(self._heap)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._turns:
            seconds = (self._first()[0] - self._now()).total_seconds()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(min(max(0.0, seconds), LOOK_EVERY), self._look)
