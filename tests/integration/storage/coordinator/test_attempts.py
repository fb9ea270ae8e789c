"""Runs that are started anew: their process was lost or shut down, and they have attempts left."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.integration.runs.stage import Agents
from tests.integration.storage.coordinator.conftest import Worker, required
from told_events import told

from trackside import AgentLimits, RunContext, RunManager, RunSpec
from trackside.app.storage import Store
from trackside.app.storage._writing.work import UnitOfWork, Work
from trackside.harness.admission import another_attempt
from trackside.harness.errors import EventOrderError, InvalidSpecError
from trackside.harness.ids import new_id
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import CancelAction, LifecycleEventType, RunRecord, RunStatus
from trackside.testing import assert_run_order

AGENT = "work"


def take_for_dead(database: Any, worker_id: str) -> None:
    """Let the lease of a worker end."""
    database.execute(f"UPDATE workers SET lease_until = 0 WHERE worker_id = '{worker_id}'")


async def retry_of(store: Store, run_id: str) -> str:
    """The one run that goes on for another."""
    (retried_as,) = await store.retries_of(run_id)
    ends = await store.events(run_id=run_id, types=["run_failed", "run_cancelled"])
    assert [stored.event.payload["retried_as"] for stored in ends] == [retried_as]
    return retried_as


@asynccontextmanager
async def by_hand(url: str) -> AsyncIterator[tuple[Store, Any]]:
    """A store and a coordinator that nobody has attached: it does nothing of its own accord."""
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
    """Take a run to its end as a manager that closes; the id under which it goes on."""
    settlement = await coordinator.settle(run_id, RunStatus.cancelled, shut_down=True)
    end = [event(run_id, "run_cancelled", sequence, cancel_mode="shutdown", retried_as=settlement.retried_as)]
    if settlement.status is not settlement.previous:
        end.append(event(run_id, "thread_status_updated", sequence + 1, status=settlement.status.value))
    await store.append(end)
    await coordinator.release(run_id, settlement.status)
    return str(settlement.retried_as)


async def test_a_run_that_is_shut_down_while_its_database_is_locked_goes_on_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def report(input: str, run: RunContext) -> int:
        if run.attempt == 1:
            await asyncio.Event().wait()
        return run.attempt

    def manager_of(store: Store) -> RunManager:
        coordinator = store.coordinator()
        return RunManager({"report": report}, observers=required(store), coordinator=coordinator, shutdown_grace=0)

    async with Store.open(f"sqlite:///{tmp_path}/runs.db", busy_timeout=0.2) as store:
        manager = manager_of(store)
        run = await manager.start(RunSpec("report", "?", max_attempts=2))
        async for _ in store.follow(run_id=run.run_id, types="run_started"):
            break
        lock = await asyncio.to_thread(sqlite3.connect, tmp_path / "runs.db", check_same_thread=False)
        await asyncio.to_thread(lock.execute, "BEGIN IMMEDIATE")
        closes = asyncio.create_task(manager.aclose())
        while "could not be settled" not in caplog.text:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(lock.close)
        await closes
    async with Store.open(f"sqlite:///{tmp_path}/runs.db") as store:
        again = await retry_of(store, run.run_id)
        async with manager_of(store):
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
    """As by a signal handler that calls `sys.exit`: the loop cancels every task, and nobody has cancelled the run."""

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


class Dawdle(Work):
    """Keeps the writer from the next transaction until it may go on."""

    def __init__(self) -> None:
        self.begun, self.may_go_on = threading.Event(), threading.Event()

    @property
    def size(self) -> int:
        return 0

    def apply(self, unit: UnitOfWork) -> None:
        self.begun.set()
        self.may_go_on.wait()


async def test_who_comes_in_the_transaction_of_an_end_leaves_the_place_to_the_next_attempt(url: str) -> None:
    async with by_hand(url) as (store, coordinator):
        await start(store, coordinator, first := await let_in(coordinator, max_attempts=2))
        settlement = await coordinator.settle(first, RunStatus.cancelled, shut_down=True)
        store._writer.put(slow := Dawdle())
        await asyncio.to_thread(slow.begun.wait)
        end = event(first, "run_cancelled", 3, cancel_mode="shutdown", retried_as=settlement.retried_as)
        together = asyncio.gather(let_in(coordinator, "elsewhere"), store.append([end]))
        while store._writer._jobs.qsize() < 2:
            await asyncio.sleep(0)
        slow.may_go_on.set()

        newcomer, _ = await together

        assert (await coordinator.get(newcomer)).status is RunStatus.pending
        assert await coordinator.claim(await retry_of(store, first)) is not None


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
    """A run's worker is lost as it runs, and that of its next attempt: who has seen the end of that one, and its id."""
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
    """Those that came before it, whoever wanted them, are not counted."""
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


async def test_a_third_attempt_waits_and_then_goes_before_those_that_came_meanwhile(url: str, database: Any) -> None:
    async with by_hand(url) as (store, coordinator):
        first = await let_in(coordinator, max_attempts=3)
        await start(store, coordinator, first)
        second = await shut_down(store, coordinator, first)
        waiting = [await let_in(coordinator) for _ in range(2)]
        await start(store, coordinator, second)
        third = await shut_down(store, coordinator, second, sequence=2)

        known = await coordinator.get(third)
        assert (known.attempt, known.retry_of, known.status) == (3, second, "pending")
        assert known.due_at is not None
        assert 1.9 < (known.due_at - known.created_at).total_seconds() < 2.1
        await start(store, coordinator, waiting[0])  # nobody is kept waiting by a pause
        database.execute(f"UPDATE active_runs SET owner = '{coordinator.worker_id}' WHERE run_id = '{third}'")
        mine = coordinator._runs.take(known, ready=False, thread_status="busy")
        await coordinator._promote(mine)
        await coordinator.settle(waiting[0], RunStatus.success)
        await store.append([event(waiting[0], "run_completed", 2, status="success", completion_data={})])

        assert (await coordinator.release(waiting[0], "busy")).next_run_id == third
        assert await coordinator.claim(waiting[1]) is None


async def test_a_thread_rests_while_its_only_run_waits_for_its_next_attempt(url: str) -> None:
    async with by_hand(url) as (store, coordinator):
        first = await let_in(coordinator, max_attempts=3)
        await start(store, coordinator, first)
        second = await shut_down(store, coordinator, first)
        thread = await store.thread("t")
        assert thread is not None
        assert thread.status == "busy"
        await start(store, coordinator, second)
        await shut_down(store, coordinator, second, sequence=2)

        thread = await store.thread("t")
        assert thread is not None
        assert thread.status == "idle"
        following = await let_in(coordinator)
        await start(store, coordinator, following)


async def test_an_attempt_has_the_place_of_a_run_that_holds_its_thread_until_that_is_said_to_rest(url: str) -> None:
    async with by_hand(url) as (store, coordinator):
        first = await let_in(coordinator, max_attempts=3)
        await start(store, coordinator, first)
        second = await shut_down(store, coordinator, first)
        await start(store, coordinator, second)
        waiting = await let_in(coordinator)
        settlement = await coordinator.settle(second, RunStatus.cancelled, shut_down=True)
        assert settlement.status == "busy"
        assert await coordinator.withdraw(waiting)
        await store.append([event(waiting, "run_cancelled", 1, cancel_mode="interrupt")])
        await store.append([event(second, "run_cancelled", 2, retried_as=settlement.retried_as)])

        assert await retry_of(store, second) == settlement.retried_as
        release = await coordinator.release(second, "busy")
        assert release.settlement.status == "idle"


async def test_a_run_that_was_asked_to_cancel_is_lost_for_good(url: str, database: Any) -> None:
    async with by_hand(url) as (store, coordinator), by_hand(url) as (_, other):
        run_id = await let_in(coordinator, max_attempts=3)
        await start(store, coordinator, run_id)
        await other.request_cancel(run_id, CancelAction.interrupt)
        take_for_dead(database, coordinator.worker_id)
        await other._upkeep.clear_up()

        found = await store.run(run_id)
        assert found is not None
        assert (found.error_type, await store.retries_of(run_id)) == ("worker_lost", [])


async def test_a_run_that_was_asked_to_cancel_has_no_other_attempt_where_its_manager_closes_meanwhile(url: str) -> None:
    async with by_hand(url) as (store, coordinator), by_hand(url) as (_, other):
        run_id = await let_in(coordinator, max_attempts=3)
        await start(store, coordinator, run_id)
        await other.request_cancel(run_id, CancelAction.interrupt)

        settlement = await coordinator.settle(run_id, RunStatus.cancelled, shut_down=True)
        assert (settlement.retried_as, settlement.status) == (None, "idle")


async def test_a_cancel_that_comes_when_the_next_attempt_is_settled_ends_that(url: str, database: Any) -> None:
    async with by_hand(url) as (store, coordinator), by_hand(url) as (_, other):
        run_id = await let_in(coordinator, max_attempts=3)
        await start(store, coordinator, run_id)
        settlement = await coordinator.settle(run_id, RunStatus.cancelled, shut_down=True)
        await other.request_cancel(run_id, CancelAction.interrupt)
        end = event(run_id, "run_cancelled", 3, cancel_mode="shutdown", retried_as=settlement.retried_as)
        await store.append([end])
        await coordinator.aclose()
        await other._enrolment.enroll()
        await other._upkeep.clear_up()

        again = await store.run(settlement.retried_as)
        assert again is not None
        assert (again.status, again.started_at) == ("cancelled", None)
        assert database.execute("SELECT count(*) FROM active_runs").fetchall() == [(0,)]
        thread = await store.thread("t")
        assert thread is not None
        assert thread.status == "idle"


async def test_an_end_that_comes_late_starts_the_run_anew_once(url: str) -> None:
    async with by_hand(url) as (store, coordinator):
        run_id = await let_in(coordinator, max_attempts=2)
        await start(store, coordinator, run_id)
        settlement = await coordinator.settle(run_id, RunStatus.cancelled, shut_down=True)
        assert await coordinator.settle(run_id, RunStatus.cancelled, shut_down=True) == settlement
        spooled = event(run_id, "run_cancelled", 3, cancel_mode="shutdown", retried_as=settlement.retried_as)
        await coordinator.aclose()
    async with by_hand(url) as (store, _):  # as the next process delivers it, before anything else runs
        for _ in range(2):
            await store.append([spooled])

        assert await retry_of(store, run_id) == settlement.retried_as
        assert len(await store.runs()) == 2


async def test_an_end_that_comes_after_the_run_was_given_up_starts_nothing_more(url: str, database: Any) -> None:
    async with by_hand(url) as (store, coordinator), by_hand(url) as (_, other):
        run_id = await let_in(coordinator, max_attempts=2)
        await start(store, coordinator, run_id)
        settlement = await coordinator.settle(run_id, RunStatus.cancelled, shut_down=True)
        take_for_dead(database, coordinator.worker_id)
        await other._upkeep.clear_up()

        with pytest.raises(EventOrderError):
            await store.append([event(run_id, "run_cancelled", 3, retried_as=settlement.retried_as)])
        assert await retry_of(store, run_id) != settlement.retried_as
        assert len(await store.runs()) == 2


async def test_the_next_attempt_has_no_name_of_a_run_that_is_there(url: str) -> None:
    async with by_hand(url) as (store, coordinator):
        run_id, other = await let_in(coordinator, max_attempts=2), await let_in(coordinator)
        await start(store, coordinator, run_id)
        await store.append([event(run_id, "run_cancelled", 3, cancel_mode="shutdown", retried_as=other)])

        assert len(await store.runs()) == 2
        assert await coordinator.claim(other) is not None


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
