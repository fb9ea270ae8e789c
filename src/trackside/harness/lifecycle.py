"""The rules of a run and a thread, as pure tables: no I/O, no await, no clock.

Whoever needs to know whether a status is final, which event ends a run or what an event does to a status asks here; no
other module compares statuses. The design follows h11's `_state.py`: the protocol in one file that can be read at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from trackside.harness.errors import EventOrderError
from trackside.harness.types import LifecycleEventType, RunStatus, ThreadStatus

_ENDS = frozenset({RunStatus.success, RunStatus.error, RunStatus.timeout, RunStatus.interrupted, RunStatus.cancelled})

RUN_TRANSITIONS: Mapping[RunStatus, frozenset[RunStatus]] = {
    # A run that never started can fail (admission given up, lost) or be cancelled. Somebody else's harness may also
    # announce the success of a run whose start it never announced: the status is still true.
    RunStatus.pending: _ENDS | {RunStatus.running},
    RunStatus.running: _ENDS,
    **{status: frozenset[RunStatus]() for status in _ENDS},
}

FINAL_STATUSES: frozenset[RunStatus] = frozenset(s for s, after in RUN_TRANSITIONS.items() if not after)

STATUSES_OF_EVENT: Mapping[LifecycleEventType, tuple[RunStatus, ...]] = {
    # The first is what an event without a `status` in its payload means.
    LifecycleEventType.RUN_STARTED: (RunStatus.running,),
    LifecycleEventType.RUN_COMPLETED: (RunStatus.success, RunStatus.interrupted),
    LifecycleEventType.RUN_FAILED: (RunStatus.error, RunStatus.timeout),
    LifecycleEventType.RUN_CANCELLED: (RunStatus.cancelled,),
}

FAILED_STATUSES: tuple[RunStatus, ...] = STATUSES_OF_EVENT[LifecycleEventType.RUN_FAILED]
"""How runs end that did not achieve what they were asked for."""

CLOSE_QUESTIONS: tuple[RunStatus, ...] = (
    *(status for status in RunStatus if status not in FINAL_STATUSES),
    *STATUSES_OF_EVENT[LifecycleEventType.RUN_COMPLETED],
)
"""Runs with these statuses leave open nothing that a run of their thread asked before: they go on with it, or came to
something, which may be questions of their own. An answering run that failed, or was cancelled, closes none.
"""

TERMINAL_EVENTS: frozenset[LifecycleEventType] = frozenset(
    kind for kind, statuses in STATUSES_OF_EVENT.items() if statuses[0] in FINAL_STATUSES
)

_EVENT_OF_STATUS: Mapping[RunStatus, LifecycleEventType] = {
    status: kind for kind, statuses in STATUSES_OF_EVENT.items() for status in statuses
}

THREAD_AFTER_RUN: Mapping[RunStatus, ThreadStatus] = {
    RunStatus.success: ThreadStatus.idle,
    RunStatus.cancelled: ThreadStatus.idle,
    RunStatus.interrupted: ThreadStatus.interrupted,
    RunStatus.error: ThreadStatus.error,
    RunStatus.timeout: ThreadStatus.error,
}


_THREAD_STATUSES = {str(status): status for status in ThreadStatus}


def is_final(status: RunStatus) -> bool:
    """Whether a run with this status has ended."""
    return status in FINAL_STATUSES


def has_failed(status: RunStatus) -> bool:
    """Whether a run with this status has ended without achieving what it was asked for."""
    return status in FAILED_STATUSES


def is_terminal(event_type: LifecycleEventType) -> bool:
    """Whether this event ends its run."""
    return event_type in TERMINAL_EVENTS


def terminal_event_of(status: RunStatus) -> LifecycleEventType:
    """The event that announces this final status."""
    return _EVENT_OF_STATUS[status]


def run_status_of(event_type: LifecycleEventType, payload: Mapping[str, Any]) -> RunStatus | None:
    """The run status that an event sets; None if it sets none.

    A payload without a `status`, or with one that does not belong to the event (somebody else's emitter), means the
    event's plain case: `run_completed` is a success, `run_failed` an error.
    """
    statuses = STATUSES_OF_EVENT.get(event_type)
    if statuses is None:
        return None
    said = payload.get("status")
    return statuses[statuses.index(said)] if said in statuses else statuses[0]


def thread_status_of(event_type: LifecycleEventType, payload: Mapping[str, Any]) -> ThreadStatus | None:
    """The thread status that an event sets; None if it sets none."""
    if event_type is not LifecycleEventType.THREAD_STATUS_UPDATED:
        return None
    said = payload.get("status")
    return _THREAD_STATUSES.get(said) if isinstance(said, str) else None


def thread_status_after(run_status: RunStatus, *, another_waits: bool, asks: bool = False) -> ThreadStatus:
    """The status of a thread whose active run has ended like this; busy while another of its runs waits behind.

    A thread that `asks` what was asked before the run still waits, unless the run has closed that.
    """
    if another_waits:
        return ThreadStatus.busy
    is_open = asks and run_status not in CLOSE_QUESTIONS
    return ThreadStatus.interrupted if is_open else THREAD_AFTER_RUN[run_status]


class RunFold(msgspec.Struct, frozen=True):
    """A run as its events so far tell it; `apply` gives the next one or says why the event cannot follow.

    This is I1 in executable form: sequences are 1, 2, 3 …; the first event starts the run or ends it; exactly one event
    ends it; after that only `thread_status_updated` may come.
    """

    # A frozen dataclass takes several times as long to make, and one is made for each event.

    run_id: str
    status: RunStatus = RunStatus.pending
    sequence: int = 0

    def apply(self, event_type: LifecycleEventType, sequence: int, payload: Mapping[str, Any]) -> RunFold:
        """The fold after this event.

        Raises:
            EventOrderError: the event cannot follow what is there; the message says why.
        """
        if sequence != self.sequence + 1:
            why = f"the next sequence number is {self.sequence + 1}"
            if sequence == 1:  # nobody begins twice by mistake except with an id that is taken
                why += ": a run with this id is there already; give the new one another id, or none"
            raise self._refusal(event_type, sequence, why)
        after = run_status_of(event_type, payload)
        if after is None:
            if self.sequence == 0:
                raise self._refusal(event_type, sequence, "the first event of a run starts it or ends it")
            if is_final(self.status) and event_type is not LifecycleEventType.THREAD_STATUS_UPDATED:
                raise self._refusal(event_type, sequence, f"the run has ended ({self.status})")
            return RunFold(self.run_id, self.status, sequence)
        if after not in RUN_TRANSITIONS[self.status]:
            why = f"the run has ended ({self.status})" if is_final(self.status) else "the run has started already"
            raise self._refusal(event_type, sequence, why)
        return RunFold(self.run_id, after, sequence)

    def _refusal(self, event_type: LifecycleEventType, sequence: int, why: str) -> EventOrderError:
        return EventOrderError(run_id=self.run_id, event_type=str(event_type), sequence=sequence, why=why)
