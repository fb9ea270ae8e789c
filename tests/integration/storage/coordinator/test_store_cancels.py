"""A cancel asked of a store: nobody becomes a worker for it, and whoever looks after the run heeds it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.integration.runs.stage import Agents, within_patience

from trackside.app.cli.records.protocol import Home
from trackside.app.cli.records.stored import StoredRecords
from trackside.app.storage import Store
from trackside.app.storage.errors import InvalidQueryError, ReadOnlyStoreError
from trackside.harness.errors import UnknownRunError
from trackside.harness.types import CancelAction, RunStatus
from trackside.testing import make_run


@pytest.mark.parametrize("is_own", [True, False])
async def test_whoever_looks_after_a_run_heeds_it(worker: Any, agents: Agents, is_own: bool) -> None:
    a, b = await worker(), await worker()
    store = a.store if is_own else b.store
    workers = store.worker_ids
    running = await a.start("slow to stop", thread_id="t")  # otherwise it might be over before the record is read
    await agents.until_running("slow to stop")
    waiting = await a.start("quick two", thread_id="t")

    ended = await store.request_cancel(waiting.run_id)
    asked = await store.request_cancel(running.run_id, CancelAction.rollback)
    async with asyncio.timeout(20):
        while not agents.cancelled:
            await asyncio.sleep(0.01)
    agents.let("slow to stop")
    results = [await within_patience(handle.result()) for handle in (running, waiting)]

    assert (ended.status, asked.cancel_requested) == (RunStatus.cancelled, CancelAction.rollback)
    assert [result.status for result in results] == ["cancelled", "cancelled"]
    assert (agents.begun, agents.cancelled) == (["slow to stop"], ["slow to stop"])
    assert store.worker_ids == workers


async def test_a_command_that_cancels_becomes_no_worker(store: Store) -> None:
    await store.append(make_run("r-1")[:3])
    records = StoredRecords(store, Home("here"))
    run = await records.run("r-1")
    assert run is not None

    await records.cancel(run)

    assert (await store.run("r-1")).status is RunStatus.cancelled  # type: ignore[union-attr]
    assert store.worker_ids == frozenset()


async def test_what_cannot_be_cancelled_is_said(store: Store, url: str) -> None:
    await store.append(make_run("r-1"))

    assert (await store.request_cancel("r-1")).status is RunStatus.success
    for run_id in ("r-2", "no\0id"):
        with pytest.raises(UnknownRunError):
            await store.request_cancel(run_id)
    with pytest.raises(InvalidQueryError, match="interrupt, rollback"):
        await store.request_cancel("r-1", "later")  # type: ignore[arg-type]
    async with Store.open(url, read_only=True) as looking:
        with pytest.raises(ReadOnlyStoreError):
            await looking.request_cancel("r-1")
