"""Runs that a manager has lost to others: they stop and say nothing more, and callers get the true end."""

import asyncio
from typing import Any

import pytest
from tests.contract.shared_ports import SharedCoordinator, SharedLog
from tests.contract.slow_ports import SlowCoordinator
from tests.contract.ways_to_run import required, told, virtual
from tests.unit.manager_among_others import BUSY, LOST, Fleet, sleeper, summary

from trackside.harness import AgentResult, NoResultHereError, RunContext, RunManager, RunSpec, RunStatus
from trackside.harness.errors import EventOrderError
from trackside.testing import RecordingObserver, VirtualClock


@virtual
async def test_a_lost_run_stops_says_nothing_more_and_its_caller_gets_how_it_ended() -> None:
    stopped = asyncio.Event()

    async def agent(input: Any, run: RunContext) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            run.send("too late")
            run.message({"type": "human", "content": "too late"})
            stopped.set()

    fleet = Fleet()
    async with fleet.manager as manager:
        run = await manager.start(RunSpec(agent, run_id="lost", thread_id="t"))
        parts = asyncio.create_task(anext(run.stream(), None))  # type: ignore[arg-type]
        await asyncio.sleep(1)
        await fleet.coordinator.end("lost")
        assert summary(await run.result()) == LOST
        assert stopped.is_set()
        assert await parts is None
        assert told(fleet.log.events) == ["run_started", BUSY]
        assert fleet.log.refused == [], "it does not even try"
        after = await manager.start(RunSpec("sleeper", thread_id="t"))
        assert (await after.result()).status is RunStatus.success
        fleet.check_quiet()


@virtual
async def test_of_a_lost_run_that_goes_on_elsewhere_its_caller_is_told_no_end_that_nobody_knows() -> None:
    fleet = Fleet()
    async with fleet.manager as manager:
        run = await manager.start(RunSpec("sleeper", run_id="goes on"))
        await asyncio.sleep(1)
        fleet.coordinator.host.on_lost("goes on")
        with pytest.raises(NoResultHereError, match="Run 'goes on' has no result here: another process has taken it"):
            await run.result()
        assert fleet.manager._runs.all() == []
        assert told(fleet.log.events) == ["run_started", BUSY]


@virtual
async def test_a_run_that_is_lost_while_it_is_being_ended_says_nothing_more() -> None:
    class SlowToRollBack:
        name = "slow"

        async def human_messages(self, run: RunContext) -> list[dict[str, Any]]:
            return []

        async def run(self, run: RunContext) -> AgentResult:
            await asyncio.sleep(100)
            return AgentResult()

        async def rollback(self, run: RunContext) -> str | None:
            await asyncio.sleep(10)
            return None

    fleet = Fleet()
    async with fleet.manager as manager:
        run = await manager.start(RunSpec(SlowToRollBack(), run_id="lost"))
        await asyncio.sleep(1)
        await run.cancel(action="rollback")
        await asyncio.sleep(1)
        await fleet.coordinator.end("lost")
        assert summary(await run.result()) == LOST
        assert fleet.log.refused == []
        fleet.check_quiet()


@pytest.mark.parametrize("ends", ["returns", "raises", "asks", "is cancelled", "runs out of time"])
@virtual
async def test_a_zombie_finds_out_when_the_log_refuses_its_end(ends: str) -> None:
    async def agent(input: Any, run: RunContext) -> None:
        await asyncio.sleep(10)
        if ends == "raises":
            raise ValueError
        if ends == "asks":
            run.interrupt("?")

    fleet = Fleet()
    async with fleet.manager as manager:
        run = await manager.start(RunSpec(agent, run_id="zombie", timeout=5 if ends == "runs out of time" else None))
        await asyncio.sleep(1)
        await fleet.coordinator.end("zombie", tells=False)
        if ends == "is cancelled":
            await run.cancel()
        assert summary(await run.result()) == LOST
        assert told(fleet.log.events) == ["run_started", BUSY]
        assert len(fleet.log.refused) == 1, "an end that is not its own is not offered again"
        fleet.check_quiet()


@virtual
async def test_an_agent_stops_when_the_log_refuses_what_its_run_says_meanwhile() -> None:
    fleet = Fleet()
    loop = asyncio.get_running_loop()

    async def agent(input: Any, run: RunContext) -> None:
        await asyncio.sleep(10)
        run.message({"type": "human", "content": "still there"})
        await asyncio.sleep(1_000)

    async with fleet.manager as manager:
        run = await manager.start(RunSpec(agent, run_id="zombie"))
        await asyncio.sleep(1)
        await fleet.coordinator.end("zombie", tells=False)
        assert summary(await run.result()) == LOST
        assert loop.time() == 10.0
        fleet.check_quiet()


@virtual
async def test_an_agent_is_never_called_for_a_run_that_ended_before_it_began() -> None:
    fleet = Fleet()
    called = False

    class EndedMeanwhile(RecordingObserver):
        async def on_event(self, event: Any) -> None:
            if event.event_type == "run_started":
                await fleet.coordinator.end("zombie", tells=False)

    async def agent(input: Any) -> None:
        nonlocal called
        called = True

    manager = RunManager(
        observers=[required(EndedMeanwhile()), required(fleet.log)],
        coordinator=fleet.coordinator,
        clock=VirtualClock(),
    )
    async with manager:
        run = await manager.start(RunSpec(agent, run_id="zombie"))
        assert summary(await run.result()) == LOST
    assert not called
    assert fleet.log.events == []


@virtual
async def test_a_refusal_of_a_run_that_nobody_has_ended_is_a_failure_and_no_loss() -> None:
    class Refusing(RecordingObserver):
        async def on_event(self, event: Any) -> None:
            if event.event_type == "run_started":
                raise EventOrderError(run_id=event.run_id, event_type="run_started", sequence=1, why="it is there")

    manager = RunManager(
        observers=[required(Refusing())], coordinator=SharedCoordinator(), clock=VirtualClock(), shutdown_grace=0.0
    )
    async with manager:
        result = await (await manager.start(RunSpec(sleeper))).result()
    assert result.status is RunStatus.error
    assert "it is there" in (result.error or "")


@virtual
async def test_a_cancel_while_it_is_found_out_that_a_run_is_lost_does_not_keep_its_caller_waiting() -> None:
    """Found by generated schedules: the question was cut off, and with it everything that follows the end."""
    coordinator = SharedCoordinator(clock=VirtualClock())
    slow = SlowCoordinator(1.0, inner=coordinator)
    log = SharedLog(coordinator)
    async with RunManager(observers=[required(log)], coordinator=slow, clock=VirtualClock()) as manager:
        run = await manager.start(RunSpec(sleeper, run_id="lost"))
        waits = asyncio.create_task(run.result())
        await slow.done["claim"].wait()
        await asyncio.sleep(50)
        await coordinator.end("lost", tells=False)
        await slow.entered["get"].wait()
        execution = manager._runs.get("lost")
        assert execution is not None
        assert execution.task is not None
        execution.task.cancel()
        assert summary(await waits) == LOST
        assert manager._runs.all() == []
