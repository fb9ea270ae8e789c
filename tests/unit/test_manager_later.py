"""Runs with a later start: not before their time, then as if they came in now; cancelled, closed, left behind."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from tests.contract.shared_ports import SharedCoordinator
from tests.contract.slow_ports import SlowCoordinator
from tests.contract.ways_to_run import end_of, required, told, virtual

from trackside.harness import (
    AgentResult,
    NoResultHereError,
    RunContext,
    RunHandle,
    RunManager,
    RunSpec,
    RunStatus,
    current_run,
)
from trackside.testing import RecordingObserver, VirtualClock, assert_run_order
from trackside.testing.loop import EPOCH

BUSY = "thread_status_updated busy"


async def sleeper(input: Any) -> Any:
    await asyncio.sleep(100)
    return input


def manager_of(*observers: Any, **options: Any) -> RunManager:
    return RunManager(
        {"sleeper": sleeper},
        observers=[required(o) for o in observers],
        clock=VirtualClock(),
        **{"shutdown_grace": 10_000.0} | options,
    )


def started_at(seen: RecordingObserver, run_id: str) -> float:
    (started,) = [e for e in seen.events if e.event_type == "run_started" and e.run_id == run_id]
    return (started.occurred_at - EPOCH).total_seconds()


@pytest.mark.parametrize("after_seconds", [0.5, 60, 86_400 * 3])
@virtual
async def test_a_run_starts_when_its_time_has_come_and_not_before(after_seconds: float) -> None:
    seen = RecordingObserver()
    async with manager_of(seen) as manager:
        run = await manager.start(RunSpec("sleeper", run_id="r", after_seconds=after_seconds))
        record = await manager.get("r")
        assert (record.status, record.due_at) == (RunStatus.pending, EPOCH + timedelta(seconds=after_seconds))
        assert (await run.result()).status is RunStatus.success
        assert (await manager.get("r")).due_at == EPOCH + timedelta(seconds=after_seconds)
    assert started_at(seen, "r") == after_seconds
    assert_run_order(seen.events)


@pytest.mark.parametrize("after_seconds", [0, 0.0, None])
@virtual
async def test_a_delay_of_nothing_is_now(after_seconds: float | None) -> None:
    async with manager_of() as manager:
        run = await manager.start(RunSpec("sleeper", after_seconds=after_seconds))
        assert (await manager.get(run.run_id)).due_at is None
        await asyncio.sleep(1)
        assert (await manager.get(run.run_id)).status is RunStatus.running


@virtual
async def test_a_run_that_is_not_due_neither_holds_its_thread_nor_waits_for_it() -> None:
    seen = RecordingObserver()
    async with manager_of(seen) as manager:
        later = await manager.start(RunSpec("sleeper", thread_id="t", run_id="later", after_seconds=500))
        for multitask in ("reject", "enqueue"):
            now = await manager.start(RunSpec("sleeper", thread_id="t", multitask=multitask))
            assert (await now.result()).status is RunStatus.success
        assert (await manager.get("later")).status is RunStatus.pending, "displaced by nobody"
        assert (await later.result()).status is RunStatus.success
    assert started_at(seen, "later") == 500
    assert_run_order(seen.events)


@pytest.mark.parametrize("multitask", ["interrupt", "rollback"])
@virtual
async def test_of_runs_that_are_for_later_and_displace_the_last_one_runs(multitask: str) -> None:
    seen = RecordingObserver()
    async with manager_of(seen) as manager:
        active = await manager.start(RunSpec("sleeper", thread_id="t", run_id="active"))
        later = [
            await manager.start(
                RunSpec("sleeper", thread_id="t", run_id=f"later-{i}", after_seconds=500, multitask=multitask)
            )
            for i in range(3)
        ]
        assert [(await run.result()).status for run in later[:2]] == [RunStatus.cancelled] * 2
        assert (await active.result()).status is RunStatus.success, "displaced before the other one was due"
        assert (await later[2].result()).status is RunStatus.success
    assert [told(seen.events, f"later-{i}") for i in range(2)] == [[f"run_cancelled {multitask}"]] * 2
    assert started_at(seen, "later-2") == 500
    assert_run_order(seen.events)


@virtual
async def test_a_run_that_is_due_takes_its_place_behind_those_that_came_before_and_keeps_it() -> None:
    seen = RecordingObserver()
    async with manager_of(seen) as manager:
        runs = [
            await manager.start(
                RunSpec("sleeper", thread_id="t", run_id=run_id, after_seconds=after, multitask=strategy)
            )
            for run_id, after, strategy in (
                ("third", 20, "reject"),
                ("second", 10, "enqueue"),
                ("first", None, "enqueue"),
            )
        ]
        await asyncio.sleep(30)
        runs.append(await manager.start(RunSpec("sleeper", thread_id="t", run_id="fourth")))
        for run in runs:
            await run.result()
    starts = [e.run_id for e in seen.events if e.event_type == "run_started"]
    assert starts == ["first", "second", "third", "fourth"]
    assert_run_order(seen.events)


@pytest.mark.parametrize("multitask", ["interrupt", "rollback"])
@virtual
async def test_a_run_that_is_due_displaces_as_if_it_came_in_now(multitask: str) -> None:
    seen = RecordingObserver()
    async with manager_of(seen) as manager:
        old = [await manager.start(RunSpec("sleeper", thread_id="t", run_id=f"old-{i}")) for i in range(3)]
        due = await manager.start(
            RunSpec("sleeper", thread_id="t", run_id="due", after_seconds=10, multitask=multitask)
        )
        assert [(await run.result()).status for run in old] == [RunStatus.cancelled] * 3
        assert (await due.result()).status is RunStatus.success
    assert told(seen.events, "old-0") == ["run_started", BUSY, f"run_cancelled {multitask}"]
    assert end_of(seen.events, "old-1").payload["reason"] == "another run took its place on the thread"
    assert started_at(seen, "due") == 10
    assert_run_order(seen.events)


@virtual
async def test_displacing_a_run_that_waits_for_a_place_gives_the_thread_on() -> None:
    seen = RecordingObserver()
    async with manager_of(seen, max_running=1) as manager:
        await manager.start(RunSpec("sleeper"))
        waits = await manager.start(RunSpec("sleeper", thread_id="t", run_id="waits"))
        due = await manager.start(
            RunSpec("sleeper", thread_id="t", run_id="due", after_seconds=10, multitask="interrupt")
        )
        assert (await waits.result()).status is RunStatus.cancelled
        assert (await due.result()).status is RunStatus.success
    assert started_at(seen, "due") == 100
    assert_run_order(seen.events)


@virtual
async def test_a_run_that_is_due_waits_for_a_place_like_any_other() -> None:
    seen = RecordingObserver()
    async with manager_of(seen, max_running=1) as manager:
        await manager.start(RunSpec("sleeper"))
        due = await manager.start(RunSpec("sleeper", run_id="due", after_seconds=10))
        await due.result()
    assert started_at(seen, "due") == 100


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("moment", [0, 9, 9.5, 10, 10.5])
@virtual
async def test_a_run_can_be_cancelled_at_any_moment_before_and_after_it_is_due(slow: bool, moment: float) -> None:
    seen = RecordingObserver()
    coordinator = SlowCoordinator(0.5, clock=VirtualClock()) if slow else None
    async with manager_of(seen, coordinator=coordinator) as manager:
        run = await manager.start(RunSpec("sleeper", thread_id="t", run_id="r", after_seconds=10))
        await asyncio.sleep(moment)
        assert (await run.cancel(wait=True)).status is RunStatus.cancelled
        after = await manager.start(RunSpec("sleeper", thread_id="t"))
        assert (await after.result()).status is RunStatus.success
        assert (await run.result()).status is RunStatus.cancelled
    if moment < 9:
        assert told(seen.events, "r") == ["run_cancelled interrupt"]
    assert_run_order(seen.events)


@virtual
async def test_a_start_whose_caller_is_cancelled_leaves_no_run_for_later() -> None:
    seen = RecordingObserver()
    coordinator = SlowCoordinator(1.0, clock=VirtualClock())
    async with manager_of(seen, coordinator=coordinator) as manager:
        starts = asyncio.create_task(manager.start(RunSpec("sleeper", run_id="r", after_seconds=10)))
        await asyncio.sleep(1.5)
        starts.cancel()
        await asyncio.wait({starts})
        await asyncio.sleep(100)
    assert told(seen.events, "r") == ["run_cancelled task_cancelled"]
    assert coordinator.inner._runs == {}


@virtual
async def test_a_close_cancels_what_is_not_due_at_once_and_gives_what_waits_its_grace() -> None:
    seen = RecordingObserver()
    loop = asyncio.get_running_loop()
    async with manager_of(seen, shutdown_grace=500.0) as manager:
        later = await manager.start(RunSpec("sleeper", run_id="later", after_seconds=1e5))
        soon = await manager.start(RunSpec("sleeper", run_id="soon", thread_id="t", after_seconds=10))
        now = await manager.start(RunSpec("sleeper", thread_id="t"))
        await asyncio.sleep(20)
    assert (await now.result()).status is RunStatus.success
    assert (await soon.result()).status is RunStatus.success
    assert (await later.result()).status is RunStatus.cancelled
    assert loop.time() == 200.0
    assert told(seen.events, "later") == ["run_cancelled shutdown"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("parents", [{"x": "x"}, {"x": "y", "y": "x"}], ids=["itself", "each other"])
@virtual
async def test_a_close_waits_for_no_time_of_runs_that_name_themselves_as_parents(parents: dict[str, str]) -> None:
    manager = manager_of(shutdown_grace=500.0)
    later = [RunSpec("sleeper", run_id=run, parent_run_id=of, after_seconds=1e5) for run, of in parents.items()]
    runs = [await manager.start(spec) for spec in later]
    closes = asyncio.create_task(manager.aclose())
    for _ in range(1_000):  # no time passes meanwhile
        await asyncio.sleep(0)
    is_closed = closes.done()
    await manager.aclose(grace=0.0)
    await closes
    assert is_closed
    assert {(await run.result()).status for run in runs} == {RunStatus.cancelled}


@virtual
async def test_what_has_not_started_stays_in_a_durable_store_whatever_it_waits_for() -> None:
    seen = RecordingObserver()
    coordinator = SharedCoordinator(durable=True, clock=VirtualClock())
    async with manager_of(seen, coordinator=coordinator, max_running=1, shutdown_grace=5.0) as manager:
        active = await manager.start(RunSpec("sleeper", thread_id="t"))
        waiting: dict[str, RunHandle] = {
            name: await manager.start(RunSpec("sleeper", run_id=name, **asked))
            for name, asked in {
                "for its time": {"after_seconds": 50},
                "for its thread": {"thread_id": "t"},
                "for a place": {},
            }.items()
        }
        waits = {name: asyncio.create_task(run.result()) for name, run in waiting.items()}
        await asyncio.sleep(1)
    assert (await active.result()).status is RunStatus.cancelled
    for name, run in waiting.items():
        with pytest.raises(NoResultHereError, match=f"Run '{name}' has no result here: the manager was closed before"):
            await waits[name]
        with pytest.raises(NoResultHereError):
            await run.result()
        assert told(seen.events, name) == []
        assert (await coordinator.get(name)).status is RunStatus.pending  # type: ignore[union-attr]
    await asyncio.sleep(1_000)
    assert {e.run_id for e in seen.events} == {active.run_id}, "a place or a time that comes later starts nothing"


@virtual
async def test_a_key_names_a_run_that_is_not_due_yet() -> None:
    async with manager_of() as manager:
        spec = RunSpec("sleeper", "x", idempotency_key="k", after_seconds=10)
        first, again = await manager.start(spec), await manager.start(spec)
        assert first.run_id == again.run_id
        assert await first.result() is await again.result()


@virtual
async def test_a_delayed_run_belongs_to_whoever_started_it_and_not_to_whom_it_displaces() -> None:
    seen: list[str | None] = []

    async def agent(input: Any) -> None:
        run = current_run()
        seen.append(None if run is None else run.run_id)
        if input == "starts":
            await manager.start(RunSpec(agent, run_id="child", after_seconds=10))

    async with manager_of() as manager:
        await (await manager.start(RunSpec(agent, "starts", run_id="parent"))).result()
        await asyncio.sleep(20)
        assert (await manager.get("child")).parent_run_id == "parent"
    assert seen == ["parent", "child"]


class Calls:
    """An agent of a framework that asks about two tool calls, one after the other."""

    name = "calls"
    uses_thread_state = True

    async def human_messages(self, run: RunContext) -> list[Any]:
        return []

    async def run(self, run: RunContext) -> AgentResult:
        had = [*(run.paused.state if run.paused else ()), *run.answers_by_id.values()]
        if len(had) == 2:
            return AgentResult(had)
        return AgentResult(interrupts=[{"id": f"call-{len(had) + 1}", "value": "?"}], paused=had)

    async def rollback(self, run: RunContext) -> None:
        return None


@virtual
async def test_an_answer_for_later_is_none_to_the_call_that_is_asked_by_then() -> None:
    async with RunManager({"calls": Calls()}, clock=VirtualClock(), shutdown_grace=10_000.0) as manager:
        await (await manager.start(RunSpec("calls", "go", thread_id="t"))).result()
        answer = RunSpec("calls", thread_id="t", command={"resume": "M"}, after_seconds=60)
        default = await manager.start(answer)
        await (await manager.start(RunSpec("calls", thread_id="t", command={"resume": "L"}))).result()
        late = await default.result()
        last = await (await manager.start(RunSpec("calls", thread_id="t", command={"resume": "home"}))).result()

    assert (late.status, "not for an answer to call-1" in str(late.error)) == (RunStatus.error, True)
    assert last.output == ["L", "home"]


@virtual
async def test_an_answer_for_later_that_came_when_nothing_was_open_is_none_to_what_is_asked_by_then() -> None:
    async def asks(input: Any, run: RunContext) -> Any:
        return run.interrupt("Delete it?")

    async with RunManager({"asks": asks}, clock=VirtualClock(), shutdown_grace=10_000.0) as manager:
        answer = RunSpec("asks", thread_id="t", command={"resume": "yes"})
        early = await manager.start(replace(answer, after_seconds=60))
        await (await manager.start(RunSpec("asks", "it", thread_id="t"))).result()
        late = await early.result()
        last = await (await manager.start(answer)).result()
        strict = await (await manager.start(replace(answer, strict_resume=True))).result()

    assert (late.status, "what was open when it came" in str(late.error)) == (RunStatus.error, True)
    assert last.output == "yes"
    assert "does not wait for an answer" in str(strict.error)
