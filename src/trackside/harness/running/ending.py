"""How runs end: why one is stopped, what its terminal event says, what its caller gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from trackside.harness.amounts import seconds_of
from trackside.harness.errors import (
    InvalidSpecError,
    NoAnswerError,
    NotPausedError,
    ThreadMemoryError,
    UnknownInterruptError,
)
from trackside.harness.foreign.failures import is_of, line_of, text_of, traceback_of
from trackside.harness.observer import RunResult
from trackside.harness.observing.bounding import MissedEvents
from trackside.harness.payload import canonical_payload
from trackside.harness.ports import ThreadState
from trackside.harness.types import CancelMode, FailureReason, JsonObject, RunRecord, RunStatus


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a run should end before its agent does."""

    status: RunStatus
    reason: str | None = None
    mode: CancelMode | None = None
    failure: FailureReason | None = None
    """What makes it fail; None if the status says it."""


TASK_CANCELLED = Stop(RunStatus.cancelled, mode=CancelMode.task_cancelled)
"""Somebody has cancelled a task that only the run needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopPolicy:
    """How agents are stopped. Times are seconds.

    An agent that is to stop sees `run.cancelled` at once. It gets a `CancelledError` after `cancel_after`, or a second
    before a closing manager stops waiting for it. If it still goes on `stuck_after` later, the run is reported as
    stuck: it keeps its place and its thread until its agent has stopped, and whoever asks again has it cancelled again.
    A run that is over is reported, too, if its end waits that long for its thread to remember it, or for what it did to
    be undone.

    Raises:
        InvalidSpecError: (a `ValueError`) one of these is not a number of seconds.
    """

    cancel_after: float = 0.0
    """After how many seconds an agent that was asked to stop is cancelled."""
    stuck_after: float = 10.0
    """How many seconds later an agent that goes on all the same is reported as stuck."""

    def __post_init__(self) -> None:
        for name in ("cancel_after", "stuck_after"):
            seconds_of(getattr(self, name), name)


class End(NamedTuple):
    """How a run ends, before anybody is told: its status, what its terminal event says, what the thread remembers.

    The `output` of its agent is for the caller alone. A run that was asked for wrongly leaves the thread `untouched`, so
    that an open question stays open.
    """

    status: RunStatus
    says: JsonObject
    remembers: ThreadState | None = None
    untouched: bool = False
    output: Any = None


def stopped(stop: Stop) -> End:
    """The end of a run that was stopped."""
    says: JsonObject = {}
    if stop.status is not RunStatus.cancelled:
        says = {"error": stop.reason, "error_type": stop.failure.value if stop.failure else "TimeoutError"}
    else:
        says = {"cancel_mode": stop.mode.value if stop.mode else CancelMode.interrupt.value}
        if stop.reason is not None:
            says["reason"] = stop.reason
    return End(stop.status, says)


def failed(exc: BaseException) -> End:
    """The end of a run that raised this. Its traceback is kept if it leads to the agent, and not into a store's driver."""
    says: JsonObject = {"error": text_of(exc), "error_type": type(exc).__qualname__}
    if is_of(exc, UnknownInterruptError):
        says["refused"] = exc.refusal
    if not is_of(exc, ThreadMemoryError):
        says["traceback"] = traceback_of(exc)
    asked_wrongly = is_of(exc, InvalidSpecError, NotPausedError) and exc.fault == "caller"
    return End(RunStatus.error, canonical_payload(says), untouched=asked_wrongly)


def unanswered(agent: str, failure: BaseException) -> End:
    """The end of a run whose agent came to an end although no model ever answered it."""
    says = {
        "error": str(NoAnswerError(agent=agent, cause=f"{type(failure).__qualname__}: {line_of(failure)}")),
        "error_type": type(failure).__qualname__,
        "traceback": traceback_of(failure),
    }
    return End(RunStatus.error, canonical_payload(says))


def undelivered(failure: BaseException | None) -> End:
    """The end of a run that could not go on because a required observer failed, or because Ctrl-C hit any observer."""
    error = f"a required observer failed: {text_of(failure)}"
    if is_of(failure, KeyboardInterrupt):
        error = "Ctrl-C hit an observer"
    says = {"error": error, "error_type": type(failure).__qualname__}
    return End(RunStatus.error, canonical_payload(says))


def result_told(record: RunRecord, end: End, says: JsonObject) -> RunResult:
    """What the caller gets of a run that has come to this end; `says` is what its terminal event says."""
    own = _own_copy(says["completion_data"])
    title = says.get("title")
    return RunResult(record.run_id, record.thread_id, end.status, says.get("error"), own, title, output=end.output)


def as_missed(result: RunResult, missed: Sequence[MissedEvents], failure: BaseException | None) -> RunResult:
    """The same result, but as an error if a required observer never took how the run ended (I14).

    Args:
        result: what the caller would get.
        missed: what required observers did not take.
        failure: why they did not.
    """
    untold = [miss for miss in missed if miss.has_end]
    if not untold:
        return result
    error = f"the run ended as {result.status.value}, but a required observer did not take that: {text_of(failure)}"
    if places := [miss.kept_in for miss in untold if miss.kept_in is not None]:
        error = f"{error.rstrip('.')}; kept for later in {', '.join(places)}"
    elif reasons := [miss.not_kept for miss in untold if miss.not_kept is not None]:
        error = f"{error.rstrip('.')}; it could not be kept for later either, and is lost: {', '.join(reasons)}"
    return replace(result, status=RunStatus.error, error=error)


def result_of(record: RunRecord) -> RunResult:
    """What the caller gets of a run that has ended elsewhere or earlier."""
    own = _own_copy(record.completion_data)
    return RunResult(record.run_id, record.thread_id, record.status, record.error, own, record.title)


def _own_copy(completion_data: Mapping[str, Any]) -> JsonObject:
    """A copy that the caller may change at will, while the event keeps what it says."""
    own = dict(completion_data)
    for name in ("token_usage_by_model", "token_usage_by_caller"):
        if name in own:
            own[name] = {who: dict(usage) for who, usage in own[name].items()} if own[name] else {}
    if "calls" in own:
        own["calls"] = [dict(call) for call in own["calls"]]
    return own
