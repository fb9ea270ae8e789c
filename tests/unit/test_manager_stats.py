"""What a manager reports about itself in numbers."""

import asyncio
from typing import Any

import pytest
from tests.contract.slow_ports import SlowCoordinator
from tests.contract.ways_to_run import required, virtual

from trackside.harness import RunManager, RunSpec, RunStatus, StopPolicy
from trackside.harness.types import AgentStanding
from trackside.testing import Misbehaviour, RecordingObserver, VirtualClock


async def sleeper(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def failing(input: Any) -> None:
    raise ValueError(input)


async def child(input: Any) -> None:
    manager = input
    await (await manager.start(RunSpec("sleeper", 5.0))).result()


def manager_of(**options: Any) -> RunManager:
    agents = {"sleeper": sleeper, "failing": failing, "child": child}
    return RunManager(agents, clock=VirtualClock(), shutdown_grace=100.0, **options)


@virtual
async def test_a_manager_says_what_each_of_its_runs_waits_for() -> None:
    async with manager_of(max_running=2) as manager:
        for thread in "abc":
            await manager.start(RunSpec("sleeper", 10.0, thread_id=thread))
        for _ in range(4):
            await manager.start(RunSpec("sleeper", 10.0, thread_id="a"))
        await manager.start(RunSpec("sleeper", 1.0, after_seconds=5.0))
        await asyncio.sleep(1)
        stats = manager.stats()
        assert (stats.running, stats.waiting_for_place, stats.waiting_for_thread, stats.delayed) == (2, 1, 4, 1)
        assert stats.running_by_agent == {"sleeper": 2}
        assert (stats.started_total, stats.ended_by_status) == (2, {})
        await asyncio.sleep(5)
        assert (manager.stats().waiting_for_place, manager.stats().delayed) == (2, 0), (
            "it is due, and waits like others"
        )
    stats = manager.stats()
    assert (stats.running, stats.waiting_for_place, stats.waiting_for_thread, stats.delayed) == (0, 0, 0, 0)
    assert (stats.started_total, stats.ended_by_status) == (8, {RunStatus.success: 8})


@virtual
async def test_runs_that_need_no_place_are_running_like_others() -> None:
    async with manager_of(max_running=1) as manager:
        await manager.start(RunSpec("child", manager))
        await asyncio.sleep(1)
        assert manager.stats().running_by_agent == {"child": 1, "sleeper": 1}


@virtual
async def test_totals_count_every_end_once_and_no_start_that_never_was() -> None:
    async with manager_of(max_running=1) as manager:
        first = await manager.start(RunSpec("sleeper", 10.0))
        never = await manager.start(RunSpec("sleeper", 10.0))
        late = await manager.start(RunSpec("sleeper", 10.0, timeout=2.0))
        await manager.start(RunSpec("failing", "why"))
        await asyncio.sleep(1)
        await never.cancel(wait=True)
        await first.cancel(wait=True)
        await first.cancel()
        await late.result()
    stats = manager.stats()
    assert stats.started_total == 3
    assert stats.ended_by_status == {RunStatus.cancelled: 2, RunStatus.timeout: 1, RunStatus.error: 1}


@virtual
async def test_a_stuck_run_is_counted_while_it_is_stuck_and_once_in_all() -> None:
    let_go = asyncio.Event()

    async def rock(input: Any) -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    async with manager_of(stopping=StopPolicy(stuck_after=3.0)) as manager:
        run = await manager.start(RunSpec(rock))
        await asyncio.sleep(1)
        await run.cancel()
        assert manager.stats().stuck == 0, "it has time"
        await asyncio.sleep(4)
        await run.cancel()
        await asyncio.sleep(10)
        assert (manager.stats().stuck, manager.stats().stuck_total, manager.stats().running) == (1, 1, 1)
        let_go.set()
        await run.result()
        assert (manager.stats().stuck, manager.stats().stuck_total, manager.stats().running) == (0, 1, 0)


@virtual
async def test_events_that_required_observers_missed_are_counted() -> None:
    down = RecordingObserver(Misbehaviour(how=OSError()))
    async with manager_of(observers=[required(down)]) as manager:
        assert (await (await manager.start(RunSpec("sleeper", 0.0))).result()).status is RunStatus.error
    assert manager.stats().missed_lost_total > 0
    assert manager.stats().missed_kept_total == 0


@virtual
async def test_runs_that_are_left_in_a_durable_store_are_neither_started_nor_ended() -> None:
    durable = SlowCoordinator(seconds=0.0, durable=True)
    async with manager_of(observers=[required(RecordingObserver())], coordinator=durable, max_running=1) as manager:
        await manager.start(RunSpec("sleeper", 1e6))
        await manager.start(RunSpec("sleeper", 1e6))
        await asyncio.sleep(1)
        await manager.aclose(grace=0.0)
    assert manager.stats().started_total == 1
    assert manager.stats().ended_by_status == {RunStatus.cancelled: 1}


@virtual
@pytest.mark.parametrize("is_stopped", [True, False])
async def test_of_each_run_that_is_executed_is_said_where_its_agent_stands(is_stopped: bool) -> None:
    ends = {"run_cancelled", "run_completed"}
    slow = RecordingObserver(Misbehaviour(how="hang", on=lambda event: event.event_type in ends, times=1))
    async with manager_of(observers=[required(slow)]) as manager:
        run = await manager.start(RunSpec("sleeper", 10.0))
        await asyncio.sleep(1)
        assert manager.executed() == {run.run_id: AgentStanding.goes_on}
        if is_stopped:
            await run.cancel()
        await asyncio.sleep(10)
        told = AgentStanding.stopped if is_stopped else AgentStanding.finished
        assert manager.executed() == {run.run_id: told}
        await run.result()
        assert manager.executed() == {}
