"""Runs that are only recorded: the store logs their events as it would another process's, and no agent works."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from trackside import LifecycleEventType, RunLifecycleEvent
from trackside.app.storage import Store
from trackside.harness.ids import new_id


@dataclass(kw_only=True)
class RecordedRun:
    """What the log should say of a run."""

    agent: str = "talks"
    status: str = "success"
    """How it ended; `running` if it goes on."""
    title: str | None = None
    error: str = "ValueError: it went wrong"
    ago: float = 60.0
    """Seconds since it began."""
    seconds: float = 1.0
    cost: float | None = 0.001
    tokens: int = 1_000
    metadata: dict[str, Any] = field(default_factory=dict)
    question: str = "What is in the README?"
    payloads: dict[LifecycleEventType, dict[str, Any]] = field(default_factory=dict)
    """Payloads that events have instead, as another emitter might send them."""
    run_id: str = field(default_factory=new_id)
    thread_id: str = field(default_factory=new_id)

    def events(self) -> list[RunLifecycleEvent]:
        """The run's events, in their order."""
        begin = datetime.now(UTC) - timedelta(seconds=self.ago)
        parts: list[tuple[LifecycleEventType, dict[str, Any], float]] = [
            (LifecycleEventType.RUN_STARTED, {"agent": self.agent, "metadata": self.metadata}, 0),
            (LifecycleEventType.THREAD_STATUS_UPDATED, {"status": "busy", "previous": "idle"}, 0),
            (
                LifecycleEventType.HUMAN_MESSAGE,
                {"message": {"id": "1", "type": "human", "content": self.question}},
                0,
            ),
        ]
        if self.status != "running":
            parts.append((*self._end(), self.seconds))
            idle = {"status": "idle", "previous": "busy"}
            parts.append((LifecycleEventType.THREAD_STATUS_UPDATED, idle, self.seconds))
        return [
            RunLifecycleEvent(
                new_id(),
                kind,
                self.run_id,
                self.thread_id,
                number,
                begin + timedelta(seconds=later),
                self.payloads.get(kind, payload),
            )
            for number, (kind, payload, later) in enumerate(parts, 1)
        ]

    def _end(self) -> tuple[LifecycleEventType, dict[str, Any]]:
        data = {
            "total_input_tokens": self.tokens,
            "total_output_tokens": self.tokens // 10,
            "duration_seconds": self.seconds,
            **({} if self.cost is None else {"cost_usd": self.cost}),
        }
        says: dict[str, Any] = {"status": self.status, "title": self.title, "completion_data": data}
        if self.status in {"success", "interrupted"}:
            return LifecycleEventType.RUN_COMPLETED, says
        if self.status == "cancelled":
            return LifecycleEventType.RUN_CANCELLED, {"cancel_mode": "interrupt", "completion_data": data}
        error_type = self.error.partition(":")[0]
        return LifecycleEventType.RUN_FAILED, {**says, "error": self.error, "error_type": error_type}


async def record(database: str, runs: Iterable[RecordedRun]) -> list[RecordedRun]:
    """Write these runs to the log of this database."""
    found = list(runs)
    async with Store.open(database) as store:
        events = [event for run in found for event in run.events()]
        for begin in range(0, len(events), 4_000):
            await store.append(events[begin : begin + 4_000])
    return found
