"""`BufferedObserver`: nobody waits for it, its events arrive in order and in their context, and its accounts add up.

Times are virtual: an hour costs nothing, and the loop raises when nothing can happen any more.
"""

import asyncio
import gc
import inspect
import math
import re
import weakref
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import pytest
from tests.contract.ways_to_run import virtual
from tests.unit.buffer_hands import assert_adds_up, events, turns

from trackside.harness.errors import NotAnObserverError
from trackside.harness.observer import BatchRunObserver, NullObserver, RunLifecycleEvent
from trackside.harness.observing.buffered import BufferedObserver, BufferStats, FlushReport, InvalidBufferError
from trackside.testing import Misbehaviour, RecordingBatchObserver, RecordingObserver, make_event, make_run


@virtual
async def test_accepting_never_suspends_whatever_the_observer_does() -> None:
    buffer = BufferedObserver(RecordingObserver(Misbehaviour(how="hang")))

    for event in events(10):
        with pytest.raises(StopIteration):  # the coroutine ran to its end without waiting for anything
            buffer.on_event(event).send(None)
    with pytest.raises(StopIteration):
        buffer.on_events(events(10)).send(None)
    assert buffer.stats().accepted == 20
    await buffer.aclose(0)


@virtual
async def test_buffer_is_an_observer_of_batches() -> None:
    assert isinstance(BufferedObserver(NullObserver()), BatchRunObserver)


@virtual
async def test_events_arrive_in_order_one_by_one() -> None:
    observer = RecordingObserver()
    buffer = BufferedObserver(observer)
    run = make_run(messages=300)
    for event in run:
        await buffer.on_event(event)

    report = await buffer.flush(1)

    assert observer.events == run
    assert report == FlushReport(complete=True, delivered=len(run), failed=0, dropped={}, pending=0)
    await buffer.aclose()


@virtual
async def test_observer_of_batches_gets_batches_up_to_their_size_in_order() -> None:
    observer = RecordingBatchObserver()
    buffer = BufferedObserver(observer, batch_size=4)
    run = make_run(messages=7)
    await buffer.on_events(run)
    await buffer.flush(1)

    assert observer.events == run
    assert [len(batch) for batch in observer.batches] == [4, 4, 3]
    await buffer.aclose()


@virtual
async def test_single_event_goes_to_on_event_also_where_batches_are_taken() -> None:
    observer = RecordingBatchObserver()
    buffer = BufferedObserver(observer)
    (event,) = events(1)
    await buffer.on_event(event)
    await buffer.flush(1)

    assert (observer.events, observer.batches) == ([event], [])
    await buffer.aclose()


current: ContextVar[str | None] = ContextVar("current", default=None)


class ContextReader(RecordingObserver):
    """Records the value of the context variable in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.contexts: list[str | None] = []

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await asyncio.sleep(0)
        self.contexts.append(current.get())
        current.set("changed by the observer")


class BatchContextReader(ContextReader):
    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        await self.on_event(events[0])


async def accept_within(value: str, buffer: BufferedObserver, *events: RunLifecycleEvent) -> None:
    async def accept() -> None:
        current.set(value)
        await buffer.on_events(events)

    await asyncio.create_task(accept())


@virtual
async def test_each_event_is_given_in_the_context_in_which_it_was_accepted() -> None:
    observer = ContextReader()
    buffer = BufferedObserver(observer)
    await accept_within("a", buffer, *events(2))
    await accept_within("b", buffer, *events(1))
    await buffer.on_event(make_event())
    await buffer.flush(1)

    assert observer.contexts == ["a", "a", "b", None]
    await buffer.aclose()


@virtual
async def test_batch_of_one_run_is_given_in_the_context_of_its_first_event() -> None:
    observer = BatchContextReader()
    buffer = BufferedObserver(observer)
    await accept_within("a", buffer, *events(3))
    await buffer.flush(1)

    assert observer.contexts == ["a"]
    await buffer.aclose()


@virtual
async def test_batch_of_several_runs_belongs_to_none_of_them() -> None:
    observer = BatchContextReader()
    buffer = BufferedObserver(observer)
    for _ in range(2):
        for run_id in "ab":
            current.set(run_id)
            await buffer.on_event(make_event(run_id=run_id))
        await buffer.flush(1)

    assert observer.contexts == [None, None]
    await buffer.aclose()


@virtual
async def test_consumer_does_not_live_in_the_context_of_the_first_event() -> None:
    class Kept: ...

    held: ContextVar[Kept] = ContextVar("held")
    buffer = BufferedObserver(NullObserver())
    kept = Kept()
    gone = weakref.ref(kept)

    async def accept(kept: Kept) -> None:
        held.set(kept)
        await buffer.on_event(make_event())

    await asyncio.create_task(accept(kept))
    await buffer.flush(1)
    await turns()
    del kept
    gc.collect()

    assert gone() is None
    await buffer.aclose()


@virtual
async def test_accounts_are_exact_in_the_middle_of_a_call() -> None:
    seen: list[BufferStats] = []

    async def looks(event: RunLifecycleEvent) -> None:
        seen.append(buffer.stats())
        await asyncio.sleep(1)
        seen.append(buffer.stats())
        if event.sequence == 2:
            raise RuntimeError("no")

    buffer = BufferedObserver(looks)
    await buffer.on_events(events(3))
    await buffer.flush(10)
    seen.append(buffer.stats())

    for stats in seen:
        assert_adds_up(stats)
    assert [(stats.delivered, stats.failed, stats.pending) for stats in seen] == [
        (0, 0, 3),
        (0, 0, 3),
        (1, 0, 2),
        (1, 0, 2),
        (1, 1, 1),
        (1, 1, 1),
        (2, 1, 0),
    ]
    await buffer.aclose()


def test_unused_buffer_is_not_kept_alive() -> None:
    buffer = BufferedObserver(NullObserver())
    gone = weakref.ref(buffer)
    del buffer
    gc.collect()

    assert gone() is None


COUNTS = ["capacity", "batch_size", "terminal_reserve", "max_bytes", "max_deferred_runs"]
TIMES = ["call_limit", "max_wait"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *((option, 0) for option in COUNTS if option != "terminal_reserve"),
        *((option, value) for option in COUNTS for value in [-1, 1e3, math.nan, math.inf, True, "7", None, [7]]),
        ("call_limit", 0),
        *((option, value) for option in TIMES for value in [-1, math.nan, math.inf, 10**400, True, "7", [7]]),
        ("max_wait", None),
    ],
)
def test_number_that_does_not_fit_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(
        InvalidBufferError, match=re.escape(f"A buffer with {option} = {value!r} cannot work: it is a ")
    ):
        BufferedObserver(NullObserver(), **{option: value})


@pytest.mark.parametrize("it", [None, 5, RecordingObserver, print], ids=repr)
def test_what_is_not_an_observer_is_refused(it: Any) -> None:
    with pytest.raises(NotAnObserverError):
        BufferedObserver(it)


def test_name_is_the_observers_unless_given() -> None:
    async def watch(event: RunLifecycleEvent) -> None: ...

    assert BufferedObserver(NullObserver()).name == "NullObserver"
    assert BufferedObserver(watch).name.endswith("watch")
    assert BufferedObserver(watch, name="mine").name == "mine"


def test_options_have_the_documented_defaults() -> None:
    parameters = inspect.signature(BufferedObserver).parameters

    assert {name: it.default for name, it in parameters.items() if it.kind is it.KEYWORD_ONLY} == {
        "capacity": 10_000,
        "terminal_reserve": 1_000,
        "max_bytes": 64 * 1_048_576,
        "batch_size": 256,
        "call_limit": 10.0,
        "max_wait": 5.0,
        "max_deferred_runs": 100_000,
        "log": None,
        "name": None,
    }
