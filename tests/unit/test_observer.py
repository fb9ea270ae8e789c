"""What `CompositeObserver` and the observers of ours mean: each line of the contract on events that come one by one."""

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest

from trackside.harness.manager import RunManager
from trackside.harness.observer import (
    BatchRunObserver,
    CallbackObserver,
    CompositeObserver,
    NullObserver,
    ObserverBinding,
    RunLifecycleEvent,
    RunObserver,
    RunResult,
    observer_name,
)
from trackside.harness.types import LifecycleEventType, RunSpec, RunStatus
from trackside.testing import Misbehaviour, RecordingBatchObserver, RecordingObserver, make_event, make_run, run_virtual

EVENT = make_event(LifecycleEventType.RUN_STARTED)


def failing(exception: BaseException, **plan: Any) -> RecordingObserver:
    return RecordingObserver(Misbehaviour(how=exception, **plan))


def test_protocol_is_checkable_at_run_time() -> None:
    assert isinstance(RecordingObserver(), RunObserver)
    assert not isinstance(object(), RunObserver)
    assert isinstance(RecordingBatchObserver(), BatchRunObserver)
    assert not isinstance(RecordingObserver(), BatchRunObserver)


@pytest.mark.parametrize(
    "observer", [NullObserver(), CompositeObserver(), CallbackObserver(RecordingObserver().on_event)]
)
def test_every_observer_of_ours_is_a_run_observer(observer: object) -> None:
    assert isinstance(observer, RunObserver)


async def test_null_observer_does_nothing() -> None:
    await NullObserver().on_event(EVENT)


async def test_callback_observer_awaits_its_callback() -> None:
    seen: list[RunLifecycleEvent] = []

    async def watch(event: RunLifecycleEvent) -> None:
        await asyncio.sleep(0)
        seen.append(event)

    await CallbackObserver(watch).on_event(EVENT)

    assert seen == [EVENT]


async def test_callback_may_be_a_plain_function_that_returns_an_awaitable() -> None:
    inner = RecordingObserver()

    await CallbackObserver(lambda event: asyncio.ensure_future(inner.on_event(event))).on_event(EVENT)

    assert inner.events == [EVENT]


async def test_children_are_called_one_after_another_in_binding_order() -> None:
    calls: list[str] = []

    class Slow:
        def __init__(self, name: str) -> None:
            self.name = name

        async def on_event(self, event: RunLifecycleEvent) -> None:
            calls.append(self.name)
            await asyncio.sleep(0)
            calls.append(f"{self.name} done")

    composite = CompositeObserver([Slow("a"), ObserverBinding(Slow("b"), required=True)])
    composite.add(Slow("c"))
    await composite.on_event(EVENT)

    assert calls == ["a", "a done", "b", "b done", "c", "c done"]


async def test_composite_without_observers_takes_events() -> None:
    await CompositeObserver().on_event(EVENT)
    await CompositeObserver(None).on_event(EVENT)
    await CompositeObserver([]).on_event(EVENT)


def test_bare_observer_in_the_list_becomes_an_optional_binding() -> None:
    bare, bound = RecordingObserver(), ObserverBinding(RecordingObserver(), required=True)

    bindings = CompositeObserver([bare, bound]).bindings

    assert bindings == (ObserverBinding(bare), bound)
    assert bindings[0].required is False
    assert bindings[1] is bound


def test_added_observer_is_optional_unless_it_says_required() -> None:
    composite = CompositeObserver()
    one, other = RecordingObserver(), RecordingObserver()
    composite.add(one)
    composite.add(other, required=True)

    assert composite.bindings == (ObserverBinding(one, False), ObserverBinding(other, True))


async def test_an_async_function_is_bound_as_what_it_becomes_and_is_taken_away_by_itself() -> None:
    seen: list[RunLifecycleEvent] = []

    async def watch(event: RunLifecycleEvent) -> None:
        seen.append(event)

    binding = ObserverBinding(watch, required=True, name="watch")
    assert (binding.observer, binding.required, binding.name) == (CallbackObserver(watch), True, "watch")
    assert replace(binding, required=False) == ObserverBinding(watch, name="watch")

    composite = CompositeObserver([binding, watch])
    await composite.on_event(EVENT)
    assert seen == [EVENT, EVENT]
    composite.remove(watch)
    assert not composite.bindings


def test_a_required_function_gates_a_run_as_any_required_observer_does() -> None:
    async def refuses(event: RunLifecycleEvent) -> None:
        raise OSError("the disk is full")

    called: list[str] = []

    async def agent(text: str) -> None:
        called.append(text)

    async def main() -> RunResult:
        bound = [ObserverBinding(refuses, required=True)]
        async with RunManager({"agent": agent}, observers=bound) as manager:
            return await (await manager.start(RunSpec("agent", "hello"))).result()

    result = run_virtual(main())
    assert result.status is RunStatus.error
    assert "the disk is full" in (result.error or "")
    assert not called


def test_composite_is_not_changed_by_a_later_change_of_the_list() -> None:
    observers: list[RunObserver | ObserverBinding] = [RecordingObserver()]
    composite = CompositeObserver(observers)
    observers.clear()

    assert len(composite.bindings) == 1


async def test_optional_failure_is_logged_with_type_event_and_traceback_and_dispatch_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = RuntimeError("disk full")
    after = RecordingObserver()
    composite = CompositeObserver([failing(error), after])

    await composite.on_event(EVENT)

    assert after.events == [EVENT]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "RecordingObserver" in record.getMessage()
    assert "run_started" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert "in on_event" in caplog.text  # the traceback leads into the observer
    assert "RuntimeError: disk full" in caplog.text


@pytest.mark.parametrize("error", [SystemExit(3), BaseException("odd"), asyncio.CancelledError()], ids=repr)
async def test_optional_observer_cannot_stop_the_others_by_base_exceptions_either(error: BaseException) -> None:
    after = RecordingObserver()

    await CompositeObserver([failing(error), after]).on_event(EVENT)

    assert after.events == [EVENT]


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), SystemExit(3), asyncio.CancelledError(), BaseException("odd")], ids=repr
)
async def test_required_failure_reaches_the_caller_as_the_same_object_and_later_children_see_nothing(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    before, after = RecordingObserver(), RecordingObserver()
    composite = CompositeObserver([before, ObserverBinding(failing(error), required=True), after])

    with pytest.raises(BaseException) as caught:
        await composite.on_event(EVENT)

    assert caught.value is error
    assert caught.value.__cause__ is None
    assert before.events == [EVENT]
    assert after.offered == []
    assert caplog.records == []


async def test_keyboard_interrupt_in_an_optional_observer_stops_the_program() -> None:
    with pytest.raises(KeyboardInterrupt):
        await CompositeObserver([failing(KeyboardInterrupt())]).on_event(EVENT)


async def test_cancelling_the_dispatching_task_is_not_an_observers_failure() -> None:
    hanging, after = RecordingObserver(Misbehaviour(how="hang")), RecordingObserver()
    dispatch = asyncio.ensure_future(CompositeObserver([hanging, after]).on_event(EVENT))
    await asyncio.sleep(0)
    dispatch.cancel()

    with pytest.raises(asyncio.CancelledError):
        await dispatch
    assert after.offered == []


async def test_failure_costs_an_observer_only_the_event_it_failed_on() -> None:
    observer = failing(ValueError("once"), nth=2)
    composite = CompositeObserver([observer])
    run = make_run()
    for event in run:
        await composite.on_event(event)

    assert observer.events == [run[0], *run[2:]]


async def test_observer_added_during_dispatch_counts_from_the_next_event() -> None:
    late = RecordingObserver()
    composite = CompositeObserver()

    async def adds(event: RunLifecycleEvent) -> None:
        if event is EVENT:
            composite.add(late)

    composite.add(adds)
    await composite.on_event(EVENT)
    assert late.events == []

    second = make_event()
    await composite.on_event(second)
    assert late.events == [second]


async def test_observer_removed_during_dispatch_still_gets_the_event_that_is_on_its_way() -> None:
    removed = RecordingObserver()
    composite = CompositeObserver()

    async def removes(event: RunLifecycleEvent) -> None:
        if event is EVENT:
            composite.remove(removed)

    composite.add(removes)
    composite.add(removed)
    await composite.on_event(EVENT)
    await composite.on_event(make_event())

    assert removed.events == [EVENT]


async def test_observer_added_by_another_task_during_dispatch_counts_from_the_next_event() -> None:
    gate, late = RecordingObserver(Misbehaviour(how="hang", nth=1)), RecordingObserver()
    composite = CompositeObserver([gate])
    dispatch = asyncio.ensure_future(composite.on_event(EVENT))
    await asyncio.sleep(0)
    composite.add(late)
    gate.release()
    await dispatch

    assert late.events == []


def test_function_can_be_removed_as_it_was_added() -> None:
    async def watch(event: RunLifecycleEvent) -> None: ...

    composite = CompositeObserver()
    composite.add(watch)
    composite.remove(watch)

    assert composite.bindings == ()


def test_removing_what_is_not_bound_says_so() -> None:
    with pytest.raises(ValueError, match=r"NullObserver.* is not bound"):
        CompositeObserver([RecordingObserver()]).remove(NullObserver())


def test_equal_observers_are_still_two() -> None:
    class Equal(RecordingObserver):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Equal)

        __hash__ = None  # type: ignore[assignment]

    one, other = Equal(), Equal()
    composite = CompositeObserver([one, other])
    composite.remove(other)

    assert [binding.observer is one for binding in composite.bindings] == [True]


def test_observers_are_called_by_type_and_callbacks_by_function() -> None:
    async def watch(event: RunLifecycleEvent) -> None: ...

    assert observer_name(NullObserver()) == "NullObserver"
    assert observer_name(CallbackObserver(watch)).endswith("watch")
