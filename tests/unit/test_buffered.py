"""`BufferedObserver`: nobody waits for it, and nothing is lost uncounted, whatever the observer behind it does.

Times are virtual: an hour costs nothing, and the loop raises when nothing can happen any more.
"""

import asyncio
import functools
import gc
import inspect
import itertools
import logging
import math
import re
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from typing import Any

import pytest
import uvloop
from tests.contract.gap_recorder import GapRecorder

from trackside.harness.backlog import UNWEIGHED
from trackside.harness.buffered import (
    MAX_LEFT_BEHIND,
    BufferedObserver,
    BufferStats,
    EventGap,
    FlushReport,
    GapObserver,
    InvalidBufferError,
    ObserverStuckError,
    OtherLoopError,
)
from trackside.harness.errors import ClosedError, NotAnObserverError, ObserverTimeoutError
from trackside.harness.observer import BatchRunObserver, NullObserver, PartlyTaken, RunLifecycleEvent
from trackside.harness.types import LifecycleEventType
from trackside.harness.weighing import size_of
from trackside.testing import (
    DeadlockError,
    Misbehaviour,
    RecordingBatchObserver,
    RecordingObserver,
    make_event,
    make_run,
    run_virtual,
)

END = LifecycleEventType.RUN_COMPLETED
KILOBYTE = {"content": "x" * 1_000}


def virtual[**P](test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Runs a test on a loop with virtual time."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_virtual(test(*args, **kwargs))

    return run


def events(count: int, **fields: Any) -> list[RunLifecycleEvent]:
    return [make_event(sequence=number, **fields) for number in range(1, count + 1)]


async def turns(count: int = 20) -> None:
    """Let everybody else go on for a while."""
    for _ in range(count):
        await asyncio.sleep(0)


def assert_adds_up(stats: BufferStats) -> None:
    assert stats.accepted == stats.delivered + stats.failed + sum(stats.dropped.values()) + stats.pending


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


def test_idle_buffer_sets_no_timer_and_polls_nothing() -> None:
    async def idle() -> None:
        buffer = BufferedObserver(NullObserver())
        await buffer.on_event(make_event())
        await asyncio.Event().wait()

    with pytest.raises(
        DeadlockError, match="trackside-buffer-NullObserver in BufferedObserver._consume → BufferedObserver._next_push"
    ):
        run_virtual(idle())


@virtual
async def test_consumer_starts_with_the_first_event_and_is_one_named_task() -> None:
    before = asyncio.all_tasks()
    buffer = BufferedObserver(NullObserver(), name="metrics")
    assert asyncio.all_tasks() == before

    await buffer.on_events(events(5))
    await turns()
    await buffer.on_events(events(5))

    assert [task.get_name() for task in asyncio.all_tasks() - before] == ["trackside-buffer-metrics"]
    await buffer.aclose()
    assert asyncio.all_tasks() == before


@virtual
async def test_consumer_is_not_run_inside_accept_by_an_eager_task_factory() -> None:
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    observer = RecordingObserver()
    buffer = BufferedObserver(observer)
    await buffer.on_event(make_event())

    assert observer.offered == []
    await turns()
    assert len(observer.events) == 1
    await buffer.aclose()


@virtual
async def test_failure_is_logged_and_counted_and_the_next_event_arrives(caplog: pytest.LogCaptureFixture) -> None:
    error = RuntimeError("no disk")
    observer = RecordingObserver(Misbehaviour(how=error, nth=2))
    buffer = BufferedObserver(observer)
    one, two, three = events(3)
    await buffer.on_events([one, two, three])
    report = await buffer.flush(1)

    assert observer.events == [one, three]
    assert (report.complete, report.delivered, report.failed) == (True, 2, 1)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "RecordingObserver failed on human_message" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    await buffer.aclose()


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), SystemExit(1), BaseException("odd"), StopAsyncIteration()], ids=repr
)
@virtual
async def test_consumer_survives_whatever_the_observer_raises(error: BaseException) -> None:
    observer = RecordingObserver(Misbehaviour(how=error, nth=1))
    buffer = BufferedObserver(observer)
    await buffer.on_events(events(3))
    report = await buffer.flush(1)

    assert (report.complete, report.delivered, report.failed) == (True, 2, 1)
    assert buffer.stats().consumer_deaths == 0
    await buffer.aclose()


@virtual
async def test_observer_that_cancels_its_own_task_fails_alone() -> None:
    async def suicidal(event: RunLifecycleEvent) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    buffer = BufferedObserver(suicidal)
    await buffer.on_events(events(3))

    assert (await buffer.flush(1)).failed == 3
    assert buffer.stats().consumer_deaths == 0
    await buffer.aclose()


@virtual
async def test_generator_exit_costs_one_event_and_not_the_consumer() -> None:
    observer = RecordingObserver(Misbehaviour(how=GeneratorExit(), nth=1))
    buffer = BufferedObserver(observer)
    await buffer.on_events(events(2))
    await turns()
    report = await buffer.flush(1)

    assert report.complete
    assert (buffer.stats().delivered, buffer.stats().failed, buffer.stats().consumer_deaths) == (1, 1, 0)
    await buffer.aclose()


def test_keyboard_interrupt_in_an_observer_stops_the_program_and_costs_one_event() -> None:
    observer = RecordingObserver(Misbehaviour(how=KeyboardInterrupt(), nth=1))
    buffer = BufferedObserver(observer)

    async def interrupted() -> None:
        await buffer.on_events(events(2))
        await turns()

    async def later() -> None:
        assert (await buffer.aclose()).delivered == 1

    with pytest.raises(KeyboardInterrupt):
        run_virtual(interrupted())
    assert_adds_up(buffer.stats())
    run_virtual(later())
    assert (buffer.stats().delivered, buffer.stats().failed) == (1, 1)


@virtual
async def test_one_bad_event_in_a_batch_fails_alone() -> None:
    bad = make_event(sequence=3)
    observer = RecordingBatchObserver(Misbehaviour(how=ValueError("bad"), on=lambda event: event is bad))
    buffer = BufferedObserver(observer)
    batch = [*events(2), bad, *events(2)]
    await buffer.on_events(batch)
    report = await buffer.flush(1)

    assert observer.events == [event for event in batch if event is not bad]
    assert (report.delivered, report.failed) == (4, 1)
    await buffer.aclose()


@virtual
async def test_of_a_batch_that_was_taken_in_part_only_the_rest_is_given_again() -> None:
    class Partly(RecordingBatchObserver):
        async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
            self.events.extend(events[:2])
            raise PartlyTaken(2, OSError("enough"))

    observer = Partly()
    buffer = BufferedObserver(observer)
    batch = events(4)
    await buffer.on_events(batch)
    report = await buffer.flush(1)

    assert observer.events == batch
    assert report.delivered == 4
    await buffer.aclose()


@pytest.mark.parametrize("taken", [-1, 5, 1_000, 1.5, "2", None])
@virtual
async def test_observer_that_miscounts_its_batch_does_not_upset_the_accounts(taken: Any) -> None:
    class Miscounting(RecordingBatchObserver):
        async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
            raise PartlyTaken(taken, OSError("enough"))

    buffer = BufferedObserver(Miscounting())
    await buffer.on_events(events(4))
    report = await buffer.flush(1)

    assert report == FlushReport(complete=True, delivered=4, failed=0, dropped={}, pending=0)
    await buffer.aclose()


@virtual
async def test_call_that_hangs_is_cut_off_at_its_limit(caplog: pytest.LogCaptureFixture) -> None:
    observer = RecordingObserver(Misbehaviour(how="hang", nth=1))
    buffer = BufferedObserver(observer, call_limit=10)
    await buffer.on_events(events(2))
    report = await buffer.flush(60)

    assert asyncio.get_running_loop().time() == 10
    assert (report.complete, report.delivered, report.failed) == (True, 1, 1)
    assert isinstance(caplog.records[0].exc_info[1], ObserverTimeoutError)  # type: ignore[index]
    await turns()
    assert buffer.stats().left_behind == 0
    await buffer.aclose()


@virtual
async def test_call_without_a_limit_takes_as_long_as_it_takes() -> None:
    async def slow(event: RunLifecycleEvent) -> None:
        await asyncio.sleep(3_600)

    buffer = BufferedObserver(slow, call_limit=None)
    await buffer.on_event(make_event())

    assert (await buffer.flush(3_601)).delivered == 1
    await buffer.aclose()


@virtual
async def test_call_that_swallows_cancellation_is_left_behind_and_the_buffer_goes_on() -> None:
    observer = RecordingObserver(Misbehaviour(how="swallow", nth=1))
    buffer = BufferedObserver(observer, call_limit=1)
    _, two = batch = events(2)
    await buffer.on_events(batch)
    report = await buffer.flush(60)

    assert (report.complete, report.delivered, report.failed) == (True, 1, 1)
    assert observer.events == [two]
    assert buffer.stats().left_behind == 1
    observer.release()
    await turns()
    assert buffer.stats().left_behind == 0
    await buffer.aclose()


@virtual
async def test_observer_with_too_many_calls_left_behind_fails_at_once_until_one_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    observer = RecordingObserver(*(Misbehaviour(how="swallow", nth=nth) for nth in range(1, MAX_LEFT_BEHIND + 1)))
    buffer = BufferedObserver(observer, call_limit=1)
    await buffer.on_events(events(MAX_LEFT_BEHIND + 50))
    report = await buffer.flush(60)

    assert asyncio.get_running_loop().time() == MAX_LEFT_BEHIND
    assert (report.complete, report.failed) == (True, MAX_LEFT_BEHIND + 50)
    assert buffer.stats().left_behind == MAX_LEFT_BEHIND
    said = [record for record in caplog.records if isinstance((record.exc_info or [None] * 2)[1], ObserverStuckError)]
    assert len(said) == 1  # once, not for each of the fifty

    observer.release()
    await turns()
    await buffer.on_event(make_event())
    assert (await buffer.flush(1)).delivered == 1
    await buffer.aclose()


@virtual
async def test_call_in_progress_is_not_one_that_was_left_behind() -> None:
    buffer = BufferedObserver(RecordingObserver(Misbehaviour(how="hang")))
    await buffer.on_event(make_event())
    await turns()

    assert (buffer.stats().pending, buffer.stats().left_behind) == (1, 0)
    await buffer.aclose(0)


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
async def test_overflow_is_dropped_and_counted_and_told_in_its_place() -> None:
    observer = GapRecorder()
    buffer = BufferedObserver(observer, capacity=3, max_wait=0)
    first, lost, after = events(3), events(4), events(2)
    await buffer.on_events([*first, *lost])

    stats = buffer.stats()
    assert (stats.accepted, stats.pending, stats.dropped) == (7, 3, {"overflow": 4})
    assert (await buffer.flush(0)).pending == 3
    await buffer.flush(1)
    await buffer.on_events(after)
    await buffer.flush(1)

    gap = EventGap(reason="overflow", count=4, first_event_id=lost[0].event_id, last_event_id=lost[-1].event_id)
    assert observer.seen == [*first, gap, *after]
    assert buffer.stats().delivered == 5
    await buffer.aclose()


@virtual
async def test_terminal_events_have_reserved_room_and_gaps_are_told_between_them() -> None:
    observer = GapRecorder()
    buffer = BufferedObserver(observer, capacity=1, max_wait=0, terminal_reserve=2)
    one, lost, end, lost_too, other_end = (
        make_event(),
        make_event(),
        make_event(END),
        make_event(),
        make_event(LifecycleEventType.RUN_CANCELLED),
    )
    await buffer.on_events([one, lost, end, lost_too, other_end])
    report = await buffer.flush(1)

    assert [it.count if isinstance(it, EventGap) else it for it in observer.seen] == [one, 1, end, 1, other_end]
    assert report == FlushReport(complete=True, delivered=3, failed=0, dropped={}, pending=0)
    assert buffer.stats().dropped == {"overflow": 2}
    await buffer.aclose()


@virtual
async def test_terminal_event_beyond_the_reserve_is_dropped_and_counted() -> None:
    buffer = BufferedObserver(RecordingObserver(Misbehaviour(how="hang")), capacity=1, max_wait=0, terminal_reserve=2)
    await buffer.on_events([make_event(END) for _ in range(5)])

    assert (buffer.stats().pending, buffer.stats().dropped) == (3, {"overflow": 2})
    await buffer.aclose(0)


@virtual
async def test_what_waits_is_bounded_in_bytes_and_the_gap_is_told_in_its_place() -> None:
    observer = GapRecorder()
    buffer = BufferedObserver(observer, max_bytes=8_000, max_wait=0)
    small, large, lost = events(UNWEIGHED), events(9, payload=KILOBYTE), events(5, payload=KILOBYTE)
    await buffer.on_events([*small, *large])
    held = buffer.stats()
    await buffer.on_events(lost)

    assert (held.pending, held.dropped) == (UNWEIGHED + 7, {"overflow": 2})
    assert 8_000 <= held.pending_bytes < 9_200, "the last one let in went past the bound, and by no more than itself"
    assert buffer.stats().dropped == {"overflow": 7}
    await buffer.flush(1)
    assert buffer.stats().pending_bytes == 0
    (after,) = events(1, payload=KILOBYTE)
    await buffer.on_event(after)
    await buffer.flush(1)

    gap = EventGap(reason="overflow", count=7, first_event_id=large[7].event_id, last_event_id=lost[-1].event_id)
    assert observer.seen == [*small, *large[:7], gap, after]
    assert_adds_up(buffer.stats())
    await buffer.aclose()


@virtual
async def test_the_end_of_a_run_has_room_in_bytes_that_nothing_else_takes() -> None:
    buffer = BufferedObserver(RecordingObserver(Misbehaviour(how="hang")), max_bytes=5_000, max_wait=0)
    huge = make_event(payload={"content": "x" * 1_000_000})
    await buffer.on_events([*events(UNWEIGHED), huge, make_event()])
    assert buffer.stats().dropped == {"overflow": 1}
    await buffer.on_events([make_event(END, payload=KILOBYTE) for _ in range(5)])

    assert (buffer.stats().pending, buffer.stats().dropped) == (UNWEIGHED + 6, {"overflow": 1})
    await buffer.on_event(make_event(END))
    assert buffer.stats().dropped == {"overflow": 2}, "what is reserved has an end, too"
    await buffer.aclose(0)
    assert buffer.stats().pending_bytes == 0


@virtual
async def test_without_a_reserve_the_end_of_a_run_finds_no_more_room_in_bytes_than_others() -> None:
    observer = RecordingObserver(Misbehaviour(how="hang"))
    buffer = BufferedObserver(observer, max_bytes=1_000, terminal_reserve=0, max_wait=0)
    await buffer.on_events([*events(UNWEIGHED), make_event(payload=KILOBYTE), make_event(END)])

    assert (buffer.stats().pending, buffer.stats().dropped) == (UNWEIGHED + 1, {"overflow": 1})
    await buffer.aclose(0)


@virtual
async def test_buffer_full_of_bytes_holds_up_who_announces_while_the_observer_takes_events() -> None:
    observer = RecordingObserver()
    buffer = BufferedObserver(observer, max_bytes=3_000, terminal_reserve=0)

    async def announce(run: str) -> None:
        for event in events(20, run_id=run, payload=KILOBYTE):
            assert buffer.has_room_for([event] * 50) is False
            await buffer.on_event(event)
            assert buffer.stats().pending_bytes < 3_000 + 1_200

    await asyncio.gather(*(announce(f"run-{number}") for number in range(50)))
    report = await buffer.flush(1)

    assert report.complete
    assert buffer.stats().dropped == {}
    assert len(observer.events) == 50 * 20
    assert asyncio.get_running_loop().time() == 0, "nobody waited for a clock"
    await buffer.aclose()


@virtual
async def test_buffer_full_of_bytes_holds_up_no_further_one_until_it_is_half_empty_of_them() -> None:
    gate = asyncio.Semaphore(0)

    async def take(event: RunLifecycleEvent) -> None:
        await gate.acquire()

    async def let_through(count: int) -> None:
        for _ in range(count):
            gate.release()
            await turns()

    buffer = BufferedObserver(take, max_bytes=8_000, terminal_reserve=0, call_limit=None)
    clock = asyncio.get_running_loop().time
    await buffer.on_events([*events(UNWEIGHED), *events(8, payload=KILOBYTE)])
    assert (clock(), buffer.stats().dropped) == (0.25, {"overflow": 1})

    await let_through(1)
    await buffer.on_event(make_event())
    assert (clock(), buffer.stats().dropped) == (0.25, {"overflow": 2}), "few events are left, but not few bytes"

    await let_through(UNWEIGHED + 4)
    await buffer.on_events(events(20, payload=KILOBYTE))
    assert clock() == 0.5, "it waits again"
    await buffer.aclose(0)


@virtual
async def test_buffer_that_says_it_has_room_lets_all_in_without_waiting() -> None:
    observer = RecordingObserver(Misbehaviour(how="hang"))
    buffer = BufferedObserver(observer, max_bytes=6_000, terminal_reserve=0)
    told = []
    for _ in range(10):
        batch = events(3, payload=KILOBYTE)
        told.append(buffer.has_room_for(batch))
        if told[-1]:
            with pytest.raises(StopIteration):  # the coroutine ran to its end without waiting for anything
                buffer.on_events(batch).send(None)

    assert told == [True] * 7 + [False] * 3
    assert buffer.stats().pending == 21
    await buffer.aclose(0)


@pytest.mark.parametrize(
    ("payload", "bytes_"),
    [
        ({}, 0),
        ({"content": "x" * 100_000}, 100_000),
        ({"content": "é" * 100_000}, 100_000),
        ({"content": "日" * 100_000}, 200_000),
        ({"messages": [{"content": "x" * 10_000, "calls": [{"args": {"text": "y" * 10_000}}]}] * 10}, 200_000),
        ({"numbers": [1.5] * 10_000}, 10_000 * 64),
        ({"x" * 100_000: {1: None}}, 100_000),
    ],
    ids=["nothing", "ascii", "latin", "wide", "nested", "numbers", "names"],
)
def test_size_of_a_payload_is_about_that_of_its_texts(payload: dict[str, Any], bytes_: int) -> None:
    assert bytes_ <= size_of(payload) <= bytes_ * 1.1 + 200


def test_size_of_what_contains_itself_is_found_in_bounded_time() -> None:
    endless: dict[str, Any] = {"content": "x"}
    endless["again"] = [endless, endless]

    assert size_of(endless) < 16 * 1_048_576


@virtual
async def test_payload_that_fails_when_it_is_looked_at_changes_no_account() -> None:
    class Broken(dict[str, Any]):
        def values(self) -> Any:
            raise RuntimeError("no values")

    buffer = BufferedObserver(RecordingObserver(Misbehaviour(how="hang")))
    await buffer.on_events(events(UNWEIGHED))
    with pytest.raises(RuntimeError, match="no values"):
        await buffer.on_event(make_event(payload=Broken(a=1)))

    assert buffer.stats().accepted == UNWEIGHED
    assert_adds_up(buffer.stats())
    await buffer.aclose(0)


@virtual
async def test_events_that_are_being_given_still_take_up_room() -> None:
    buffer = BufferedObserver(RecordingBatchObserver(Misbehaviour(how="hang")), capacity=3, max_wait=0)
    await buffer.on_events(events(3))
    await turns()
    await buffer.on_event(make_event())

    assert buffer.stats().dropped == {"overflow": 1}
    await buffer.aclose(0)


@virtual
async def test_gap_is_a_warning_where_the_observer_does_not_ask_for_it(caplog: pytest.LogCaptureFixture) -> None:
    buffer = BufferedObserver(NullObserver(), capacity=1, max_wait=0, name="metrics")
    kept, lost = events(2)
    await buffer.on_events([kept, lost])
    await buffer.flush(1)

    (record,) = caplog.records
    assert record.getMessage() == (
        f"observer metrics misses 1 events (overflow), the first {lost.event_id}, the last {lost.event_id}"
    )
    await buffer.aclose()


@virtual
async def test_observer_that_fails_to_note_a_gap_is_logged_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class FailsOnGap(GapRecorder):
        async def on_gap(self, gap: EventGap) -> None:
            raise OSError("no disk")

    observer = FailsOnGap()
    assert isinstance(observer, GapObserver)
    buffer = BufferedObserver(observer, capacity=1, max_wait=0)
    await buffer.on_events(events(2))
    await buffer.flush(1)
    await buffer.on_event(make_event())
    await buffer.flush(1)

    assert "misses 1 events (overflow)" in caplog.text
    assert "OSError: no disk" in caplog.text
    assert (buffer.stats().delivered, buffer.stats().failed) == (2, 0)
    await buffer.aclose()


@virtual
async def test_gap_that_was_being_told_when_the_consumer_was_cancelled_is_not_told_again() -> None:
    class HangsOnGap(GapRecorder):
        async def on_gap(self, gap: EventGap) -> None:
            await super().on_gap(gap)
            await asyncio.Event().wait()

    observer = HangsOnGap()
    buffer = BufferedObserver(observer, capacity=1, max_wait=0, name="x")
    await buffer.on_events(events(2))
    await turns()
    consumer_of("x").cancel()
    await turns()
    await buffer.on_event(make_event())
    await buffer.flush(1)

    assert [isinstance(it, EventGap) for it in observer.seen] == [False, True, False]
    await buffer.aclose()


@virtual
async def test_gap_that_was_never_told_is_logged_when_the_buffer_closes(caplog: pytest.LogCaptureFixture) -> None:
    buffer = BufferedObserver(GapRecorder(Misbehaviour(how="hang")), capacity=1, max_wait=0, call_limit=None)
    await buffer.on_events(events(3))
    await turns()
    await buffer.aclose(0)

    assert "misses 2 events (overflow)" in caplog.text
    stats = buffer.stats()
    assert (stats.failed, stats.dropped, stats.pending) == (1, {"overflow": 2}, 0)


@virtual
async def test_batch_does_not_reach_across_a_gap() -> None:
    class Both(RecordingBatchObserver):
        async def on_gap(self, gap: EventGap) -> None:
            self.batches.append([])

    observer = Both()
    buffer = BufferedObserver(observer, capacity=2, max_wait=0, terminal_reserve=2)
    await buffer.on_events([*events(3), *(make_event(END) for _ in range(2))])
    await buffer.flush(1)

    assert [len(batch) for batch in observer.batches] == [2, 0, 2]
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


@virtual
async def test_flush_returns_in_time_with_what_still_waits() -> None:
    observer = RecordingObserver(Misbehaviour(how="hang", nth=3))
    buffer = BufferedObserver(observer, call_limit=None)
    await buffer.on_events(events(5))
    report = await buffer.flush(2.5)

    assert asyncio.get_running_loop().time() == 2.5
    assert report == FlushReport(complete=False, delivered=2, failed=0, dropped={}, pending=3)
    await buffer.aclose(0)


@virtual
async def test_flush_with_no_time_only_reports() -> None:
    buffer = BufferedObserver(NullObserver())
    await buffer.on_events(events(2))

    assert await buffer.flush(0) == FlushReport(complete=False, delivered=0, failed=0, dropped={}, pending=2)
    await buffer.aclose()


@virtual
async def test_flush_of_nothing_is_complete_at_once() -> None:
    buffer = BufferedObserver(NullObserver())

    assert await buffer.flush(1) == FlushReport(complete=True, delivered=0, failed=0, dropped={}, pending=0)
    assert asyncio.get_running_loop().time() == 0


@virtual
async def test_flush_does_not_wait_for_events_accepted_after_it() -> None:
    async def slow(event: RunLifecycleEvent) -> None:
        await asyncio.sleep(1)
        await buffer.on_event(event)  # there is always one more

    buffer = BufferedObserver(slow)
    await buffer.on_events(events(2))
    report = await buffer.flush(60)

    assert asyncio.get_running_loop().time() == 2
    assert (report.complete, report.pending) == (True, 0)
    assert buffer.stats().pending == 2
    await buffer.aclose(0)


@virtual
async def test_several_flushes_wait_each_for_its_own_events() -> None:
    async def slow(event: RunLifecycleEvent) -> None:
        await asyncio.sleep(1)

    buffer = BufferedObserver(slow)
    times: list[float] = []

    async def flush() -> None:
        assert (await buffer.flush(60)).complete
        times.append(asyncio.get_running_loop().time())

    async with asyncio.TaskGroup() as group:
        for event in events(3):
            await buffer.on_event(event)
            group.create_task(flush())
            await asyncio.sleep(0)

    assert times == [1, 2, 3]
    await buffer.aclose()


@virtual
async def test_flush_inside_the_observers_own_call_ends_with_its_time() -> None:
    reports: list[FlushReport] = []

    async def flushes(event: RunLifecycleEvent) -> None:
        reports.append(await buffer.flush(1))

    buffer = BufferedObserver(flushes)
    await buffer.on_event(make_event())

    assert (await buffer.flush(60)).complete
    assert [(report.complete, report.pending) for report in reports] == [(False, 1)]
    await buffer.aclose()


@virtual
async def test_cancelled_flush_leaves_nothing_behind() -> None:
    buffer = BufferedObserver(RecordingObserver(Misbehaviour(how="hang", nth=1)))
    await buffer.on_events(events(2))
    flush = asyncio.create_task(buffer.flush(60))
    await turns()
    flush.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flush

    assert not buffer._backlog.flushes
    assert (await buffer.flush(60)).complete
    await buffer.aclose()


@virtual
async def test_flush_ends_at_once_when_the_buffer_is_closed_meanwhile() -> None:
    buffer = BufferedObserver(RecordingObserver(Misbehaviour(how="hang")), call_limit=None)
    await buffer.on_events(events(3))
    flush = asyncio.create_task(buffer.flush(60))
    await turns()
    await buffer.aclose(0)
    report = await flush

    assert asyncio.get_running_loop().time() == 0
    assert report == FlushReport(complete=True, delivered=0, failed=1, dropped={"closed": 2}, pending=0)
    await turns()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("closing", [False, True])
@virtual
async def test_consumer_that_is_cancelled_under_a_flush_is_counted_and_the_flush_goes_on(closing: bool) -> None:
    before = asyncio.all_tasks()
    observer = RecordingObserver(Misbehaviour(how="hang", nth=1))
    buffer = BufferedObserver(observer, name="x")
    await buffer.on_events(events(3))
    flush = asyncio.create_task(buffer.aclose(1) if closing else buffer.flush(1))
    await turns()
    consumer_of("x").cancel()
    report = await flush

    assert report == FlushReport(complete=True, delivered=2, failed=1, dropped={}, pending=0)
    assert buffer.stats().consumer_deaths == 1
    await buffer.aclose()
    assert asyncio.all_tasks() == before


@virtual
async def test_flush_that_is_overtaken_by_later_events_before_it_wakes_still_ends() -> None:
    observer = RecordingObserver(Misbehaviour(how="hang", nth=1))
    buffer = BufferedObserver(observer)
    await buffer.on_event(make_event())
    flush = asyncio.create_task(buffer.flush(1))
    await turns()
    await buffer.on_events(events(5))
    observer.release()

    assert (await flush).complete
    await buffer.aclose()
    assert (buffer.stats().delivered, buffer.stats().consumer_deaths) == (6, 0)


@virtual
async def test_failed_events_make_a_flush_complete_but_show() -> None:
    buffer = BufferedObserver(RecordingObserver(Misbehaviour(how=RuntimeError("no"))))
    await buffer.on_events(events(3))

    assert await buffer.flush(1) == FlushReport(complete=True, delivered=0, failed=3, dropped={}, pending=0)
    await buffer.aclose()


@virtual
async def test_close_gives_on_what_waits_and_then_takes_nothing_more() -> None:
    observer = RecordingObserver()
    buffer = BufferedObserver(observer, name="metrics")
    run = make_run()
    await buffer.on_events(run)
    report = await buffer.aclose()

    assert observer.events == run
    assert report == FlushReport(complete=True, delivered=len(run), failed=0, dropped={}, pending=0)
    with pytest.raises(ClosedError, match="buffer of observer metrics is closed"):
        await buffer.on_event(run[0])
    with pytest.raises(ClosedError):
        await buffer.on_events(run)
    assert buffer.stats().accepted == len(run)


@virtual
async def test_close_drops_and_counts_what_it_has_no_time_for(caplog: pytest.LogCaptureFixture) -> None:
    observer = RecordingObserver(Misbehaviour(how="hang", nth=2))
    buffer = BufferedObserver(observer, call_limit=None)
    one, two, three, four = batch = events(4)
    await buffer.on_events(batch)
    report = await buffer.aclose(5)

    assert asyncio.get_running_loop().time() == 5
    # The second was cut off midway, so nobody knows, and it counts as failed. The others were never given.
    assert report == FlushReport(complete=True, delivered=1, failed=1, dropped={"closed": 2}, pending=0)
    assert f"misses 2 events (closed), the first {three.event_id}, the last {four.event_id}" in caplog.text
    assert (observer.events, observer.offered) == ([one], [one, two])
    assert_adds_up(buffer.stats())


@virtual
async def test_close_may_be_repeated_and_of_an_unused_buffer_is_nothing() -> None:
    nothing = FlushReport(complete=True, delivered=0, failed=0, dropped={}, pending=0)
    buffer = BufferedObserver(NullObserver())

    assert await buffer.aclose() == nothing
    assert await buffer.aclose() == nothing
    assert await buffer.flush(1) == nothing


@virtual
async def test_concurrent_closes_all_return_and_count_once() -> None:
    buffer = BufferedObserver(RecordingObserver(Misbehaviour(how="hang")), call_limit=None)
    await buffer.on_events(events(3))
    await asyncio.gather(buffer.aclose(3), buffer.aclose(2), buffer.aclose(1))

    stats = buffer.stats()
    assert (stats.failed, stats.dropped, stats.pending) == (1, {"closed": 2}, 0)


@virtual
async def test_cancelled_close_still_closes() -> None:
    before = asyncio.all_tasks()
    buffer = BufferedObserver(RecordingObserver(Misbehaviour(how="hang")), call_limit=None)
    await buffer.on_events(events(3))
    close = asyncio.create_task(buffer.aclose(60))
    await turns()
    close.cancel()
    with pytest.raises(asyncio.CancelledError):
        await close
    await turns()

    assert buffer.stats().pending == 0
    assert_adds_up(buffer.stats())
    assert asyncio.all_tasks() == before


@virtual
async def test_close_inside_the_observers_own_call_closes() -> None:
    async def closes(event: RunLifecycleEvent) -> None:
        await buffer.aclose(1)

    buffer = BufferedObserver(closes, call_limit=None)
    await buffer.on_events(events(3))
    await buffer.flush(60)
    await turns()

    stats = buffer.stats()
    assert (stats.failed, stats.dropped, stats.pending) == (1, {"closed": 2}, 0)
    with pytest.raises(ClosedError):
        await buffer.on_event(make_event())


def consumer_of(name: str) -> asyncio.Task[Any]:
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == f"trackside-buffer-{name}")
    return task


@virtual
async def test_consumer_that_somebody_cancels_comes_back_with_the_next_event() -> None:
    observer = RecordingObserver()
    buffer = BufferedObserver(observer, name="x")
    one, two = events(2)
    await buffer.on_event(one)
    await turns()
    consumer_of("x").cancel()
    await turns()
    await buffer.on_event(two)
    await turns()

    assert observer.events == [one, two]
    assert buffer.stats().consumer_deaths == 1
    await buffer.aclose()


@pytest.mark.parametrize("wake", ["event", "flush", "aclose"])
@virtual
async def test_consumer_that_is_cancelled_in_a_call_fails_that_event_and_keeps_the_rest(
    wake: str, caplog: pytest.LogCaptureFixture
) -> None:
    observer = RecordingObserver(Misbehaviour(how="hang", nth=1))
    buffer = BufferedObserver(observer, name="x")
    await buffer.on_events(events(3))
    await turns()
    consumer_of("x").cancel()
    await turns()

    stats = buffer.stats()
    assert (stats.failed, stats.pending, stats.consumer_deaths) == (1, 2, 1)
    assert "trackside-buffer-x was ended from outside; 2 events wait" in caplog.text
    match wake:
        case "event":
            await buffer.on_event(make_event())
            await turns()
        case "flush":
            assert (await buffer.flush(1)).delivered == 2
        case _:
            assert (await buffer.aclose(1)).delivered == 2
    assert buffer.stats().pending == 0
    await buffer.aclose()


@pytest.mark.parametrize("late", range(5))
@virtual
async def test_call_that_ended_just_before_the_consumer_was_cancelled_counts_as_delivered(late: int) -> None:
    go_on = asyncio.Event()
    taken: list[RunLifecycleEvent] = []

    async def takes(event: RunLifecycleEvent) -> None:
        await go_on.wait()
        taken.append(event)

    buffer = BufferedObserver(takes, name="x")
    await buffer.on_event(make_event())
    await turns()
    go_on.set()
    await turns(late)
    consumer_of("x").cancel()
    await turns()

    assert buffer.stats().delivered == len(taken)
    assert_adds_up(buffer.stats())
    await buffer.aclose()


@virtual
async def test_consumer_that_is_cancelled_before_its_first_step_comes_back() -> None:
    observer = RecordingObserver()
    buffer = BufferedObserver(observer, name="x")
    await buffer.on_event(make_event())
    consumer_of("x").cancel()
    await turns()
    assert buffer.stats().pending == 1
    await buffer.on_event(make_event())
    await turns()

    assert len(observer.events) == 2
    await buffer.aclose()


@pytest.mark.parametrize("late", range(4))
@virtual
async def test_event_that_comes_while_the_consumer_is_being_cancelled_is_not_forgotten(late: int) -> None:
    observer = RecordingObserver()
    buffer = BufferedObserver(observer, name="x")
    await buffer.on_event(make_event())
    await turns()
    consumer_of("x").cancel()
    await turns(late)
    await buffer.on_event(make_event())

    assert (await buffer.flush(1)).complete
    assert len(observer.events) == 2
    assert buffer.stats().consumer_deaths == 1
    await buffer.aclose()


def test_death_of_the_consumer_on_a_loop_that_the_buffer_has_left_is_nobodys_business() -> None:
    observer = RecordingObserver()
    buffer = BufferedObserver(observer)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(buffer.on_event(make_event()))
    loop.run_until_complete(turns())

    async def goes_on() -> None:
        await buffer.on_event(make_event())
        await turns()

    run_virtual(goes_on())
    assert buffer.stats().consumer_deaths == 1  # as it was cancelled when its loop ended
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(turns())
    loop.close()

    assert len(observer.events) == 2
    assert buffer.stats().consumer_deaths == 1


@virtual
async def test_observer_that_never_waits_gets_what_is_there_and_then_others_have_their_turn() -> None:
    given: list[int] = []
    turns: list[int] = []

    async def busy(event: RunLifecycleEvent) -> None:
        given.append(event.sequence)
        if event.sequence < 1_000:
            await buffer.on_event(make_event(sequence=event.sequence + 100))

    buffer = BufferedObserver(busy)
    await buffer.on_events(events(100))
    while len(given) < 1_000:
        turns.append(len(given))
        await asyncio.sleep(0)

    assert {after - before for before, after in itertools.pairwise(turns)} == {100}
    await buffer.aclose()


@virtual
async def test_full_buffer_holds_up_who_announces_while_the_observer_takes_events() -> None:
    observer = RecordingObserver()
    buffer = BufferedObserver(observer, capacity=10, terminal_reserve=0)

    async def announce(run: str) -> None:
        for event in make_run(run):
            await buffer.on_event(event)

    await asyncio.gather(*(announce(f"run-{number}") for number in range(500)))
    report = await buffer.flush(1)

    assert report.complete
    assert buffer.stats().dropped == {}
    assert len(observer.events) == 500 * len(make_run())
    assert asyncio.get_running_loop().time() == 0, "nobody waited for a clock"
    await buffer.aclose()


@virtual
async def test_full_buffer_of_a_hanging_observer_holds_up_once_and_shortly() -> None:
    observer = RecordingObserver(Misbehaviour(how="hang"))
    buffer = BufferedObserver(observer, capacity=2, terminal_reserve=0, call_limit=None)
    clock = asyncio.get_running_loop().time

    await buffer.on_events(events(2))
    assert clock() == 0
    await buffer.on_events(events(100))
    assert clock() == 0.25
    assert buffer.stats().dropped == {"overflow": 100}
    observer.release()
    await buffer.aclose(1)


@virtual
async def test_full_buffer_of_a_slow_observer_holds_up_for_max_wait_until_it_is_half_empty() -> None:
    async def slow(event: RunLifecycleEvent) -> None:
        await asyncio.sleep(0.2)

    buffer = BufferedObserver(slow, capacity=4, terminal_reserve=0, max_wait=1.0)
    clock = asyncio.get_running_loop().time

    await buffer.on_events(events(4))
    await buffer.on_event(make_event(sequence=5))
    assert 0 < clock() <= 0.5, "it had to wait for one place"
    assert buffer.stats().dropped == {}
    began = clock()
    await asyncio.gather(*(buffer.on_event(make_event(sequence=6 + number)) for number in range(20)))
    assert clock() - began <= 1.25
    assert (dropped := buffer.stats().dropped["overflow"]) > 0
    await buffer.flush(10)
    await buffer.on_events(events(5))
    assert buffer.stats().dropped["overflow"] == dropped, "it waits again"
    await buffer.aclose(10)


@virtual
async def test_who_waits_for_room_can_be_cancelled_and_hears_of_the_close() -> None:
    observer = RecordingObserver(Misbehaviour(how="hang"))
    buffer = BufferedObserver(observer, capacity=1, terminal_reserve=0, call_limit=None)
    await buffer.on_event(make_event())
    impatient = asyncio.create_task(buffer.on_event(make_event()))
    patient = asyncio.create_task(buffer.on_event(make_event()))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait({impatient})
    await buffer.aclose(0)

    assert impatient.cancelled()
    with pytest.raises(ClosedError):
        await patient
    assert buffer.stats().accepted == 1


@virtual
async def test_catching_up_waits_for_an_observer_that_takes_its_time() -> None:
    given: list[int] = []

    async def slow(event: RunLifecycleEvent) -> None:
        await asyncio.sleep(0.2)
        given.append(event.sequence)

    buffer = BufferedObserver(slow)
    await buffer.on_events(events(3))
    other = asyncio.create_task(buffer.catch_up())
    await buffer.catch_up()
    assert given == [1, 2, 3]
    await other
    await buffer.catch_up()
    assert asyncio.get_running_loop().time() == pytest.approx(0.6)
    await buffer.aclose()


@virtual
async def test_catching_up_does_not_wait_for_an_observer_that_hangs_and_not_long_for_a_slow_one() -> None:
    clock = asyncio.get_running_loop().time
    hanging = BufferedObserver(RecordingObserver(Misbehaviour(how="hang")), call_limit=None)
    await hanging.on_events(events(3))
    await asyncio.gather(*(hanging.catch_up() for _ in range(10)))
    assert clock() == 0.25
    await hanging.catch_up()
    assert clock() == 0.25
    await hanging.aclose(0)

    async def takes_a_while(event: RunLifecycleEvent) -> None:
        await asyncio.sleep(0.2)

    slow = BufferedObserver(takes_a_while, max_wait=1.0)
    await slow.on_events(events(1_000))
    began = clock()
    await slow.catch_up()
    assert 1.0 <= clock() - began <= 1.25
    await slow.aclose(0)


@virtual
async def test_who_waits_to_catch_up_is_let_go_by_the_close() -> None:
    buffer = BufferedObserver(RecordingObserver(Misbehaviour(how="hang")), call_limit=None)
    await buffer.on_events(events(3))
    waiting = asyncio.create_task(buffer.catch_up())
    await asyncio.sleep(0.1)
    await buffer.aclose(0)
    await asyncio.wait_for(waiting, 0.1)


def test_events_left_by_one_loop_are_given_on_by_the_next() -> None:
    observer = RecordingObserver()
    buffer = BufferedObserver(observer)
    one, two = events(2)

    async def leaves() -> None:
        await buffer.on_event(one)

    async def goes_on() -> None:
        await buffer.on_event(two)
        await buffer.flush(1)

    run_virtual(leaves())
    assert_adds_up(buffer.stats())
    run_virtual(goes_on())

    assert observer.events == [one, two]
    assert buffer.stats().delivered == 2


@pytest.mark.parametrize("was", ["idle", "in a call"])
@pytest.mark.parametrize("next_one", ["about to start", "idle"])
def test_consumer_of_a_loop_that_was_closed_under_it_does_not_disturb_the_next_one(was: str, next_one: str) -> None:
    taken: list[RunLifecycleEvent] = []
    loop = asyncio.new_event_loop()

    async def takes(event: RunLifecycleEvent) -> None:
        if was == "in a call" and asyncio.get_running_loop() is loop:
            await loop.create_future()
        taken.append(event)

    buffer = BufferedObserver(takes)
    loop.set_exception_handler(lambda loop, context: None)  # the test means to destroy a pending task
    loop.run_until_complete(buffer.on_event(make_event()))
    loop.run_until_complete(turns())
    left = [buffer._consumer]
    ended = weakref.ref(left[0])
    loop.close()

    async def goes_on() -> None:
        await buffer.on_event(make_event())
        if next_one == "idle":
            await turns()
        left.clear()
        gc.collect()  # destroys the old one
        assert ended() is None
        assert_adds_up(buffer.stats())
        await buffer.on_event(make_event())
        assert (await buffer.flush(1)).complete
        await buffer.aclose()

    run_virtual(goes_on())

    assert len(taken) == 3
    assert (buffer.stats().delivered, buffer.stats().accepted) == (3, 3)


@virtual
async def test_use_on_a_second_running_loop_is_refused_before_anything_is_accepted() -> None:
    buffer = BufferedObserver(NullObserver(), name="x")
    await buffer.on_event(make_event())
    raised: list[BaseException] = []

    def elsewhere() -> None:
        try:
            asyncio.run(buffer.on_event(make_event()))
        except OtherLoopError as exc:
            raised.append(exc)

    await asyncio.to_thread(elsewhere)

    assert "observer x is in use on another running event loop" in str(raised[0])
    assert buffer.stats().accepted == 1
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


def test_buffer_works_on_uvloop() -> None:
    observer = RecordingBatchObserver(Misbehaviour(how=ValueError("bad"), nth=3))
    run = make_run(messages=50)

    async def main() -> FlushReport:
        buffer = BufferedObserver(observer, batch_size=8)
        for event in run:
            await buffer.on_event(event)
        return await buffer.aclose(10)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(main())

    assert (report.delivered, report.failed) == (len(run) - 1, 1)
    assert observer.events == [*run[:2], *run[3:]]


@virtual
async def test_buffers_in_other_threads_do_not_disturb_each_other() -> None:
    reports: list[FlushReport] = []

    async def main() -> None:
        buffer = BufferedObserver(NullObserver())
        await buffer.on_events(events(100))
        reports.append(await buffer.aclose())

    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)

    assert [report.delivered for report in reports] == [100, 100, 100]
