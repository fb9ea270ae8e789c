"""What `CompositeObserver` and `ensure_observer` mean: each line of the contract."""

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from unittest.mock import AsyncMock

import pytest
from tests.contract.ways_to_run import Draining

from trackside.harness.buffered import EventGap
from trackside.harness.embedded import run_agent
from trackside.harness.errors import NotAnObserverError, NotObserversError
from trackside.harness.manager import RunManager
from trackside.harness.observer import (
    BatchRunObserver,
    CallbackObserver,
    CompositeObserver,
    NullObserver,
    ObserverBinding,
    PartlyTaken,
    RunLifecycleEvent,
    RunObserver,
    RunResult,
    batches_of,
    ensure_observer,
    observer_name,
)
from trackside.harness.signatures import give_only_none
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


async def test_batch_goes_whole_to_observers_of_batches_and_singly_to_others() -> None:
    batches, singles = RecordingBatchObserver(), RecordingObserver()
    run = make_run()

    await CompositeObserver([batches, singles]).on_events(run)

    assert batches.batches == [run]
    assert singles.events == run


class Signing(RecordingBatchObserver):
    """Does something with each event, and knows nothing of batches."""

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await super().on_event(replace(event, payload={**event.payload, "signed": True}))


class SigningFor:
    """Passes signed events on to an observer, and any other attribute that anybody asks for."""

    def __init__(self, observer: RunObserver) -> None:
        self._observer = observer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._observer, name)

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await self._observer.on_event(replace(event, payload={**event.payload, "signed": True}))


@pytest.mark.parametrize("sign", [Signing, lambda: SigningFor(RecordingBatchObserver())])
async def test_what_overrides_on_event_alone_has_each_event_whether_it_runs_or_is_told_by_another(
    sign: Callable[[], Any],
) -> None:
    async def agent(input: str) -> str:
        return input

    run, alone, bound, required = make_run(), sign(), sign(), sign()
    await run_agent(agent, "hi", observer=alone)
    await CompositeObserver([bound, ObserverBinding(required, required=True)]).on_events(run)

    assert len(alone.events) == len(run)
    assert len(bound.events) == len(required.events) == len(run)
    for observer in (alone, bound, required):
        assert all(event.payload["signed"] for event in observer.events)
        assert observer.batches == []


async def test_a_test_double_that_answers_to_every_name_is_given_events() -> None:
    double, run = AsyncMock(), make_run()

    await CompositeObserver([ObserverBinding(double, required=True)]).on_events(run)

    assert [call.args for call in double.on_event.await_args_list] == [(event,) for event in run]
    double.on_events.assert_not_called()


def test_batches_are_for_who_says_how_it_takes_them_where_it_says_how_it_takes_an_event_or_after_that() -> None:
    class Both(Signing):
        async def on_event(self, event: RunLifecycleEvent) -> None: ...

        async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None: ...

    class OnlyBatches(Signing):
        async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None: ...

    class NoBatches(RecordingBatchObserver):
        on_events = None  # type: ignore[assignment]

    given_batches, taken_them = RecordingObserver(), RecordingBatchObserver()
    vars(given_batches)["on_events"] = vars(taken_them)["on_event"] = print

    batching: list[Any] = [RecordingBatchObserver(), Both(), OnlyBatches(), given_batches]
    assert [batches_of(observer) for observer in batching] == [observer.on_events for observer in batching]
    singly = [RecordingObserver(), Signing(), NoBatches(), taken_them]
    assert [batches_of(observer) for observer in singly] == [None] * 4


async def test_optional_observer_that_fails_on_a_batch_gets_its_events_singly_and_only_the_bad_one_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    observer = RecordingBatchObserver(Misbehaviour(how=ValueError("bad"), on=LifecycleEventType.HUMAN_MESSAGE))
    run = make_run()

    await CompositeObserver([observer]).on_events(run)

    assert observer.events == [event for event in run if event.event_type != "human_message"]
    assert [record.getMessage().split()[4] for record in caplog.records] == ["human_message"]


async def test_optional_observer_that_took_a_part_of_a_batch_gets_only_the_rest_again() -> None:
    class Partly(RecordingBatchObserver):
        async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
            self.events.extend(events[:2])
            raise PartlyTaken(2, OSError("the third was too much"))

    observer = Partly()
    run = make_run()

    await CompositeObserver([observer]).on_events(run)

    assert observer.events == run


async def test_what_is_taken_as_a_batch_of_one_does_not_come_again_for_one_after_it_that_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class InBatches(RecordingBatchObserver):
        async def on_event(self, event: RunLifecycleEvent) -> None:
            await self.on_events((event,))

        async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
            for taken, event in enumerate(events):
                if event.sequence in {1, 5}:
                    raise PartlyTaken(taken, OSError("bad"))
                self.events.append(event)

    observer = InBatches()
    run = make_run()

    await CompositeObserver([observer]).on_events(run)

    assert observer.events == run[1:4]
    assert [record.getMessage().split()[4] for record in caplog.records] == ["run_started", "thread_status_updated"]


@pytest.mark.parametrize("is_required", [True, False])
async def test_a_batch_of_which_all_was_taken_in_part_is_taken(is_required: bool) -> None:
    class All(RecordingBatchObserver):
        async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
            self.events.extend(events)
            raise PartlyTaken(len(events), OSError("enough"))

    observer, after = All(), RecordingObserver()
    run = make_run()

    await CompositeObserver([ObserverBinding(observer, required=is_required), after]).on_events(run)

    assert observer.events == after.events == run


async def test_required_observer_that_fails_on_a_batch_keeps_it_from_those_after_it() -> None:
    error = OSError("locked")
    before, after = RecordingObserver(), RecordingObserver()
    storage = RecordingBatchObserver(Misbehaviour(how=error, on=LifecycleEventType.HUMAN_MESSAGE))
    run = make_run()

    with pytest.raises(OSError) as caught:
        await CompositeObserver([before, ObserverBinding(storage, required=True), after]).on_events(run)

    assert caught.value is error
    assert before.events == run
    assert after.events == storage.events == []


async def test_those_after_a_required_observer_see_of_a_batch_what_it_took() -> None:
    storage = RecordingObserver(Misbehaviour(how=OSError("locked"), on=LifecycleEventType.HUMAN_MESSAGE))
    after = RecordingObserver()
    run = make_run()

    with pytest.raises(OSError, match="locked"):
        await CompositeObserver([ObserverBinding(storage, required=True), after]).on_events(run)

    assert after.events == storage.events == run[:2]


@pytest.mark.parametrize("is_required", [True, False])
async def test_an_observer_that_empties_the_batch_it_is_given_hides_nothing_from_those_after_it(
    is_required: bool,
) -> None:
    draining, after = Draining(), RecordingBatchObserver()
    run = make_run()
    given = list(run)

    await CompositeObserver([ObserverBinding(draining, required=is_required), after]).on_events(given)

    assert draining.events == after.events == given == run


def test_ensure_observer_of_none_is_a_null_observer() -> None:
    assert isinstance(ensure_observer(None), NullObserver)


async def test_ensure_observer_of_an_async_function_calls_it() -> None:
    async def watch(event: RunLifecycleEvent) -> None: ...

    observer = ensure_observer(watch)

    assert observer == CallbackObserver(watch)


@pytest.mark.parametrize("observer", [NullObserver(), RecordingObserver(), CompositeObserver()])
def test_ensure_observer_returns_an_observer_unchanged(observer: RunObserver) -> None:
    assert ensure_observer(observer) is observer


def test_ensure_observer_leaves_an_observer_that_is_callable_too_as_it_is() -> None:
    class Both(RecordingObserver):
        async def __call__(self, event: RunLifecycleEvent) -> None: ...

    both = Both()

    assert ensure_observer(both) is both


def test_ensure_observer_wraps_an_object_with_an_async_call() -> None:
    class Callable_:
        async def __call__(self, event: RunLifecycleEvent) -> None: ...

    assert isinstance(ensure_observer(Callable_()), CallbackObserver)


def with_a_run(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def called(*arguments: Any) -> None:
        await function(*arguments, "run")

    return called


class GivenMore:
    def __init__(self) -> None:
        self.given: list[Any] = []

    @with_a_run
    async def on_event(self, event: RunLifecycleEvent, run: str) -> None:
        self.given.append((event.sequence, run))

    async def on_missed(self, events: Sequence[RunLifecycleEvent], failure: BaseException, on_taken: Any) -> None: ...


async def test_an_observer_may_take_more_than_an_event_where_it_is_given_it_by_others() -> None:
    given: list[Any] = []

    @with_a_run
    async def watch(event: RunLifecycleEvent, run: str) -> None:
        given.append((event.sequence, run))

    async def told(name: str, event: RunLifecycleEvent, *more: Any, run: str = "none") -> None:
        given.append((name, event.sequence, run, more))

    method = GivenMore()
    for observer in (watch, functools.partial(told, "first"), functools.partial(told, "second", run="some"), method):
        await ensure_observer(observer).on_event(make_event(sequence=3))
    assert given == [(3, "run"), ("first", 3, "none", ()), ("second", 3, "some", ())]
    assert method.given == [(3, "run")]


def prints(event: RunLifecycleEvent) -> None: ...


async def streams(event: RunLifecycleEvent) -> Any:
    yield event


def makes_one(*, name: str = "mine") -> NullObserver:
    return NullObserver()


class SyncMethod:
    def on_event(self, event: RunLifecycleEvent) -> None: ...


class SyncBatches(NullObserver):
    def on_events(self, events: Sequence[RunLifecycleEvent]) -> None: ...


class SyncKeeper(NullObserver):
    def on_missed(self, events: Sequence[RunLifecycleEvent], failure: BaseException) -> None: ...


class SyncGaps(NullObserver):
    def on_gap(self, gap: EventGap) -> None: ...


async def wants_a_run(run: Any, event: Any) -> None: ...


async def wants_a_name(event: RunLifecycleEvent, *, name: str) -> None: ...


class WantsMore:
    async def on_event(self, event: RunLifecycleEvent, run: Any) -> None: ...


class CalledWithMore:
    async def __call__(self, event: RunLifecycleEvent, run: Any) -> None: ...


class BatchesWithMore(NullObserver):
    async def on_events(self, events: Sequence[RunLifecycleEvent], run: Any) -> None: ...


class NotCallable:
    on_event = 5


NOT_OBSERVERS: list[tuple[Any, str]] = [
    (5, r"^5 is not an observer: a int cannot take events"),
    ("watch", r"^'watch' is not an observer"),
    ([], r"^\[\] is not an observer"),
    (object(), r"^<object object at .*> is not an observer"),
    (RecordingObserver, r"^RecordingObserver is not an observer: it is a class; pass an instance of it"),
    (NullObserver, r"^NullObserver is not an observer: it is a class"),
    (prints, r"^prints is not an observer: it is a plain function that returns None; make it `async def`"),
    (print, r"^print is not an observer: its result is not awaitable"),
    ([].append, r"append is not an observer: its result is not awaitable"),
    (makes_one, r"^makes_one is not an observer: it takes no argument, and an event is one"),
    (streams, r"^streams is not an observer: it is a generator function"),
    (SyncMethod(), r"^SyncMethod.on_event is not an observer: it is a plain function that returns None"),
    (SyncBatches(), r"^SyncBatches.on_events is not an observer: it is a plain function that returns None"),
    (SyncKeeper(), r"^SyncKeeper.on_missed is not an observer: it is a plain function that returns None"),
    (SyncGaps(), r"^SyncGaps.on_gap is not an observer: it is a plain function that returns None"),
    (
        wants_a_run,
        r"^wants_a_run is not an observer: it is called with one argument: missing a required argument: 'event'",
    ),
    (wants_a_name, r"^wants_a_name is not an observer: it is called with one argument: missing .* argument: 'name'"),
    (
        functools.partial(wants_a_run, 1, 2),
        r" is not an observer: it is called with one argument: too many positional arguments",
    ),
    (WantsMore(), r"^WantsMore.on_event is not an observer: it is called with one argument: missing .*: 'run'"),
    (CalledWithMore(), r"CalledWithMore object at .*> is not an observer: it is called with one argument: missing"),
    (BatchesWithMore(), r"^BatchesWithMore.on_events is not an observer: it is called with one argument: missing"),
    (NotCallable(), r"^<.*NotCallable object at .*> is not an observer: it has no method on_event"),
]
ACCEPTED = r"Pass an object with `async def on_event\(self, event\)`, or an async function that takes one event\.$"
WAYS_IN: dict[str, Callable[[Any], object]] = {
    "ensure_observer": ensure_observer,
    "constructor": lambda it: CompositeObserver([it]),
    "add": lambda it: CompositeObserver().add(it),
}


@pytest.mark.parametrize("way", WAYS_IN.values(), ids=WAYS_IN)
@pytest.mark.parametrize(("it", "message"), NOT_OBSERVERS, ids=[repr(it)[:16] for it, _ in NOT_OBSERVERS])
def test_what_is_not_an_observer_gets_a_type_error_that_says_what_was_passed_and_what_is_accepted(
    it: Any, message: str, way: Callable[[Any], object]
) -> None:
    with pytest.raises(TypeError, match=message) as caught:
        way(it)

    assert isinstance(caught.value, NotAnObserverError)
    with pytest.raises(TypeError, match=ACCEPTED):
        raise caught.value


@pytest.mark.parametrize("it", [5, None, prints, print, makes_one, streams])
def test_an_observer_is_made_of_an_async_function_alone(it: Any) -> None:
    with pytest.raises(NotAnObserverError):
        CallbackObserver(it)


@pytest.mark.parametrize("it", [NullObserver, RecordingObserver, dict], ids=lambda it: it.__name__)
def test_a_class_is_no_function_that_takes_events(it: Any) -> None:
    with pytest.raises(
        NotAnObserverError, match=f"{it.__qualname__} is not an observer: it is a class; pass an instance"
    ):
        CallbackObserver(it)


@pytest.mark.parametrize("it", [5, None, RecordingObserver, object(), SyncMethod(), SyncBatches(), prints])
def test_binding_something_that_is_not_an_observer_is_a_type_error_at_once(it: Any) -> None:
    with pytest.raises(NotAnObserverError):
        ObserverBinding(it)


@pytest.mark.parametrize("way", [WAYS_IN["constructor"], WAYS_IN["add"]])
def test_none_in_a_list_of_observers_is_a_type_error(way: Callable[[Any], object]) -> None:
    with pytest.raises(NotAnObserverError, match=r"^None is not an observer"):
        way(None)


@pytest.mark.parametrize("it", [NullObserver(), RecordingObserver(), ObserverBinding(NullObserver()), prints, 5])
@pytest.mark.parametrize("way", [CompositeObserver, lambda it: RunManager(observers=it)])
def test_one_observer_in_place_of_a_list_of_them_is_a_type_error_that_says_so(
    it: Any, way: Callable[[Any], object]
) -> None:
    with pytest.raises(NotObserversError, match=r"does not list observers: pass a list of them"):
        way(it)


def test_a_binding_in_place_of_an_observer_is_told_where_it_belongs() -> None:
    with pytest.raises(NotAnObserverError, match="it is a binding, which belongs in a `CompositeObserver`"):
        ensure_observer(ObserverBinding(NullObserver()))  # type: ignore[arg-type]


def test_adding_a_binding_says_how_to_add_its_observer() -> None:
    with pytest.raises(NotAnObserverError, match="add its observer and say `required`"):
        CompositeObserver().add(ObserverBinding(NullObserver()))  # type: ignore[arg-type]


async def test_function_whose_result_turns_out_not_to_be_awaitable_is_a_type_error_that_names_it() -> None:
    def watch(event):  # type: ignore[no-untyped-def]
        return 5

    observer = ensure_observer(watch)

    with pytest.raises(TypeError, match=r"watch is not an observer: it returned 5, nothing to await\. Pass an object"):
        await observer.on_event(EVENT)


async def test_optional_function_that_is_not_async_is_never_silent(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[RunLifecycleEvent] = []
    composite = CompositeObserver()
    composite.add(lambda event: seen.append(event) or None)  # type: ignore[arg-type, func-returns-value]

    await composite.on_event(EVENT)

    assert "it returned None, nothing to await" in caplog.text


def test_function_whose_code_returns_nothing_is_refused_before_any_call() -> None:
    def forgot_async(event):  # type: ignore[no-untyped-def]
        print(event)

    class ForgotAsync:
        def on_event(self, event):  # type: ignore[no-untyped-def]
            print(event)

    for wrong in (forgot_async, ForgotAsync(), lambda event: None):
        with pytest.raises(TypeError, match="plain function that returns None; make it `async def`"):
            ensure_observer(wrong)  # type: ignore[arg-type, return-value]


async def test_what_a_decorator_has_made_awaitable_is_an_observer() -> None:
    seen: list[RunLifecycleEvent] = []

    async def watch(event: RunLifecycleEvent) -> None:
        seen.append(event)

    def note(event: RunLifecycleEvent) -> None:
        seen.append(event)

    @functools.wraps(watch)
    def watched(event: RunLifecycleEvent) -> Any:
        return watch(event)

    @functools.wraps(note)
    def elsewhere(event: RunLifecycleEvent) -> Any:
        return asyncio.to_thread(note, event)

    for observer in (watched, elsewhere):
        await ensure_observer(observer).on_event(EVENT)
    assert seen == [EVENT, EVENT]


class Step(NamedTuple):
    opname: str
    argval: Any = None
    is_jump_target: bool = False


BEGIN = [Step("RESUME"), Step("LOAD_FAST", "event")]


@pytest.mark.parametrize(
    ("steps", "only_none"),
    [
        ([*BEGIN, Step("RETURN_CONST")], True),
        ([*BEGIN, Step("LOAD_CONST"), Step("RETURN_VALUE")], True),
        ([*BEGIN, Step("LOAD_CONST"), Step("RETURN_VALUE"), Step("LOAD_CONST"), Step("RETURN_VALUE")], True),
        ([*BEGIN, Step("RETURN_CONST", 5)], False),
        ([*BEGIN, Step("LOAD_CONST", 5), Step("RETURN_VALUE")], False),
        ([*BEGIN, Step("RETURN_VALUE")], False),
        ([*BEGIN, Step("LOAD_CONST"), Step("RETURN_VALUE"), Step("LOAD_FAST", "x"), Step("RETURN_VALUE")], False),
        ([*BEGIN, Step("POP_JUMP_IF_FALSE"), Step("LOAD_CONST"), Step("RETURN_VALUE", is_jump_target=True)], False),
        ([Step("RETURN_GENERATOR"), *BEGIN, Step("LOAD_CONST"), Step("RETURN_VALUE")], False),
        ([*BEGIN, Step("RAISE_VARARGS")], False),
    ],
)
def test_code_that_ends_with_none_alone_is_known_in_all_versions_of_python(steps: list[Any], only_none: bool) -> None:
    assert give_only_none(steps) is only_none


def test_observers_are_called_by_type_and_callbacks_by_function() -> None:
    async def watch(event: RunLifecycleEvent) -> None: ...

    assert observer_name(NullObserver()) == "NullObserver"
    assert observer_name(CallbackObserver(watch)).endswith("watch")
