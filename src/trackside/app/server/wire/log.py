"""Our own surface on the wire: events of the log, runs and totals as they are recorded, with our own words for statuses."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct, convert

from trackside.app.event_json import data_of
from trackside.app.server.wire.fleet import ExecutedBy, WaitingFor
from trackside.app.server.wire.runs import request_shown
from trackside.app.storage import StoredEvent, StoredRun
from trackside.harness.types import JsonObject, LifecycleEventType, RunStatus

type Time = Annotated[datetime, Meta(tz=True, description="ISO 8601 with an offset")]
type Position = Annotated[int, Meta(ge=0, le=2**63 - 1)]
type Limit = Annotated[int, Meta(ge=1, le=1_000)]
type Id = Annotated[str, Meta(min_length=1, max_length=255)]


class LogEvent(Struct, frozen=True, kw_only=True):
    """An event and its place in the log."""

    position: int
    event_id: str
    event_type: LifecycleEventType
    run_id: str
    thread_id: str
    sequence: int
    """Counts the events of its run: 1, 2, 3 …"""
    occurred_at: datetime
    payload: Mapping[str, Any]


def event_on_wire(stored: StoredEvent) -> LogEvent:
    """An event as it is said."""
    event = data_of(stored.event)
    return LogEvent(
        position=stored.position,
        event_id=event.event_id,
        event_type=stored.event.event_type,
        run_id=event.run_id,
        thread_id=event.thread_id,
        sequence=event.sequence,
        occurred_at=event.occurred_at,
        payload=event.payload,
    )


class EventQuery(Struct, kw_only=True):
    """Which events, and which page of them."""

    after: Position = 0
    before: Position | None = None
    newest_first: bool = False
    run_id: Id | None = None
    thread_id: Id | None = None
    agent: str | None = None
    status: list[RunStatus] | None = None
    """Of runs that have this status now."""
    type: list[LifecycleEventType] | None = None
    since: Time | None = None
    limit: Limit = 100


class FollowQuery(Struct, kw_only=True):
    """Which events to follow, and from where: from now on if `after` is left out."""

    after: Position | None = None
    run_id: Id | None = None
    thread_id: Id | None = None
    agent: str | None = None
    type: list[LifecycleEventType] | None = None
    since: Time | None = None


class RunQuery(Struct, kw_only=True):
    """Which runs, and which page of them."""

    status: list[RunStatus] | None = None
    agent: str | None = None
    thread_id: Id | None = None
    parent_run_id: Id | None = None
    """Only the runs that this one has started."""
    metadata: str | None = None
    """A JSON object; all of its keys have to be there with these values."""
    since: Time | None = None
    until: Time | None = None
    id_prefix: str | None = None
    text: Annotated[str, Meta(max_length=1_000)] | None = None
    """A part of the title, the agent, the error, its type or a value of the metadata, or the beginning of an id."""
    min_cost: Annotated[float, Meta(ge=0)] | None = None
    """US dollars."""
    min_duration: Annotated[float, Meta(ge=0)] | None = None
    """Seconds; of a run that goes on, until now."""
    waiting: bool = False
    """Only runs whose question to a human is still open."""
    removed: bool = False
    """Also runs that were deleted or rolled back, whose events the log still has."""
    details: bool = False
    """With `completion_data` and `removed_at`."""
    after: str | None = None
    before: str | None = None
    limit: Limit = 50

    @property
    def searches(self) -> bool:
        """Whether runs have to be looked at one by one."""
        return bool(self.text) or self.min_cost is not None or self.min_duration is not None


class OneRunQuery(Struct, kw_only=True):
    """Whether a run is shown, too, that was deleted or rolled back."""

    removed: bool = False


class RecordedRun(Struct, frozen=True, kw_only=True):
    """A run as its events describe it. Totals are 0 until it has ended; `status` is one of Trackside's own statuses."""

    cursor: str
    """Its place in a listing: `before` gets older runs, `after` newer ones."""
    run_id: str
    thread_id: str
    agent: str | None
    status: RunStatus
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    last_sequence: int
    title: str | None
    error: str | None
    error_type: str | None
    parent_run_id: str | None
    trigger: str | None
    metadata: Mapping[str, Any]
    total_input_tokens: int
    total_output_tokens: int
    llm_call_count: int
    tool_call_count: int
    message_count: int
    duration_seconds: float | None
    cost_usd: float | None
    attempt: int
    retry_of: str | None
    stuck_since: datetime | None


class WholeRun(RecordedRun, frozen=True, kw_only=True):
    """A run of a listing with `details`."""

    completion_data: Mapping[str, Any]
    """What it used, by model and by caller, as its last event has it."""
    removed_at: datetime | None
    """Since when it is not seen any more: it was deleted, or rolled back."""


class RunDetails(WholeRun, frozen=True, kw_only=True):
    """All that is kept of a run, except its events."""

    request: JsonObject | None
    """What was asked for; None if that is not kept."""
    retries: list[str]
    """The runs that are another attempt of this one."""
    waiting_for: WaitingFor | None
    """What it waits for, if it has not started."""
    executed_by: ExecutedBy | None
    """Who executes it; only admins see that."""


def recorded_run(run: StoredRun) -> RecordedRun:
    """A run of a listing."""
    return convert(run, RecordedRun, from_attributes=True)


def whole_run(run: StoredRun) -> WholeRun:
    """A run of a listing with details."""
    return convert(run, WholeRun, from_attributes=True)


def run_details(
    run: StoredRun,
    request: JsonObject | None,
    retries: list[str],
    *,
    waiting_for: WaitingFor | None = None,
    executed_by: ExecutedBy | None = None,
) -> RunDetails:
    """A run by itself."""
    fields = {name: getattr(run, name) for name in WholeRun.__struct_fields__}
    if request is not None:
        request = request_shown(request)
    return RunDetails(**fields, request=request, retries=retries, waiting_for=waiting_for, executed_by=executed_by)
