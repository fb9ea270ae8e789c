"""`BufferedObserver`: an observer that fails, hangs or miscounts costs those events alone, and they are counted."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from tests.contract.ways_to_run import virtual
from tests.unit.buffer_hands import assert_adds_up, events, turns

from trackside.harness.errors import ObserverTimeoutError
from trackside.harness.observer import PartlyTaken, RunLifecycleEvent
from trackside.harness.observing.buffered import MAX_LEFT_BEHIND, BufferedObserver, FlushReport, ObserverStuckError
from trackside.testing import Misbehaviour, RecordingBatchObserver, RecordingObserver, make_event, run_virtual


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
