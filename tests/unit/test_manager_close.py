"""Closing a manager: it takes nothing more, drains, cancels the rest, flushes, and leaves nothing behind."""

import asyncio
import gc
import logging
import threading
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from tests.contract.shared_ports import SharedCoordinator
from tests.contract.slow_ports import SlowCoordinator, SlowStates
from tests.contract.ways_to_run import end_of, required, told, virtual

from trackside.harness import (
    AgentResult,
    CallbackObserver,
    ClosedError,
    InvalidSpecError,
    RunContext,
    RunManager,
    RunSpec,
    RunStatus,
)
from trackside.harness.errors import NoResultHereError, TracksideError
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.ports import RunHost, ThreadState
from trackside.testing import Misbehaviour, RecordingObserver, VirtualClock, assert_run_order, run_virtual

BUSY = "thread_status_updated busy"


async def sleeper(input: float | None) -> None:
    await asyncio.sleep(input or 0)


def manager_of(*observers: Any, **options: Any) -> RunManager:
    return RunManager({"sleeper": sleeper}, observers=list(observers), clock=VirtualClock(), **options)


def tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()}


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


async def test_a_manager_that_is_let_go_without_a_close_says_so_once_and_leaves_no_thread() -> None:
    said: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    threads = set(threading.enumerate())

    async def use() -> None:
        manager = RunManager({"sleeper": sleeper}, observers=[RecordingObserver()])
        await (await manager.start(RunSpec("sleeper", 0.0))).result()
        await manager.observers.flush(1.0)

    await use()
    (watchdog,) = set(threading.enumerate()) - threads
    with pytest.warns(ResourceWarning, match="^a RunManager was not closed") as warned:
        gc.collect()
    assert (len(warned), said) == (1, [])
    await asyncio.to_thread(watchdog.join, 10.0)
    assert not watchdog.is_alive()


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


@virtual
async def test_observers_come_and_go_between_dispatches() -> None:
    first, second = RecordingObserver(), RecordingObserver()
    async with manager_of(required(first)) as manager:
        manager.observers.add(second, required=True)
        await (await manager.start(RunSpec("sleeper", run_id="a"))).result()
        manager.observers.remove(first)
        await (await manager.start(RunSpec("sleeper", run_id="b"))).result()
    assert {e.run_id for e in first.events} == {"a"}
    assert {e.run_id for e in second.events} == {"a", "b"}
    with pytest.raises(ClosedError):
        manager.observers.add(first)


@virtual
async def test_an_observer_that_is_added_during_a_dispatch_sees_the_next_event_first() -> None:
    late = RecordingObserver()

    class Inviting(RecordingObserver):
        async def on_event(self, event: Any) -> None:
            if event.event_type == "run_started":
                manager.observers.add(late, required=True)
            await super().on_event(event)

    async with manager_of(required(Inviting())) as manager:
        await (await manager.start(RunSpec("sleeper", 0.0))).result()
    assert [e.sequence for e in late.events] == [2, 3, 4], "I19: the opening was on its way, but not its second event"


@virtual
async def test_a_buffered_observer_that_is_removed_gets_what_it_had_accepted_and_leaves_no_task() -> None:
    removed = RecordingObserver()
    manager = manager_of(removed)
    for _ in range(5):
        await (await manager.start(RunSpec("sleeper", 1.0))).result()
        manager.observers.remove(removed)
        manager.observers.add(removed)
    assert len([name for name in tasks() if "buffer" in name]) <= 2
    await manager.aclose()
    assert told(removed.events).count("run_started") == 5
    assert tasks() == set()


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
