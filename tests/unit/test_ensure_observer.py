"""What `ensure_observer` takes as an observer, and what it and every other way in refuse, and how they say so."""

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

from trackside.harness.errors import NotAnObserverError, NotObserversError
from trackside.harness.foreign.signatures import give_only_none
from trackside.harness.manager import RunManager
from trackside.harness.observer import (
    CallbackObserver,
    CompositeObserver,
    NullObserver,
    ObserverBinding,
    RunLifecycleEvent,
    RunObserver,
    ensure_observer,
)
from trackside.harness.observing.buffered import EventGap
from trackside.harness.types import LifecycleEventType
from trackside.testing import RecordingObserver, make_event

EVENT = make_event(LifecycleEventType.RUN_STARTED)


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

    observer = ensure_observer(watch)  # pyright: ignore[reportArgumentType]

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
