"""Events as the contract allows them: the usual ones, and those that an observer's author did not think of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trackside.harness.ids import new_id
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType, RunStatus
from trackside.testing.events import make_event, make_run

_COMPLETION: Mapping[str, Any] = {
    "total_input_tokens": 12,
    "total_output_tokens": 40,
    "total_tokens": 52,
    "llm_call_count": 1,
    "tool_call_count": 0,
    "message_count": 2,
    "token_usage_by_model": {"model": {"input_tokens": 12, "output_tokens": 40, "total_tokens": 52}},
    "token_usage_by_caller": {"lead_agent": {"input_tokens": 12, "output_tokens": 40, "total_tokens": 52}},
    "first_human_message": "What is the answer?",
    "last_ai_message": "42",
    "duration_seconds": 0.25,
    "cost_usd": 0.0042,
}

_FULL: Mapping[LifecycleEventType, Sequence[Mapping[str, Any]]] = {
    LifecycleEventType.RUN_STARTED: [
        {"agent": "chat", "metadata": {"team": "blue"}, "parent_run_id": "run-0", "trigger": "schedule"}
    ],
    LifecycleEventType.HUMAN_MESSAGE: [
        {"message": {"id": "m-1", "type": "human", "content": "What is the answer?"}},
        {"message": {"id": "m-2", "type": "human", "content": [{"type": "text", "text": "naïve 日本 👩‍🚀"}]}},
    ],
    LifecycleEventType.THREAD_STATUS_UPDATED: [
        {"status": status, "previous": "idle" if status == "busy" else "busy", "title": "A title"}
        for status in ("busy", "idle", "interrupted", "error")
    ],
    LifecycleEventType.RUN_COMPLETED: [
        {"status": "success", "title": None, "completion_data": _COMPLETION},
        {"status": "interrupted", "title": "A title", "completion_data": {}, "interrupts": [{"value": "go on?"}]},
    ],
    LifecycleEventType.RUN_FAILED: [
        {
            "status": status,
            "error": "it broke\nin two lines",
            "error_type": "ValueError",
            "completion_data": _COMPLETION,
        }
        for status in ("error", "timeout")
    ],
    LifecycleEventType.RUN_CANCELLED: [
        {"cancel_mode": mode, "reason": None, "pre_run_checkpoint_id": None, "completion_data": _COMPLETION}
        for mode in ("interrupt", "rollback", "shutdown", "task_cancelled")
    ],
}

ENDS = (RunStatus.success, RunStatus.error, RunStatus.cancelled)
"""One status for each event that ends a run."""

_STRANGE: Mapping[str, Any] = {
    "a key that nobody knows": {"nested": [1, None, True, 1.5, {"deep": []}]},
    "": "an empty key",
    "sanitized": True,
}


def run_of(run: int, *, status: RunStatus = RunStatus.success) -> list[RunLifecycleEvent]:
    """A run on a thread of its own, from its start to its end."""
    return make_run(f"run-{run}-{new_id()}", thread_id=f"thread-{run}", status=status)


def runs_of_each_end(count: int) -> list[list[RunLifecycleEvent]]:
    """So many runs, each on a thread of its own, that end in each of the possible ways by turns."""
    return [run_of(number, status=ENDS[number % len(ENDS)]) for number in range(count)]


def each_kind(kind: LifecycleEventType) -> list[list[RunLifecycleEvent]]:
    """Runs in which an event of this kind has each of its forms, everything before it being plain."""
    return [_run_with(kind, payload) for payload in _FULL[kind]]


def in_all_forms() -> list[list[RunLifecycleEvent]]:
    """Runs of one thread, one after another, that have each event in each of its forms, and some that never started."""
    forms = [run for kind in LifecycleEventType for run in each_kind(kind)]
    return [*forms, *with_strange_payloads(), never_started(), never_started(LifecycleEventType.RUN_FAILED)]


def with_strange_payloads() -> list[list[RunLifecycleEvent]]:
    """Runs whose events have keys that nobody knows, or no status, or nothing at all in their payloads."""
    runs: list[list[RunLifecycleEvent]] = []
    for change in (_with_strange_keys, _without_status, _with_nothing):
        for status in ENDS:
            events = run_of(1, status=status)
            runs.append([_changed(event, change(event.payload)) for event in events])
    return runs


def never_started(kind: LifecycleEventType = LifecycleEventType.RUN_CANCELLED) -> list[RunLifecycleEvent]:
    """A run that ended before it started: its end stands alone."""
    says = _FULL[kind][0]
    return [make_event(kind, run_id=f"run-{new_id()}", thread_id="thread-n", payload=says)]


def out_of_order() -> list[list[RunLifecycleEvent]]:
    """Pairs of a run's events and one that cannot follow them."""
    started, *_, ended = run_of(1)
    again = _changed(started, {"agent": "chat", "metadata": {}}, sequence=2)
    late = make_run(messages=1)[2]
    return [
        [started, again],
        [started, _changed(ended, ended.payload, sequence=7)],
        [*run_of(1), late],
    ]


def copies(events: Sequence[RunLifecycleEvent]) -> list[RunLifecycleEvent]:
    """The same events as other objects, as they come from a log or another process."""
    return [_changed(event, dict(event.payload), sequence=event.sequence, event_id=event.event_id) for event in events]


def round_robin(runs: Sequence[Sequence[RunLifecycleEvent]]) -> list[RunLifecycleEvent]:
    """The events of runs that go on side by side: the first of each, then the second of each."""
    longest = max(len(run) for run in runs)
    return [run[i] for i in range(longest) for run in runs if i < len(run)]


def _run_with(kind: LifecycleEventType, payload: Mapping[str, Any]) -> list[RunLifecycleEvent]:
    if kind is LifecycleEventType.RUN_STARTED:
        first, *_ = run_of(1)
        return [_changed(first, payload)]
    started, busy, message, ended, idle = run_of(1)
    before = {
        LifecycleEventType.THREAD_STATUS_UPDATED: [started]
        if payload.get("status") == "busy"
        else [started, busy, message, ended],
        LifecycleEventType.HUMAN_MESSAGE: [started, busy],
    }.get(kind, [started, busy, message])
    model = idle if kind is LifecycleEventType.THREAD_STATUS_UPDATED else ended
    last = make_event(kind, run_id=model.run_id, thread_id=model.thread_id, sequence=len(before) + 1, payload=payload)
    return [*before, last]


def _with_strange_keys(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**payload, **_STRANGE}


def _without_status(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in payload.items() if key not in {"status", "previous", "cancel_mode"}}


def _with_nothing(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    return {}


def _changed(
    event: RunLifecycleEvent,
    payload: Mapping[str, Any],
    *,
    sequence: int | None = None,
    event_id: str | None = None,
) -> RunLifecycleEvent:
    return RunLifecycleEvent(
        event_id or new_id(),
        event.event_type,
        event.run_id,
        event.thread_id,
        sequence or event.sequence,
        event.occurred_at,
        payload,
    )
