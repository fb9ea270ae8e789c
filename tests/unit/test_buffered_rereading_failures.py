"""`BufferedObserver` with a log that lacks events, fails, hangs or answers oddly: it asks again, and counts what is lost."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from tests.contract.gap_recorder import GapRecorder
from tests.contract.recorded_log import RecordedLog
from tests.contract.ways_to_run import virtual
from tests.unit.buffer_hands import turns
from tests.unit.rereading_stage import Stage, by_run, in_turns, of_run

from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.observing.buffered import EventGap, FlushReport
from trackside.harness.ports import EventSpan
from trackside.testing import RecordingObserver, make_event


@virtual
async def test_what_the_log_lacks_is_dropped_and_told_after_what_it_had() -> None:
    stage = Stage(GapRecorder())
    run = of_run("a", 8)
    await stage.announce(*run)
    stage.log.lost = {run[3].event_id, run[5].event_id}
    report = await stage.buffer.flush(1)
    await stage.announce(last := make_event(run_id="a", sequence=9))
    await stage.buffer.flush(1)

    gap = EventGap(reason="not_in_log", count=2, first_event_id=run[2].event_id, last_event_id=run[7].event_id)
    assert stage.observer.seen == [*run[:3], run[4], run[6], run[7], gap, last]
    assert (report.complete, report.delivered, report.dropped) == (True, 6, {"not_in_log": 2})
    assert stage.stats().dropped == {"not_in_log": 2}
    await stage.buffer.aclose()


@virtual
async def test_what_the_log_lacks_is_told_before_what_was_deferred_since_it_was_read() -> None:
    released = asyncio.Event()

    class Waits(GapRecorder):
        async def on_event(self, event: RunLifecycleEvent) -> None:
            await super().on_event(event)
            if event.sequence == 5:
                await released.wait()

    stage = Stage(Waits())
    run = of_run("a", 40)
    await stage.announce(*run)
    stage.log.lost = {run[2].event_id}
    await turns()
    await stage.announce(*(later := of_run("a", 9, first=41)))
    assert stage.stats().deferred == 40 - 2 - 16 + 9
    released.set()
    await stage.buffer.flush(1)

    gap = EventGap(reason="not_in_log", count=1, first_event_id=run[2].event_id, last_event_id=run[39].event_id)
    assert stage.observer.seen == [*run[:2], *run[3:], gap, *later]
    await stage.buffer.aclose()


@virtual
async def test_what_the_log_lacks_is_a_warning_where_the_observer_does_not_ask_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    await stage.announce(*of_run("a", 300))
    stage.log.events.clear()
    await stage.buffer.flush(1)

    (record,) = caplog.records  # one, not one for each read
    assert "observer it misses 298 events (not_in_log)" in record.getMessage()
    assert stage.stats().dropped == {"not_in_log": 298}
    await stage.buffer.aclose()


@virtual
async def test_gap_of_what_the_log_lacks_that_was_never_told_is_logged_at_the_close(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Hangs(RecordingObserver):
        async def on_event(self, event: RunLifecycleEvent) -> None:
            await super().on_event(event)
            if event.sequence == 4:
                await asyncio.Event().wait()

    stage = Stage(Hangs())
    run = of_run("a", 30)
    await stage.announce(*run)
    stage.log.lost = {run[2].event_id}
    await turns()
    await stage.buffer.aclose(1)

    assert [record.getMessage().partition(", the first")[0] for record in caplog.records] == [
        "observer it misses 1 events (not_in_log)",
        "observer it misses 26 events (closed)",
    ]
    assert stage.stats().dropped == {"not_in_log": 1, "closed": 26}


@virtual
async def test_log_that_answers_more_in_another_order_or_twice_is_taken_at_its_word_where_it_was_asked() -> None:
    class Talkative(RecordedLog):
        async def read(self, spans: Sequence[EventSpan]) -> list[RunLifecycleEvent]:
            found = await super().read(spans)
            return [*reversed(found), make_event(run_id="other"), *found, *self.events.values()]

    stage = Stage(log=(log := Talkative()))
    stage.log = log
    events = in_turns(of_run("a", 50), of_run("b", 50))
    await stage.announce(*events)
    await stage.buffer.flush(1)

    assert by_run(stage.observer.events) == by_run(events)
    assert stage.stats().delivered == 100
    await stage.buffer.aclose()


@pytest.mark.parametrize(
    "failure",
    [OSError("away"), SystemExit(1), asyncio.CancelledError(), GeneratorExit(), BaseException("odd")],
    ids=repr,
)
@virtual
async def test_log_that_fails_is_asked_again_in_growing_pauses_and_said_to_fail_once(
    failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage()
    run = of_run("a", 5)
    await stage.announce(*run)
    stage.log.failure = failure
    await asyncio.sleep(0.1 + 0.2 + 0.4 + 0.8 + 1.6 + 3.2 + 5 + 5 + 0.5)

    assert len(stage.log.asked) == 9
    assert (stage.stats().delivered, stage.stats().deferred, stage.stats().consumer_deaths) == (2, 3, 0)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "observer it is behind, and the log in which its events wait cannot be read" in caplog.text
    stage.log.failure = None
    await asyncio.sleep(5)
    assert stage.observer.events == run
    await stage.buffer.aclose()


@virtual
async def test_log_that_gives_no_events_is_one_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(RecordedLog):
        odd = True

        async def read(self, spans: Sequence[EventSpan]) -> Any:
            found = await super().read(spans)
            return ["what?"] if self.odd else found

    stage = Stage(log=(log := Odd()))
    stage.log = log
    run = of_run("a", 5)
    await stage.announce(*run)
    await turns()
    log.odd = False
    await stage.buffer.flush(1)

    assert stage.observer.events == run
    assert len(caplog.records) == 1
    await stage.buffer.aclose()


@virtual
async def test_flush_has_a_log_that_failed_asked_at_once() -> None:
    stage = Stage()
    await stage.announce(*of_run("a", 5))
    stage.log.failure = OSError("away")
    await asyncio.sleep(60)
    stage.log.failure = None
    start = asyncio.get_running_loop().time()

    assert (await stage.buffer.flush(1)).complete
    assert asyncio.get_running_loop().time() == start
    await stage.buffer.aclose()


@virtual
async def test_flush_has_a_log_that_goes_on_failing_asked_in_short_pauses_again() -> None:
    stage = Stage()
    await stage.announce(*of_run("a", 5))
    stage.log.failure = OSError("away")
    await asyncio.sleep(60)
    before = len(stage.log.asked)

    assert not (await stage.buffer.flush(0.35)).complete
    assert len(stage.log.asked) - before == 3  # at once, after 0.1 and after 0.2 s
    await stage.buffer.aclose(0)


@virtual
async def test_close_drops_in_time_what_a_failing_log_does_not_give(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    run = of_run("a", 50)
    await stage.announce(*run)
    stage.log.failure = OSError("away")
    report = await stage.buffer.aclose(3)

    assert asyncio.get_running_loop().time() == 3
    assert report == FlushReport(complete=True, delivered=2, failed=0, dropped={"closed": 48}, pending=0)
    assert (stage.stats().pending, stage.stats().deferred) == (0, 0)
    said = f"misses 48 events (closed), the first {run[2].event_id}, the last {run[49].event_id}"
    assert said in caplog.records[-1].getMessage()


@virtual
async def test_log_that_hangs_is_asked_again_after_half_a_minute() -> None:
    stage = Stage()
    run = of_run("a", 5)
    await stage.announce(*run)
    stage.log.answers.clear()
    await asyncio.sleep(29)
    assert len(stage.log.asked) == 1
    await asyncio.sleep(2)
    assert len(stage.log.asked) == 2
    stage.log.answers.set()
    await turns()

    assert stage.observer.events == run
    await stage.buffer.aclose()


@virtual
async def test_read_that_cannot_be_cancelled_is_the_only_one_and_holds_up_no_close() -> None:
    released = asyncio.Event()

    class Stubborn(RecordedLog):
        async def read(self, spans: Sequence[EventSpan]) -> list[RunLifecycleEvent]:
            self.asked.append(spans)
            while not released.is_set():
                try:
                    await released.wait()
                except asyncio.CancelledError:
                    continue
            return []

    stage = Stage(log=(log := Stubborn()))
    await stage.announce(*of_run("a", 5))
    await asyncio.sleep(300)
    start = asyncio.get_running_loop().time()
    await stage.buffer.aclose(2)

    assert asyncio.get_running_loop().time() - start == 2
    assert len(log.asked) == 1
    assert stage.stats().dropped == {"closed": 3}
    released.set()


@virtual
async def test_what_fails_between_the_log_and_the_observer_is_tried_again_after_a_pause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Unweighable(dict[str, Any]):
        def values(self) -> Any:
            raise OSError("no weight")

    stage = Stage()
    run = of_run("a", 5)
    await stage.announce(*run)
    stage.log.write([make_event(run_id="a", sequence=4, payload=Unweighable(it="is"))])
    report = await stage.buffer.flush(9.5)

    assert (report.complete, report.delivered, report.pending) == (False, 2, 3)
    assert (len(stage.log.asked), stage.stats().consumer_deaths) == (10, 10)
    assert "observer it cannot be given what waits for it" in caplog.text
    stage.log.write(run)
    assert (await stage.buffer.flush(1)).complete
    assert stage.observer.events == run
    await stage.buffer.aclose()
