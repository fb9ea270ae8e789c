"""Closing a manager where something hangs behind an agent: a log, a database, a thread's state, a rollback."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from tests.contract.slow_ports import SlowCoordinator, SlowStates
from tests.contract.ways_to_run import end_of, required, told, virtual
from tests.unit.sleeping_runs import BUSY, manager_of, tasks

from trackside.harness import AgentResult, CallbackObserver, RunContext, RunSpec, RunStatus
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.ports import ThreadState
from trackside.testing import RecordingObserver, assert_run_order


@virtual
async def test_a_hurried_close_waits_until_the_end_of_a_run_is_kept_though_its_log_is_away() -> None:
    """I14: an observer that keeps what a log did not take stays open until it has that."""

    class AwayLog:
        is_away = False

        def __init__(self) -> None:
            self.kept: list[str] = []

        async def on_event(self, event: RunLifecycleEvent) -> None:
            if self.is_away:
                await asyncio.sleep(5.0)
                raise ConnectionError("the log is away")

        async def on_missed(self, events: Sequence[RunLifecycleEvent], failure: BaseException) -> str:
            self.kept += [event.event_type.value for event in events]
            return "a spool"

    log = AwayLog()
    manager = manager_of(required(log), shutdown_grace=1.0)
    run = await manager.start(RunSpec("sleeper", 1e6))
    await asyncio.sleep(1)
    log.is_away = True
    await manager.aclose(grace=0.0)
    assert log.kept[0] == "run_cancelled"
    assert "kept for later in a spool" in str((await run.result()).error)
    assert tasks() == set()


class LockedAtTheEnd(SlowCoordinator):
    """A coordinator whose database is locked when a run has finished."""

    def __init__(self, *, durable: bool = False, only: str | None = None) -> None:
        super().__init__(0.0, durable=durable)
        self.only = only

    async def _step(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if name in {"settle", "release"} and self.only in {None, args[0]}:
            await asyncio.sleep(1e6)
        return await super()._step(name, *args, **kwargs)


@virtual
async def test_a_close_gives_up_what_hangs_behind_an_agent_that_has_finished_and_tells_its_end() -> None:
    """I1: a database that stays locked must not turn a finished run into a lost one."""
    seen = RecordingObserver()
    loop = asyncio.get_running_loop()
    coordinator = LockedAtTheEnd()
    manager = manager_of(required(seen), coordinator=coordinator, shutdown_grace=1.0)
    run = await manager.start(RunSpec("sleeper", 2.0))
    await manager.aclose(grace=5.0)
    assert loop.time() == pytest.approx(36.1), "the grace, its time to stop, half a minute, and a look"
    assert (await run.result()).status is RunStatus.success
    assert told(seen.events) == ["run_started", BUSY, "run_completed success", "thread_status_updated idle"]
    assert_run_order(seen.events)


@virtual
@pytest.mark.parametrize(("attempts", "goes_on"), [(None, False), (1, False), (2, True)])
async def test_a_run_that_is_shut_down_and_cannot_be_settled_goes_on_if_it_has_attempts(
    attempts: int | None, goes_on: bool
) -> None:
    seen = RecordingObserver()
    coordinator = LockedAtTheEnd(durable=True)
    manager = manager_of(required(seen), coordinator=coordinator, shutdown_grace=1.0)
    run = await manager.start(RunSpec("sleeper", 1e6, max_attempts=attempts))
    await asyncio.sleep(1)
    await manager.aclose(grace=0.0)
    assert (await run.result()).status is RunStatus.cancelled
    rests = [] if goes_on else ["thread_status_updated idle"]
    assert told(seen.events)[2:] == ["run_cancelled shutdown", *rests]
    assert ("retried_as" in end_of(seen.events).payload) is goes_on


@virtual
async def test_a_close_gives_up_nothing_that_has_not_held_up_its_run_for_long() -> None:
    """The thread of another run, whose agent stops late, still has to remember what is complete."""

    async def slowly(event: RunLifecycleEvent) -> None:
        await asyncio.sleep(10.0 if (event.run_id, event.event_type) == ("locked", "run_completed") else 0.0)

    loop = asyncio.get_running_loop()
    states = SlowStates(0.5)
    coordinator = LockedAtTheEnd(only="locked")
    manager = manager_of(required(CallbackObserver(slowly)), coordinator=coordinator, states=states, shutdown_grace=1.0)
    locked = await manager.start(RunSpec("sleeper", 1.0, run_id="locked"))
    late = await manager.start(RunSpec(Remembers(45.0, stops=False), thread_id="t"))
    await asyncio.sleep(10)
    await manager.aclose(grace=0.0)
    assert loop.time() > 45.0, "its agent has come to its end before the other run's end was told"
    assert (await locked.result()).status is RunStatus.success
    assert (await late.result()).status is RunStatus.cancelled
    assert await states.load("t") == ThreadState({"said": "half"})


@virtual
@pytest.mark.parametrize("grace", [1.0, 45.0, 150.0])
async def test_an_end_that_is_given_up_to_be_told_has_the_time_to_be_kept_where_its_log_hangs_as_well(
    grace: float,
) -> None:
    class HangingLog:
        hangs = False

        def __init__(self) -> None:
            self.kept: list[str] = []

        async def on_event(self, event: RunLifecycleEvent) -> None:
            await self.on_events((event,))

        async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
            if self.hangs:
                await asyncio.sleep(1e6)

        async def on_missed(self, events: Sequence[RunLifecycleEvent], failure: BaseException) -> str:
            self.kept += [event.event_type.value for event in events]
            return "a spool"

    log = HangingLog()
    manager = manager_of(required(log), coordinator=LockedAtTheEnd(), shutdown_grace=grace)
    await manager.start(RunSpec("sleeper", 2.0))
    await asyncio.sleep(1)
    log.hangs = True
    await manager.aclose()
    assert log.kept == ["run_completed", "thread_status_updated"]


class Remembers:
    """An agent whose thread the harness has to save."""

    name = "remembers"
    uses_thread_state = True

    def __init__(self, seconds: float = 2.0, *, stops: bool = True) -> None:
        self.seconds = seconds
        self.stops = stops

    async def human_messages(self, run: RunContext) -> tuple[()]:
        return ()

    async def run(self, run: RunContext) -> AgentResult:
        loop = asyncio.get_running_loop()
        until = loop.time() + self.seconds
        while loop.time() < until:
            with nullcontext() if self.stops else suppress(asyncio.CancelledError):
                await asyncio.sleep(until - loop.time())
        return AgentResult("done", values={"said": "done"})

    def partial(self, run: RunContext) -> dict[str, str]:
        return {"said": "half"}

    async def rollback(self, run: RunContext) -> None: ...


@virtual
async def test_a_close_gives_up_saving_a_thread_and_its_run_says_so(caplog: pytest.LogCaptureFixture) -> None:
    seen = RecordingObserver()
    coordinator = LockedAtTheEnd()
    states = SlowStates(0.0)
    manager = manager_of(required(seen), coordinator=coordinator, states=states, shutdown_grace=1.0)
    run = await manager.start(RunSpec(Remembers(), thread_id="t"))
    await asyncio.sleep(1)
    states.seconds = 1e6
    await manager.aclose(grace=5.0)
    result = await run.result()
    assert result.status is RunStatus.error
    assert result.error == (
        "The agent has finished, but its thread 't' does not remember it: "
        "The manager closed and no longer waited for it; it may still be done."
    )
    assert told(seen.events)[-2:] == ["run_failed error", "thread_status_updated error"]
    assert "left behind" not in caplog.text
    assert_run_order(seen.events)


class Undoes:
    """An agent whose rollback takes this many seconds."""

    name = "undoes"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def human_messages(self, run: RunContext) -> tuple[()]:
        return ()

    async def run(self, run: RunContext) -> AgentResult:
        await asyncio.sleep(1e6)
        return AgentResult()

    async def rollback(self, run: RunContext) -> None:
        await asyncio.sleep(self.seconds)


@virtual
async def test_a_second_signal_leaves_what_a_run_undoes_half_a_minute_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = asyncio.get_running_loop()
    manager = manager_of(shutdown_grace=50.0)
    run = await manager.start(RunSpec(Undoes(1_000.0), run_id="undoes"))
    await asyncio.sleep(1)
    await run.cancel(action="rollback")
    closes = asyncio.create_task(manager.aclose(grace=0.0))
    await asyncio.sleep(9)
    await manager.aclose(grace=0.0)
    assert loop.time() == 41.0
    await closes
    assert "run undoes has stopped, does not come to its end, and is left behind" in caplog.text
    assert (await run.result()).status is RunStatus.cancelled


@virtual
async def test_a_close_waits_until_what_a_run_has_done_is_undone_and_its_end_is_told() -> None:
    seen = RecordingObserver()
    loop = asyncio.get_running_loop()
    manager = manager_of(required(seen), shutdown_grace=5.0)
    run = await manager.start(RunSpec(Undoes(8.0)))
    await asyncio.sleep(1)
    await run.cancel(action="rollback")
    await manager.aclose(grace=0.0)
    assert loop.time() == 9.0
    assert told(seen.events)[-2:] == ["run_cancelled rollback", "thread_status_updated idle"]
    assert tasks() == set()
