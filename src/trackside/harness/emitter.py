"""Gives one run's events their identity, number and time, and lets exactly one of them end it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from trackside.harness.errors import EventOrderError
from trackside.harness.ids import new_ids
from trackside.harness.lifecycle import TERMINAL_EVENTS
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.payload import canonical_payload
from trackside.harness.ports import Clock
from trackside.harness.types import JsonObject, LifecycleEventType


class Draft(NamedTuple):
    """What to announce. `plain` says that the payload is plain JSON by construction, and shared with nobody."""

    event_type: LifecycleEventType
    payload: JsonObject
    plain: bool = False


class RunEmitter:
    """Announces one run.

    Events that are emitted together are delivered together, so that a store can take them in one transaction. A payload
    is made plain before a sequence number is spent on it (I9), so a refused payload leaves no gap.
    """

    __slots__ = ("_deliver", "_now", "_run_id", "_sequence", "_thread_id", "ended")

    def __init__(
        self,
        run_id: str,
        thread_id: str,
        *,
        deliver: Callable[[Sequence[RunLifecycleEvent]], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self._run_id = run_id
        self._thread_id = thread_id
        self._deliver = deliver
        self._now = clock.now
        self._sequence = 0
        self.ended = False
        """Whether the terminal event has been made."""

    async def emit(self, *drafts: Draft) -> None:
        """Announce these, in this order.

        Raises:
            EventOrderError: one would be a second terminal event, or a run event after it; none was announced.
            PayloadError: a payload cannot be kept; none was announced.
            BaseException: what a required observer raised.
        """
        run_id, thread_id, sequence, ended = self._run_id, self._thread_id, self._sequence, self.ended
        now = self._now()
        events = []
        for event_id, (kind, payload, plain) in zip(new_ids(len(drafts)), drafts, strict=True):
            if ended and kind is not LifecycleEventType.THREAD_STATUS_UPDATED:
                raise EventOrderError(
                    run_id=run_id, event_type=str(kind), sequence=self._sequence + 1, why="the run has ended"
                )
            ended = ended or kind in TERMINAL_EVENTS
            sequence += 1
            kept = payload if plain else canonical_payload(payload)
            events.append(RunLifecycleEvent(event_id, kind, run_id, thread_id, sequence, now, kept))
        self._sequence, self.ended = sequence, ended
        await self._deliver(events)
