"""What a store gives back: events, runs and threads as they are stored, and totals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from trackside.app.storage._rows.encoding import time_text
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import RunStatus, ThreadStatus


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event and its place in the log: positions are 1, 2, 3 … over all runs, in the order of their commits."""

    position: int
    event: RunLifecycleEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run as its events tell it. Times are aware UTC; totals are 0 until the run has ended.

    * `agent` is None if the run never started.
    * `duration_seconds` is None until the run has ended, `cost_usd` where no price was known.
    * `attempt` counts the tries of a run that was started anew; `retry_of` is the run that was tried before.
    * `stuck_since` is since when the agent has kept running although it was cancelled.
    * `removed_at` is since when clients do not see the run: it was rolled back, or deleted.
    """

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
    completion_data: Mapping[str, Any]
    """As its last event has it, without the list of single calls."""
    total_input_tokens: int
    total_output_tokens: int
    llm_call_count: int
    tool_call_count: int
    message_count: int
    duration_seconds: float | None
    cost_usd: float | None
    attempt: int
    retry_of: str | None
    removed_at: datetime | None
    stuck_since: datetime | None

    @property
    def cursor(self) -> str:
        """The run's place in a listing: pass it as `before` to get older runs, as `after` to get newer ones."""
        return cursor_of(self.created_at, self.run_id)


@dataclass(frozen=True, slots=True)
class RunWithEvents:
    """A run and its events, in their order, as they were at one moment."""

    run: StoredRun
    events: Sequence[StoredEvent]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredThread:
    """A thread; `updated_at` is when a run of it started or ended, or its status changed. Times are aware UTC.

    `agent` is that of its newest run that has begun. `owner` is whose it is; None: everybody's who has no name. The
    thread is removed at `expires_at`, which is `ttl_minutes` after these were asked for. `removed_at` is since when
    clients do not see it.
    """

    thread_id: str
    status: ThreadStatus
    title: str | None
    created_at: datetime
    updated_at: datetime
    last_run_id: str | None
    agent: str | None
    owner: str | None
    metadata: Mapping[str, Any]
    expires_at: datetime | None
    ttl_minutes: float | None
    ends: bool
    removed_at: datetime | None

    @property
    def cursor(self) -> str:
        """The thread's place in a listing: pass it as `before` to get older threads, as `after` to get newer ones."""
        return cursor_of(self.updated_at, self.thread_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTotals:
    """The tokens of one model or one caller. Cache reads are part of the input, reasoning is part of the output.

    `cost_usd` is None if no run had a price for it.
    """

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    reasoning_tokens: int
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTotals:
    """Totals of some runs. `cost_usd` is None if no run had a price; durations (of ended runs) are None if none has
    ended.

    Durations are exact where there are few runs, else at most 1.6 % too long or too short.
    """

    runs: int = 0
    by_status: Mapping[RunStatus, int]
    total_input_tokens: int = 0
    total_output_tokens: int = 0
    llm_call_count: int = 0
    tool_call_count: int = 0
    message_count: int = 0
    cost_usd: float | None = None
    duration_p50: float | None = None
    duration_p95: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Totals of some runs. Runs that never started count under the agent None."""

    total: RunTotals
    by_agent: Mapping[str | None, RunTotals]
    by_model: Mapping[str, TokenTotals]
    by_caller: Mapping[str, TokenTotals]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeBucket(Stats):
    """Totals of the runs that were created from `start` on, for the length of `width`."""

    start: datetime
    width: timedelta


def cursor_of(when: datetime, id_: str) -> str:
    """A place in a listing that is sorted by time and id."""
    return f"{time_text(when)}/{id_}"
