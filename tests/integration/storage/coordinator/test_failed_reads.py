"""What was written stays done if the read after it fails: nobody waits for what only that read would have told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.integration.runs.stage import Agents, within_patience
from tests.integration.storage.coordinator.conftest import take_for_dead

from trackside import RunRecord, RunStatus
from trackside.app.storage.errors import ReadersBusyError
from trackside.harness.ports import Release
from trackside.harness.types import CancelAction, ThreadStatus


def fail_next_read(worker: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have this worker's next look at one run fail; the list then has that run's id."""
    get = worker.coordinator.get
    failed: list[str] = []

    async def get_later(run_id: str) -> Any:
        if failed:
            return await get(run_id)
        failed.append(run_id)
        raise ReadersBusyError(database=worker.store._readers.database, count=1, seconds=1)

    monkeypatch.setattr(worker.coordinator, "get", get_later)
    return failed


async def test_a_run_that_has_others_make_room_runs_though_one_of_them_cannot_be_read(
    worker: Any, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await worker(), await worker()
    running = await b.start("one", thread_id="t")
    await agents.until_running("one")
    waiting = await a.start("quick two", thread_id="t")
    failed = fail_next_read(a, monkeypatch)

    coming = await a.start("quick three", thread_id="t", multitask="interrupt")
    results = [await within_patience(handle.result()) for handle in (running, waiting, coming)]

    assert failed == [running.run_id]
    assert [result.status for result in results] == ["cancelled", "cancelled", "success"]
    assert agents.begun == ["one", "quick three"]


async def test_a_run_that_is_due_and_has_others_make_room_runs_though_one_of_them_cannot_be_read(
    worker: Any, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await worker(), await worker()
    running = await b.start("one", thread_id="t")
    await agents.until_running("one")
    waiting = await a.start("quick two", thread_id="t")
    due = await a.start("quick due", thread_id="t", multitask="interrupt", after_seconds=3_600)
    failed = fail_next_read(a, monkeypatch)

    a.coordinator._spawn(a.coordinator._runs.get(due.run_id))  # as the timer does
    results = [await within_patience(handle.result()) for handle in (running, waiting, due)]

    assert failed == [running.run_id]
    assert [result.status for result in results] == ["cancelled", "cancelled", "success"]


async def test_a_running_run_is_stopped_by_a_cancel_without_anything_being_read(
    worker: Any, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await worker()
    running = await a.start("one", thread_id="t")
    await agents.until_running("one")
    get, reads_again = a.coordinator.get, asyncio.Event()

    async def get_late(run_id: str) -> Any:
        await reads_again.wait()  # as at the end of a long line of reads
        return await get(run_id)

    monkeypatch.setattr(a.coordinator, "get", get_late)
    cancelling = asyncio.create_task(a.manager.cancel(running.run_id))
    try:
        assert (await within_patience(running.result())).status is RunStatus.cancelled
    finally:
        reads_again.set()
    assert agents.cancelled == ["one"]
    assert (await within_patience(cancelling)).run_id == running.run_id


async def test_a_cancel_says_how_a_run_ended_that_has_just_ended(worker: Any, agents: Agents) -> None:
    a = await worker()
    running = await a.start("one", thread_id="t")
    await agents.until_running("one")
    released: list[RunRecord] = []
    release = a.coordinator.release

    async def cancel_and_release(run_id: str, announced: ThreadStatus) -> Release:
        released.append(await a.coordinator.request_cancel(run_id, CancelAction.interrupt))
        return await release(run_id, announced)

    a.coordinator.release = cancel_and_release
    await a.manager.cancel(running.run_id)
    assert (await within_patience(running.result())).status is RunStatus.cancelled
    assert [record.status for record in released] == [RunStatus.cancelled]


async def test_a_cancel_says_what_was_asked_for_first_and_how_a_run_ended_elsewhere(
    worker: Any, agents: Agents, database: Any
) -> None:
    a, b = await worker(), await worker()
    await asyncio.wait(a.coordinator._upkeep.stop())  # so that it hears nothing of what others do
    running = await a.start("one", thread_id="t")
    lost = await a.start("two", thread_id="u")
    await agents.until_running("one")
    await agents.until_running("two")

    await b.store.request_cancel(running.run_id, CancelAction.rollback)
    asked = await a.coordinator.request_cancel(running.run_id, CancelAction.interrupt)
    take_for_dead(database, a.coordinator.worker_id)
    await b.coordinator._upkeep.clear_up()
    ended = await a.coordinator.request_cancel(lost.run_id, CancelAction.interrupt)

    assert (asked.status, asked.cancel_requested) == (RunStatus.running, CancelAction.rollback)
    assert (ended.status, ended.cancel_requested) == (RunStatus.error, None)
