"""Logs what recurs, such as failures of an observer: the first of a kind in full, a flood of them by their number."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import override

from trackside.harness.foreign.failures import line_of
from trackside.harness.observer import RunLifecycleEvent, RunObserver, described, warn_of_failure

logger = logging.getLogger("trackside.observer")

IN_FULL = 10
"""How many of a kind are logged in full before the others are only counted."""

PERIOD = 60.0
"""Seconds until the log says how many those were. A kind that does not come for so long is logged in full again."""

_MOST_KINDS = 100

type _Kind = tuple[type[BaseException], CodeType | None, int]
"""What was raised, in which function, in which line."""


@dataclass(slots=True)
class _Recurrence:
    """Something of a kind: since when it is watched, and how often it came in that time."""

    since: float
    in_full: int = 0
    unsaid: int = 0
    example: str = ""

    def is_over(self, now: float) -> bool:
        return not self.unsaid and now - self.since >= PERIOD


class Recurrences[K](ABC):
    """Counts what recurs by its kind, and says the numbers within `PERIOD`."""

    def __init__(self) -> None:
        self._kinds: dict[K | None, _Recurrence] = {}  # None: all kinds that are too many to tell apart
        self._timer: asyncio.TimerHandle | None = None

    @abstractmethod
    def say_counted(self, count: int, seconds: float, example: str) -> None:
        """Log how many more there were of a kind in this time, and what the first of them was."""

    def count(self, kind: K, example: Callable[[], str]) -> int:
        """Which of those logged in full this one is; 0 if it is only counted. Then `example` says what it is."""
        now = asyncio.get_running_loop().time()
        found = self._recurrence_of(kind, now)
        if found.in_full < IN_FULL:
            found.in_full += 1
            return found.in_full
        if not found.unsaid:
            found.since = now
            found.example = example()
        found.unsaid += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PERIOD, self._say_at_its_time)
        return 0

    def say_rest(self) -> None:
        """Log what was counted and not logged yet, if there is anything."""
        now = asyncio.get_running_loop().time()
        for found in self._kinds.values():
            if found.unsaid:
                self.say_counted(found.unsaid, now - found.since, found.example)
                found.since, found.unsaid = now, 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def start_over(self) -> None:
        """Leave the timer to the event loop that it belongs to; what was counted is said with what comes on another one."""
        self._timer = None

    def forget(self) -> None:
        """In a forked child: what was counted is for the parent to log (I24)."""
        self._kinds.clear()
        self._timer = None

    def _say_at_its_time(self) -> None:
        self._timer = None
        self.say_rest()

    def _recurrence_of(self, kind: K, now: float) -> _Recurrence:
        found = self._kinds.get(kind)
        if found is None or found.is_over(now):
            if found is None and len(self._kinds) >= _MOST_KINDS:
                self._kinds = {kind: each for kind, each in self._kinds.items() if not each.is_over(now)}
                if len(self._kinds) >= _MOST_KINDS:
                    return self._kinds.setdefault(None, _Recurrence(now))
            found = self._kinds[kind] = _Recurrence(now)
        return found


class RecurringFailures(Recurrences[_Kind]):
    """The failures of one observer. Two are of one kind if the same type was raised in the same line.

    Writing a traceback takes a hundred times as long as raising the exception. An observer that fails on every event
    would cost all runs more than one that works.
    """

    def __init__(self, observer: RunObserver) -> None:
        super().__init__()
        self._observer = observer

    def note(self, event: RunLifecycleEvent, failure: BaseException) -> None:
        """Log a failure in full, or count it and log that within `PERIOD`."""
        if self.count(_kind_of(failure), lambda: _example(event, failure)):
            warn_of_failure(self._observer, event, failure)

    @override
    def say_counted(self, count: int, seconds: float, example: str) -> None:
        logger.warning(
            "%s failed %d more times in %.0f s in the same place, first with %s",
            described(self._observer),
            count,
            seconds,
            example,
        )


def _example(event: RunLifecycleEvent, failure: BaseException) -> str:
    where = f"{event.event_type.value} of run {event.run_id}"
    return f"{type(failure).__qualname__} on {where}: {line_of(failure)}"


def _kind_of(failure: BaseException) -> _Kind:
    trace = failure.__traceback__
    if trace is None:
        return type(failure), None, 0
    while trace.tb_next is not None:
        trace = trace.tb_next
    return type(failure), trace.tb_frame.f_code, trace.tb_lineno
