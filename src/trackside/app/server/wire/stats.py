"""Totals of runs on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any

from msgspec import Meta, Struct, convert

from trackside.app.server.wire.log import Id, Time
from trackside.app.storage import Stats, TimeBucket
from trackside.harness.types import RunStatus


class StatsQuery(Struct, kw_only=True):
    """Totals of which runs."""

    since: Time | None = None
    until: Time | None = None
    agent: str | None = None
    thread_id: Id | None = None
    status: list[RunStatus] | None = None


class TimelineQuery(Struct, kw_only=True):
    """Totals of which runs, from when to when, and how wide a bucket is in seconds."""

    since: Time
    until: Time | None = None
    width: Annotated[
        int, Meta(ge=60, le=366 * 86_400, description="Seconds: whole hours, or whole minutes that divide an hour")
    ] = 3_600
    agent: str | None = None
    status: list[RunStatus] | None = None


class FailureQuery(Struct, kw_only=True):
    """Why which runs failed, and how many reasons at most."""

    since: Time | None = None
    until: Time | None = None
    agent: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 20


class Failure(Struct, frozen=True, kw_only=True):
    """Runs of an agent that failed in the same way."""

    error_type: str | None
    error: str | None
    """The first line of what the newest of them failed with that is there to be looked at; null if all were deleted."""
    status: RunStatus
    agent: str | None
    count: int
    last_at: datetime
    run_id: str
    """The newest of them that is there to be looked at, or, if all were deleted, the newest."""


class Now(Struct, frozen=True, kw_only=True):
    """How many runs go on or wait now, in all processes of the database."""

    running: int
    waiting_for_place: int
    """Their threads are theirs, and no process has taken them yet."""
    waiting_for_thread: int
    """Behind another run of their thread."""
    delayed: int
    """Their time has not come."""
    stuck: int
    """Of those that run: they were cancelled, and go on."""
    waiting_for_human: int
    """Threads; 10,000 stands for so many or more."""
    oldest_waiting_at: datetime | None
    """Since when the first of those waits that could run if there was a place."""
    running_by_agent: Mapping[str, int]


class Totals(Struct, frozen=True, kw_only=True):
    """Totals of some runs. `cost_usd` is null if no run had a price; the durations are null if no run has ended."""

    runs: int
    by_status: Mapping[RunStatus, int]
    total_input_tokens: int
    total_output_tokens: int
    llm_call_count: int
    tool_call_count: int
    message_count: int
    cost_usd: float | None
    duration_p50: float | None
    duration_p95: float | None


class AgentTotals(Struct, frozen=True, kw_only=True):
    """Totals of the runs of one agent; an `agent` of null stands for runs that never started."""

    agent: str | None
    total: Totals


class Tokens(Struct, frozen=True, kw_only=True):
    """What one model or caller used. Cache reads are part of the input, and reasoning is part of the output."""

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    reasoning_tokens: int
    cost_usd: float | None


class RunStats(Struct, frozen=True, kw_only=True):
    """Totals of runs: of all, and by agent, model and caller."""

    total: Totals
    by_agent: list[AgentTotals]
    by_model: Mapping[str, Tokens]
    by_caller: Mapping[str, Tokens]


class Bucket(RunStats, frozen=True, kw_only=True):
    """Totals of the runs that were created from `start` on, for `width` seconds."""

    start: datetime
    width: float


def stats_on_wire(stats: Stats) -> RunStats:
    """Totals as they are said."""
    return RunStats(**_parts(stats))


def bucket_on_wire(bucket: TimeBucket) -> Bucket:
    """Totals of a stretch of time as they are said."""
    return Bucket(**_parts(bucket), start=bucket.start, width=bucket.width / timedelta(seconds=1))


def _parts(stats: Stats) -> dict[str, Any]:
    return {
        "total": convert(stats.total, Totals, from_attributes=True),
        "by_agent": [
            AgentTotals(agent=agent, total=convert(total, Totals, from_attributes=True))
            for agent, total in stats.by_agent.items()
        ],
        "by_model": {name: convert(tokens, Tokens, from_attributes=True) for name, tokens in stats.by_model.items()},
        "by_caller": {name: convert(tokens, Tokens, from_attributes=True) for name, tokens in stats.by_caller.items()},
    }
