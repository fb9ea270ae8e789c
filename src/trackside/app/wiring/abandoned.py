"""Gives a run its end in the log when its process goes and the agent does not stop."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from trackside.harness.errors import EventOrderError
from trackside.harness.ids import new_id
from trackside.harness.lifecycle import is_final, thread_status_after
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import CancelMode, JsonObject, LifecycleEventType, RunStatus, ThreadStatus

if TYPE_CHECKING:
    from trackside.app.storage import Store, StoredRun

REASON = "left behind: it did not stop"
_TRIES = 3  # the run goes on meanwhile, and may announce something between our look and our write


async def record_abandonment(store: Store, run_id: str) -> list[RunLifecycleEvent]:
    """Record that the run is over although it goes on; nothing if it has its end, or never began.

    Raises:
        StorageError: it could not be recorded.
        EventOrderError: the run announces so much that its end found no place.
    """
    for left in reversed(range(_TRIES)):
        run = await store.run(run_id)
        if run is None or is_final(run.status):
            return []
        thread = await store.thread(run.thread_id)
        state = await store.thread_states().load(run.thread_id)
        is_asked = state is not None and state.paused is not None  # a question stays open that was not answered
        status = ThreadStatus.interrupted if is_asked else thread_status_after(RunStatus.cancelled, another_waits=False)
        events = _end_of(run, None if thread is None else thread.status, status)
        try:
            await store.append(events)
        except EventOrderError:
            if not left:
                raise
        else:
            return events
    return []


def _end_of(run: StoredRun, previous: ThreadStatus | None, status: ThreadStatus) -> list[RunLifecycleEvent]:
    now = datetime.now(UTC)
    cancelled: JsonObject = {"cancel_mode": CancelMode.shutdown.value, "reason": REASON, "completion_data": {}}
    says = [(LifecycleEventType.RUN_CANCELLED, cancelled)]
    if previous is not None and previous is not status:
        update: JsonObject = {"status": status.value, "previous": previous.value}
        says.append((LifecycleEventType.THREAD_STATUS_UPDATED, update))
    return [
        RunLifecycleEvent(new_id(), kind, run.run_id, run.thread_id, sequence, now, payload)
        for sequence, (kind, payload) in enumerate(says, run.last_sequence + 1)
    ]
