"""`BufferedObserver` that is full: it holds up shortly, then drops, and counts and tells each gap in its place."""

import asyncio
from typing import Any

import pytest
from tests.contract.gap_recorder import GapRecorder
from tests.contract.ways_to_run import virtual
from tests.unit.buffer_hands import assert_adds_up, consumer_of, events, turns

from trackside.harness.errors import ClosedError
from trackside.harness.observer import NullObserver, RunLifecycleEvent
from trackside.harness.observing.backlog import UNWEIGHED
from trackside.harness.observing.buffered import BufferedObserver, EventGap, FlushReport, GapObserver
from trackside.harness.observing.weighing import size_of
from trackside.harness.types import LifecycleEventType
from trackside.testing import Misbehaviour, RecordingBatchObserver, RecordingObserver, make_event, make_run

END = LifecycleEventType.RUN_COMPLETED
KILOBYTE = {"content": "x" * 1_000}


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
