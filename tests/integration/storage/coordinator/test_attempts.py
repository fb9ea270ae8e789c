"""Runs that are started anew: their process was lost or shut down, and they have attempts left."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.integration.runs.stage import Agents
from tests.integration.storage.coordinator.attempts import AGENT, by_hand, event, let_in, retry_of, shut_down, start
from tests.integration.storage.coordinator.conftest import Worker, required, take_for_dead
from told_events import told

from trackside import AgentLimits, RunContext, RunManager, RunSpec
from trackside.app.storage import Store
from trackside.app.storage.coordinator import StoredCoordinator
from trackside.harness.admission import another_attempt
from trackside.harness.errors import InvalidSpecError
from trackside.harness.types import RunStatus
from trackside.testing import assert_run_order


async def test_a_run_that_is_shut_down_while_its_database_is_locked_goes_on_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def report(input: str, run: RunContext) -> int:
        if run.attempt == 1:
            await asyncio.Event().wait()
        return run.attempt

    def manager_of(store: Store, coordinator: StoredCoordinator) -> RunManager:
        return RunManager({"report": report}, observers=required(store), coordinator=coordinator, shutdown_grace=0)

    async with Store.open(f"sqlite:///{tmp_path}/runs.db", busy_timeout=0.2) as store:
        coordinator = store.coordinator()
        settle = coordinator.settle

        async def settle_and_unlock(*asked: Any, **more: Any) -> Any:
            try:
                return await settle(*asked, **more)
            finally:  # before the run's end is to be written
                await asyncio.to_thread(lock.close)

        manager = manager_of(store, coordinator)
        run = await manager.start(RunSpec("report", "?", max_attempts=2))
        async for _ in store.follow(run_id=run.run_id, types="run_started"):
            break
        lock = await asyncio.to_thread(sqlite3.connect, tmp_path / "runs.db", check_same_thread=False)
        await asyncio.to_thread(lock.execute, "BEGIN IMMEDIATE")
        monkeypatch.setattr(coordinator, "settle", settle_and_unlock)
        await manager.aclose()
    assert "could not be settled" in caplog.text
    async with Store.open(f"sqlite:///{tmp_path}/runs.db") as store:
        again = await retry_of(store, run.run_id)
        async with manager_of(store, store.coordinator()):
            async for stored in store.follow(run_id=again, types="run_completed"):
                assert stored.event.run_id == again
                break


async def test_a_lost_run_is_started_anew_before_those_that_wait(
    worker: Any, agents: Agents, database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    a = await worker()
    lost = await a.start("one", thread_id="t", max_attempts=2, metadata={"customer": "acme"}, trigger="cron")
    await agents.until_running("one")
    waiting = await a.start("quick two", thread_id="t")

    agents.running.clear()
    take_for_dead(database, a.coordinator.worker_id)
    b: Worker = await worker()
    await agents.until_running("one")
    agents.let("one")
    await b.until_ended(waiting.run_id)

    again = await b.store.run(await retry_of(b.store, lost.run_id))
    assert again is not None
    assert (again.status, again.attempt, again.retry_of) == ("success", 2, lost.run_id)
    assert (again.thread_id, again.metadata, again.trigger) == ("t", {"customer": "acme"}, "cron")
    assert agents.begun == ["one", "one", "quick two"]
    assert f"it is started anew as run {again.run_id}" in caplog.text
    assert [run.run_id for run in await b.store.runs(metadata={"customer": "acme"})] == [again.run_id, lost.run_id]
    assert await b.told("t") == [
        "run_started",
        "thread_status_updated busy",
        "human_message",
        "run_failed error worker_lost",
        *("run_started", "human_message", "run_completed success") * 2,
        "thread_status_updated idle",
    ]
    started = (await b.store.events(run_id=again.run_id))[0].event.payload
    assert (started["attempt"], started["retry_of"]) == (2, lost.run_id)
    assert_run_order([stored.event for stored in await b.store.events(thread_id="t")])


@pytest.mark.parametrize("in_main", [True, False], ids=["in the main task", "in a task beside it"])
def test_a_run_whose_program_ends_with_its_event_loop_is_started_anew(url: str, in_main: bool) -> None:
    """As when a signal handler calls `sys.exit`: the loop cancels every task, and nobody has cancelled the run."""

    async def work(input: Any, run: RunContext) -> None:
        if run.attempt == 1:
            asyncio.get_running_loop().call_soon(sys.exit)
            await asyncio.Event().wait()

    async def program() -> None:
        async with Store.open(url) as store:
            manager = RunManager({AGENT: work}, observers=required(store), coordinator=store.coordinator())
            async with manager:
                await (await manager.start(RunSpec(AGENT, run_id="one", thread_id="t", max_attempts=2))).result()

    async def beside() -> None:
        task = asyncio.create_task(program())
        await asyncio.Event().wait()
        await task

    async def next_program() -> list[str]:
        async with Store.open(url) as store:
            again = await retry_of(store, "one")
            async with RunManager({AGENT: work}, observers=required(store), coordinator=store.coordinator()):
                async for _ in store.follow(run_id=again, types=["run_completed"]):
                    break
            return await told(store, "t")

    with pytest.raises(SystemExit):
        asyncio.run(program() if in_main else beside())
    assert asyncio.run(next_program()) == [
        "run_started",
        "thread_status_updated busy",
        "run_cancelled shutdown",
        "run_started",
        "run_completed success",
        "thread_status_updated idle",
    ]


async def test_a_run_that_is_shut_down_goes_on_in_another_process(worker: Any, agents: Agents) -> None:
    async with worker.make() as a:
        first = await a.start("one", thread_id="t", max_attempts=2)
        await agents.until_running("one")
        waiting = await a.start("quick two", thread_id="t")
    agents.let("one")

    b: Worker = await worker()
    await b.until_ended(waiting.run_id)

    assert (await first.result()).status is RunStatus.cancelled
    again = await b.store.run(await retry_of(b.store, first.run_id))
    assert again is not None
    assert (again.status, again.attempt) == ("success", 2)
    assert agents.begun == ["one", "one", "quick two"]
    assert await b.told("t") == [
        "run_started",
        "thread_status_updated busy",
        "human_message",
        "run_cancelled shutdown",
        *("run_started", "human_message", "run_completed success") * 2,
        "thread_status_updated idle",
    ]


async def lost_twice(
    a: Worker, run_id: str, says: str, worker: Any, agents: Agents, database: Any, limits: Any
) -> tuple[Worker, str]:
    """Lose a run's worker and the next attempt's; return the worker that saw that attempt end, and the attempt's id."""
    take_for_dead(database, a.coordinator.worker_id)
    agents.running.clear()
    b = await worker(limits=limits)
    await agents.until_running(says)
    again = await retry_of(b.store, run_id)
    take_for_dead(database, b.coordinator.worker_id)
    c: Worker = await worker(limits=limits)
    await c.until_ended(again)
    return c, again


async def test_attempts_may_be_the_agents_limit_and_end_with_the_last(
    worker: Any, agents: Agents, database: Any
) -> None:
    limits = {"work": AgentLimits(max_attempts=2)}
    a = await worker(limits=limits)
    first = await a.start("one")
    await agents.until_running("one")
    c, again = await lost_twice(a, first.run_id, "one", worker, agents, database, limits)

    last = await c.store.run_with_events(again)
    assert last is not None
    assert (last.run.error_type, await c.store.retries_of(again)) == ("worker_lost", [])
    assert "retried_as" not in last.events[-2].event.payload | last.events[-1].event.payload


async def test_a_run_that_somebody_retries_has_all_attempts_of_its_own(
    worker: Any, agents: Agents, database: Any
) -> None:
    """The attempts before it are not counted, whoever wanted them."""
    limits = {"work": AgentLimits(max_attempts=2)}
    a = await worker(limits=limits)
    spec = another_attempt(
        {"agent": "work", "input": "again"}, attempt=2, retry_of="failed", thread_id="t", parent_run_id=None
    )
    retried = await a.manager.start(spec)
    await agents.until_running("again")
    c, again = await lost_twice(a, retried.run_id, "again", worker, agents, database, limits)

    last = await c.store.run(again)
    assert last is not None
    assert (last.attempt, last.error_type, await c.store.retries_of(again)) == (3, "worker_lost", [])


async def test_an_agent_sees_which_attempt_it_is(worker: Any, database: Any, agents: Agents) -> None:
    seen: list[tuple[int, str | None]] = []
    begun = asyncio.Event()

    async def work(input: Any, run: RunContext) -> dict[str, Any]:
        seen.append((run.attempt, run.retry_of))
        begun.set()
        if run.attempt == 1:
            await asyncio.Event().wait()
        return {}

    agents.work = work  # type: ignore[method-assign]
    a = await worker()
    first = await a.start("?", max_attempts=2)
    await begun.wait()
    take_for_dead(database, a.coordinator.worker_id)
    b: Worker = await worker()
    await b.until_ended(first.run_id)
    await b.until_ended(await retry_of(b.store, first.run_id))

    assert seen == [(1, None), (2, first.run_id)]
    assert await b.told(first.thread_id) == [
        "run_started",
        "thread_status_updated busy",
        "human_message",
        "run_failed error worker_lost",
        *("run_started", "human_message", "run_completed success", "thread_status_updated idle"),
    ]


@pytest.mark.parametrize("keeps_requests", [True, False])
async def test_what_was_asked_for_is_kept_with_the_run_or_to_its_end(
    url: str, database: Any, keeps_requests: bool
) -> None:
    async with Store.open(url) as store:
        coordinator = store.coordinator(lease_seconds=3_600, keeps_requests=keeps_requests)
        run_id = await let_in(coordinator, max_attempts=2)
        asked = await store.request_of(run_id)
        assert asked == {"agent": AGENT, "input": "?", "max_attempts": 2}
        await start(store, coordinator, run_id)
        again = await shut_down(store, coordinator, run_id)

        assert await store.request_of(run_id) == (asked if keeps_requests else None)
        assert await store.request_of(again) == asked | {"thread_id": "t", "attempt": 2, "retry_of": run_id}
        await start(store, coordinator, again)
        await store.append([event(again, "run_completed", 2, status="success", completion_data={})])
        assert (await store.request_of(again) is None) is not keeps_requests
        assert await store.request_of("nobody's") is None


async def test_what_was_asked_for_is_kept_also_of_a_run_that_ends_with_its_process(url: str) -> None:
    async with Store.open(url) as store:
        run_id = await let_in(store.coordinator(hands_over=False))

        assert await store.request_of(run_id) == {"agent": AGENT, "input": "?"}


async def test_what_cannot_be_read_is_not_kept_unless_another_process_needs_it(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no")

        __repr__ = __str__

    async with Store.open(url) as store:
        run_id = await let_in(store.coordinator(hands_over=False), context=Broken())
        assert await store.request_of(run_id) is None
        assert f"the request of run {run_id} is not kept" in caplog.text


async def test_a_run_is_known_to_be_stuck_by_those_who_look_from_outside(url: str) -> None:
    async with by_hand(url) as (store, coordinator):
        pending, run_id = await let_in(coordinator, "elsewhere"), await let_in(coordinator)
        await start(store, coordinator, run_id)
        since = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
        await coordinator.note_stuck(run_id, since)
        await coordinator.note_stuck(pending, since)
        await coordinator.note_stuck("nobody's", since)

        assert {run.run_id: run.stuck_since for run in await store.runs()} == {run_id: since, pending: None}
        await store.append([event(run_id, "run_cancelled", 3, cancel_mode="interrupt")])
        run = await store.run(run_id)
        assert run is not None
        assert run.stuck_since is None


async def test_events_alone_tell_which_attempt_a_run_is(store: Store, script: Any) -> None:
    run = script()
    await store.append([run.started(attempt=3, retry_of="before")])
    damaged = script()
    await store.append([damaged.started(attempt="many", retry_of=5)])

    known, other = await store.run(run.run_id), await store.run(damaged.run_id)
    assert known is not None
    assert other is not None
    assert (known.attempt, known.retry_of) == (3, "before")
    assert (other.attempt, other.retry_of) == (1, None)


async def test_several_attempts_need_a_coordinator_that_outlives_the_process(worker: Any, agents: Agents) -> None:
    a: Worker = await worker()

    async def anonymous(input: Any, run: RunContext) -> None: ...

    with pytest.raises(InvalidSpecError, match="max_attempts.*name it in RunManager"):
        await a.manager.start(RunSpec(anonymous, max_attempts=2))
    assert (await (await a.manager.start(RunSpec(anonymous, max_attempts=1))).result()).status == "success"
