"""The order of events in a run that is cancelled: before it starts, while it runs, or while it is being announced."""

import asyncio
import contextlib
from typing import Any

import pytest
from tests.contract.cancelled_runs import OPENING, sleeper
from tests.contract.ways_to_run import ByManager, ByRunAgent, Gate, Way, both_ways, end_of, required, told, virtual

from trackside.harness import LifecycleEventType, RunContext, RunManager, RunSpec, RunStatus, run_agent
from trackside.testing import RecordingObserver, assert_run_order


@both_ways
@virtual
async def test_cancel_of_a_running_agent(way: Way) -> None:
    seen = RecordingObserver()
    stopped = False

    async def agent(input: Any) -> None:
        nonlocal stopped
        try:
            await asyncio.sleep(3_600)
        finally:
            await asyncio.sleep(1)
            stopped = True

    async with way(seen) as runs:
        run = await runs.start(agent)
        await asyncio.sleep(1)
        await run.cancel()
        ended = await run.ended()
        assert stopped, "nobody is told before the agent has really stopped"
    assert told(seen.events) == [*OPENING, f"run_cancelled {way.cancel_mode}", "thread_status_updated idle"]
    assert_run_order(seen.events)
    if way is ByRunAgent:
        assert isinstance(ended, asyncio.CancelledError)
    else:
        assert ended.status is RunStatus.cancelled


@both_ways
@pytest.mark.parametrize("turns", range(8))
@virtual
async def test_cancel_at_any_of_the_first_turns_of_the_loop(way: Way, turns: int) -> None:
    seen = RecordingObserver()
    called = False

    async def agent(input: Any) -> None:
        nonlocal called
        called = True
        await asyncio.sleep(3_600)

    async with way(required(seen)) as runs:
        run = await runs.start(agent)
        for _ in range(turns):
            await asyncio.sleep(0)
        await run.cancel()
        await run.ended()
        assert_run_order(seen.events)
        cancelled = f"run_cancelled {way.cancel_mode}"
        if told(seen.events)[0] == "run_started":
            assert told(seen.events) == [*OPENING, cancelled, "thread_status_updated idle"]
        else:
            assert told(seen.events) == [cancelled]
            assert not called


@virtual
async def test_cancel_right_after_the_start_leaves_the_terminal_event_alone() -> None:
    seen = RecordingObserver()

    async def agent(input: Any) -> None:
        raise AssertionError("a run that was cancelled before its first tick never starts")

    async with RunManager(observers=[seen]) as manager:
        handle = await manager.start(RunSpec(agent))
        record = await handle.cancel(wait=True)
        assert record.status is RunStatus.cancelled
        assert record.started_at is None
        assert (await handle.result()).status is RunStatus.cancelled
    assert told(seen.events) == ["run_cancelled interrupt"]
    assert seen.events[0].sequence == 1


@virtual
async def test_run_agent_in_a_task_that_is_cancelled_before_its_first_step_makes_no_run() -> None:
    seen = RecordingObserver()
    task = asyncio.create_task(run_agent(sleeper, observer=seen))
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert seen.events == []


@virtual
async def test_cancel_by_asyncio_timeout_becomes_a_timeout_of_the_caller() -> None:
    seen = RecordingObserver()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await run_agent(sleeper, observer=seen)
    assert told(seen.events) == [*OPENING, "run_cancelled task_cancelled", "thread_status_updated idle"]


@both_ways
@pytest.mark.parametrize("swallows", [0, 1])
@virtual
async def test_cancel_twice_ends_the_run_once(way: Way, swallows: int) -> None:
    seen = RecordingObserver()

    async def agent(input: Any) -> None:
        for _ in range(swallows):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3_600)
        await asyncio.sleep(3_600)

    async with way(seen) as runs:
        run = await runs.start(agent)
        for _ in range(2):
            await asyncio.sleep(1)
            await run.cancel()
        await run.ended()
        assert asyncio.get_running_loop().time() == 2, "each cancel reaches the agent"
    assert told(seen.events) == [*OPENING, f"run_cancelled {way.cancel_mode}", "thread_status_updated idle"]


@virtual
async def test_cancel_of_a_run_that_has_ended_changes_nothing() -> None:
    seen = RecordingObserver()

    async def agent(input: Any) -> str:
        return "done"

    async with RunManager(observers=[seen]) as manager:
        handle = await manager.start(RunSpec(agent))
        await handle.result()
        before = await manager.get(handle.run_id)
        assert await handle.cancel(wait=True) == before
        assert await handle.cancel(action="rollback") == before
    assert before.status is RunStatus.success
    assert told(seen.events) == [*OPENING, "run_completed success", "thread_status_updated idle"]


@virtual
async def test_the_first_of_two_cancels_says_why() -> None:
    seen = RecordingObserver()
    async with RunManager(observers=[seen]) as manager:
        handle = await manager.start(RunSpec(sleeper))
        await asyncio.sleep(1)
        await handle.cancel(action="rollback")
        await handle.cancel(action="interrupt", wait=True)
    assert end_of(seen.events).payload["cancel_mode"] == "rollback"


@virtual
async def test_an_agent_that_cancels_its_own_run_is_cancelled() -> None:
    seen = RecordingObserver()

    async with RunManager(observers=[seen]) as manager:

        async def agent(input: Any, run: RunContext) -> None:
            await manager.cancel(run.run_id, wait=True)

        result = await (await manager.start(RunSpec(agent))).result()
    assert result.status is RunStatus.cancelled
    assert told(seen.events) == [*OPENING, "run_cancelled interrupt", "thread_status_updated idle"]


DISPATCHES = [
    (LifecycleEventType.RUN_STARTED, 1, "run_cancelled"),
    (LifecycleEventType.THREAD_STATUS_UPDATED, 1, "run_cancelled"),
    (LifecycleEventType.HUMAN_MESSAGE, 1, "run_cancelled"),
    (LifecycleEventType.HUMAN_MESSAGE, 2, "run_cancelled"),
    (LifecycleEventType.RUN_COMPLETED, 1, "run_completed"),
    (LifecycleEventType.THREAD_STATUS_UPDATED, 2, "run_completed"),
]


@both_ways
@pytest.mark.parametrize("who", ["the caller", "somebody who reaches for the run's task"])
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize(("during", "nth", "end"), DISPATCHES, ids=str)
@virtual
async def test_cancel_during_a_dispatch_loses_and_repeats_nothing(
    way: Way, during: LifecycleEventType, nth: int, end: str, times: int, who: str
) -> None:
    gate, after = Gate(during, nth), RecordingObserver()

    async def agent(input: str, run: RunContext) -> str:
        run.message({"type": "human", "content": "one more thing"})
        await asyncio.sleep(3_600 if end == "run_cancelled" else 1)
        return "done"

    async with way(required(gate), required(after)) as runs:
        run = await runs.start(agent, "hello")
        await gate.reached.wait()
        for _ in range(times):
            if who == "the caller":
                await run.cancel()
            else:
                run.task().cancel()
            await asyncio.sleep(2)
        assert not run.waits.done()
        gate.opened.set()
        ended = await run.ended()

    assert_run_order(gate.events)
    assert after.events == gate.events
    assert end_of(gate.events).event_type == end
    assert told(gate.events)[-1] == "thread_status_updated idle"
    if way is ByRunAgent:
        assert isinstance(ended, asyncio.CancelledError)
    elif who == "the caller":
        assert ended.status is (RunStatus.cancelled if end == "run_cancelled" else RunStatus.success)


@both_ways
@pytest.mark.parametrize("during", [LifecycleEventType.RUN_STARTED, LifecycleEventType.THREAD_STATUS_UPDATED], ids=str)
@virtual
async def test_a_cancel_that_was_held_off_by_the_opening_comes_before_the_agent(
    way: Way, during: LifecycleEventType
) -> None:
    gate = Gate(during)

    async def agent(input: Any) -> None:
        raise AssertionError("never called")

    async with way(required(gate)) as runs:
        run = await runs.start(agent)
        await gate.reached.wait()
        run.task().cancel()
        await asyncio.sleep(1)
        gate.opened.set()
        await run.ended()
    assert told(gate.events) == [*OPENING, "run_cancelled task_cancelled", "thread_status_updated idle"]


@virtual
async def test_a_cancel_of_the_task_of_a_run_before_its_first_tick_leaves_the_terminal_event_alone() -> None:
    seen = RecordingObserver()
    async with ByManager(required(seen)) as runs:
        run = await runs.start(sleeper)
        run.task().cancel()
        assert (await run.ended()).status is RunStatus.cancelled
    assert told(seen.events) == ["run_cancelled task_cancelled"]


@both_ways
@virtual
async def test_cancel_while_the_run_waits_for_its_thread(way: Way) -> None:
    seen = RecordingObserver()
    go_on = asyncio.Event()

    async def agent(input: Any) -> None:
        await go_on.wait()

    async with way(required(seen)) as runs:
        first = await runs.start(agent, thread_id="t", run_id="first")
        second = await runs.start(agent, thread_id="t", run_id="second")
        third = await runs.start(agent, thread_id="t", run_id="third")
        await asyncio.sleep(1)
        await second.cancel()
        await second.ended()
        assert told(seen.events, "second") == [f"run_cancelled {way.cancel_mode}"]
        go_on.set()
        assert (await first.ended()).status is RunStatus.success
        assert (await third.ended()).status is RunStatus.success
    assert_run_order(seen.events)
    assert told(seen.events, "first") == [*OPENING, "run_completed success"]
    assert told(seen.events, "third") == ["run_started", "run_completed success", "thread_status_updated idle"]


@virtual
async def test_cancelling_the_wait_for_a_result_leaves_the_run_alone() -> None:
    seen = RecordingObserver()

    async def agent(input: Any) -> str:
        await asyncio.sleep(5)
        return "done"

    async with RunManager(observers=[seen]) as manager:
        handle = await manager.start(RunSpec(agent))
        waits = asyncio.create_task(handle.result())
        await asyncio.sleep(1)
        waits.cancel()
        await asyncio.wait({waits})
        assert (await handle.result()).status is RunStatus.success
    assert told(seen.events)[-2:] == ["run_completed success", "thread_status_updated idle"]


@both_ways
@virtual
async def test_a_cancel_of_the_agents_own_task_from_outside_is_a_cancel_of_the_run(way: Way) -> None:
    seen = RecordingObserver()
    async with way(seen) as runs:
        run = await runs.start(sleeper)
        await asyncio.sleep(1)
        run.task("agent").cancel()
        await run.ended()
    assert told(seen.events) == [*OPENING, "run_cancelled task_cancelled", "thread_status_updated idle"]


@virtual
async def test_cancelled_callers_of_cancel_do_not_undo_it() -> None:
    seen = RecordingObserver()
    async with ByManager(seen) as runs:
        run = await runs.start(sleeper)
        await asyncio.sleep(1)
        asks = asyncio.create_task(runs.manager.cancel(run.run_id, wait=True))
        await asyncio.sleep(0)
        asks.cancel()
        assert (await run.ended()).status is RunStatus.cancelled
    assert told(seen.events) == [*OPENING, "run_cancelled interrupt", "thread_status_updated idle"]
