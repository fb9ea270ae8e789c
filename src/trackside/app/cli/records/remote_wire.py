"""Turns what a server says about records into those records.

The fields of runs, threads, subscriptions and totals have the same names on the wire; this module covers what differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from msgspec import Struct

from trackside.app.storage import RunTotals, Stats, StoredEvent, TimeBucket, TokenTotals
from trackside.app.storage.subscriptions import ParkedEvent, ParkedState
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import JsonObject, LifecycleEventType


class LogEvent(Struct, frozen=True, kw_only=True):
    """An event and its place in the log."""

    position: int
    event_id: str
    event_type: LifecycleEventType
    run_id: str
    thread_id: str
    sequence: int
    occurred_at: datetime
    payload: dict[str, Any]


class Details(Struct, frozen=True, kw_only=True):
    """What is known about a run besides the run itself."""

    request: JsonObject | None
    retries: list[str]


class Parked(Struct, frozen=True, kw_only=True):
    """An event that could not be handled."""

    event: LogEvent
    state: ParkedState
    attempts: int
    error: str
    parked_at: datetime


class Decided(Struct, frozen=True):
    """How many parked events were retried or dropped."""

    count: int


class AgentTotals(Struct, frozen=True, kw_only=True):
    """Totals of the runs of one agent."""

    agent: str | None
    total: RunTotals


class Totals(Struct, frozen=True, kw_only=True):
    """Totals of runs."""

    total: RunTotals
    by_agent: list[AgentTotals]
    by_model: Mapping[str, TokenTotals]
    by_caller: Mapping[str, TokenTotals]


class Bucket(Totals, frozen=True, kw_only=True):
    """Totals of a span of time."""

    start: datetime
    width: float


def stored_event(event: LogEvent) -> StoredEvent:
    """An event in the form that the log has."""
    return StoredEvent(
        event.position,
        RunLifecycleEvent(
            event_id=event.event_id,
            event_type=event.event_type,
            run_id=event.run_id,
            thread_id=event.thread_id,
            sequence=event.sequence,
            occurred_at=event.occurred_at,
            payload=event.payload,
        ),
    )


def parked_event(parked: Parked) -> ParkedEvent:
    """A parked event."""
    return ParkedEvent(
        stored=stored_event(parked.event),
        state=parked.state,
        attempts=parked.attempts,
        error=parked.error,
        parked_at=parked.parked_at,
    )


def stats_of(totals: Totals) -> Stats:
    """Totals in the form that the store has."""
    return Stats(
        total=totals.total,
        by_agent={entry.agent: entry.total for entry in totals.by_agent},
        by_model=totals.by_model,
        by_caller=totals.by_caller,
    )


def bucket_of(bucket: Bucket) -> TimeBucket:
    """Totals of a span of time."""
    stats = stats_of(bucket)
    return TimeBucket(
        total=stats.total,
        by_agent=stats.by_agent,
        by_model=stats.by_model,
        by_caller=stats.by_caller,
        start=bucket.start,
        width=timedelta(seconds=bucket.width),
    )
