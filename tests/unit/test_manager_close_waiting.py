"""Closing a manager with runs that wait or are just being started or withdrawn: ended, refused, or left in the store."""

import asyncio

import pytest
from tests.contract.shared_ports import SharedCoordinator
from tests.contract.slow_ports import SlowCoordinator, SlowStates
from tests.contract.ways_to_run import required, told, virtual
from tests.unit.sleeping_runs import manager_of, tasks

from trackside.harness import ClosedError, RunSpec, RunStatus
from trackside.harness.errors import NoResultHereError, TracksideError
from trackside.harness.ports import RunHost
from trackside.testing import Misbehaviour, RecordingObserver, VirtualClock, assert_run_order, run_virtual


@virtual
async def test_ten_thousand_waiting_runs_are_ended_by_a_close_at_once() -> None:
    seen = RecordingObserver()
    loop = asyncio.get_running_loop()
    manager = manager_of(required(seen), max_running=2)
    await manager.start(RunSpec("sleeper", 1e6, thread_id="long"))
    for i in range(5_000):
        await manager.start(RunSpec("sleeper", 1e6, thread_id="long"))
        await manager.start(RunSpec("sleeper", 1e6, thread_id=str(i)))
    await manager.aclose(grace=0.0)
    assert loop.time() == 0.0
    assert told(seen.events).count("run_cancelled shutdown") == 10_001
    assert manager.stats().running == manager.stats().waiting_for_place == manager.stats().waiting_for_thread == 0
    assert manager.stats().ended_by_status == {RunStatus.cancelled: 10_001}
    assert tasks() == set()


@virtual
async def test_waiting_runs_are_ended_together_and_not_one_after_another() -> None:
    """A required observer that is down costs its retries once, not once for each run."""
    down = RecordingObserver(Misbehaviour(how=OSError()))
    loop = asyncio.get_running_loop()
    manager = manager_of(required(down), shutdown_grace=10.0, max_running=1)
    runs = [await manager.start(RunSpec("sleeper", 1e6)) for _ in range(50)]
    await manager.aclose(grace=0.0)
    assert loop.time() < 10.0
    assert {(await run.result()).status for run in runs} == {RunStatus.error}, "its end is nowhere"


@virtual
async def test_runs_that_wait_in_a_durable_store_are_left_there() -> None:
    seen = RecordingObserver()
    coordinator = SlowCoordinator(seconds=0.0, durable=True)
    async with manager_of(required(seen), coordinator=coordinator, shutdown_grace=5.0) as manager:
        active = await manager.start(RunSpec("sleeper", 1e6, thread_id="t", run_id="active"))
        waiting = await manager.start(RunSpec("sleeper", 1.0, thread_id="t", run_id="waiting"))
        await asyncio.sleep(1)
        waits = asyncio.create_task(waiting.result())
        follows = asyncio.create_task(anext(aiter(waiting.stream()), None))
    assert (await active.result()).status is RunStatus.cancelled
    with pytest.raises(TracksideError):
        await waits
    with pytest.raises(TracksideError):
        await waiting.result()
    assert await asyncio.wait_for(follows, 1.0) is None, "who follows it gets to the end"
    assert told(seen.events, "waiting") == [], "I7: it is not lost and not failed"
    record = await coordinator.get("waiting")
    assert record.status is RunStatus.pending


@pytest.mark.parametrize("seed", range(30))
def test_a_run_that_gets_its_place_in_the_turn_in_which_the_grace_is_over_is_left_in_a_durable_store(seed: int) -> None:
    async def story() -> None:
        seen = RecordingObserver()
        coordinator = SharedCoordinator(durable=True, clock=VirtualClock())
        manager = manager_of(required(seen), coordinator=coordinator, max_running=1)
        active = await manager.start(RunSpec("sleeper", 1.0))
        waiting = await manager.start(RunSpec("sleeper", 1.0, run_id="waiting"))
        await manager.aclose(grace=1.0)
        assert tasks() == set()
        assert (await active.result()).status in {RunStatus.success, RunStatus.cancelled}
        assert told(seen.events, "waiting") == []
        assert (await coordinator.get("waiting")).status is RunStatus.pending  # type: ignore[union-attr]
        with pytest.raises(NoResultHereError, match="it waits in the store"):
            await waiting.result()

    run_virtual(story(), seed=seed)


@virtual
@pytest.mark.parametrize("received", [True, False])
async def test_a_run_that_a_durable_store_takes_as_its_manager_has_closed_is_left_there(received: bool) -> None:
    coordinator = SlowCoordinator(durable=True)
    manager = manager_of(required(RecordingObserver()), coordinator=coordinator)
    starts = asyncio.create_task(manager.start(RunSpec("sleeper", 0.0, run_id="r")))
    await coordinator.entered["admit"].wait()
    await manager.aclose(grace=0.0)
    if received:
        with pytest.raises(NoResultHereError, match="it waits in the store"):
            await (await starts).result()
    else:
        starts.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starts
        await coordinator.done["request_cancel"].wait()
    assert not manager.has("r")


@virtual
async def test_a_close_during_a_start_ends_that_run_or_refuses_it() -> None:
    for seconds in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5):
        seen = RecordingObserver()
        coordinator = SlowCoordinator()
        manager = manager_of(required(seen), coordinator=coordinator, shutdown_grace=10.0)
        starts = asyncio.create_task(manager.start(RunSpec("sleeper", 1e6, run_id="r")))
        await asyncio.sleep(seconds)
        await manager.aclose(grace=0.0)
        try:
            handle = await starts
        except ClosedError:
            assert seen.events == []
        else:
            assert (await handle.result()).status is RunStatus.cancelled
            assert_run_order(seen.events)
        assert tasks() == set()


@virtual
async def test_an_answer_whose_question_is_still_looked_for_as_a_manager_closes_is_refused() -> None:
    states = SlowStates(1.0)
    seen = RecordingObserver()
    manager = manager_of(seen, states=states, shutdown_grace=10.0)
    starts = asyncio.create_task(manager.start(RunSpec("sleeper", thread_id="t", command={"resume": "yes"})))
    await asyncio.sleep(0.5)
    await manager.aclose()
    with pytest.raises(ClosedError, match="run manager"):
        await starts
    assert seen.events == []


@virtual
async def test_a_start_that_fails_does_not_hold_up_a_close() -> None:
    coordinator = SlowCoordinator(seconds=1.0)
    coordinator.broken["admit"] = ConnectionError()
    loop = asyncio.get_running_loop()
    manager = manager_of(coordinator=coordinator, shutdown_grace=100.0)
    starts = asyncio.create_task(manager.start(RunSpec("sleeper")))
    await asyncio.sleep(0.5)
    await manager.aclose()
    assert loop.time() < 10.0
    with pytest.raises(ConnectionError):
        await starts


@virtual
async def test_a_coordinator_that_fails_as_runs_are_stopped_leaves_nobody_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    coordinator = SlowCoordinator(0.1, clock=VirtualClock())
    manager = manager_of(coordinator=coordinator, shutdown_grace=10.0)
    running = await manager.start(RunSpec("sleeper", 1e6, thread_id="t"))
    behind = await manager.start(RunSpec("sleeper", 1.0, thread_id="t"))
    delayed = await manager.start(RunSpec("sleeper", 1.0, run_id="delayed", after_seconds=1e6))
    follows = asyncio.create_task(anext(aiter(delayed.stream()), None))
    await asyncio.sleep(1)
    coordinator.broken["withdraw"] = ConnectionError("database gone")
    await manager.aclose(grace=1.0)
    assert await asyncio.wait_for(follows, 1.0) is None, "who follows it gets to the end"
    assert (await running.result()).status is RunStatus.cancelled, "its agent is stopped all the same"
    for waiting in (behind, delayed):
        with pytest.raises(NoResultHereError, match="could not take it out of the queue"):
            await waiting.result()
    assert "run delayed could not be taken out of the queue, and is left behind" in caplog.text
    assert "never retrieved" not in caplog.text


@virtual
async def test_runs_that_are_still_being_let_in_or_taken_out_when_patience_ends_end_all_the_same() -> None:
    seen = RecordingObserver()
    coordinator = SlowCoordinator(1.0, clock=VirtualClock())  # slower than the time that a second signal leaves
    manager = manager_of(required(seen), coordinator=coordinator, shutdown_grace=10.0)
    starts = [asyncio.create_task(manager.start(RunSpec("sleeper", 1.0, thread_id="t", run_id=str(n)))) for n in (1, 2)]
    await asyncio.sleep(0.5)
    await asyncio.gather(manager.aclose(grace=0.0), manager.aclose(grace=0.0))
    results = [await (await start).result() for start in starts]
    assert [result.status for result in results] == [RunStatus.cancelled] * 2
    assert coordinator.inner._threads == {}, "the thread is free for others"
    assert_run_order(seen.events)


@virtual
async def test_a_run_that_could_not_be_cancelled_as_it_waited_ends_when_it_can() -> None:
    seen = RecordingObserver()
    hosts: list[RunHost] = []

    class Attached(SlowCoordinator):
        def attach(self, host: RunHost) -> None:
            hosts.append(host)
            super().attach(host)

    coordinator = Attached(0.1, clock=VirtualClock())
    async with manager_of(required(seen), coordinator=coordinator, shutdown_grace=100.0) as manager:
        await manager.start(RunSpec("sleeper", 10.0, thread_id="t"))
        behind = await manager.start(RunSpec("sleeper", 1.0, thread_id="t", run_id="behind"))
        coordinator.broken["withdraw"] = ConnectionError("database gone")
        with pytest.raises(ConnectionError):
            await behind.cancel()
        await asyncio.sleep(20)
        assert manager.stats().waiting_for_thread == 1, "it is still in the queue, and nobody is told of an end"
        del coordinator.broken["withdraw"]
        hosts[0].on_ready("behind")
        assert (await behind.result()).status is RunStatus.cancelled
    assert told(seen.events, "behind")[0] == "run_cancelled interrupt", "it never starts"


def test_an_event_loop_that_ends_while_a_run_is_withdrawn_waits_for_no_more_than_its_end() -> None:
    async def leaves() -> asyncio.AbstractEventLoop:
        coordinator = SlowCoordinator(1.0, clock=VirtualClock())
        manager = manager_of(coordinator=coordinator, shutdown_grace=1_000.0)
        await manager.start(RunSpec("sleeper", 1e6, thread_id="t"))
        behind = await manager.start(RunSpec("sleeper", 1.0, thread_id="t"))
        asking = asyncio.create_task(behind.cancel())
        await coordinator.entered["settle"].wait()
        assert not asking.done()
        return asyncio.get_running_loop()

    assert run_virtual(leaves()).time() < 100.0
