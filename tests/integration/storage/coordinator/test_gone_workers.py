"""Runs of a worker that is gone: they end once, and others get their threads, questions and results."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from tests.integration.runs.stage import Agents, within_patience
from tests.integration.storage.coordinator.conftest import Worker, take_for_dead

from trackside import RunContext, RunHandle, RunSpec, RunStatus
from trackside.app.storage import Store
from trackside.app.storage._coordination import upkeep
from trackside.app.storage._coordination.recovery import Adopt, Reap
from trackside.app.storage.errors import RunEndedError
from trackside.harness.errors import NoResultHereError
from trackside.harness.ports import ThreadState
from trackside.testing import assert_run_order


async def test_a_run_of_a_dead_worker_ends_once_and_its_thread_is_free(
    worker: Any, agents: Agents, database: Any
) -> None:
    a = await worker()
    lost = await a.start("one", thread_id="t")
    await agents.until_running("one")

    take_for_dead(database, a.coordinator.worker_id)
    b = await worker()
    await b.until_ended(lost.run_id)
    following = await (await b.start("quick two", thread_id="t")).result()
    result = await lost.result()

    assert following.status is RunStatus.success
    assert (result.status, agents.cancelled) == (RunStatus.error, ["one"])
    assert await b.told("t") == [
        *("run_started", "thread_status_updated busy", "human_message"),
        "run_failed error worker_lost",
        "thread_status_updated error",
        *("run_started", "thread_status_updated busy", "human_message"),
        "run_completed success",
        "thread_status_updated idle",
    ]
    for run in await b.store.runs():
        assert_run_order([stored.event for stored in await b.store.events(run_id=run.run_id)])


async def test_a_question_is_open_and_its_thread_waits_where_the_worker_of_its_answer_is_dead(
    worker: Any, agents: Agents, store: Store, database: Any
) -> None:
    answering = asyncio.Event()

    async def refunds(input: Any, run: RunContext) -> str:
        if (answer := run.interrupt("Refund?")) == "slow":
            answering.set()
            await asyncio.Event().wait()
        return f"refunded: {answer}"

    agents.work = refunds  # type: ignore[method-assign]
    a = await worker(states=store.thread_states())
    asking = await a.start("one", thread_id="t")
    assert (await asking.result()).status is RunStatus.interrupted
    lost = await a.start(thread_id="t", command={"resume": "slow"})
    await within_patience(answering.wait())

    take_for_dead(database, a.coordinator.worker_id)
    b = await worker(states=store.thread_states())
    await b.until_ended(lost.run_id)

    assert (await b.told("t"))[-2:] == ["run_failed error worker_lost", "thread_status_updated interrupted"]
    assert [run.run_id for run in await b.store.runs(waiting=True)] == [asking.run_id]
    pruned = await b.store.prune(older_than=timedelta(0))
    assert (pruned.threads, pruned.kept_waiting) == (0, 1)
    answered = await (await b.start(thread_id="t", command={"resume": "yes"})).result()
    assert answered.status is RunStatus.success
    assert (await b.told("t"))[-1] == "thread_status_updated idle"


@pytest.mark.parametrize("names_runs", [False, True])
async def test_who_asks_again_for_runs_of_a_worker_that_is_gone_has_their_results(
    worker: Any, agents: Agents, database: Any, names_runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for work in (Reap, Adopt):  # more than one transaction takes over
        monkeypatch.setattr(upkeep, work.__name__, partial(work, limit=8))

    def asks(one: Worker, key: str) -> Awaitable[RunHandle]:
        named = {"run_id": key} if names_runs else {}
        return one.start(key, thread_id="t", idempotency_key=key, **named)

    a, b = await worker(), await worker()
    keys = ["one", *(f"quick {number}" for number in range(20))]
    for key in keys:
        await asks(a, key)
    await agents.until_running("one")
    with pytest.raises(NoResultHereError):
        await (await asks(b, "quick 7")).result()

    await asyncio.wait(a.coordinator._upkeep.stop())  # it is dead, and takes over nothing itself
    take_for_dead(database, a.coordinator.worker_id)
    asked = await asyncio.gather(*(asks(b, key) for key in keys))
    lost, *waited = [await within_patience(run.result()) for run in asked]

    assert (lost.status, {run.status for run in waited}) == (RunStatus.error, {RunStatus.success})
    assert all(run.existing for run in asked)
    assert agents.begun == keys


async def test_who_asks_again_while_another_looks_for_what_is_left_has_it_looked_for_once_more(
    worker: Any, agents: Agents, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, here = [await worker() for _ in range(3)]
    for gone, key in ((first, "one"), (second, "two")):
        await gone.start(key, idempotency_key=key)
        await agents.until_running(key)
    for each in (first, second, here):
        await asyncio.wait(each.coordinator._upkeep.stop())  # only those who ask look
    looks = here.coordinator._upkeep
    clear_up, has_looked, go_on = looks.clear_up, asyncio.Event(), asyncio.Event()

    async def look_slowly() -> None:
        await clear_up()
        has_looked.set()
        await go_on.wait()

    monkeypatch.setattr(looks, "clear_up", look_slowly)
    take_for_dead(database, first.coordinator.worker_id)
    one = asyncio.create_task(here.start("one", idempotency_key="one"))
    async with asyncio.timeout(20):
        await has_looked.wait()
        take_for_dead(database, second.coordinator.worker_id)
        two = asyncio.create_task(here.start("two", idempotency_key="two"))
        while looks._asked < 2:
            await asyncio.sleep(0)
    go_on.set()

    assert [(await within_patience((await asked).result())).status for asked in (one, two)] == [RunStatus.error] * 2


async def test_a_run_that_was_taken_for_dead_leaves_nothing_of_a_thread_that_was_removed_since(
    worker: Any, agents: Agents, database: Any
) -> None:
    running, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()
    refusals: list[RunEndedError] = []

    async def late(input: Any, run: RunContext) -> None:
        saver, place = a.store.checkpointer(), {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
        running.set()
        try:
            await asyncio.Event().wait()
        finally:  # like a process that was suspended, and continues where it was
            await go_on.wait()
            with pytest.raises(RunEndedError) as refused:
                await a.store.thread_states().save("t", ThreadState({"said": "I am Ada"}), run_id=run.run_id)
            refusals.append(refused.value)
            with pytest.raises(RunEndedError) as refused:
                await saver.aput(place, empty_checkpoint(), {}, {})
            refusals.append(refused.value)
            with pytest.raises(RunEndedError) as refused:
                await saver.adelete_begun_thread("t", run.run_id)
            refusals.append(refused.value)
            done.set()

    agents.work = late  # type: ignore[method-assign]
    a = await worker()
    lost = await a.start("one", thread_id="t")
    await within_patience(running.wait())
    take_for_dead(database, a.coordinator.worker_id)
    agents.work = Agents().work  # type: ignore[method-assign]
    b = await worker()
    await b.until_ended(lost.run_id)
    await b.store.threads_of(None).remove("t")
    await b.store.sweeper().sweep()
    assert await b.store.threads(removed=True) == []
    go_on.set()
    await within_patience(done.wait())

    assert [(error.run_id, error.status) for error in refusals] == [(lost.run_id, "lost, and was removed")] * 3
    assert await b.store.thread_states().load("t") is None
    assert database.execute("SELECT * FROM graph_checkpoints").fetchall() == []


async def test_what_a_dead_worker_had_waiting_starts_elsewhere_in_its_order(
    worker: Any, agents: Agents, database: Any
) -> None:
    a = await worker(max_running=1)
    lost = await a.start("one", thread_id="t")
    await agents.until_running("one")
    waiting = [await a.start(f"quick {n}", thread_id="t", timeout=60) for n in range(3)]
    elsewhere = await a.start("quick elsewhere")

    take_for_dead(database, a.coordinator.worker_id)
    b = await worker(max_running=1)
    for handle in (lost, *waiting, elsewhere):
        await b.until_ended(handle.run_id)

    assert [name for name in agents.begun if name != "quick elsewhere"] == ["one", "quick 0", "quick 1", "quick 2"]
    assert agents.begun.count("quick elsewhere") == 1
    statuses = {run.run_id: run.status for run in await b.store.runs()}
    assert [statuses[handle.run_id] for handle in waiting] == [RunStatus.success] * 3
    for handle in waiting:  # those waiting at the first worker hear how they ended, or that they go on elsewhere
        with contextlib.suppress(NoResultHereError):
            assert (await handle.result()).status is RunStatus.success


async def test_what_was_withdrawn_by_a_worker_that_died_is_announced_by_the_next(
    worker: Any, agents: Agents, database: Any
) -> None:
    a = await worker()
    await a.start("one", thread_id="t")
    await agents.until_running("one")
    waiting = await a.start("quick", thread_id="t")
    database.execute(f"UPDATE active_runs SET state = 'withdrawn' WHERE run_id = '{waiting.run_id}'")

    take_for_dead(database, a.coordinator.worker_id)
    b = await worker()
    await b.until_ended(waiting.run_id)

    assert (await b.store.run(waiting.run_id)).status is RunStatus.cancelled
    assert database.execute("SELECT count(*) FROM active_runs").fetchall() == [(0,)]


async def test_an_agent_that_blocks_the_loop_is_not_taken_for_dead(
    worker: Any, blockbuster: Any, database: Any
) -> None:
    blockbuster.deactivate()
    lease = 3.0  # a machine that stands still for a moment may do so between two signs of life
    a, b = await worker(lease_seconds=lease), await worker(lease_seconds=lease)

    def known_until() -> float:
        select = f"SELECT lease_until FROM workers WHERE worker_id = '{a.coordinator.worker_id}'"
        ((until,),) = database.execute(select).fetchall()
        return float(until)

    async def block(input: Any) -> str:
        end, patience = known_until() + lease, time.monotonic() + 20
        while known_until() <= end:  # until a sign of life comes after the present lease would have ended
            assert time.monotonic() < patience
            time.sleep(0.01)
        return "done"

    handle = await a.manager.start(RunSpec(block, thread_id="t"))
    result = await handle.result()

    assert result.status is RunStatus.success
    assert (await b.told("t"))[-2:] == ["run_completed success", "thread_status_updated idle"]
