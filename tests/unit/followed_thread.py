"""A thread whose runs speak, and what those who follow it by version 2 of the protocol are told."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from trackside.app.streams import StreamHub
from trackside.app.streams.protocol import EventReader, Wanted, read_events
from trackside.harness import RunSpec
from trackside.harness.types import RunRecord, RunStatus

THREAD = "11111111-1111-4111-8111-111111111111"
ALL = Wanted(
    channels=("values", "updates", "messages", "tools", "lifecycle", "input", "tasks", "custom", "checkpoints")
)
WATCH = Wanted(channels=("lifecycle", "input"))


def begin(hub: StreamHub, run_id: str, *, started: bool = True, **more: Any) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    run = RunRecord(run_id=run_id, thread_id=THREAD, agent="agent", status=RunStatus.running, created_at=now)
    hub.begin(run, RunSpec("agent", **{"stream_mode": ("values", "messages-tuple"), **more}), started=started)


def events_of(reader: EventReader) -> list[dict[str, Any]]:
    said = b"".join(reader.pieces()).decode()
    return [json.loads(one.partition("data: ")[2]) for one in said.split("\r\n\r\n") if one]


def methods(events: list[dict[str, Any]]) -> list[str]:
    return [event["params"]["data"].get("event", event["method"]) for event in events]


def follow(hub: StreamHub, wanted: Wanted = ALL, since: int | None = None, **more: Any) -> EventReader:
    return read_events(hub.threads, THREAD, wanted, since, **more)


def begin_attempt(hub: StreamHub, run_id: str, retry_of: str, *, started: bool = True) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    run = RunRecord(
        run_id=run_id,
        thread_id=THREAD,
        agent="agent",
        status=RunStatus.running,
        created_at=now,
        attempt=2,
        retry_of=retry_of,
    )
    hub.begin(run, RunSpec("agent"), started=started)
