"""Callers that are cancelled while they start or cancel a run: what they began is finished, and nothing is held."""

import asyncio
import gc
from typing import Any

import pytest
from tests.contract.slow_ports import SlowCoordinator
from tests.contract.ways_to_run import end_of, required, told, virtual

from trackside.harness import (
    RunManager,
    RunSpec,
    RunStatus,
)
from trackside.testing import RecordingObserver, VirtualClock, assert_run_order


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


@pytest.mark.parametrize("moment", ["entered", "done"])
@virtual
async def test_a_cancelled_start_with_an_idempotency_key_leaves_its_run_to_all_who_ask_for_it(moment: str) -> None:
    seen = RecordingObserver()
    coordinator = SlowCoordinator()
    async with manager_of(seen, coordinator=coordinator) as manager:
        spec = RunSpec("sleeper", "work", thread_id="t", idempotency_key="k")
        first = asyncio.create_task(manager.start(spec))
        await getattr(coordinator, moment)["admit"].wait()
        beside = asyncio.create_task(manager.start(spec))
        first.cancel()
        await asyncio.wait({first})
        assert first.cancelled()
        handles = [await beside, await manager.start(spec)]
        assert [(run.existing, (await run.result()).status) for run in handles] == [(True, RunStatus.success)] * 2
        following = await manager.start(RunSpec("echo", thread_id="t"))
        assert (await following.result()).status is RunStatus.success
    assert_run_order(seen.events)


@virtual
async def test_a_run_that_is_released_and_over_before_its_start_is_answered() -> None:
    """The admission's reply is late: the thread was given to the run, which has run before anybody has a handle."""
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
async def test_a_cancel_that_comes_to_nothing_after_its_caller_has_gone_is_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    coordinator = SlowCoordinator()
    async with manager_of(coordinator=coordinator) as manager:
        cancels = asyncio.create_task(manager.cancel("nobody"))
        await coordinator.entered["request_cancel"].wait()
        cancels.cancel()
        await asyncio.sleep(10)
    gc.collect()  # a failure that nobody looked at is reported when its task is collected
    assert [(line.name, line.exc_info) for line in caplog.records] == [("trackside.manager", None)]
    assert "There is no run 'nobody' here" in caplog.text


@virtual
async def test_cancel_of_a_run_that_is_just_being_claimed() -> None:
    """A cancel recorded before the claim wins; after the claim, the run is stopped. Either way the run ends once."""
    for seconds in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
        seen = RecordingObserver()
        coordinator = SlowCoordinator()
        async with manager_of(seen, coordinator=coordinator) as manager:
            run = await manager.start(RunSpec("sleeper", run_id="r"))
            await asyncio.sleep(seconds)
            await run.cancel(wait=True)
            assert (await run.result()).status is RunStatus.cancelled
        assert_run_order(seen.events)


@pytest.mark.parametrize("moment", [0.0, 0.5, 1.0, 1.5])
@virtual
async def test_a_cancelled_start_whose_run_is_displaced_meanwhile(moment: float) -> None:
    """Found by a generated schedule: nobody knew the run any more when it was displaced, and it never ended."""
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
