"""Events for tests that need some: a single one, or those of a whole run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trackside.harness.amounts import is_count
from trackside.harness.ids import new_id
from trackside.harness.lifecycle import is_final, terminal_event_of, thread_status_after
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType, RunStatus
from trackside.testing.errors import InvalidTestError
from trackside.testing.loop import EPOCH


def make_event(
    event_type: LifecycleEventType = LifecycleEventType.HUMAN_MESSAGE,
    *,
    run_id: str = "run-1",
    thread_id: str = "thread-1",
    sequence: int = 1,
    payload: Mapping[str, Any] | None = None,
) -> RunLifecycleEvent:
    """An event with an id of its own, as an emitter would make it."""
    return RunLifecycleEvent(new_id(), event_type, run_id, thread_id, sequence, EPOCH, payload or {})


def make_run(
    run_id: str = "run-1", *, thread_id: str = "thread-1", messages: int = 1, status: RunStatus = RunStatus.success
) -> list[RunLifecycleEvent]:
    """The events of a run from its start to the end with `status`, on a thread that was idle before.

    Raises:
        InvalidTestError: (a `ValueError`) runs do not end with this status, or `messages` is no number of them.
    """
    status = _final(status)
    if not is_count(messages, 0):
        raise InvalidTestError(argument="messages", value=messages, why="it is a whole number from 0 up")
    after = thread_status_after(status, another_waits=False)
    parts: list[tuple[LifecycleEventType, dict[str, Any]]] = [
        (LifecycleEventType.RUN_STARTED, {"agent": "agent", "metadata": {}}),
        (LifecycleEventType.THREAD_STATUS_UPDATED, {"status": "busy", "previous": "idle"}),
        *(
            (LifecycleEventType.HUMAN_MESSAGE, {"message": {"id": new_id(), "type": "human", "content": f"hello {i}"}})
            for i in range(messages)
        ),
        (terminal_event_of(status), {"agent": "agent", "status": status.value, "completion_data": {}}),
        (LifecycleEventType.THREAD_STATUS_UPDATED, {"status": after.value, "previous": "busy"}),
    ]
    return [
        make_event(event_type, run_id=run_id, thread_id=thread_id, sequence=sequence, payload=payload)
        for sequence, (event_type, payload) in enumerate(parts, 1)
    ]


def _final(said: Any) -> RunStatus:
    ends = [status for status in RunStatus if is_final(status)]
    if said not in ends:
        raise InvalidTestError(argument="status", value=said, why=f"a run ends with one of {', '.join(ends)}")
    return RunStatus(said)
