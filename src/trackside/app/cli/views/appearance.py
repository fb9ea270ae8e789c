"""The look of each status and event: one symbol, one word and one colour, the same in every view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trackside.app.cli.formatting import abridged, message_text, one_line
from trackside.app.cli.records.questions import interrupts_of, question_lines
from trackside.harness.lifecycle import run_status_of
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import CancelMode, LifecycleEventType, RunStatus, ThreadStatus


@dataclass(frozen=True, slots=True)
class Look:
    """How something is shown. `plain` replaces the symbol where only ASCII can be shown."""

    symbol: str
    plain: str
    label: str
    style: str = ""


RUN_LOOKS = {
    RunStatus.pending: Look("◌", ".", "pending", "dim"),
    RunStatus.running: Look("▸", ">", "running", "cyan"),
    RunStatus.success: Look("✓", "+", "success", "green"),
    RunStatus.error: Look("✗", "x", "error", "red"),
    RunStatus.timeout: Look("✗", "x", "timeout", "red"),
    RunStatus.interrupted: Look("?", "?", "interrupted", "yellow"),
    RunStatus.cancelled: Look("■", "#", "cancelled", "magenta"),
}

THREAD_LOOKS = {
    ThreadStatus.idle: Look("✓", "+", "idle", "green"),
    ThreadStatus.busy: Look("▸", ">", "busy", "cyan"),
    ThreadStatus.interrupted: Look("?", "?", "interrupted", "yellow"),
    ThreadStatus.error: Look("✗", "x", "error", "red"),
}

HUMAN = Look("◆", "*", "human", "cyan")
AGENT = Look("◇", "-", "agent")
OUTPUT = Look("=", "=", "output")
NOTE = Look("·", ".", "", "dim")
CONTINUED = Look("", "", "")

_STARTED = Look("▸", ">", "started", "bold")
_THREAD = Look("·", ".", "thread", "dim")
_ENDED = {
    RunStatus.success: "completed",
    RunStatus.error: "failed",
    RunStatus.timeout: "timed out",
    RunStatus.interrupted: "waiting",
    RunStatus.cancelled: "cancelled",
}


_CANCELLED: Mapping[Any, str] = {
    CancelMode.interrupt: "on request",
    CancelMode.rollback: "on request, and rolled back",
    CancelMode.shutdown: "because its process was shut down",
    CancelMode.task_cancelled: "with the program",
}


def look_of(event: RunLifecycleEvent) -> Look:
    """The look of an event."""
    if event.event_type is LifecycleEventType.HUMAN_MESSAGE:
        return HUMAN
    if event.event_type is LifecycleEventType.THREAD_STATUS_UPDATED:
        return _THREAD
    status = run_status_of(event.event_type, event.payload)
    if status is None or status not in _ENDED:
        return _STARTED
    look = RUN_LOOKS[status]
    return Look(look.symbol, look.plain, _ENDED[status], look.style)


def words_of(event: RunLifecycleEvent) -> str:
    """What there is to say about an event besides its type; shortened if it is long."""
    return abridged(_words_of(event))


def _words_of(event: RunLifecycleEvent) -> str:
    payload = event.payload
    match event.event_type:
        case LifecycleEventType.RUN_STARTED:
            return one_line(str(payload.get("agent", "")))
        case LifecycleEventType.HUMAN_MESSAGE:
            message = payload.get("message")
            return message_text(message.get("content")) if isinstance(message, dict) else ""
        case LifecycleEventType.THREAD_STATUS_UPDATED:
            return one_line(str(payload.get("status", "")))
        case LifecycleEventType.RUN_COMPLETED:
            return "\n".join(question_lines(interrupts_of(payload)))
        case LifecycleEventType.RUN_FAILED:
            return failure_text(payload)
        case LifecycleEventType.RUN_CANCELLED:
            mode = payload.get("cancel_mode")
            return str(payload.get("reason") or _CANCELLED.get(str(mode), mode) or "")


def failure_text(payload: Mapping[str, Any]) -> str:
    """What went wrong; for an exception, also its type."""
    error, kind = str(payload.get("error") or ""), payload.get("error_type")
    is_exception = kind and run_status_of(LifecycleEventType.RUN_FAILED, payload) is RunStatus.error
    if not is_exception or error.startswith(f"{kind}: "):
        return error
    return str(kind) if error in {"", f"{kind} without a message"} else f"{kind}: {error}"
