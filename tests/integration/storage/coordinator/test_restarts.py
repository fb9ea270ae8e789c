"""What a process leaves when it closes, the next one has: waiting and delayed runs, threads, keys."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.integration.runs.stage import PATIENCE, Agents, within_patience
from tests.integration.storage.conftest import held_up

from trackside import RunContext, RunStatus
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.app.storage._databases.postgres.signals import PostgresSignals
from trackside.app.storage._rows.encoding import time_text
from trackside.harness import due_times
from trackside.harness.errors import InvalidSpecError


async def test_what_threads_remember_and_ask_outlives_the_process(
    worker: Any, agents: Agents, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async def desk(input: Any, run: RunContext) -> dict[str, Any]:
        said = [*run.values.get("said", []), input]
        return {"said": said, "answer": run.interrupt("Refund?") if input == "refund" else None}

    agents.work = desk  # type: ignore[method-assign]
    async with worker.make(states=store.thread_states()) as first:
        await (await first.start("hello", thread_id="t")).result()
        asking = await (await first.start("refund", thread_id="t")).result()
        assert asking.status is RunStatus.interrupted
    async with worker.make(states=store.thread_states()) as second:
        answered = await (await second.start(thread_id="t", command={"resume": "yes"})).result()
        assert answered.output == {"said": ["hello", "refund"], "answer": "yes"}
    assert "states=" not in caplog.text
    async with worker.make() as forgetful:
        for thread_id in "uv":
            await (await forgetful.start("refund", thread_id=thread_id)).result()
    (said,) = [message for message in caplog.messages if "states=" in message]
    assert said.startswith("thread u waits for an answer that this process alone can take: RunManager(")


async def test_runs_that_wait_when_their_manager_closes_start_with_the_next(worker: Any, agents: Agents) -> None:
    async with worker.make(max_running=1) as a:
        running = await a.start("one", thread_id="t")
        await agents.until_running("one")
        waiting = [await a.start(f"quick {n}", thread_id="t") for n in range(2)]
        delayed = await a.start("quick later", after_seconds=3_600)

    b = await worker()
    for handle in waiting:
        await b.until_ended(handle.run_id)

    assert agents.begun == ["one", "quick 0", "quick 1"]
    assert (await b.store.run(running.run_id)).status is RunStatus.cancelled
    assert (await b.store.run(delayed.run_id)).status is RunStatus.pending
    async with asyncio.timeout(20):
        while not b.manager.stats().delayed:  # it may be taken over after the runs that could begin at once
            await asyncio.sleep(0.01)
    record = await b.manager.cancel(delayed.run_id)
    assert record.status is RunStatus.cancelled


@pytest.mark.parametrize("bind", [lambda _: [], lambda store: [StorageObserver(store)]], ids=["nobody", "as optional"])
async def test_a_run_that_nobody_would_have_to_write_is_neither_started_nor_taken_over(
    worker: Any, agents: Agents, bind: Any
) -> None:
    async with worker.make(max_running=1) as a:
        await a.start("one")
        await agents.until_running("one")
        left = await a.start("quick", thread_id="t")
    b = await worker(bind=bind)
    with pytest.raises(
        InvalidSpecError, match=r"^observers = .*ObserverBinding\(StorageObserver\(store\), required=True"
    ):
        await b.start("quick two", thread_id="t")
    await asyncio.gather(*b.coordinator._upkeep.stop(), return_exceptions=True)
    await b.coordinator._upkeep._take_over()
    assert (agents.begun, b.manager.has(left.run_id)) == (["one"], False)
    assert [run.run_id for run in await b.store.runs(status=RunStatus.pending)] == [left.run_id]

    b.manager.observers.add(StorageObserver(b.store), required=True)
    assert (await (await b.start("quick two")).result()).status is RunStatus.success
    await b.coordinator._upkeep._take_over()
    await b.until_ended(left.run_id)


async def test_a_worker_that_leaves_runs_says_so(worker: Any) -> None:
    async with worker.make() as a:
        await a.start("quick later", after_seconds=3_600)
        signals = a.store._signals
        sent = signals.notifications if isinstance(signals, PostgresSignals) else None
    if sent is not None:  # in an SQLite file, others see each commit for themselves
        assert signals.notifications > sent


async def test_a_delayed_run_starts_when_it_is_due_also_after_a_restart(
    worker: Any, agents: Agents, database: Any
) -> None:
    async with worker.make() as a:
        delayed = await a.start("quick later", after_seconds=3_600)
        assert agents.begun == []
    due_at = datetime.now(UTC) + timedelta(seconds=0.2)  # not already while the first worker closes
    database.execute(f"UPDATE active_runs SET due_at = '{time_text(due_at)}' WHERE run_id = '{delayed.run_id}'")

    b = await worker()
    await b.until_ended(delayed.run_id)

    run = await b.store.run(delayed.run_id)
    assert (run.status, agents.begun) == (RunStatus.success, ["quick later"])
    assert (run.started_at - run.created_at).total_seconds() >= 0.2
    assert run.started_at >= due_at


async def test_a_delayed_run_starts_when_it_is_due_by_a_clock_that_is_set_meanwhile(
    worker: Any, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is after a machine has slept, too."""
    monkeypatch.setattr(due_times, "LOOK_EVERY", 0.05)
    ahead, looks = timedelta(), asyncio.Semaphore(0)

    def now() -> datetime:
        looks.release()
        return datetime.now(UTC) + ahead

    a = await worker()
    a.coordinator._runs.due_times._now = now
    first, cancelled, second, last = [
        await a.start(f"quick {n}", after_seconds=after) for n, after in enumerate((3_600, 3_600, 3_600, 9_000))
    ]
    await a.manager.cancel(cancelled.run_id)
    for _ in range(20):
        await within_patience(looks.acquire())
    assert agents.begun == []
    ahead = timedelta(hours=1)
    for run in (first, second):
        await a.until_ended(run.run_id)
    assert sorted(agents.begun) == ["quick 0", "quick 2"]
    async with asyncio.timeout(PATIENCE):
        while [own.record.run_id for own in a.coordinator._runs] != [
            last.run_id
        ]:  # let go when its end is in the database
            await asyncio.sleep(0.005)


async def test_an_idempotency_key_names_one_run_in_all_processes_and_after_a_restart(
    worker: Any, agents: Agents
) -> None:
    async with worker.make() as a:
        first = await a.start("quick", idempotency_key="k")
        await first.result()
    b = await worker()
    again = await b.start("quick", idempotency_key="k")

    assert again.run_id == first.run_id
    assert (await again.result()).status is RunStatus.success
    with pytest.raises(InvalidSpecError, match="asked for something else"):
        await b.start("quick other", idempotency_key="k")
    assert agents.begun == ["quick"]


async def test_a_run_that_another_version_asked_for_is_left_to_it(worker: Any, agents: Agents, database: Any) -> None:
    async with worker.make(max_running=1) as a:
        await a.start("one")
        await agents.until_running("one")
        newer = await a.start("quick", thread_id="t")
        plain = await a.start("quick two")
    asked = '{"agent": "work", "warp": 9}'
    database.execute(f"UPDATE runs SET request = '{asked}' WHERE run_id = '{newer.run_id}'")

    b = await worker()
    await b.until_ended(plain.run_id)

    assert agents.begun == ["one", "quick two"]
    assert (await b.manager.cancel(newer.run_id)).status is RunStatus.cancelled


async def test_what_a_process_that_closes_takes_over_too_late_is_given_back(
    worker: Any, agents: Agents, database: Any
) -> None:
    b = await worker()
    running = await b.start("at b")
    await agents.until_running("at b")
    await asyncio.gather(*b.coordinator._upkeep.stop(), return_exceptions=True)
    async with worker.make(max_running=1) as a:
        await a.start("one")
        await agents.until_running("one")
        waiting = await a.start("quick", thread_id="t")
    async with held_up(b.store):
        taking_over = asyncio.ensure_future(b.coordinator._upkeep._take_over())
        while not b.store.writer_stats().pending:
            await asyncio.sleep(0)
        closing = asyncio.ensure_future(b.manager.aclose(grace=60))
        while not b.manager.closing:
            await asyncio.sleep(0)
    await taking_over

    owners = database.execute(f"SELECT owner FROM active_runs WHERE run_id = '{waiting.run_id}'").fetchall()
    assert owners == [(None,)]
    assert not closing.done()
    agents.let("at b")
    await closing
    assert (await running.result()).status is RunStatus.success
