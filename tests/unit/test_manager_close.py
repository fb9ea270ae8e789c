"""Closing a manager: it takes nothing more, drains, cancels the rest, flushes, and leaves nothing behind."""

import asyncio
import gc
import logging
import threading
from typing import Any

import pytest
from tests.contract.ways_to_run import end_of, required, told, virtual
from tests.unit.sleeping_runs import BUSY, manager_of, sleeper, tasks

from trackside.harness import ClosedError, InvalidSpecError, RunManager, RunSpec, RunStatus
from trackside.testing import Misbehaviour, RecordingObserver, assert_run_order


@virtual
async def test_leaving_the_manager_waits_for_its_runs_and_leaves_no_task() -> None:
    seen = RecordingObserver()
    async with manager_of(seen, shutdown_grace=100.0) as manager:
        runs = [await manager.start(RunSpec("sleeper", i, thread_id=f"t{i % 2}")) for i in range(1, 6)]
    assert [(await run.result()).status for run in runs] == [RunStatus.success] * 5
    assert told(seen.events).count("run_completed success") == 5, "buffers are flushed"
    assert_run_order(seen.events)
    assert tasks() == set()


@virtual
async def test_what_does_not_end_in_the_grace_is_cancelled_as_shutdown() -> None:
    seen = RecordingObserver()
    loop = asyncio.get_running_loop()
    async with manager_of(seen, shutdown_grace=10.0) as manager:
        quick = await manager.start(RunSpec("sleeper", 5.0, run_id="quick"))
        slow = await manager.start(RunSpec("sleeper", 1e6, run_id="slow", thread_id="t"))
        waiting = await manager.start(RunSpec("sleeper", 1.0, run_id="waiting", thread_id="t"))
    assert loop.time() == 10.0
    assert (await quick.result()).status is RunStatus.success
    assert (await slow.result()).status is RunStatus.cancelled
    assert (await waiting.result()).status is RunStatus.cancelled
    assert told(seen.events, "slow")[:3] == ["run_started", BUSY, "run_cancelled shutdown"]
    assert told(seen.events, "waiting")[0] == "run_cancelled shutdown", "cancelled before it starts"
    assert end_of(seen.events, "slow").payload["reason"] == "the manager was closed"
    assert_run_order(seen.events)
    assert tasks() == set()


@virtual
async def test_leaving_the_manager_with_an_exception_does_not_wait() -> None:
    seen = RecordingObserver()
    loop = asyncio.get_running_loop()
    with pytest.raises(ZeroDivisionError):
        async with manager_of(seen) as manager:
            await manager.start(RunSpec("sleeper", 1e6))
            await asyncio.sleep(1)
            raise ZeroDivisionError
    assert loop.time() == 1.0
    assert told(seen.events)[-2:] == ["run_cancelled shutdown", "thread_status_updated idle"]


@virtual
async def test_closing_again_is_fine_and_waits_for_the_same() -> None:
    manager = manager_of(shutdown_grace=10.0)
    run = await manager.start(RunSpec("sleeper", 5.0))
    await asyncio.gather(manager.aclose(), manager.aclose(), manager.aclose(grace=1_000.0))
    assert (await run.result()).status is RunStatus.success
    assert asyncio.get_running_loop().time() == 5.0
    await manager.aclose()
    with pytest.raises(ClosedError):
        await manager.start(RunSpec("sleeper"))


@virtual
async def test_a_second_signal_with_less_grace_makes_a_close_quicker() -> None:
    loop = asyncio.get_running_loop()
    manager = manager_of(shutdown_grace=100.0)
    quick = await manager.start(RunSpec("sleeper", 14.0))
    slow = await manager.start(RunSpec("sleeper", 1e6))
    closes = asyncio.create_task(manager.aclose())
    await asyncio.sleep(10)
    await manager.aclose(grace=5.0)
    assert loop.time() == 15.0
    assert (await quick.result()).status is RunStatus.success
    assert (await slow.result()).status is RunStatus.cancelled
    await closes


async def rock(input: Any) -> None:
    """An agent that nothing moves."""
    while True:
        try:
            await asyncio.sleep(1e5)
            return
        except asyncio.CancelledError:
            continue


@virtual
async def test_a_second_signal_leaves_an_agent_that_does_not_stop_a_second_and_no_more() -> None:
    loop = asyncio.get_running_loop()
    manager = manager_of(shutdown_grace=1_000.0)
    run = await manager.start(RunSpec(rock))
    closes = asyncio.create_task(manager.aclose(grace=0.0))
    await asyncio.sleep(50)
    await manager.aclose(grace=0.0)
    assert loop.time() == 51.0
    await closes
    assert (await manager.get(run.run_id)).status is RunStatus.running, "which is the truth"


@virtual
async def test_each_phase_of_a_close_takes_its_time_and_no_more() -> None:
    """The grace for runs, the time for cancelled agents, the time for observers; a manager in the worst company."""
    loop = asyncio.get_running_loop()
    hanging = RecordingObserver(Misbehaviour(how="swallow"))
    manager = manager_of(hanging, shutdown_grace=10.0)
    await manager.start(RunSpec(rock))
    await manager.aclose(grace=100.0)
    assert 110.0 <= loop.time() <= 120.0
    hanging.release()


@pytest.mark.parametrize("grace", [-1, float("nan"), True, "soon"])
@virtual
async def test_a_grace_that_is_no_number_of_seconds_is_refused_and_closes_nothing(grace: Any) -> None:
    async with manager_of() as manager:
        with pytest.raises(InvalidSpecError, match="grace"):
            await manager.aclose(grace=grace)
        assert (await (await manager.start(RunSpec("sleeper"))).result()).status is RunStatus.success


@pytest.mark.parametrize("times", [1, 3])
@virtual
async def test_a_cancelled_close_cuts_the_grace_short_and_closes_all_the_same(times: int) -> None:
    seen = RecordingObserver()
    loop = asyncio.get_running_loop()
    manager = manager_of(seen, shutdown_grace=1_000.0)
    run = await manager.start(RunSpec("sleeper", 1e6))
    closes = asyncio.create_task(manager.aclose())
    await asyncio.sleep(1)
    for _ in range(times):
        closes.cancel()
        await asyncio.sleep(0)
    await asyncio.wait({closes})
    assert closes.cancelled()
    assert loop.time() == 1.0
    assert (await run.result()).status is RunStatus.cancelled
    assert told(seen.events)[-2:] == ["run_cancelled shutdown", "thread_status_updated idle"]
    assert tasks() == set()


@virtual
async def test_an_agent_that_does_not_stop_is_left_behind_and_named(caplog: pytest.LogCaptureFixture) -> None:
    seen = RecordingObserver()
    let_go = asyncio.Event()

    async def stuck(input: Any) -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    loop = asyncio.get_running_loop()
    with caplog.at_level(logging.ERROR, "trackside.manager"):
        async with manager_of(required(seen), shutdown_grace=10.0) as manager:
            run = await manager.start(RunSpec(stuck, run_id="stuck"))
    assert loop.time() == 20.0, "the grace to finish, the grace to stop"
    assert "run stuck was cancelled, has not stopped, and is left behind" in caplog.text
    assert told(seen.events) == ["run_started", BUSY], "nothing is said that did not happen"
    let_go.set()
    assert (await run.result()).status is RunStatus.cancelled
    assert_run_order(seen.events)


async def test_a_manager_that_is_let_go_without_a_close_says_so_once_and_leaves_no_thread() -> None:
    gc.collect()  # what earlier tests have left could warn, too
    said: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    threads = set(threading.enumerate())

    async def use() -> None:
        manager = RunManager({"sleeper": sleeper}, observers=[RecordingObserver()])
        await (await manager.start(RunSpec("sleeper", 0.0))).result()
        await manager.observers.flush(60.0)

    await use()
    (watchdog,) = set(threading.enumerate()) - threads
    with pytest.warns(ResourceWarning, match="^a RunManager was not closed") as warned:
        gc.collect()
    assert (len(warned), said) == (1, [])
    await asyncio.to_thread(watchdog.join, 60.0)
    assert not watchdog.is_alive()


@virtual
async def test_a_buffered_observer_that_hangs_does_not_hold_up_a_close_beyond_the_grace() -> None:
    hanging = RecordingObserver(Misbehaviour(how="swallow"))
    loop = asyncio.get_running_loop()
    async with manager_of(hanging, shutdown_grace=10.0) as manager:
        await (await manager.start(RunSpec("sleeper"))).result()
    assert loop.time() <= 20.0
    hanging.release()


@virtual
async def test_a_manager_that_was_never_used_closes() -> None:
    async with manager_of():
        pass
    assert tasks() == set()
