"""Says in the log what an observer fails on: the first failures of a kind in full, a flood of them by their number."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from types import CodeType

from trackside.harness.failures import line_of
from trackside.harness.observer import RunLifecycleEvent, RunObserver, described, warn_of_failure

logger = logging.getLogger("trackside.observer")

IN_FULL = 10
"""How many failures of a kind are said with their traceback, before the others are only counted."""

PERIOD = 60.0
"""Seconds after which it is said how many those were. A kind that does not come for so long is said in full again."""

_MOST_KINDS = 100

type _Kind = tuple[type[BaseException], CodeType | None, int] | None
"""What was raised, in which function, in which line; None for all that are too many to tell apart."""


@dataclass(slots=True)
class _Recurrence:
    """A kind of failure: since when it is watched, and how often it came in that time."""

    since: float
    in_full: int = 0
    unsaid: int = 0
    example: str = ""

    def is_over(self, now: float) -> bool:
        return not self.unsaid and now - self.since >= PERIOD


class RecurringFailures:
    """The failures of one observer. Two are of one kind if the same type was raised in the same line.

    It takes a hundred times as long to write a traceback as to raise what it is of. An observer that fails on every event
    would cost all runs more than one that works.
    """

    def __init__(self, observer: RunObserver) -> None:
        self._observer = observer
        self._kinds: dict[_Kind, _Recurrence] = {}
        self._timer: asyncio.TimerHandle | None = None

    def note(self, event: RunLifecycleEvent, failure: BaseException) -> None:
        """Say a failure in full, or count it and say so within `PERIOD`."""
        now = asyncio.get_running_loop().time()
        found = self._recurrence_of(failure, now)
        if found.in_full < IN_FULL:
            found.in_full += 1
            warn_of_failure(self._observer, event, failure)
            return
        if not found.unsaid:
            found.since = now
            where = f"{event.event_type.value} of run {event.run_id}"
            found.example = f"{type(failure).__qualname__} on {where}: {line_of(failure)}"
        found.unsaid += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PERIOD, self._say_at_its_time)

    def say_rest(self) -> None:
        """Say what was counted and not said yet; nothing if there is nothing."""
        now = asyncio.get_running_loop().time()
        for found in self._kinds.values():
            if found.unsaid:
                logger.warning(
                    "%s failed %d more times in %.0f s in the same place, first with %s",
                    described(self._observer),
                    found.unsaid,
                    now - found.since,
                    found.example,
                )
                found.since, found.unsaid = now, 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def start_over(self) -> None:
        """Leave the timer to the event loop that it belongs to; what was counted is said with what comes on another one."""
        self._timer = None

    def forget(self) -> None:
        """In a forked child: what was counted is the parent's to say (I24)."""
        self._kinds.clear()
        self._timer = None

    def _say_at_its_time(self) -> None:
        self._timer = None
        self.say_rest()

    def _recurrence_of(self, failure: BaseException, now: float) -> _Recurrence:
        kind = _kind_of(failure)
        found = self._kinds.get(kind)
        if found is None or found.is_over(now):
            if found is None and len(self._kinds) >= _MOST_KINDS:
                self._kinds = {kind: each for kind, each in self._kinds.items() if not each.is_over(now)}
                if len(self._kinds) >= _MOST_KINDS:
                    return self._kinds.setdefault(None, _Recurrence(now))
            found = self._kinds[kind] = _Recurrence(now)
        return found


def _kind_of(failure: BaseException) -> _Kind:
    trace = failure.__traceback__
    if trace is None:
        return type(failure), None, 0
    while trace.tb_next is not None:
        trace = trace.tb_next
    return type(failure), trace.tb_frame.f_code, trace.tb_lineno
