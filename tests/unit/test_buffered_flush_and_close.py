"""`BufferedObserver`: whoever flushes, closes or catches up waits for the events before it, in bounded time."""

import asyncio

import pytest
from tests.contract.ways_to_run import virtual
from tests.unit.buffer_hands import assert_adds_up, consumer_of, events, turns

from trackside.harness.errors import ClosedError
from trackside.harness.observer import NullObserver, RunLifecycleEvent
from trackside.harness.observing.buffered import BufferedObserver, FlushReport
from trackside.testing import Misbehaviour, RecordingObserver, make_event, make_run


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
