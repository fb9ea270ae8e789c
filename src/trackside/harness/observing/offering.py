"""The calls of one observer behind a buffer: bounded in time and number, and tracked for as long as they really run."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar

from trackside.harness.errors import ObserverStuckError
from trackside.harness.foreign.failures import is_own_failure
from trackside.harness.foreign.timelimit import call_observer
from trackside.harness.observer import RunLifecycleEvent, RunObserver
from trackside.harness.observing.backlog import EventGap
from trackside.harness.observing.recurring import RecurringFailures

logger = logging.getLogger("trackside.buffer")

MAX_LEFT_BEHIND = 4
"""How many calls of one observer may run on past their limit before it gets no further ones."""


class Offers:
    """Offers events to an observer, one call at a time; what takes longer than `limit` seconds is left behind."""

    def __init__(self, observer: RunObserver, *, name: str, limit: float | None) -> None:
        self._failures = RecurringFailures(observer)
        self._name = name
        self._limit = limit
        self._running: set[_Call] = set()
        self._current: _Call | None = None
        self._said_stuck = False
        self.was_taken = False
        """Whether the last call had ended as it should by the time nobody waited for it any more."""

    @property
    def left_behind(self) -> int:
        """How many calls still run past their limit."""
        return len(self._running - {self._current})

    async def make[A](self, take: Callable[[A], Awaitable[None]], given: A, context: Context) -> BaseException | None:
        """Call the observer; returns what it raised instead of taking what it was given, if it did.

        Raises:
            BaseException: what is not the observer's failure, such as a cancel of the caller.
        """
        if len(self._running) >= MAX_LEFT_BEHIND:
            return ObserverStuckError(observer=self._name, calls=len(self._running))
        call = self._current = _Call()
        running = call.run(take, given, self._running)
        try:
            await call_observer(running, observer=self._name, limit=self._limit, context=context)
        except BaseException as exc:  # the observer's failures end here; the caller logs and counts them
            if is_own_failure(exc):
                return exc
            raise
        finally:
            self.was_taken = call.taken
            self._current = None
        return None

    def warn_of(self, event: RunLifecycleEvent, failure: BaseException) -> None:
        """Log a failure; for an observer that is stuck only once, not for every event until it moves again."""
        stuck = isinstance(failure, ObserverStuckError)
        if not (stuck and self._said_stuck):
            self._failures.note(event, failure)
        self._said_stuck = stuck

    def warn_of_gap(self, gap: EventGap, failure: BaseException | None = None) -> None:
        """Log that the observer never gets these events."""
        logger.warning(
            "observer %s misses %d events (%s), the first %s, the last %s",
            self._name,
            gap.count,
            gap.reason,
            gap.first_event_id,
            gap.last_event_id,
            exc_info=failure,
        )

    def say_rest(self) -> None:
        """Log how many failures were counted and not logged yet."""
        self._failures.say_rest()

    def start_over(self) -> None:
        """Leave calls that belong to another event loop or process to themselves."""
        self._running = set()
        self._current = None
        self._failures.start_over()

    def after_fork(self) -> None:
        """In a forked child: what was counted is for the parent to log (I24)."""
        self._failures.forget()


class _Call:
    """One call of an observer, tracked for as long as it really runs, even when nobody waits for it any more."""

    __slots__ = ("is_over", "taken")

    def __init__(self) -> None:
        self.taken = False
        self.is_over = False

    async def run[A](self, take: Callable[[A], Awaitable[None]], given: A, running: set[_Call]) -> None:
        current_call.set(self)
        running.add(self)
        try:
            await take(given)
            self.taken = True
        finally:
            self.is_over = True
            running.discard(self)


current_call: ContextVar[_Call | None] = ContextVar("trackside_observer_call", default=None)
"""The observer's call that the calling code is inside, or that started the calling code."""
