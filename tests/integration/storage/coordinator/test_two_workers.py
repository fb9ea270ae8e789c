"""Two workers on one store: threads held across them, cancels that reach the other, runs that one has from the other."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from typing import Any, override

import pytest
from tests.integration.runs.stage import Agents, within_patience

from trackside import RunStatus, ThreadBusyError
from trackside.app.spool.spool import is_refusal
from trackside.app.storage._writing.work import UnitOfWork, Work
from trackside.app.storage.errors import ReadersBusyError
from trackside.harness.errors import NoResultHereError, TakenOverError
from trackside.harness.ids import new_id
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType


async def test_a_thread_is_held_against_other_processes(worker: Any, agents: Agents) -> None:
    a, b = await worker(), await worker()
    first = await a.start("one", thread_id="t")
    await agents.until_running("one")

    with pytest.raises(ThreadBusyError, match=first.run_id):
        await b.start("quick", thread_id="t", multitask="reject")
    second = await b.start("quick two", thread_id="t")
    third = await a.start("quick three", thread_id="t")
    agents.let("one")
    results = [await handle.result() for handle in (first, second, third)]

    assert [result.status for result in results] == ["success"] * 3
    assert agents.begun == ["one", "quick two", "quick three"]
    assert await a.told("t") == [
        "run_started",
        "thread_status_updated busy",
        "human_message",
        "run_completed success",
        *("run_started", "human_message", "run_completed success") * 2,
        "thread_status_updated idle",
    ]


class Held(Work):
    """Keeps the writer until it may go on: everything that comes meanwhile is written together."""

    def __init__(self) -> None:
        self.begun, self.over = threading.Event(), threading.Event()

    @override
    def apply(self, unit: UnitOfWork) -> None:
        self.begun.set()
        self.over.wait(20)


async def test_a_run_that_has_to_make_room_before_its_start_is_answered_is_ended_by_one_alone(
    worker: Any, agents: Agents, caplog: pytest.LogCaptureFixture
) -> None:
    async with worker.make() as a:
        await a.start("one", thread_id="t")
        await agents.until_running("one")
        due = await a.start("quick due", thread_id="t", multitask="interrupt", after_seconds=3_600)
        held = Held()
        holding = asyncio.create_task(a.store._writer.write(held))
        await asyncio.to_thread(held.begun.wait, 20)
        starts = asyncio.create_task(a.start("quick two", thread_id="t", run_id="left"))
        await asyncio.sleep(0)
        a.coordinator._spawn(a.coordinator._runs.get(due.run_id))  # as the timer does
        await asyncio.sleep(0)
        starts.cancel()  # so that somebody else takes the run out as well
        held.over.set()
        await asyncio.wait({starts, holding})

        assert (await due.result()).status is RunStatus.success
        await a.until_ended("left")
        told = [stored.event.event_type.value for stored in await a.store.events(run_id="left")]
    assert told == ["run_cancelled"]
    assert "could not be" not in caplog.text
    assert "may stay held" not in caplog.text


async def test_a_run_that_has_to_make_room_before_its_start_is_answered_is_ended_though_nothing_can_be_read(
    worker: Any, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await worker()
    running = await a.start("one", thread_id="t")
    await agents.until_running("one")
    due = await a.start("quick due", thread_id="t", multitask="interrupt", after_seconds=3_600)
    held = Held()
    holding = asyncio.create_task(a.store._writer.write(held))
    await asyncio.to_thread(held.begun.wait, 20)
    starts = asyncio.create_task(a.start("quick two", thread_id="t"))
    await asyncio.sleep(0)
    a.coordinator._spawn(a.coordinator._runs.get(due.run_id))  # as the timer does
    await asyncio.sleep(0)

    async def get_nothing(run_id: str) -> Any:
        raise ReadersBusyError(database=a.store._readers.database, count=1, seconds=1)

    monkeypatch.setattr(a.coordinator, "get", get_nothing)
    held.over.set()
    await asyncio.wait({starts, holding})
    results = [await within_patience(handle.result()) for handle in (running, starts.result(), due)]

    assert [result.status for result in results] == ["cancelled", "cancelled", "success"]


async def test_a_look_at_the_database_while_a_run_is_cancelled_does_not_cancel_it_again(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await worker()
    delayed = await a.start("quick later", after_seconds=3_600)
    known = a.coordinator._known

    async def known_after_a_look(run_id: str) -> Any:
        await a.coordinator._upkeep.look()
        return await known(run_id)

    monkeypatch.setattr(a.coordinator, "_known", known_after_a_look)
    record = await a.manager.cancel(delayed.run_id)

    assert record.status is RunStatus.cancelled


async def test_a_cancel_from_elsewhere_reaches_a_running_run(worker: Any, agents: Agents) -> None:
    a, b = await worker(), await worker()
    handle = await a.start("slow to stop", thread_id="t")  # otherwise it might be over before the record is read
    await agents.until_running("slow to stop")

    record = await b.manager.cancel(handle.run_id)
    while not agents.cancelled:
        await asyncio.sleep(0.01)
    agents.let("slow to stop")
    result = await handle.result()

    assert record.cancel_requested == "interrupt"
    assert (result.status, agents.cancelled) == (RunStatus.cancelled, ["slow to stop"])
    assert (await b.told("t"))[-2:] == ["run_cancelled interrupt", "thread_status_updated idle"]


async def test_a_cancel_from_elsewhere_ends_a_waiting_run_at_once(worker: Any, agents: Agents) -> None:
    a, b = await worker(), await worker()
    first = await a.start("one", thread_id="t")
    await agents.until_running("one")
    waiting = await a.start("quick two", thread_id="t")
    last = await a.start("quick three", thread_id="t")

    record = await b.manager.cancel(waiting.run_id)
    result = await waiting.result()
    agents.let("one")

    assert (record.status, result.status) == (RunStatus.cancelled, RunStatus.cancelled)
    assert (await last.result()).status is RunStatus.success
    assert [e.event.event_type for e in await b.store.events(run_id=waiting.run_id)] == ["run_cancelled"]
    assert agents.begun == ["one", "quick three"]
    assert (await first.result()).status is RunStatus.success


async def test_interrupt_makes_room_across_processes(worker: Any, agents: Agents) -> None:
    a, b = await worker(), await worker()
    running = await a.start("one", thread_id="t")
    await agents.until_running("one")
    waiting = [await a.start("quick two", thread_id="t"), await b.start("quick three", thread_id="t")]

    coming = await b.start("quick four", thread_id="t", multitask="interrupt")
    results = [await handle.result() for handle in (running, *waiting, coming)]

    assert [result.status for result in results] == ["cancelled"] * 3 + ["success"]
    assert agents.begun == ["one", "quick four"]
    assert (await b.told("t"))[-1] == "thread_status_updated idle"


async def test_the_last_waiting_run_is_cancelled_from_elsewhere_after_busy_was_announced(
    worker: Any, agents: Agents
) -> None:
    a, b = await worker(), await worker(max_running=1)
    blocker = await b.start("blocker")  # b has no place left
    await agents.until_running("blocker")
    first = await a.start("one", thread_id="t")
    waiting = await b.start("quick two", thread_id="t")
    agents.let("one")
    await first.result()

    await a.manager.cancel(waiting.run_id)

    assert (await waiting.result()).status is RunStatus.cancelled
    assert (await a.store.thread("t")).status == "idle"
    assert (await (await a.start("quick three", thread_id="t")).result()).status is RunStatus.success
    agents.let("blocker")
    await blocker.result()


async def test_a_run_that_was_taken_over_cannot_be_started_by_its_first_owner(worker: Any, agents: Agents) -> None:
    a, b = await worker(max_running=1), await worker(max_running=1)
    for each, name in ((a, "at a"), (b, "at b")):
        await each.start(name)
        await agents.until_running(name)
    waiting = await b.start("quick", thread_id="t")  # for a place, not for its thread

    started = RunLifecycleEvent(
        new_id(), LifecycleEventType.RUN_STARTED, waiting.run_id, "t", 1, datetime.now(UTC), {"agent": "work"}
    )
    with pytest.raises(TakenOverError, match="looks after the run") as refused:
        await a.store.append([started])
    assert refused.value.fault == "store", "who runs the servers has to act, if anybody"
    assert is_refusal(refused.value)

    agents.let("at b")
    assert (await waiting.result()).status is RunStatus.success
    agents.let("at a")


async def test_who_waits_for_a_run_that_another_process_executes_by_now_is_told_so_and_not_that_it_failed(
    worker: Any, agents: Agents, database: Any
) -> None:
    a = await worker(max_running=1)
    await a.start("one")
    await agents.until_running("one")
    waiting = await a.start("two", thread_id="t")  # for a place, not for its thread
    await asyncio.gather(*a.coordinator._upkeep.stop(), return_exceptions=True)
    database.execute(f"UPDATE active_runs SET owner = NULL WHERE run_id = '{waiting.run_id}'")
    b = await worker()
    await agents.until_running("two")

    agents.let("one")
    with pytest.raises(NoResultHereError, match="another process has taken it over"):
        await within_patience(waiting.result())

    agents.let("two")
    await b.until_ended(waiting.run_id)
    assert (await b.store.run(waiting.run_id)).status is RunStatus.success
    assert agents.begun == ["one", "two"]


async def test_a_thread_that_ends_with_its_last_run_stays_for_one_that_displaces_it_elsewhere(
    worker: Any, agents: Agents
) -> None:
    a, b = await worker(max_running=1), await worker()
    await a.start("one")
    await agents.until_running("one")
    waiting = await a.start("two", thread_id="t", thread_ends=True)  # for a place
    coming = await b.start("three", thread_id="t", multitask="interrupt")
    await agents.until_running("three")
    assert await b.store.thread("t") is not None
    assert (await b.store.run(coming.run_id)).status is RunStatus.running
    agents.let("three")
    assert (await within_patience(coming.result())).status is RunStatus.success
    assert await b.store.thread("t") is None
    assert (await b.store.run(waiting.run_id, removed=True)).status is RunStatus.cancelled
    agents.let("one")


async def test_a_run_whose_start_was_refused_is_executed_when_it_comes_back(
    worker: Any, agents: Agents, database: Any
) -> None:
    a, b = await worker(max_running=1), await worker(max_running=1)
    for each, name in ((a, "at a"), (b, "at b")):
        await each.start(name)
        await agents.until_running(name)
    waiting = await a.start("quick", thread_id="t")  # for a place, not for its thread
    for each in (a, b):
        await asyncio.gather(*each.coordinator._upkeep.stop(), return_exceptions=True)
    database.execute(f"UPDATE active_runs SET owner = NULL WHERE run_id = '{waiting.run_id}'")
    await b.coordinator._upkeep.clear_up()
    agents.let("at a")
    with pytest.raises(NoResultHereError):
        await within_patience(waiting.result())

    database.execute(f"UPDATE active_runs SET owner = NULL WHERE run_id = '{waiting.run_id}'")  # as if b had left
    await a.coordinator._upkeep.clear_up()
    await a.until_ended(waiting.run_id)

    assert (await a.store.run(waiting.run_id)).status is RunStatus.success
    agents.let("at b")


async def test_a_run_that_comes_back_while_it_is_being_given_up_is_executed(
    worker: Any, agents: Agents, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await worker(max_running=1)
    await a.start("one")
    await agents.until_running("one")
    waiting = await a.start("quick", thread_id="t")  # for a place, not for its thread
    await asyncio.wait(a.coordinator._upkeep.stop())  # it looks only when this test says so
    database.execute(f"UPDATE active_runs SET owner = NULL WHERE run_id = '{waiting.run_id}'")
    get, asked, told = a.coordinator.get, asyncio.Event(), asyncio.Event()

    async def get_slowly(run_id: str) -> Any:
        asked.set()
        await told.wait()
        return await get(run_id)

    monkeypatch.setattr(a.coordinator, "get", get_slowly)
    await a.coordinator._upkeep.look()
    await asked.wait()

    await a.coordinator._upkeep.clear_up()
    told.set()
    agents.let("one")
    await a.until_ended(waiting.run_id)

    assert (await waiting.result()).status is RunStatus.success


async def test_many_workers_admit_at_once_and_the_thread_has_one_run_at_a_time(worker: Any, agents: Agents) -> None:
    workers = [await worker() for _ in range(4)]

    handles = await asyncio.gather(*(each.start(f"quick {n}", thread_id="t") for n in range(10) for each in workers))
    results = [await handle.result() for handle in handles]

    assert [result.status for result in results] == ["success"] * 40
    words = await workers[0].told("t")
    assert words.count("thread_status_updated busy") == words.count("thread_status_updated idle")
    running = 0
    for word in words:
        running += word.startswith("run_started") - word.startswith("run_completed")
        assert running in {0, 1}
