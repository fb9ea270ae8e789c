"""Who may start: strategies for a busy thread, ids, idempotency keys, places, and callers who are cancelled meanwhile."""

import asyncio
from typing import Any

import pytest
from tests.contract.slow_ports import SlowCoordinator
from tests.contract.ways_to_run import Way, both_ways, end_of, required, told, virtual

from trackside.harness import (
    ClosedError,
    DuplicateRunError,
    InvalidSpecError,
    NotAnAgentError,
    RunHandle,
    RunManager,
    RunSpec,
    RunStatus,
    ThreadBusyError,
    UnknownAgentError,
    UnknownRunError,
)
from trackside.testing import RecordingObserver, VirtualClock, assert_run_order

BUSY = "thread_status_updated busy"


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
    """A thread with a running run and some that wait."""
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
        assert len(manager._active) == 1


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
    assert manager._running == 0


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
    assert manager._running == 0


# A start that is cancelled in the middle: the coordinator lets the run in, but nobody receives it.


@pytest.mark.parametrize("moment", ["before it happens", "before it is answered"])
@pytest.mark.parametrize("times", [1, 3])
@virtual
async def test_a_cancelled_start_leaves_no_run_and_blocks_no_thread(moment: str, times: int) -> None:
    seen = RecordingObserver()
    coordinator = SlowCoordinator()
    async with manager_of(seen, coordinator=coordinator) as manager:
        starts = asyncio.create_task(manager.start(RunSpec("sleeper", thread_id="t", run_id="lost")))
        await (coordinator.entered if moment == "before it happens" else coordinator.done)["admit"].wait()
        for _ in range(times):
            starts.cancel()
            await asyncio.sleep(0.1)
        await asyncio.wait({starts})
        assert starts.cancelled()
        new = await manager.start(RunSpec("echo", thread_id="t", run_id="new"))
        assert (await new.result()).status is RunStatus.success
        assert (await manager.get("lost")).status is RunStatus.cancelled
    assert told(seen.events, "lost") == ["run_cancelled task_cancelled"]
    assert end_of(seen.events, "lost").payload["reason"] == "the caller was cancelled while starting it"
    assert_run_order(seen.events)


@virtual
async def test_a_cancelled_start_still_ends_what_it_displaced() -> None:
    seen = RecordingObserver()
    coordinator = SlowCoordinator()
    async with manager_of(seen, coordinator=coordinator) as manager:
        old = [await manager.start(RunSpec("sleeper", thread_id="t", run_id=f"old-{i}")) for i in range(2)]
        await asyncio.sleep(10)
        coordinator.done["admit"].clear()
        starts = asyncio.create_task(
            manager.start(RunSpec("echo", thread_id="t", run_id="lost", multitask="interrupt"))
        )
        await coordinator.done["admit"].wait()
        starts.cancel()
        assert [(await run.result()).status for run in old] == [RunStatus.cancelled] * 2
        after = await manager.start(RunSpec("echo", thread_id="t", run_id="after"))
        assert (await after.result()).status is RunStatus.success
    assert {e.run_id for e in seen.events} == {"old-0", "old-1", "lost", "after"}
    assert_run_order(seen.events)


@virtual
async def test_a_cancelled_start_of_a_known_idempotency_key_leaves_that_run_alone() -> None:
    coordinator = SlowCoordinator()
    async with manager_of(coordinator=coordinator) as manager:
        spec = RunSpec("sleeper", idempotency_key="k")
        first = await manager.start(spec)
        coordinator.done["admit"].clear()
        again = asyncio.create_task(manager.start(spec))
        await coordinator.done["admit"].wait()
        again.cancel()
        assert (await first.result()).status is RunStatus.success


@virtual
async def test_a_run_that_is_released_and_over_before_its_start_is_answered() -> None:
    """The reply of the admission is late: the thread was given to the run, which has run, before anybody has a handle."""
    seen = RecordingObserver()

    class LateReply(SlowCoordinator):
        async def _step(self, name: str, *args: Any, **kwargs: Any) -> Any:
            answer = await super()._step(name, *args, **kwargs)
            if name == "admit" and self.late:
                await asyncio.sleep(50)
            return answer

        late = False

    coordinator = LateReply(seconds=0.1)
    for cancelled in (False, True):
        suffix = str(cancelled)
        async with manager_of(seen, coordinator=coordinator) as manager:
            coordinator.late = False
            first = await manager.start(RunSpec("echo", thread_id="t", run_id=f"first-{suffix}"))
            coordinator.late = True
            starts = asyncio.create_task(manager.start(RunSpec("echo", thread_id="t", run_id=f"second-{suffix}")))
            await first.result()
            await asyncio.sleep(10)
            assert told(seen.events, f"second-{suffix}")[-1] == "thread_status_updated idle"
            if cancelled:
                starts.cancel()
                await asyncio.wait({starts})
                assert starts.cancelled()
            else:
                assert (await (await starts).result()).status is RunStatus.success
    assert_run_order(seen.events)


@virtual
async def test_a_cancel_whose_caller_is_cancelled_is_finished_all_the_same() -> None:
    seen = RecordingObserver()
    for step in ("request_cancel", "withdraw"):
        for moment in ("entered", "done"):
            coordinator = SlowCoordinator()
            async with manager_of(seen, coordinator=coordinator) as manager:
                run_id = f"{step} {moment}"
                active = await manager.start(RunSpec("sleeper", thread_id="t", run_id=f"{run_id} active"))
                waiting = await manager.start(RunSpec("sleeper", thread_id="t", run_id=run_id))
                cancels = asyncio.create_task(waiting.cancel())
                await getattr(coordinator, moment)[step].wait()
                cancels.cancel()
                assert (await waiting.result()).status is RunStatus.cancelled
                await active.cancel(wait=True)
                last = await manager.start(RunSpec("echo", thread_id="t", run_id=f"{run_id} last"))
                assert (await last.result()).status is RunStatus.success
    assert_run_order(seen.events)


@virtual
async def test_cancel_of_a_run_that_is_just_being_claimed() -> None:
    """The cancel is recorded before the claim: it wins; or after it: the run is stopped. It ends once either way."""
    for seconds in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
        seen = RecordingObserver()
        coordinator = SlowCoordinator()
        async with manager_of(seen, coordinator=coordinator) as manager:
            run = await manager.start(RunSpec("sleeper", run_id="r"))
            await asyncio.sleep(seconds)
            await run.cancel(wait=True)
            assert (await run.result()).status is RunStatus.cancelled
        assert_run_order(seen.events)


# Specs that make no run.


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"run_id": ""}, "run_id"),
        ({"run_id": 5}, "run_id"),
        ({"run_id": "a\nb"}, "run_id"),
        ({"thread_id": "a\0"}, "thread_id"),
        ({"metadata": ["a"]}, "metadata"),
        ({"config": "x"}, "config"),
        ({"command": "resume"}, "command"),
        ({"command": {"jump": 1}}, "command"),
        ({"command": {"resume": 1}, "input": "x"}, "command"),
        ({"multitask": "sometimes"}, "multitask"),
        ({"multitask": None}, "multitask"),
        ({"multitask": ["reject"]}, "multitask"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"timeout": "5"}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"timeout": 10**400}, "timeout"),
        ({"after_seconds": 5}, "after_seconds"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": ["k"]}, "idempotency_key"),
        ({"parent_run_id": 5}, "parent_run_id"),
        ({"trigger": object()}, "trigger"),
        ({"stream_mode": 5}, "stream_mode"),
        ({"stream_mode": ["values", 5]}, "stream_mode"),
    ],
    ids=lambda value: str(value)[:40],
)
@virtual
async def test_a_spec_that_makes_no_run_names_the_field(spec: dict[str, Any], field: str) -> None:
    seen = RecordingObserver()
    async with manager_of(seen) as manager:
        with pytest.raises(InvalidSpecError) as caught:
            await manager.start(RunSpec("echo", **{"input": None} | spec))
        assert caught.value.details["field"] == field
        assert str(caught.value).startswith(f"{field} = ")
        assert manager._active == {}
    assert seen.events == []


@virtual
async def test_unknown_things_are_named_with_what_is_known() -> None:
    async with manager_of() as manager:
        with pytest.raises(UnknownAgentError, match="There is no agent named 'ecko'; known are: echo, sleeper"):
            await manager.start(RunSpec("ecko"))
        with pytest.raises(NotAnAgentError, match="5 is not an agent: a int cannot be called"):
            await manager.start(RunSpec(5))
        with pytest.raises(UnknownRunError, match="no run 'nobody'"):
            await manager.get("nobody")
        with pytest.raises(UnknownRunError):
            await manager.cancel("nobody")
        run = await manager.start(RunSpec("sleeper"))
        for action in ("explode", None, ["interrupt"]):
            with pytest.raises(InvalidSpecError) as caught:
                await manager.cancel(run.run_id, action=action)  # type: ignore[arg-type]
            assert caught.value.details["field"] == "action"
        assert (await manager.get(run.run_id)).cancel_requested is None


@virtual
async def test_a_manager_that_cannot_be_is_refused() -> None:
    for options in ({"max_running": 0}, {"max_running": 2.5}, {"max_running": True}, {"default_timeout": -1}):
        with pytest.raises(InvalidSpecError) as caught:
            RunManager(**options)  # type: ignore[arg-type]
        assert caught.value.details["field"] in options
    for grace in (-1, float("nan"), "soon"):
        with pytest.raises(InvalidSpecError) as caught:
            RunManager(shutdown_grace=grace)  # type: ignore[arg-type]
        assert caught.value.details["field"] == "shutdown_grace"
    with pytest.raises(NotAnAgentError):
        RunManager({"five": 5})
    async with RunManager() as manager:
        with pytest.raises(UnknownAgentError, match="known are: none"):
            await manager.start(RunSpec("echo"))


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


@pytest.mark.parametrize("moment", [0.0, 0.5, 1.0, 1.5])
@virtual
async def test_a_cancelled_start_whose_run_is_displaced_meanwhile(moment: float) -> None:
    """Found by a generated schedule: the run was known to nobody any more when it was displaced, and never ended."""
    seen = RecordingObserver()
    async with manager_of(seen, coordinator=SlowCoordinator()) as manager:
        lost = asyncio.create_task(manager.start(RunSpec("sleeper", thread_id="t", run_id="lost")))
        new = asyncio.create_task(manager.start(RunSpec("echo", thread_id="t", run_id="new", multitask="interrupt")))
        await asyncio.sleep(moment)
        lost.cancel()
        assert (await (await new).result()).status is RunStatus.success
        await asyncio.wait({lost})
        assert (await manager.cancel("lost", wait=True)).status is RunStatus.cancelled
    assert len(told(seen.events, "lost")) == 1
    assert_run_order(seen.events)
