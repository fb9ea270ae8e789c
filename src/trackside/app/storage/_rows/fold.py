"""What events do to the rows of runs and threads: pure, no SQL (I6).

The rules of order are `harness.lifecycle.RunFold`'s; here is what the rows show besides the status. Payloads come from
anybody's emitter, so a value of the wrong kind counts as absent instead of stopping the log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct

from trackside.app.storage._rows.encoding import EventRow, json_text, time_of
from trackside.app.storage._rows.queue import ActiveRun
from trackside.harness.admission import MAX_ID_CHARS, is_too_heavy
from trackside.harness.errors import EventOrderError
from trackside.harness.journal import MOST_TOKENS
from trackside.harness.lifecycle import RunFold, is_final, is_terminal, thread_status_of
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import CancelMode, LifecycleEventType, RunStatus, ThreadStatus

_MAX_COUNT = MOST_TOKENS  # sums of such numbers still fit into 64 bits
_MAX_COST = 10**6  # US dollars: so do sums of such costs, in nano-dollars
_MAX_SECONDS = 10**12
_ONLY_IN_EVENTS = frozenset({"calls", "calls_omitted"})  # as long as a run is; a page of runs does not read them
_MAX_LABEL_BYTES = 1_000  # of key and value together; every database indexes this much besides the id of a run


class RunStart(Struct, kw_only=True, eq=False):
    """What the row of a run says from its first event, or its admission, on."""

    created_at: str
    agent: str | None
    metadata: str
    parent_run_id: str | None
    trigger: str | None
    labels: Sequence[Label]
    attempt: int = 1
    retry_of: str | None = None
    request: str | None = None
    """What was asked for, as JSON text; events do not say it."""


class RunEnd(Struct, kw_only=True, eq=False):
    """What the event that ends a run says."""

    ended_at: str
    title: str | None
    error: str | None
    error_type: str | None
    completion_data: str
    total_input_tokens: int
    total_output_tokens: int
    llm_call_count: int
    tool_call_count: int
    message_count: int
    duration_seconds: float | None
    cost_usd: float | None
    usage: list[UsageRow]
    removed_at: str | None = None
    """Since when it is gone for clients: it was rolled back, or its thread has ended with it."""


class StoredFacts(Struct, kw_only=True, frozen=True):
    """What the row of a run says that no later event changes."""

    created_at: str
    agent: str | None


type Label = tuple[str, str]
"""Key and value, as JSON text, of something in a run's metadata by which the run is found."""

type UsageRow = tuple[str, str, int, int, int, int, float | None]
"""Kind, name, and input, output, cache-read and reasoning tokens, and the cost in US dollars."""


type RunAge = tuple[str, str]
"""When a run was created, and its id: their order says which runs of a thread are older or newer."""


class RunRow(Struct, kw_only=True, eq=False):
    """A run as one transaction knows it.

    `stored` is what the database has of it. `start`, `begins` and `end` say what this transaction writes: a new row,
    the start of a run that has its row, the run's end.
    """

    fold: RunFold
    thread_id: str
    stored: StoredFacts | None = None
    started_at: str | None = None
    start: RunStart | None = None
    begins: bool = False
    end: RunEnd | None = None
    active: ActiveRun | None = None
    """Its place in the queue of its thread, as it was stored."""

    @property
    def created_at(self) -> str:
        """When it was created, as the database has it or will have it."""
        return self._facts.created_at

    @property
    def agent(self) -> str | None:
        """Whose run it is, if its first event or its admission said so."""
        return self._facts.agent

    @property
    def _facts(self) -> StoredFacts | RunStart:
        facts = self.stored or self.start
        assert facts is not None
        return facts

    def is_older_than(self, other: RunAge | None) -> bool:
        """Whether it was created before another run; False if there is none."""
        return other is not None and (self.created_at, self.fold.run_id) < other

    def take(self, row: EventRow, fold: RunFold) -> None:
        """Go on to what the run is after this event, which led to `fold`."""
        if self.stored is None and self.start is None:
            self.start = _start(row)
        if self.started_at is None and fold.status is RunStatus.running:
            self.started_at = row.occurred_at
            self.begins = self.stored is not None
        if is_final(fold.status) and not is_final(self.fold.status):
            self.end = _end(row, self.started_at)
        self.fold = fold


class ThreadRow(Struct, kw_only=True, eq=False):
    """What one transaction changes in a thread; None: stays as it is."""

    thread_id: str
    created_at: str
    updated_at: str
    may_be_new: bool = False
    status: ThreadStatus | None = None
    title: str | None = None
    last_run_id: str | None = None
    agent: str | None = None
    first_agent: str | None = None
    """Its agent if it has none yet: that of a run which may never begin."""
    removed_at: str | None = None
    owner: str | None = None
    """Like the fields after it, only written when the thread is new."""
    ends: bool = False
    metadata: str | None = None
    expires_at: str | None = None
    ttl_minutes: float | None = None

    def take(self, row: EventRow, *, starts_run: bool) -> None:
        """Go on to what the thread is after this event."""
        event = row.event
        self.updated_at = max(self.updated_at, row.occurred_at)
        self.status = thread_status_of(event.event_type, event.payload) or self.status
        self.title = _text(event.payload.get("title")) or self.title
        if starts_run:
            self.last_run_id = event.run_id
            self.may_be_new = True


def concerns_thread(event: RunLifecycleEvent) -> bool:
    """Whether an event changes its thread's row; every first event of a run does so, too."""
    return event.event_type is LifecycleEventType.THREAD_STATUS_UPDATED or is_terminal(event.event_type)


def foreign_thread(row: EventRow, run: RunRow) -> EventOrderError:
    """The error for an event that names another thread than its run has."""
    event = row.event
    why = f"its thread is {event.thread_id!r}, and the run is of thread {run.thread_id!r}"
    if event.sequence == 1:
        why += ": a run with this id is there already; give the new one another id, or none"
    return EventOrderError(run_id=event.run_id, event_type=str(event.event_type), sequence=event.sequence, why=why)


def _start(row: EventRow) -> RunStart:
    payload = row.event.payload
    metadata = payload.get("metadata")
    if not isinstance(metadata, dict):
        metadata = {}
    return RunStart(
        created_at=row.occurred_at,
        agent=_name(payload.get("agent")),
        metadata=json_text(metadata),
        parent_run_id=_name(payload.get("parent_run_id")),
        trigger=_text(payload.get("trigger")),
        labels=labels_of(metadata),
        attempt=max(1, _count(payload.get("attempt"))),
        retry_of=_name(payload.get("retry_of")),
    )


def labels_of(metadata: Mapping[str, Any]) -> list[Label]:
    """The plain values in a run's metadata by which it is found: not long ones, fractions, lists and objects."""
    labels = ((key, label_value(value)) for key, value in metadata.items())
    return [(key, value) for key, value in labels if value is not None and is_label(key, value)]


def label_value(value: Any) -> str | None:
    """The text of a value by which a run may be found, for 1.0 that of 1; None if it may not."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is int and value.bit_length() > 8 * _MAX_LABEL_BYTES:  # Python refuses to write very long ones
        return None
    return json_text(value) if value is None or type(value) in {str, int, bool} else None


def is_label(key: str, value: str) -> bool:
    """Whether a key and the text of its value are short enough for an index."""
    return len(key.encode()) + len(value.encode()) <= _MAX_LABEL_BYTES


def _end(row: EventRow, started_at: str | None) -> RunEnd:
    payload = row.event.payload
    data = payload.get("completion_data")
    if not isinstance(data, dict):
        data = {}
    return RunEnd(
        ended_at=row.occurred_at,
        title=_text(payload.get("title")),
        error=_text(payload.get("error")),
        error_type=_text(payload.get("error_type")),
        completion_data=json_text({key: value for key, value in data.items() if key not in _ONLY_IN_EVENTS}),
        total_input_tokens=_count(data.get("total_input_tokens")),
        total_output_tokens=_count(data.get("total_output_tokens")),
        llm_call_count=_count(data.get("llm_call_count")),
        tool_call_count=_count(data.get("tool_call_count")),
        message_count=_count(data.get("message_count")),
        duration_seconds=_duration(data.get("duration_seconds"), started_at, row.event.occurred_at),
        cost_usd=_amount(data.get("cost_usd"), at_most=_MAX_COST),
        usage=[
            *_usage("model", data.get("token_usage_by_model")),
            *_usage("caller", data.get("token_usage_by_caller")),
        ],
        removed_at=row.occurred_at if _is_rolled_back(row.event) else None,
    )


def _is_rolled_back(event: RunLifecycleEvent) -> bool:
    is_cancel = event.event_type is LifecycleEventType.RUN_CANCELLED
    return is_cancel and event.payload.get("cancel_mode") == CancelMode.rollback


def _usage(kind: str, usage: Any) -> Iterator[UsageRow]:
    if not isinstance(usage, dict):
        return
    for name, tokens in usage.items():
        if isinstance(tokens, dict) and _name(name) is not None:
            yield (
                kind,
                name,
                _count(tokens.get("input_tokens")),
                _count(tokens.get("output_tokens")),
                _count(tokens.get("cache_read_tokens")),
                _count(tokens.get("reasoning_tokens")),
                _amount(tokens.get("cost_usd"), at_most=_MAX_COST),
            )


def _duration(said: Any, started_at: str | None, ended_at: datetime) -> float | None:
    """What the emitter measured; else what the clocks say, if the run has started at all."""
    measured = _amount(said, at_most=_MAX_SECONDS)
    if measured is not None or started_at is None:
        return measured
    return max(0.0, (ended_at - time_of(started_at)).total_seconds())


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _name(value: Any) -> str | None:
    """A text by which runs are found and sums are kept; one that is longer than an index takes counts as none."""
    is_name = isinstance(value, str) and len(value) <= MAX_ID_CHARS and not is_too_heavy(value)
    return value if is_name else None


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else 0


def _amount(value: Any, *, at_most: int) -> float | None:
    return float(value) if type(value) in {int, float} and 0 <= value <= at_most else None
