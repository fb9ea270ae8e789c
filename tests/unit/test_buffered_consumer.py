"""`BufferedObserver`: the one task that gives events, what is left when somebody ends it, and the loops it may be on."""

import asyncio
import gc
import itertools
import threading
import weakref

import pytest
import uvloop
from tests.contract.ways_to_run import virtual
from tests.unit.buffer_hands import assert_adds_up, consumer_of, events, turns

from trackside.harness.observer import NullObserver, RunLifecycleEvent
from trackside.harness.observing.buffered import BufferedObserver, FlushReport, OtherLoopError
from trackside.testing import (
    DeadlockError,
    Misbehaviour,
    RecordingBatchObserver,
    RecordingObserver,
    make_event,
    make_run,
    run_virtual,
)


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
