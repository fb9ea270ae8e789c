"""Runs that start runs: an observer or an agent may do so (I20), without a deadlock, to a limited depth."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.contract.ways_to_run import ByManager, both_ways, required, told, virtual

from trackside.harness import (
    ClosesItselfError,
    CompositeObserver,
    DispatchPolicy,
    LifecycleEventType,
    ObserverBinding,
    RunContext,
    RunLifecycleEvent,
    RunManager,
    RunResult,
    RunSpec,
    RunStatus,
    ThreadBusyError,
    WaitsForItselfError,
    run_agent,
)
from trackside.harness.errors import RunDepthError
from trackside.harness.ids import new_id
from trackside.testing import RecordingObserver, assert_run_order

STARTED = LifecycleEventType.RUN_STARTED
OPENING = {STARTED, LifecycleEventType.THREAD_STATUS_UPDATED, LifecycleEventType.HUMAN_MESSAGE}


async def echo(input: Any) -> Any:
    return input


def ends_with(event_type: LifecycleEventType) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """An agent whose run ends with this event, if it is a terminal event; for a cancel the caller has to cancel it."""

    async def agent(input: Any) -> None:
        if event_type is LifecycleEventType.RUN_FAILED:
            raise ValueError
        if event_type is LifecycleEventType.RUN_CANCELLED:
            await asyncio.sleep(3_600)

    return agent


class Reacting:
    """An observer that does something once, on the first event of a type."""

    def __init__(self, on: LifecycleEventType, react: Callable[[RunLifecycleEvent], Coroutine[Any, Any, Any]]) -> None:
        self.got: Any = None
        self._on = on
        self._react = react
        self._done = False

    async def on_event(self, event: RunLifecycleEvent) -> None:
        if event.event_type is self._on and not self._done:
            self._done = True
            try:
                self.got = await self._react(event)
            except Exception as exc:
                self.got = exc
                raise


@pytest.mark.parametrize("on", list(LifecycleEventType), ids=str)
@pytest.mark.parametrize("is_required", [True, False], ids=["required", "buffered"])
@virtual
async def test_an_observer_may_start_a_run_and_await_it_with_one_place_for_runs(
    on: LifecycleEventType, is_required: bool
) -> None:
    seen = RecordingObserver()

    async def react(event: RunLifecycleEvent) -> RunResult:
        return await (await manager.start(RunSpec(echo, "and that", run_id="inner"))).result()

    reacting = Reacting(on, react)
    async with RunManager(observers=[required(seen), ObserverBinding(reacting, is_required)], max_running=1) as manager:
        outer = await manager.start(RunSpec(ends_with(on), "this", run_id="outer"))
        if on is LifecycleEventType.RUN_CANCELLED:
            await asyncio.sleep(1)
            await outer.cancel()
        await outer.result()
    assert reacting.got.status is RunStatus.success
    assert_run_order(seen.events)
    assert {e.run_id for e in seen.events} == {"outer", "inner"}
    inner = next(e for e in seen.events if e.run_id == "inner")
    assert inner.payload["parent_run_id"] == "outer"


@virtual
async def test_an_observer_may_start_a_run_behind_the_one_it_observes_on_the_same_thread() -> None:
    seen = RecordingObserver()

    async def react(event: RunLifecycleEvent) -> None:
        await manager.start(RunSpec(echo, "next", thread_id="t", run_id="second"))

    async with RunManager(observers=[required(seen), required(Reacting(STARTED, react))], max_running=1) as manager:
        await (await manager.start(RunSpec(echo, "hello", thread_id="t", run_id="first"))).result()
    assert told(seen.events, "first")[-1] == "run_completed success"
    assert told(seen.events, "second")[0] == "run_started"
    assert told(seen.events, "second")[-1] == "thread_status_updated idle"
    assert_run_order(seen.events)


@pytest.mark.parametrize("on", list(LifecycleEventType), ids=str)
@virtual
async def test_a_required_observer_that_awaits_a_run_behind_its_own_is_told_so(on: LifecycleEventType) -> None:
    seen = RecordingObserver()

    async def react(event: RunLifecycleEvent) -> None:
        await (await manager.start(RunSpec(echo, "next", thread_id="t", run_id="second"))).result()

    reacting = Reacting(on, react)
    async with RunManager(
        observers=[required(seen), required(reacting)], policy=DispatchPolicy(retry_for=0.0, call_limit=None)
    ) as manager:
        outer = await manager.start(RunSpec(ends_with(on), {"messages": "hello"}, thread_id="t", run_id="first"))
        if on is LifecycleEventType.RUN_CANCELLED:
            await asyncio.sleep(1)
            await outer.cancel()
        first = await outer.result()
    assert "has to end before run 'second', which is the next of the same thread" in str(reacting.got)
    if on in OPENING:  # I14
        assert first.status is RunStatus.error
        assert str(reacting.got) in (first.error or "")
    assert told(seen.events, "second")[-1] == "thread_status_updated idle"
    assert_run_order(seen.events)


@virtual
async def test_an_observer_that_is_called_in_line_and_awaits_a_run_behind_its_own_is_told_so() -> None:
    async def react(event: RunLifecycleEvent) -> None:
        await (await manager.start(RunSpec(echo, "next", thread_id="t", run_id="second"))).result()

    reacting = Reacting(LifecycleEventType.RUN_COMPLETED, react)
    async with RunManager(observers=[reacting], policy=DispatchPolicy(buffer=False, call_limit=None)) as manager:
        first = await (await manager.start(RunSpec(echo, "hello", thread_id="t", run_id="first"))).result()
    assert first.status is RunStatus.success
    assert isinstance(reacting.got, WaitsForItselfError)


@virtual
async def test_a_buffered_observer_may_await_the_run_behind_one_that_has_ended() -> None:
    async def react(event: RunLifecycleEvent) -> RunResult:
        return await (await manager.start(RunSpec(echo, "next", thread_id="t", run_id="second"))).result()

    reacting = Reacting(LifecycleEventType.RUN_COMPLETED, react)
    async with RunManager(observers=[reacting]) as manager:
        await (await manager.start(RunSpec(echo, "hello", thread_id="t", run_id="first"))).result()
    assert reacting.got.status is RunStatus.success


@virtual
async def test_a_task_of_a_required_observers_may_await_the_run_behind_one_that_is_ending() -> None:
    reviews: list[asyncio.Task[RunResult]] = []

    async def review() -> RunResult:
        return await (await manager.start(RunSpec(echo, "next", thread_id="t", run_id="second"))).result()

    async def react(event: RunLifecycleEvent) -> None:
        reviews.append(asyncio.create_task(review()))
        await asyncio.sleep(1)  # the task waits for the second run before this call is over

    reacting = Reacting(LifecycleEventType.RUN_COMPLETED, react)
    async with RunManager(observers=[required(reacting)]) as manager:
        first = await (await manager.start(RunSpec(echo, "hello", thread_id="t", run_id="first"))).result()
        second = await reviews[0]
    assert (first.status, second.status) == (RunStatus.success, RunStatus.success)


@virtual
async def test_a_required_observer_of_a_run_that_was_displaced_is_told_that_what_displaced_it_waits_for_it() -> None:
    async def agent(input: Any) -> None:
        await asyncio.sleep(3_600)

    async def react(event: RunLifecycleEvent) -> None:
        await manager.result("second")

    reacting = Reacting(LifecycleEventType.RUN_CANCELLED, react)
    async with RunManager(
        observers=[required(reacting)], policy=DispatchPolicy(retry_for=0.0, call_limit=None)
    ) as manager:
        first = await manager.start(RunSpec(agent, thread_id="t", run_id="first"))
        await asyncio.sleep(1)
        second = await manager.start(RunSpec(echo, thread_id="t", run_id="second", multitask="interrupt"))
        assert (await first.result()).status is RunStatus.cancelled
        assert (await second.result()).status is RunStatus.success
    assert isinstance(reacting.got, WaitsForItselfError)


@virtual
async def test_a_required_observer_of_a_run_that_was_withdrawn_may_await_the_run_before_it() -> None:
    async def agent(input: Any) -> None:
        await asyncio.sleep(5)

    async def react(event: RunLifecycleEvent) -> RunResult:
        return await manager.result("first")

    reacting = Reacting(LifecycleEventType.RUN_CANCELLED, react)
    async with RunManager(observers=[required(reacting)]) as manager:
        first = await manager.start(RunSpec(agent, thread_id="t", run_id="first"))
        second = await manager.start(RunSpec(echo, thread_id="t", run_id="second"))
        await second.cancel()
        await first.result()
        await second.result()
    assert reacting.got.status is RunStatus.success


@virtual
async def test_a_run_that_a_required_observer_awaits_hears_that_it_waits_for_what_is_behind_the_observer() -> None:
    async def asks(input: Any) -> str:
        behind = await manager.start(RunSpec(echo, thread_id="t", run_id="behind"))
        try:
            await behind.result()
        except WaitsForItselfError as exc:
            return str(exc)
        return "it came"

    async def react(event: RunLifecycleEvent) -> Any:
        return await (await manager.start(RunSpec(asks, run_id="asks"))).result()

    reacting = Reacting(LifecycleEventType.RUN_COMPLETED, react)
    async with RunManager(observers=[required(reacting)], policy=DispatchPolicy(call_limit=None)) as manager:
        await (await manager.start(RunSpec(echo, thread_id="t", run_id="first"))).result()
    assert "which is waiting for this run through others" in reacting.got.output


@pytest.mark.parametrize("on", [STARTED, LifecycleEventType.HUMAN_MESSAGE, LifecycleEventType.RUN_COMPLETED], ids=str)
@pytest.mark.parametrize("is_required", [True, False], ids=["required", "unbuffered"])
@virtual
async def test_an_observer_for_which_a_run_waits_hears_that_the_close_would_wait_for_it(
    on: LifecycleEventType, is_required: bool
) -> None:
    closes: list[asyncio.Task[None]] = []

    async def react(event: RunLifecycleEvent) -> Any:
        with pytest.raises(ClosesItselfError, match=f"^Run '{event.run_id}' would wait for itself"):
            await manager.aclose()
        assert not manager.closing
        closes.append(asyncio.create_task(manager.aclose()))

    binding = ObserverBinding(Reacting(on, react), required=is_required)
    manager = RunManager(observers=[binding], policy=DispatchPolicy(buffer=False))
    run = await manager.start(RunSpec(echo, "hello"))
    result = await run.result()
    assert (result.status, result.output) == (RunStatus.success, "hello"), result.error
    await closes[0]


@pytest.mark.parametrize("multitask", ["interrupt", "rollback"])
@virtual
async def test_an_observer_or_agent_may_displace_the_very_run_it_belongs_to(multitask: str) -> None:
    seen = RecordingObserver()

    async def agent(input: Any, run: RunContext) -> None:
        await manager.start(RunSpec(echo, "instead", thread_id="t", run_id="second", multitask=multitask))
        await asyncio.sleep(3_600)

    async with RunManager(observers=[required(seen)]) as manager:
        first = await (await manager.start(RunSpec(agent, thread_id="t", run_id="first"))).result()
        assert (await manager.get("second")).status in {RunStatus.pending, RunStatus.running, RunStatus.success}
    assert first.status is RunStatus.cancelled
    assert told(seen.events, "first")[-1] == f"run_cancelled {multitask}"
    assert told(seen.events, "second")[-1] == "thread_status_updated idle"
    assert_run_order(seen.events)


@virtual
async def test_agents_that_start_themselves_are_stopped_at_a_depth() -> None:
    seen = RecordingObserver()
    depths: list[int] = []

    async def agent(input: int, run: RunContext) -> int:
        depths.append(run.depth)
        result = await (await manager.start(RunSpec(agent, input + 1))).result()
        if result.error:
            raise RuntimeError(result.error)
        return input

    async with RunManager(observers=[required(seen)], max_running=1) as manager:
        result = await (await manager.start(RunSpec(agent, 0))).result()
    assert depths == list(range(9))
    assert "is 9 deep, which is the limit" in (result.error or "")
    assert_run_order(seen.events)


@both_ways
@virtual
async def test_an_observer_that_starts_a_run_for_every_run_is_stopped_at_a_depth(way: Any) -> None:
    seen = RecordingObserver()
    failures: list[BaseException] = []

    class Breeding:
        async def on_event(self, event: RunLifecycleEvent) -> None:
            if event.event_type is STARTED:
                try:
                    await runs.run(echo)
                except RunDepthError as exc:
                    failures.append(exc)
                    raise

    async with way(required(seen), Breeding(), policy=DispatchPolicy(buffer=False)) as runs:
        await runs.run(echo)
    assert len(failures) == 1
    assert len({e.run_id for e in seen.events}) == 9
    assert_run_order(seen.events)


@virtual
async def test_run_agent_on_the_thread_of_the_calling_run_is_refused() -> None:
    async def agent(input: Any, run: RunContext) -> None:
        await run_agent(echo, thread_id=run.thread_id)

    result = await run_agent(agent, thread_id=new_id())
    assert result.status is RunStatus.error
    assert "is busy with run" in (result.error or "")


@virtual
async def test_run_agent_inside_run_agent() -> None:
    seen = RecordingObserver()

    async def agent(input: Any, run: RunContext) -> Any:
        results = await asyncio.gather(
            *(run_agent(echo, i, observer=seen, run_id=f"inner-{i}") for i in range(3)), return_exceptions=True
        )
        return [result.status for result in results]

    result = await run_agent(agent, observer=CompositeObserver([seen]), run_id="outer")
    assert result.status is RunStatus.success
    assert_run_order(seen.events)
    assert {e.payload.get("parent_run_id") for e in seen.events if e.event_type is STARTED} == {None, "outer"}


@virtual
async def test_cancelling_a_run_cancels_what_its_agent_awaits_and_nothing_else() -> None:
    seen = RecordingObserver()
    started = asyncio.Event()

    async def sleeper(input: Any) -> None:
        started.set()
        await asyncio.sleep(100)

    async def agent(input: Any) -> None:
        await run_agent(sleeper, observer=seen, run_id="inner")

    async with ByManager(required(seen)) as runs:
        run = await runs.start(agent, run_id="outer")
        other = await runs.start(echo, run_id="other")
        await started.wait()
        await run.cancel()
        assert (await run.ended()).status is RunStatus.cancelled
        assert (await other.ended()).status is RunStatus.success
    assert told(seen.events, "inner")[-2:] == ["run_cancelled task_cancelled", "thread_status_updated idle"]
    assert told(seen.events, "outer")[-2:] == ["run_cancelled interrupt", "thread_status_updated idle"]
    assert_run_order(seen.events)


@virtual
async def test_a_busy_thread_refuses_an_observers_run_and_only_that() -> None:
    async def react(event: RunLifecycleEvent) -> None:
        await manager.start(RunSpec(echo, thread_id=event.thread_id, multitask="reject"))

    reacting = Reacting(STARTED, react)
    async with RunManager(observers=[reacting], policy=DispatchPolicy(buffer=False)) as manager:
        result = await (await manager.start(RunSpec(echo))).result()
    assert result.status is RunStatus.success
    assert isinstance(reacting.got, ThreadBusyError)
