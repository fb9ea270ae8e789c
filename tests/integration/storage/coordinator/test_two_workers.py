"""Two workers on one store: threads held across them, cancels that reach the other, runs of a worker that is gone."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any, override

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from tests.integration.runs.stage import Agents, within_patience
from tests.integration.storage.conftest import held_up
from tests.integration.storage.coordinator.conftest import Worker

from trackside import RunContext, RunHandle, RunSpec, RunStatus, ThreadBusyError
from trackside.app.observers.storage import StorageObserver
from trackside.app.spool.spool import is_refusal
from trackside.app.storage import Store
from trackside.app.storage._databases.postgres.signals import PostgresSignals
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._writing.work import UnitOfWork, Work
from trackside.app.storage.errors import ReadersBusyError, RunEndedError
from trackside.harness.errors import InvalidSpecError, NoResultHereError, TakenOverError
from trackside.harness.ids import new_id
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.ports import ThreadState
from trackside.harness.types import LifecycleEventType
from trackside.testing import assert_run_order


def take_for_dead(database: Any, worker_id: str) -> None:
    """Let the lease of a worker end."""
    database.execute(f"UPDATE workers SET lease_until = 0 WHERE worker_id = '{worker_id}'")


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
    worker: Any, agents: Agents, database: Any, names_runs: bool
) -> None:
    def asks(one: Worker, key: str) -> Awaitable[RunHandle]:
        named = {"run_id": key} if names_runs else {}
        return one.start(key, thread_id="t", idempotency_key=key, **named)

    a, b = await worker(), await worker()
    keys = ["one", *(f"quick {number}" for number in range(300))]  # more than are taken over in one transaction
    for key in keys:
        await asks(a, key)
    await agents.until_running("one")
    with pytest.raises(NoResultHereError):
        await (await asks(b, "quick 7")).result()

    a.coordinator._upkeep.stop()  # it is dead, and takes nothing over itself
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
    upkeep = here.coordinator._upkeep
    await asyncio.wait(upkeep.stop())  # who asks is the only one who looks
    clear_up, has_looked, go_on = upkeep.clear_up, asyncio.Event(), asyncio.Event()

    async def look_slowly() -> None:
        await clear_up()
        has_looked.set()
        await go_on.wait()

    monkeypatch.setattr(upkeep, "clear_up", look_slowly)
    take_for_dead(database, first.coordinator.worker_id)
    one = asyncio.create_task(here.start("one", idempotency_key="one"))
    async with asyncio.timeout(20):
        await has_looked.wait()
        take_for_dead(database, second.coordinator.worker_id)
        two = asyncio.create_task(here.start("two", idempotency_key="two"))
        while upkeep._asked < 2:
            await asyncio.sleep(0)
    go_on.set()

    assert [(await within_patience((await asked).result())).status for asked in (one, two)] == [RunStatus.error] * 2


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
        finally:  # as who was suspended, and goes on where it was
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
    for handle in waiting:  # who waits at the first worker hears how they ended, or that they go on elsewhere
        with contextlib.suppress(NoResultHereError):
            assert (await handle.result()).status is RunStatus.success


class Held(Work):
    """Keeps the writer until it may go on: what comes meanwhile is written together."""

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
        a.coordinator._spawn(a.coordinator._runs.get(due.run_id))  # as its timer does
        await asyncio.sleep(0)
        starts.cancel()  # so that somebody else takes it out, too
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
    a.coordinator._spawn(a.coordinator._runs.get(due.run_id))  # as its timer does
    await asyncio.sleep(0)

    async def get_nothing(run_id: str) -> Any:
        raise ReadersBusyError(database=a.store._readers.database, count=1, seconds=1)

    monkeypatch.setattr(a.coordinator, "get", get_nothing)
    held.over.set()
    await asyncio.wait({starts, holding})
    results = [await within_patience(handle.result()) for handle in (running, starts.result(), due)]

    assert [result.status for result in results] == ["cancelled", "cancelled", "success"]


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
        while not b.manager.stats().delayed:  # it may be taken over after those that could begin at once
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


async def test_a_worker_that_leaves_runs_says_so(worker: Any) -> None:
    async with worker.make() as a:
        await a.start("quick later", after_seconds=3_600)
        signals = a.store._signals
        sent = signals.notifications if isinstance(signals, PostgresSignals) else None
    if sent is not None:  # in a file of SQLite, others see each commit for themselves
        assert signals.notifications > sent


async def test_a_delayed_run_starts_when_it_is_due_also_after_a_restart(
    worker: Any, agents: Agents, database: Any
) -> None:
    async with worker.make() as a:
        delayed = await a.start("quick later", after_seconds=3_600)
        assert agents.begun == []
    due_at = datetime.now(UTC) + timedelta(seconds=0.2)  # and not while the first one closes
    database.execute(f"UPDATE active_runs SET due_at = '{time_text(due_at)}' WHERE run_id = '{delayed.run_id}'")

    b = await worker()
    await b.until_ended(delayed.run_id)

    run = await b.store.run(delayed.run_id)
    assert (run.status, agents.begun) == (RunStatus.success, ["quick later"])
    assert (run.started_at - run.created_at).total_seconds() >= 0.2
    assert run.started_at >= due_at


async def test_a_cancel_from_elsewhere_reaches_a_running_run(worker: Any, agents: Agents) -> None:
    a, b = await worker(), await worker()
    handle = await a.start("slow to stop", thread_id="t")  # else it might be over before the record is read
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
    blocker = await b.start("blocker")  # b has no place for more
    await agents.until_running("blocker")
    first = await a.start("quick one", thread_id="t")
    waiting = await b.start("quick two", thread_id="t")
    await first.result()

    await a.manager.cancel(waiting.run_id)

    assert (await waiting.result()).status is RunStatus.cancelled
    assert (await a.store.thread("t")).status == "idle"
    assert (await (await a.start("quick three", thread_id="t")).result()).status is RunStatus.success
    agents.let("blocker")
    await blocker.result()


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

    database.execute(f"UPDATE active_runs SET owner = NULL WHERE run_id = '{waiting.run_id}'")  # as if it left
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
    lease = 1.5
    a, b = await worker(lease_seconds=lease), await worker(lease_seconds=lease)

    def known_until() -> float:
        select = f"SELECT lease_until FROM workers WHERE worker_id = '{a.coordinator.worker_id}'"
        ((until,),) = database.execute(select).fetchall()
        return float(until)

    async def block(input: Any) -> str:
        end, patience = known_until() + lease, time.monotonic() + 20
        while known_until() <= end:  # there was no sign of life after the lease of now would have ended
            assert time.monotonic() < patience
            time.sleep(0.01)
        return "done"

    handle = await a.manager.start(RunSpec(block, thread_id="t"))
    result = await handle.result()

    assert result.status is RunStatus.success
    assert (await b.told("t"))[-2:] == ["run_completed success", "thread_status_updated idle"]


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
