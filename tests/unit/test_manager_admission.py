"""Which runs may start: strategies for a busy thread, ids, idempotency keys, places."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace
from tests.contract.slow_ports import SlowCoordinator
from tests.contract.ways_to_run import Way, both_ways, end_of, required, told, virtual

from trackside.harness import (
    ClosedError,
    DuplicateRunError,
    InvalidSpecError,
    RunHandle,
    RunManager,
    RunRecord,
    RunSpec,
    RunStatus,
    ThreadBusyError,
    UnknownRunError,
)
from trackside.harness.memory import MemoryCoordinator
from trackside.harness.payload import MAX_CHARS
from trackside.harness.ports import Admission
from trackside.testing import RecordingObserver, VirtualClock, assert_run_order

BUSY = "thread_status_updated busy"
LONG = "x" * 2 * MAX_CHARS


async def echo(input: Any) -> Any:
    return input


async def sleeper(input: Any) -> Any:
    await asyncio.sleep(100)
    return input


def manager_of(*observers: Any, **options: Any) -> RunManager:
    return RunManager(
        {"echo": echo, "sleeper": sleeper},
        observers=[required(o) for o in observers],
        clock=VirtualClock(),
        **options,
    )


async def busy_thread(manager: RunManager, waiting: int = 2) -> list[RunHandle]:
    """A thread with a running run and some waiting ones."""
    runs = [await manager.start(RunSpec("sleeper", thread_id="t", run_id=f"old-{i}")) for i in range(1 + waiting)]
    await asyncio.sleep(1)
    return runs


@virtual
async def test_enqueue_starts_runs_in_the_order_in_which_they_came() -> None:
    seen = RecordingObserver()
    async with manager_of(seen) as manager:
        runs = [await manager.start(RunSpec("echo", i, thread_id="t", run_id=str(i))) for i in range(10)]
        for run in runs:
            await run.result()
    starts = [e.run_id for e in seen.events if e.event_type == "run_started"]
    assert starts == [str(i) for i in range(10)]
    assert_run_order(seen.events)


@virtual
async def test_reject_refuses_a_busy_thread_and_takes_a_free_one() -> None:
    seen = RecordingObserver()
    async with manager_of(seen, shutdown_grace=1_000.0) as manager:
        (old,) = await busy_thread(manager, waiting=0)
        with pytest.raises(ThreadBusyError) as caught:
            await manager.start(RunSpec("echo", thread_id="t", run_id="new", multitask="reject"))
        assert (caught.value.details["thread_id"], caught.value.details["run_id"]) == ("t", "old-0")
        with pytest.raises(UnknownRunError):
            await manager.get("new")
        await old.result()
        again = await manager.start(RunSpec("echo", thread_id="t", run_id="new", multitask="reject"))
        assert (await again.result()).status is RunStatus.success
    assert_run_order(seen.events)


@pytest.mark.parametrize("multitask", ["interrupt", "rollback"])
@virtual
async def test_interrupt_and_rollback_stop_the_active_run_and_drop_what_waits(multitask: str) -> None:
    seen = RecordingObserver()
    async with manager_of(seen) as manager:
        old = await busy_thread(manager)
        new = await manager.start(RunSpec("echo", "x", thread_id="t", run_id="new", multitask=multitask))
        assert [(await run.result()).status for run in old] == [RunStatus.cancelled] * 3
        assert (await new.result()).status is RunStatus.success
    assert told(seen.events, "old-0") == ["run_started", BUSY, f"run_cancelled {multitask}"]
    for waiting in ("old-1", "old-2"):
        assert told(seen.events, waiting) == [f"run_cancelled {multitask}"]
        assert end_of(seen.events, waiting).payload["reason"] == "another run took its place on the thread"
    assert told(seen.events, "new")[:2] == ["run_started", "human_message"], "the thread was busy all the time"
    first_of_new = next(i for i, e in enumerate(seen.events) if e.run_id == "new")
    assert all(e.run_id == "new" for e in seen.events[first_of_new:]), "the slot is held until the old run is settled"
    assert_run_order(seen.events)


@virtual
async def test_an_interrupt_waits_for_a_run_that_takes_its_time_to_stop() -> None:
    seen = RecordingObserver()

    async def stubborn(input: Any) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(50)

    async with manager_of(seen) as manager:
        old = await manager.start(RunSpec(stubborn, thread_id="t", run_id="old"))
        await asyncio.sleep(1)
        new = await manager.start(RunSpec("echo", thread_id="t", run_id="new", multitask="interrupt"))
        await asyncio.sleep(49)
        assert (await manager.get("old")).status is RunStatus.running
        assert (await manager.get("new")).status is RunStatus.pending
        await new.result()
        assert (await old.result()).status is RunStatus.cancelled


@virtual
async def test_the_newest_of_many_interrupts_is_the_one_that_runs() -> None:
    seen = RecordingObserver()
    async with manager_of(seen) as manager:
        runs = [
            await manager.start(RunSpec("echo", i, thread_id="t", run_id=str(i), multitask="interrupt"))
            for i in range(5)
        ]
        results = [await run.result() for run in runs]
    assert [r.status for r in results] == ["cancelled"] * 4 + ["success"]
    assert_run_order(seen.events)


@virtual
async def test_other_threads_are_left_alone() -> None:
    async with manager_of() as manager:
        other = await manager.start(RunSpec("sleeper", thread_id="other"))
        await busy_thread(manager)
        await manager.start(RunSpec("echo", thread_id="t", multitask="interrupt"))
        assert (await other.result()).status is RunStatus.success


@both_ways
@virtual
async def test_a_run_id_names_one_run_for_ever(way: Way) -> None:
    seen = RecordingObserver()
    async with way(required(seen)) as runs:
        first = await runs.start(sleeper, run_id="the-only-one")
        with pytest.raises(DuplicateRunError):
            await runs.run(echo, run_id="the-only-one")
        await first.ended()
        with pytest.raises(DuplicateRunError):
            await runs.run(echo, run_id="the-only-one")
    assert_run_order(seen.events)


@virtual
async def test_the_same_idempotency_key_gives_the_same_run_while_it_runs_and_after() -> None:
    seen = RecordingObserver()
    async with manager_of(seen) as manager:
        spec = RunSpec("sleeper", {"q": 1}, thread_id="t", metadata={"a": 1}, idempotency_key="k")
        first = await manager.start(spec)
        again = await manager.start(spec)
        assert again.run_id == first.run_id
        result = await again.result()
        assert result is await first.result() or result == await first.result()
        late = await manager.start(spec)
        assert late.run_id == first.run_id
        assert (await late.result()).status is RunStatus.success
        other = await manager.start(RunSpec("echo", idempotency_key="another"))
        assert other.run_id != first.run_id
    assert told(seen.events).count("run_started") == 2


@virtual
async def test_an_idempotent_start_that_names_its_run_may_be_repeated() -> None:
    """Found by review: while the run was active, its own id was refused as a duplicate."""
    async with manager_of() as manager:
        spec = RunSpec("sleeper", run_id="r", thread_id="t", idempotency_key="k")
        first = await manager.start(spec)
        again = await manager.start(spec)
        assert await again.result() == await first.result()
        assert (await manager.start(spec)).run_id == "r"
        with pytest.raises(DuplicateRunError):
            await manager.start(RunSpec("sleeper", run_id="r", idempotency_key="other"))


@pytest.mark.parametrize(
    "other",
    [
        {"agent": "echo"},
        {"input": {"q": 2}},
        {"thread_id": "u"},
        {"metadata": {"a": 2}},
        {"config": {"x": 1}},
        {"timeout": 5},
        {"multitask": "reject"},
    ],
    ids=lambda other: next(iter(other)),
)
@virtual
async def test_the_same_idempotency_key_for_something_else_is_refused(other: dict[str, Any]) -> None:
    same: dict[str, Any] = {"agent": "sleeper", "input": {"q": 1}, "thread_id": "t", "metadata": {"a": 1}}
    async with manager_of() as manager:
        await manager.start(RunSpec(**same, idempotency_key="k"))
        with pytest.raises(InvalidSpecError, match="idempotency_key = 'k'"):
            await manager.start(RunSpec(**same | other, idempotency_key="k"))
        assert len(manager._runs.all()) == 1


@pytest.mark.parametrize(
    "other", [{"input": LONG + "z"}, {"thread_id": "u"}, {"context": 2}], ids=["input", "thread", "context"]
)
@virtual
async def test_all_that_is_asked_for_counts_for_an_idempotency_key_however_long(other: dict[str, Any]) -> None:
    same: dict[str, Any] = {"agent": "echo", "input": LONG + "y", "thread_id": "t", "context": 1}
    async with manager_of() as manager:
        first = await manager.start(RunSpec(**same, idempotency_key="k"))
        assert (await manager.start(RunSpec(**same, idempotency_key="k"))).run_id == first.run_id
        with pytest.raises(InvalidSpecError, match="idempotency_key = 'k'"):
            await manager.start(RunSpec(**same | other, idempotency_key="k"))


@virtual
async def test_max_running_holds_and_the_next_starts_when_a_place_is_free() -> None:
    running = most = 0
    order: list[int] = []

    async def agent(input: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        order.append(input)
        await asyncio.sleep(10)
        running -= 1

    async with manager_of(max_running=3, shutdown_grace=1_000.0) as manager:
        runs = [await manager.start(RunSpec(agent, i)) for i in range(10)]
        await asyncio.sleep(15)
        assert (most, running) == (3, 3)
        assert [(await manager.get(run.run_id)).status for run in runs].count(RunStatus.pending) == 4
        for run in runs:
            await run.result()
    assert most == 3
    assert order == list(range(10))


@virtual
async def test_runs_that_are_cancelled_while_they_wait_for_a_place_take_none() -> None:
    seen = RecordingObserver()
    async with manager_of(seen, max_running=1) as manager:
        first = await manager.start(RunSpec("sleeper", run_id="first"))
        waiting = [await manager.start(RunSpec("sleeper", run_id=f"w{i}")) for i in range(3)]
        last = await manager.start(RunSpec("echo", run_id="last"))
        for run in waiting:
            assert (await run.cancel(wait=True)).status is RunStatus.cancelled
            assert told(seen.events, run.run_id) == ["run_cancelled interrupt"]
        await first.result()
        assert (await last.result()).status is RunStatus.success
    assert manager._runs._places.taken == 0


@pytest.mark.parametrize("ends", ["error", "timeout", "cancelled", "broken"])
@virtual
async def test_a_place_is_given_back_however_a_run_ends(ends: str) -> None:
    coordinator = SlowCoordinator(seconds=0.0)

    async def agent(input: Any) -> None:
        if ends == "error":
            raise ValueError
        await asyncio.sleep(100)

    async with manager_of(max_running=1, coordinator=coordinator) as manager:
        for _ in range(3):
            if ends == "broken":
                coordinator.broken["settle"] = ConnectionError()
            run = await manager.start(RunSpec(agent, timeout=10 if ends == "timeout" else None))
            if ends == "cancelled":
                await asyncio.sleep(1)
                await run.cancel()
            await run.result()
            coordinator.broken.clear()
        assert (await (await manager.start(RunSpec("echo"))).result()).status is RunStatus.success
    assert manager._runs._places.taken == 0


@virtual
async def test_the_default_timeout_counts_where_a_spec_has_none() -> None:
    async with manager_of(default_timeout=5.0) as manager:
        short = await manager.start(RunSpec("sleeper"))
        long = await manager.start(RunSpec("sleeper", timeout=500))
        assert (await short.result()).status is RunStatus.timeout
        assert (await long.result()).status is RunStatus.success


@virtual
async def test_the_record_tells_how_far_a_run_is() -> None:
    clock = VirtualClock()
    async with manager_of() as manager:
        run = await manager.start(
            RunSpec("sleeper", "hi", thread_id="t", metadata={"a": {1, 2}}, trigger="cron", parent_run_id="p")
        )
        record = await manager.get(run.run_id)
        assert (record.agent, record.thread_id, record.status) == ("sleeper", "t", RunStatus.pending)
        assert (record.metadata, record.trigger, record.parent_run_id) == (
            {"a": [1, 2], "sanitized": True},
            "cron",
            "p",
        )
        assert (record.created_at, record.started_at, record.ended_at) == (clock.now(), None, None)
        await asyncio.sleep(1)
        record = await manager.get(run.run_id)
        assert (record.status, record.ended_at) == (RunStatus.running, None)
        await run.result()
        record = await manager.get(run.run_id)
        assert record.status is RunStatus.success
        assert record.started_at is not None
        assert record.ended_at is not None
        assert 99 < (record.ended_at - record.started_at).total_seconds() <= 100
        assert record.completion_data["first_human_message"] == "hi"


@virtual
async def test_after_the_close_nothing_starts() -> None:
    manager = manager_of()
    await manager.aclose()
    with pytest.raises(ClosedError, match="run manager is closed"):
        await manager.start(RunSpec("echo"))


@virtual
async def test_others_can_execute_what_names_an_agent_and_nothing_else() -> None:
    async def stranger(input: Any) -> None: ...

    class Remembering(MemoryCoordinator):
        async def admit(self, record: RunRecord, *, spec: RunSpec | None = None, **options: Any) -> Admission:
            admitted.append((record.agent, spec))
            return await super().admit(record, spec=spec, **options)

    admitted: list[tuple[str, RunSpec | None]] = []
    specs = [RunSpec("echo", 1), RunSpec(echo, 2), RunSpec(stranger, 3)]
    async with manager_of(coordinator=Remembering()) as manager:
        for spec in specs:
            await (await manager.start(spec)).result()
    names = ["echo", "echo", "stranger"]
    assert admitted == list(zip(names, [*specs[:2], None], strict=True))


@virtual
async def test_a_run_that_comes_in_behind_a_refused_one_of_its_id_and_key_is_known() -> None:
    coordinator = SlowCoordinator(1.0)
    async with manager_of(coordinator=coordinator) as manager:
        ahead = await manager.start(RunSpec("sleeper", thread_id="t"))
        spec = RunSpec("sleeper", run_id="r", thread_id="t", idempotency_key="k", multitask="reject")
        refused = asyncio.create_task(manager.start(spec))
        await asyncio.sleep(0)
        coordinator.broken["admit"] = ConnectionError("database gone")
        await asyncio.sleep(0.5)
        again = asyncio.create_task(manager.start(replace(spec, multitask="enqueue")))
        await asyncio.wait({refused})
        coordinator.broken.clear()
        run = await again
        assert isinstance(refused.exception(), ConnectionError)
        assert manager.has("r"), "it was forgotten with the one that was refused"
        await ahead.result()
        assert (await run.result()).status is RunStatus.success
