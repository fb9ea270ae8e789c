"""Runs let in, started and shut down step by step, and the attempts that continue them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from trackside import RunSpec
from trackside.app.storage import Store
from trackside.harness.ids import new_id
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType, RunRecord, RunStatus

AGENT = "work"


async def retry_of(store: Store, run_id: str) -> str:
    """The one run that continues another."""
    (retried_as,) = await store.retries_of(run_id)
    ends = await store.events(run_id=run_id, types=["run_failed", "run_cancelled"])
    assert [stored.event.payload["retried_as"] for stored in ends] == [retried_as]
    return retried_as


@asynccontextmanager
async def by_hand(url: str) -> AsyncIterator[tuple[Store, Any]]:
    """A store and an unattached coordinator, which does nothing of its own accord."""
    async with Store.open(url) as store:
        yield store, store.coordinator(lease_seconds=3_600)


async def let_in(coordinator: Any, thread_id: str = "t", **asked: Any) -> str:
    now = datetime.now(UTC)
    record = RunRecord(
        run_id=new_id(), thread_id=thread_id, agent=AGENT, status=RunStatus.pending, created_at=now, trigger="cron"
    )
    await coordinator.admit(record, spec=RunSpec(AGENT, "?", **asked))
    return record.run_id


def event(run_id: str, kind: str, sequence: int, **payload: Any) -> RunLifecycleEvent:
    return RunLifecycleEvent(new_id(), LifecycleEventType(kind), run_id, "t", sequence, datetime.now(UTC), payload)


async def start(store: Store, coordinator: Any, run_id: str) -> None:
    claim = await coordinator.claim(run_id)
    assert claim is not None
    said = [event(run_id, "run_started", 1, agent=AGENT)]
    if claim.thread_status != "busy":
        said.append(event(run_id, "thread_status_updated", 2, status="busy"))
    await store.append(said)


async def shut_down(store: Store, coordinator: Any, run_id: str, *, sequence: int = 3) -> str:
    """Take a run to its end as a closing manager does; return the id under which it goes on."""
    settlement = await coordinator.settle(run_id, RunStatus.cancelled, shut_down=True)
    end = [event(run_id, "run_cancelled", sequence, cancel_mode="shutdown", retried_as=settlement.retried_as)]
    if settlement.status is not settlement.previous:
        end.append(event(run_id, "thread_status_updated", sequence + 1, status=settlement.status.value))
    await store.append(end)
    await coordinator.release(run_id, settlement.status)
    return str(settlement.retried_as)
