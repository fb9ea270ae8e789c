"""Threads as our own surface lists them: by what happened in them last, with what their runs came to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec import Struct

from trackside.app.server.wire.log import Limit, Time
from trackside.app.storage import StoredThread
from trackside.app.storage.threads import RunsOfThread
from trackside.harness.types import RunStatus, ThreadStatus


class ThreadRecordQuery(Struct, kw_only=True):
    """Which threads, and which page of them."""

    status: list[ThreadStatus] | None = None
    agent: str | None = None
    metadata: str | None = None
    """A JSON object; all of it has to be contained in the thread's."""
    since: Time | None = None
    """In which something happened then or later."""
    until: Time | None = None
    thread_id: str | None = None
    id_prefix: str | None = None
    removed: bool = False
    """Also threads that were deleted, of which the log still has runs."""
    after: str | None = None
    before: str | None = None
    limit: Limit = 50


class RecordedThread(Struct, frozen=True, kw_only=True):
    """A thread, without what it remembers."""

    cursor: str
    """Its place in a listing: `before` gets those in which nothing happened since, `after` those in which something did."""
    thread_id: str
    status: ThreadStatus
    title: str | None
    agent: str | None
    """Of its newest run that has begun."""
    owner: str | None
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    ttl_minutes: float | None
    ends: bool
    """Whether it ends with its run, for which alone it was made."""
    removed_at: datetime | None
    """Since when it is not seen any more."""
    last_run_id: str | None
    """Of its newest run that has begun, unless that was deleted."""
    last_run_status: RunStatus | None
    last_error: str | None
    """What its newest run failed with."""
    run_count: int
    """How many runs it has; 1,000 stands for as many or more."""
    metadata: Mapping[str, Any]


def recorded_thread(thread: StoredThread, runs: RunsOfThread) -> RecordedThread:
    """A thread of a listing."""
    return RecordedThread(
        cursor=thread.cursor,
        thread_id=thread.thread_id,
        status=thread.status,
        title=thread.title,
        agent=thread.agent,
        owner=thread.owner,
        created_at=thread.created_at,
        updated_at=thread.updated_at,
        expires_at=thread.expires_at,
        ttl_minutes=thread.ttl_minutes,
        ends=thread.ends,
        removed_at=thread.removed_at,
        last_run_id=runs.last_run_id,
        last_run_status=runs.last_status,
        last_error=runs.last_error,
        run_count=runs.count,
        metadata=thread.metadata,
    )
