"""Reads again from a log what a buffer had no room for: a little at a time, and as often as it takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextvars import Context

from trackside.harness.foreign.timelimit import Raised, leave_behind, start_contained
from trackside.harness.observing.backlog import Deferred, Found
from trackside.harness.observing.weighing import weight_of
from trackside.harness.ports import EventSpan, RunLog

logger = logging.getLogger("trackside.buffer")

_FIRST_PAUSE = 0.1  # seconds
_LONGEST_PAUSE = 5.0
_ANSWERS_WITHIN = 30.0

_FEW = 16  # events
_MANY = 256
_HEAVY = 4 * 1_048_576  # bytes


class Rereading:
    """Reads from a log for one buffer, one read after another.

    It asks for as many events at once as their size allows: about 4 MB, and at most 256. A log that fails, or does not
    answer for half a minute, is asked again after a pause that grows from 0.1 to 5 seconds.
    """

    def __init__(self, log: RunLog, *, observer: str, context: Context) -> None:
        self._log = log
        self._observer = observer
        self._context = context
        self._at_once = _FEW
        self._pause = _FIRST_PAUSE
        self._resting: asyncio.Future[None] | None = None
        self._question: asyncio.Task[Found | Raised] | None = None
        self._is_away = False

    async def read(self, place: Deferred) -> tuple[Sequence[EventSpan], Found]:
        """Where the next events that wait in a place are, and what the log has of them."""
        spans = place.front(self._at_once)
        while isinstance(found := await self._ask(spans), Raised):
            if not self._is_away:
                text = "observer %s is behind, and the log in which its events wait cannot be read; trying again"
                logger.warning(text, self._observer, exc_info=found.exception)
            self._is_away = True
            await self._rest()
        self._is_away = False
        self._pause = _FIRST_PAUSE
        self._adapt(found)
        return spans, found

    def hurry(self) -> None:
        """Somebody waits: end a pause, and begin with short ones again."""
        self._pause = _FIRST_PAUSE
        if self._resting is not None and not self._resting.done():
            self._resting.set_result(None)

    def start_over(self) -> None:
        """Leave what belongs to another event loop to itself."""
        self._resting = self._question = None

    async def _ask(self, spans: Sequence[EventSpan]) -> Found | Raised:
        if self._question is not None and not self._question.done():  # one that hangs is enough
            await asyncio.wait({self._question}, timeout=_ANSWERS_WITHIN)
            return Raised(TimeoutError("a read that was given up has not ended"))
        question = self._question = start_contained(
            self._look_up(spans), name=f"trackside-reread-{self._observer}", context=self._context.copy()
        )
        try:
            await asyncio.wait({question}, timeout=_ANSWERS_WITHIN)
        finally:
            if not question.done():
                leave_behind(question)
        if not question.done():
            return Raised(TimeoutError(f"no answer within {_ANSWERS_WITHIN:g} s"))
        self._question = None
        if question.cancelled():  # by whoever reached for the task itself, as a closing event loop does
            return Raised(asyncio.CancelledError())
        answer = question.result()
        if isinstance(answer, Raised) and isinstance(answer.exception, KeyboardInterrupt):
            raise answer.exception
        return answer

    async def _look_up(self, spans: Sequence[EventSpan]) -> Found:
        found = await self._log.read(spans)
        return {(event.run_id, event.sequence): event for event in found}

    async def _rest(self) -> None:
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        self._resting = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait({self._resting}, timeout=pause)
        finally:
            self._resting = None

    def _adapt(self, found: Found) -> None:
        if sum(map(weight_of, found.values())) > _HEAVY:
            self._at_once = max(1, self._at_once // 2)
        else:
            self._at_once = min(2 * self._at_once, _MANY)
