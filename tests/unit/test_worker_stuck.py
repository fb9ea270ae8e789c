"""When agents are told to stop, and from when on an agent that does not stop is stuck."""

import asyncio
import contextlib
import threading
from datetime import timedelta
from typing import Any

import pytest
from tests.contract.slow_ports import SlowCoordinator
from tests.contract.ways_to_run import ByManager, both_ways, end_of, required, virtual

from trackside.harness import (
    AgentResult,
    LifecycleEventType,
    RunContext,
    RunLifecycleEvent,
    RunStatus,
    StopPolicy,
)
from trackside.harness.ports import ThreadState
from trackside.harness.remembered import MemoryThreadStates
from trackside.testing import Misbehaviour, RecordingObserver, VirtualClock, assert_run_order
from trackside.testing.loop import EPOCH


async def stubborn(input: object, run: RunContext) -> None:
    """Take three cancels to stop."""
    run.message({"type": "human", "content": "wait"})
    for _ in range(3):
        try:
            await asyncio.sleep(1_000)
        except asyncio.CancelledError:
            continue


async def succeeds(input: object) -> str:
    return "done"


def refuses_messages() -> RecordingObserver:
    return RecordingObserver(Misbehaviour(how=OSError(), on=LifecycleEventType.HUMAN_MESSAGE))


@virtual
async def test_a_run_is_stuck_from_its_first_cancel_on_however_often_it_is_cancelled() -> None:
    async with ByManager(stopping=StopPolicy(stuck_after=10.0)) as runs:
        run = await runs.start(stubborn)
        await asyncio.sleep(1)
        await run.cancel()
        await asyncio.sleep(6)
        await run.cancel()
        await asyncio.sleep(6)
        assert (await runs.manager.get(run.run_id)).stuck_since == EPOCH + timedelta(seconds=11)
        await run.cancel()
        await run.ended()


@virtual
async def test_an_agent_that_is_cancelled_because_somebody_asks_again_may_clean_up_after_that() -> None:
    cleaned: list[float] = []

    async def agent(input: object) -> None:
        try:
            await asyncio.sleep(1_000)
        finally:
            await asyncio.sleep(5)
            cleaned.append(asyncio.get_running_loop().time())

    async with ByManager(stopping=StopPolicy(cancel_after=3.0)) as runs:
        run = await runs.start(agent)
        await asyncio.sleep(0.5)
        await run.cancel()
        await asyncio.sleep(1)
        await run.cancel()
        await run.ended()
        assert cleaned == [6.5]


@both_ways
@virtual
async def test_an_agent_whose_message_is_refused_is_told_to_stop(way: type[ByManager]) -> None:
    seen: list[bool] = []

    async def agent(input: object, run: RunContext) -> None:
        run.message({"type": "human", "content": "wait"})
        try:
            await asyncio.sleep(1_000)
        finally:
            seen.append(run.cancelled)

    async with way(required(refuses_messages())) as runs:
        run = await runs.start(agent)
        await run.ended()
    assert seen == [True]


@virtual
async def test_an_agent_whose_message_is_refused_and_that_goes_on_is_stuck(caplog: pytest.LogCaptureFixture) -> None:
    async with ByManager(required(refuses_messages())) as runs:
        run = await runs.start(stubborn)
        await asyncio.sleep(11)
        assert (await runs.manager.get(run.run_id)).stuck_since == VirtualClock().now() - timedelta(seconds=1)
        assert "was cancelled and does not stop" in caplog.text
        await run.cancel()
        await run.cancel()
        await run.ended()
        assert (await runs.manager.get(run.run_id)).status is RunStatus.error


@virtual
async def test_a_deadline_that_passes_while_an_agent_cleans_up_does_not_cancel_it_once_more() -> None:
    cleaned: list[float] = []

    async def agent(input: object) -> None:
        try:
            await asyncio.sleep(1_000)
        finally:
            await asyncio.sleep(5)
            cleaned.append(asyncio.get_running_loop().time())

    async with ByManager() as runs:
        run = await runs.start(agent, timeout=10.0)
        await asyncio.sleep(9)
        await run.cancel()
        await run.ended()
        assert cleaned == [14.0]
        assert (await runs.manager.get(run.run_id)).status is RunStatus.cancelled, "the first reason counts"


@virtual
async def test_a_deadline_that_passes_after_a_message_was_refused_does_not_cancel_once_more() -> None:
    cleaned: list[float] = []

    async def agent(input: object, run: RunContext) -> None:
        run.message({"type": "human", "content": "wait"})
        try:
            await asyncio.sleep(1_000)
        finally:
            await asyncio.sleep(10)
            cleaned.append(asyncio.get_running_loop().time())

    async with ByManager(required(refuses_messages())) as runs:
        run = await runs.start(agent, timeout=8.0)
        await run.ended()
    assert len(cleaned) == 1


class SlowToRemember(MemoryThreadStates):
    """Thread states that save, or load, only when the test lets them go on."""

    immediate = False

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = asyncio.Event()
        self.loads = True

    async def load(self, thread_id: str) -> ThreadState | None:
        if not self.loads:
            await self.goes_on.wait()
        return await super().load(thread_id)

    async def save(self, thread_id: str, state: ThreadState, *, run_id: str | None = None) -> None:
        await self.goes_on.wait()
        await super().save(thread_id, state, run_id=run_id)


@virtual
async def test_a_run_whose_thread_does_not_come_to_remember_it_is_stuck(caplog: pytest.LogCaptureFixture) -> None:
    states = SlowToRemember()
    async with ByManager(states=states, max_running=1, stopping=StopPolicy(stuck_after=10.0)) as runs:
        run = await runs.start(succeeds)
        waits = await runs.start(succeeds)
        await asyncio.sleep(9)
        assert runs.manager.stats().stuck == 0
        await asyncio.sleep(2)
        assert (runs.manager.stats().stuck, runs.manager.stats().running) == (1, 1)
        assert "is over and does not come to its end; it keeps its place and its thread" in caplog.text
        assert "in save" in caplog.text, "the log shows where it waits"
        assert (await runs.manager.get(run.run_id)).stuck_since is None, "nobody wants its process to be ended"
        states.goes_on.set()
        assert [(await each.waits).status for each in (run, waits)] == [RunStatus.success] * 2
        assert (runs.manager.stats().stuck, runs.manager.stats().stuck_total) == (0, 1)


@virtual
async def test_a_run_that_is_stopped_before_it_is_prepared_and_whose_thread_is_not_read_is_stuck() -> None:
    states = SlowToRemember()
    states.goes_on.set()
    async with ByManager(states=states, stopping=StopPolicy(stuck_after=10.0)) as runs:
        await runs.run(succeeds, thread_id="t")
        states.loads = False
        states.goes_on.clear()
        run = await runs.start(succeeds, thread_id="t")
        await asyncio.sleep(1)
        await run.cancel()
        await asyncio.sleep(11)
        assert runs.manager.stats().stuck == 1
        assert (await runs.manager.get(run.run_id)).stuck_since == EPOCH + timedelta(seconds=11)
        states.goes_on.set()
        assert (await run.waits).status is RunStatus.cancelled


@pytest.mark.parametrize("step", ["settle", "release"])
@virtual
async def test_a_run_whose_coordinator_does_not_answer_about_its_end_is_stuck(step: str) -> None:
    class SlowToEnd(SlowCoordinator):
        async def _step(self, name: str, *args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(15.0 if name == step else 0.0)
            return await super()._step(name, *args, **kwargs)

    coordinator = SlowToEnd(0.0, clock=VirtualClock())
    async with ByManager(coordinator=coordinator, stopping=StopPolicy(stuck_after=10.0)) as runs:
        run = await runs.start(succeeds)
        await asyncio.sleep(9)
        assert runs.manager.stats().stuck == 0
        await asyncio.sleep(2)
        assert runs.manager.stats().stuck == 1
        assert (await run.waits).status is RunStatus.success


@virtual
async def test_a_run_that_is_abandoned_ends_with_what_it_has_used_and_its_agent_says_no_more() -> None:
    goes_on = asyncio.Event()

    async def agent(input: object, run: RunContext) -> None:
        run.record_usage("m", input_tokens=3, output_tokens=4)
        while not goes_on.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await goes_on.wait()
        run.message({"type": "human", "content": "too late"})

    seen = RecordingObserver()
    async with ByManager(required(seen)) as runs:
        run = await runs.start(agent, run_id="left", thread_id="t")
        await asyncio.sleep(1)
        await run.cancel()
        await asyncio.sleep(5)
        runs.manager.abandon("left", "the process goes")
        await run.ended()
        end = end_of(seen.events, "left").payload
        assert (end["cancel_mode"], end["reason"]) == ("shutdown", "the process goes")
        assert end["completion_data"]["total_tokens"] == 7
        assert (await runs.run(succeeds, thread_id="t")).status is RunStatus.success, "its thread is free"
        goes_on.set()
        await asyncio.sleep(1)
        runs.manager.abandon("left", "again")
    assert_run_order(seen.events)
    assert "too late" not in str(seen.events)


@virtual
async def test_a_run_that_ends_by_itself_is_not_abandoned() -> None:
    seen = RecordingObserver()
    coordinator = SlowCoordinator(1.0, clock=VirtualClock())
    async with ByManager(required(seen), coordinator=coordinator) as runs:
        run = await runs.start(succeeds, run_id="r")
        await coordinator.entered["settle"].wait()
        runs.manager.abandon("r", "the process goes")
        await run.ended()
    assert end_of(seen.events, "r").payload["status"] == "success"


@virtual
async def test_a_run_that_is_abandoned_after_its_deadline_has_timed_out() -> None:
    async with ByManager() as runs:
        run = await runs.start(stubborn, timeout=5.0)
        await asyncio.sleep(10)
        runs.manager.abandon(run.run_id, "the process goes")
        await run.ended()
        assert (await runs.manager.get(run.run_id)).status is RunStatus.timeout


@virtual
async def test_an_agent_whose_observer_fails_is_stopped_though_a_thread_uses_its_budget_up_at_this_moment() -> None:
    runs_seen: list[RunContext] = []

    async def agent(input: object, run: RunContext) -> None:
        runs_seen.append(run)
        run.message({"type": "human", "content": "wait"})
        await asyncio.sleep(1_000)

    class UsedUpMeanwhile(RecordingObserver):
        async def on_event(self, event: RunLifecycleEvent) -> None:
            if event.event_type is LifecycleEventType.HUMAN_MESSAGE:
                use = threading.Thread(
                    target=runs_seen[0].record_usage, args=("m",), kwargs={"input_tokens": 0, "output_tokens": 10}
                )
                use.start()
                use.join()  # the event loop hears of it later
                raise OSError("disk full")
            await super().on_event(event)

    async with ByManager(required(UsedUpMeanwhile())) as runs:
        result = await runs.run(agent, max_tokens=5, timeout=100.0)
    assert (result.status, result.error) == (RunStatus.error, "a required observer failed: disk full")
    assert asyncio.get_running_loop().time() < 1.0, "its agent was stopped at once"


@pytest.mark.parametrize("stuck_before", [False, True])
@virtual
async def test_a_rollback_that_does_not_come_to_an_end_is_stuck_and_said_to_be_so_once(
    stuck_before: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class RollsBack:
        name = "rolls back"

        async def human_messages(self, run: RunContext) -> tuple[()]:
            return ()

        async def run(self, run: RunContext) -> AgentResult:
            try:
                await asyncio.sleep(1_000)
            finally:
                await asyncio.sleep(20 if stuck_before else 0)
            return AgentResult()

        async def rollback(self, run: RunContext) -> None:
            await self.checkpointer_answers()

        async def checkpointer_answers(self) -> None:
            await asyncio.sleep(100)

    async with ByManager(stopping=StopPolicy(stuck_after=10.0)) as runs:
        run = await runs.start(RollsBack())
        await asyncio.sleep(1)
        await runs.manager.cancel(run.run_id, action="rollback")
        await asyncio.sleep(35)
        assert (await runs.manager.get(run.run_id)).stuck_since == EPOCH + timedelta(seconds=11)
        assert runs.manager.stats().stuck_total == 1
        assert stuck_before or "in checkpointer_answers" in caplog.text, "the log shows where it waits"
        await run.ended()
        assert (await runs.manager.get(run.run_id)).status is RunStatus.cancelled
