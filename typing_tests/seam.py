"""What type checkers say to people who write observers: this file is read by mypy and pyright, never run."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, assert_type

from trackside import (
    BatchRunObserver,
    CallbackObserver,
    CompositeObserver,
    LifecycleEventType,
    NullObserver,
    ObserverBinding,
    ObserverLike,
    RunEventCallback,
    RunLifecycleEvent,
    RunManager,
    RunObserver,
    RunResult,
    RunSpec,
    RunStatus,
    ensure_observer,
)
from trackside.harness.observing.buffered import BufferedObserver, BufferStats, EventGap, FlushReport, GapObserver
from trackside.testing import RecordingBatchObserver, RecordingObserver, assert_run_order, make_run, run_virtual


async def watch(event: RunLifecycleEvent) -> None:
    """The shortest observer."""
    assert_type(event.event_id, str)
    assert_type(event.event_type, LifecycleEventType)
    assert_type(event.run_id, str)
    assert_type(event.thread_id, str)
    assert_type(event.sequence, int)
    assert_type(event.occurred_at, datetime)
    assert_type(event.payload, Mapping[str, Any])
    event.payload["message"]["content"]


def passes_on(event: RunLifecycleEvent) -> Awaitable[None]:
    return watch(event)


async def watch_as(name: str, event: RunLifecycleEvent) -> None: ...


async def watch_anything(event: object) -> None: ...


class Observer:
    """An observer as a class; it inherits from nothing."""

    async def on_event(self, event: RunLifecycleEvent) -> None: ...


class Explicit(RunObserver):
    async def on_event(self, event: RunLifecycleEvent) -> None: ...


class Batching:
    async def on_event(self, event: RunLifecycleEvent) -> None: ...

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None: ...


class NotesGaps(Observer):
    async def on_gap(self, gap: EventGap) -> None:
        assert_type(gap.count, int)


class Calls:
    async def __call__(self, event: RunLifecycleEvent) -> None: ...


class Method:
    async def handle(self, event: RunLifecycleEvent) -> None: ...


def observers_of_all_kinds() -> None:
    assert_type(ensure_observer(None), RunObserver)
    assert_type(ensure_observer(watch), RunObserver)
    ensure_observer(passes_on)
    ensure_observer(watch_anything)
    ensure_observer(Observer())
    ensure_observer(Explicit())
    ensure_observer(Calls())
    ensure_observer(Method().handle)
    ensure_observer(lambda event: watch_as("me", event))

    anything: Sequence[ObserverLike] = [None, watch, Observer(), Calls(), lambda event: watch_as("me", event)]
    callback: RunEventCallback = watch
    plain: Callable[[RunLifecycleEvent], Awaitable[None]] = callback
    assert_type(CallbackObserver(callback).callback, RunEventCallback)
    assert [ensure_observer(it) for it in anything], plain


def protocols() -> None:
    of_ours: list[RunObserver] = [
        NullObserver(),
        CompositeObserver(),
        CallbackObserver(watch),
        BufferedObserver(watch),
        RecordingObserver(),
    ]
    in_batches: list[BatchRunObserver] = [
        Batching(),
        CompositeObserver(),
        BufferedObserver(Observer()),
        RecordingBatchObserver(),
    ]
    noting_gaps: GapObserver = NotesGaps()
    assert of_ours, (in_batches, noting_gaps)


async def composites(event: RunLifecycleEvent) -> None:
    composite = CompositeObserver([Observer(), ObserverBinding(Observer(), required=True), ObserverBinding(Batching())])
    mine: list[Observer] = [Observer()]
    CompositeObserver(mine)
    CompositeObserver(None)
    composite.add(Observer())
    composite.add(watch, required=True)
    assert_type(await composite.on_event(event), None)
    functions = CompositeObserver([watch, ObserverBinding(watch, required=True), Method().handle, Observer()])
    assert_type(functions.bindings, tuple[ObserverBinding, ...])
    RunManager(observers=[ObserverBinding(Observer(), required=True), watch])
    assert_type(ObserverBinding(watch).observer, RunObserver)
    assert_type(ObserverBinding(Observer()).required, bool)
    assert_type(ObserverBinding(Observer()).observer, RunObserver)


async def buffers(event: RunLifecycleEvent) -> None:
    buffer = BufferedObserver(
        Observer(), capacity=10, terminal_reserve=1, batch_size=5, call_limit=None, name="metrics"
    )
    await buffer.on_event(event)
    assert_type(buffer.stats(), BufferStats)
    assert_type(await buffer.flush(timeout=5), FlushReport)
    assert_type(await buffer.aclose(), FlushReport)
    assert_type(buffer.stats().pending, int)


def results() -> None:
    result = RunResult("run", "thread", RunStatus.success)
    assert_type(result.status, RunStatus)
    assert_type(result.error, str | None)
    assert_type(result.completion_data, dict[str, Any])
    assert_type(result.title, str | None)
    result.title = "A title"
    result.completion_data["total_tokens"] = 3


def specs() -> None:
    RunSpec("chat")
    RunSpec("chat", {"question": "?"}, thread_id="t", metadata={"a": 1}, timeout=5, multitask="reject")
    RunSpec(watch, command={"resume": "yes"}, after_seconds=0.5, stream_mode=["values", "messages"])
    assert_type(RunSpec("chat").thread_id, str | None)
    assert_type(RunSpec("chat").timeout, float | None)


def event_types(kind: LifecycleEventType) -> str:
    match kind:
        case LifecycleEventType.RUN_STARTED | LifecycleEventType.HUMAN_MESSAGE:
            return "a"
        case LifecycleEventType.RUN_COMPLETED | LifecycleEventType.RUN_FAILED | LifecycleEventType.RUN_CANCELLED:
            return "b"
        case LifecycleEventType.THREAD_STATUS_UPDATED:
            return "c"  # exhaustive: six and no more


def for_tests() -> None:
    async def five() -> int:
        return 5

    assert_type(run_virtual(five(), seed=1), int)
    assert_run_order(make_run(messages=2))
