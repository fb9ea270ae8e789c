"""Events for tests: a single one, or those of a whole run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trackside.harness.amounts import is_count
from trackside.harness.ids import new_id
from trackside.harness.journal import Journal
from trackside.harness.lifecycle import is_final, thread_status_after
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.running.announcing import Announcements
from trackside.harness.running.ending import End, Stop, failed, stopped
from trackside.harness.types import LifecycleEventType, RunRecord, RunStatus, ThreadStatus
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

    They say what the events of a real run that has used nothing say.

    Raises:
        InvalidTestError: (a `ValueError`) runs do not end with this status, or `messages` is not a number of messages.
    """
    status = _final(status)
    if not is_count(messages, 0):
        raise InvalidTestError(argument="messages", value=messages, why="it is a whole number from 0 up")
    record = RunRecord(run_id=run_id, thread_id=thread_id, agent="agent", status=RunStatus.running, created_at=EPOCH)
    journal = Journal()
    says = Announcements(record, journal, None)
    said = [journal.record_message({"type": "human", "content": f"hello {i}"}) for i in range(messages)]
    drafts = [
        says.start(),
        says.thread(ThreadStatus.idle, ThreadStatus.busy),
        *says.humans(said),
        says.end(_end(status)),
        says.thread(ThreadStatus.busy, thread_status_after(status, another_waits=False)),
    ]
    return [
        make_event(draft.event_type, run_id=run_id, thread_id=thread_id, sequence=sequence, payload=draft.payload)
        for sequence, draft in enumerate(drafts, 1)
    ]


def _final(said: Any) -> RunStatus:
    ends = [status for status in RunStatus if is_final(status)]
    if said not in ends:
        raise InvalidTestError(argument="status", value=said, why=f"a run ends with one of {', '.join(ends)}")
    return RunStatus(said)


def _end(status: RunStatus) -> End:
    match status:
        case RunStatus.interrupted:
            return End(status, {"interrupts": [{"id": new_id(), "value": "go on?"}]})
        case RunStatus.error:
            return failed(RuntimeError("it failed"))
        case RunStatus.timeout:
            return stopped(Stop(status, "the run took longer than its timeout of 60 s"))
        case RunStatus.cancelled:
            return stopped(Stop(status))
        case _:
            return End(status, {})
