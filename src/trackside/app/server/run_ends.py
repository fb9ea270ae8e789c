"""What the log says of how runs end, for mirrors of runs that other processes execute (`streams.ends.EndLog`).

Somebody else's harness may have written it, so this tells it in the form that clients know.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any, Final

from trackside.app.storage import Store, StoredEvent
from trackside.app.streams.ends import ToldEnd
from trackside.harness.errors import ClosedError
from trackside.harness.lifecycle import TERMINAL_EVENTS, run_status_of
from trackside.harness.observer import RunLifecycleEvent

_KINDS: Final[Mapping[str, type]] = {"error": str, "error_type": str, "interrupts": list, "retried_as": str}


class RunEnds:
    """Follows the log of a store: all callers share one reader, which is idle while nobody asks."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def end_of(self, run_id: str) -> ToldEnd | None:
        """How a run has ended, as soon as it has; None if the store is closed before."""
        try:
            async for stored in self._store.follow(run_id=run_id, types=TERMINAL_EVENTS):
                return _told(stored)
        except ClosedError:
            pass
        return None

    async def place(self) -> int:
        """Where the log ends now."""
        return await self._store.subscriptions.end()

    async def ends_on(self, thread_id: str, *, after: int) -> AsyncIterator[ToldEnd]:
        """How the runs of a thread end, from behind this place on."""
        try:
            async for stored in self._store.follow(after, thread_id=thread_id, types=TERMINAL_EVENTS):
                yield _told(stored)
        except ClosedError:
            pass

    async def thread_made_at(self, thread_id: str) -> datetime | None:
        """When the thread was made that has this id now; None if there is none."""
        thread = await self._store.thread(thread_id)
        return None if thread is None else thread.created_at

    async def runs_on(self, thread_id: str, run_ids: set[str]) -> set[str]:
        """Those of these runs that are of the thread that has this id now, also if they were rolled back or deleted since.

        No run of an earlier thread is among them: its id became free for another thread only once its runs had gone.
        """
        found = [await self._store.run(run_id, removed=True) for run_id in run_ids]
        return {run.run_id for run in found if run is not None and run.thread_id == thread_id}


def end_said(event: RunLifecycleEvent) -> dict[str, Any]:
    """What the event that ends a run says, and always the run's status, which may follow from the event's type alone.

    A value of the wrong kind counts as absent, as for the run's row.
    """
    says: dict[str, Any] = {
        name: value for name, value in event.payload.items() if isinstance(value, _KINDS.get(name, object))
    }
    if "interrupts" in says:
        says["interrupts"] = [stop for stop in says["interrupts"] if isinstance(stop, Mapping)]
    return {**says, "status": run_status_of(event.event_type, event.payload)}


def _told(stored: StoredEvent) -> ToldEnd:
    event = stored.event
    at = int(event.occurred_at.timestamp() * 1000)
    return ToldEnd(event.run_id, end_said(event), at, started=event.sequence > 1)
