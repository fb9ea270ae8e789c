"""`BufferedObserver` with a log: events that it has no room for wait there, and it rereads them in their turn.

Times are virtual.
"""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar

import pytest
from tests.contract.gap_recorder import GapRecorder
from tests.contract.recorded_log import RecordedLog
from tests.contract.ways_to_run import virtual
from tests.unit.buffer_hands import turns
from tests.unit.rereading_stage import Stage, by_run, in_turns, of_run

from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.observing import backlog
from trackside.harness.observing.buffered import EventGap, FlushReport
from trackside.harness.ports import EventSpan
from trackside.harness.types import LifecycleEventType
from trackside.testing import Misbehaviour, RecordingBatchObserver, RecordingObserver, make_event, make_run, run_virtual

END = LifecycleEventType.RUN_COMPLETED


@virtual
async def test_what_finds_no_room_waits_in_the_log_and_comes_at_its_turn() -> None:
    stage = Stage()
    run = make_run(messages=40)
    await stage.announce(*run)
    stats = stage.stats()

    assert (stats.pending, stats.deferred, stats.reread_total, stats.dropped) == (len(run), len(run) - 2, 0, {})
    report = await stage.buffer.flush(1)
    assert stage.observer.events == run
    assert report == FlushReport(complete=True, delivered=len(run), failed=0, dropped={}, pending=0)
    stats = stage.stats()
    assert (stats.pending, stats.deferred, stats.reread_total, stats.dropped) == (0, 0, len(run) - 2, {})
    await stage.buffer.aclose()


@pytest.mark.parametrize("observer", [RecordingObserver, RecordingBatchObserver])
@virtual
async def test_events_of_many_runs_come_once_each_and_in_order_within_their_run(observer: type) -> None:
    stage = Stage(observer(), capacity=20)
    runs = [make_run(f"run-{number}", messages=20) for number in range(50)]
    for events in in_turns(*runs), in_turns(*(make_run(f"more-{number}") for number in range(50))):
        await stage.announce(*events)
        await turns(3)
    await stage.buffer.flush(10)

    assert by_run(stage.observer.events) == by_run(stage.log.events.values())
    assert len(stage.observer.events) == len(stage.log.events)
    assert stage.stats().reread_total > 1_000
    await stage.buffer.aclose()


@virtual
async def test_what_is_accepted_while_events_wait_in_the_log_comes_after_them() -> None:
    stage = Stage(capacity=4)
    first, second = of_run("a", 10), of_run("a", 10, first=11)
    await stage.announce(*first)
    while stage.buffer.stats().deferred == 6:
        await asyncio.sleep(0)
    await stage.announce(*second)
    await stage.buffer.flush(1)

    assert stage.observer.events == [*first, *second]
    await stage.buffer.aclose()


@virtual
async def test_once_events_wait_in_the_log_others_join_them_until_the_buffer_is_half_empty() -> None:
    given = 0

    async def takes(event: RunLifecycleEvent) -> None:
        nonlocal given
        await asyncio.sleep(1)
        given += 1

    stage = Stage(takes, capacity=10)
    await stage.announce(*of_run("a", 11))
    await asyncio.sleep(4.5)
    await stage.announce(*of_run("b", 10))

    assert (given, stage.stats().deferred) == (4, 11)  # though there was room for four
    await asyncio.sleep(1)
    await stage.announce(*of_run("c", 1))
    assert (given, stage.stats().deferred) == (5, 11)
    await stage.buffer.flush(60)
    assert [len(spans) for spans in stage.log.asked] == [2]  # one read for all of them
    await stage.buffer.aclose()


@virtual
async def test_the_log_is_asked_for_a_little_at_a_time() -> None:
    stage = Stage()
    await stage.announce(*of_run("a", 1_000), *of_run("b", 1_000))
    await stage.buffer.flush(1)

    asked = [sum(len(span.sequences) for span in spans) for spans in stage.log.asked]
    assert asked[:5] == [16, 32, 64, 128, 256]
    assert (max(asked), sum(asked)) == (256, 1_998)
    await stage.buffer.aclose()


@virtual
async def test_the_log_is_asked_for_fewer_large_events_at_once() -> None:
    stage = Stage()
    await stage.announce(*of_run("a", 100, payload={"content": "x" * 1_048_576}))
    await stage.buffer.flush(1)

    asked = [len(span.sequences) for (span,) in stage.log.asked]
    assert asked[:6] == [16, 8, 4, 2, 4, 2]
    assert len(stage.observer.events) == 100
    await stage.buffer.aclose()


@virtual
async def test_accounts_are_exact_in_the_middle_of_a_read_and_of_a_call() -> None:
    release = asyncio.Event()

    class Waits(RecordingObserver):
        async def on_event(self, event: RunLifecycleEvent) -> None:
            await super().on_event(event)
            if event.sequence == 5:
                await release.wait()

    stage = Stage(Waits())
    await stage.announce(*of_run("a", 30))
    stage.log.answers.clear()
    await turns()
    reads = stage.stats()
    stage.log.answers.set()
    await turns()
    calls = stage.stats()
    release.set()
    await stage.buffer.flush(1)

    assert (reads.delivered, reads.pending, reads.deferred, reads.reread_total) == (2, 28, 28, 0)
    assert (calls.delivered, calls.pending, calls.deferred, calls.reread_total) == (4, 26, 12, 16)
    assert stage.stats().delivered == 30
    await stage.buffer.aclose()


@virtual
async def test_reread_event_that_fails_costs_that_event_alone() -> None:
    class Picky(RecordingBatchObserver):
        async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
            raise OSError("no batches today")

    stage = Stage(Picky(Misbehaviour(how=ValueError("bad"), on=lambda event: event.sequence == 7)))
    run = of_run("a", 20)
    await stage.announce(*run)
    report = await stage.buffer.flush(1)

    assert stage.observer.events == [event for event in run if event.sequence != 7]
    assert (report.complete, report.delivered, report.failed, report.dropped) == (True, 19, 1, {})
    await stage.buffer.aclose()


current: ContextVar[str | None] = ContextVar("current", default=None)


@virtual
async def test_reread_event_is_given_in_the_context_in_which_the_first_deferred_one_of_its_run_was_accepted() -> None:
    contexts: dict[tuple[str, int], str | None] = {}

    all_accepted = asyncio.Event()

    async def notes(event: RunLifecycleEvent) -> None:
        await all_accepted.wait()
        contexts[event.run_id, event.sequence] = current.get()
        current.set("changed by the observer")

    stage = Stage(notes, capacity=1)

    async def accept(run_id: str, sequence: int, value: str) -> None:
        current.set(value)
        await stage.announce(make_event(run_id=run_id, sequence=sequence))

    for run_id, sequence, value in [("a", 1, "a1"), ("a", 2, "a2"), ("b", 1, "b1"), ("a", 3, "a3"), ("b", 2, "b2")]:
        await asyncio.create_task(accept(run_id, sequence, value))
    all_accepted.set()
    await stage.buffer.flush(1)

    assert contexts[("a", 1)] == "a1"
    assert {contexts[("a", 2)], contexts[("a", 3)]} == {"a2"}
    assert {contexts[("b", 1)], contexts[("b", 2)]} == {"b1"}
    await stage.buffer.aclose()


@virtual
async def test_contexts_are_kept_of_so_many_runs_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "CONTEXTS", 2)
    contexts: list[tuple[str, str | None]] = []

    async def notes(event: RunLifecycleEvent) -> None:
        contexts.append((event.run_id, current.get()))

    stage = Stage(notes, capacity=1)
    token = current.set("accepted")
    await stage.announce(*(make_event(run_id=f"run-{number}") for number in range(5)))
    current.reset(token)
    await stage.buffer.flush(1)

    assert [run_id for run_id, _ in contexts] == [f"run-{number}" for number in range(5)]
    assert [context for _, context in contexts] == ["accepted"] * 3 + [None] * 2
    await stage.buffer.aclose()


@virtual
async def test_numbers_that_were_never_accepted_are_not_asked_for() -> None:
    stage = Stage()
    run = of_run("a", 9)
    stage.log.write(run)
    accepted = [event for event in run if event.sequence != 6]
    for event in accepted:
        await stage.buffer.on_event(event)
    await stage.buffer.flush(1)

    assert stage.observer.events == accepted
    assert stage.stats().accepted == stage.stats().delivered == 8
    await stage.buffer.aclose()


@virtual
async def test_close_waits_for_what_is_in_the_log() -> None:
    stage = Stage()
    run = of_run("a", 500)
    await stage.announce(*run)
    report = await stage.buffer.aclose(5)

    assert stage.observer.events == run
    assert (report.delivered, report.dropped) == (500, {})


@virtual
async def test_flush_waits_for_what_was_deferred_before_it_and_not_for_what_comes_later() -> None:
    taken: list[RunLifecycleEvent] = []

    async def takes(event: RunLifecycleEvent) -> None:
        await asyncio.sleep(1)
        taken.append(event)

    stage = Stage(takes)
    before = [*of_run("a", 5), *of_run("b", 5)]
    await stage.announce(*before)
    flush = asyncio.create_task(stage.buffer.flush(60))
    await turns()
    await stage.announce(*of_run("a", 5, first=6), *of_run("c", 5))
    report = await flush

    assert report.complete
    assert sorted(event.event_id for event in taken) == sorted(event.event_id for event in before)
    assert stage.stats().pending == 10
    await stage.buffer.aclose(60)
    assert len(taken) == 20


@virtual
async def test_flush_that_runs_out_of_time_says_how_many_of_its_events_wait_in_the_log_too() -> None:
    async def takes(event: RunLifecycleEvent) -> None:
        await asyncio.sleep(1)

    stage = Stage(takes)
    await stage.announce(*of_run("a", 40))
    flush = asyncio.create_task(stage.buffer.flush(5.5))
    await turns()
    await stage.announce(*of_run("b", 40))
    report = await flush

    assert (report.complete, report.delivered, report.pending) == (False, 5, 35)
    assert stage.stats().pending == 75
    await stage.buffer.aclose(0)


@virtual
async def test_events_of_more_runs_than_may_wait_in_the_log_are_dropped_and_told() -> None:
    stage = Stage(GapRecorder(), max_deferred_runs=2)
    a, b, c = of_run("a", 4), of_run("b", 2), of_run("c", 2)
    await stage.announce(*a, *b, *c)
    stats = stage.stats()
    await stage.buffer.flush(1)
    await stage.announce(*(d := of_run("d", 5)))
    await stage.buffer.flush(1)

    assert (stats.pending, stats.deferred, stats.dropped) == (6, 4, {"overflow": 2})
    gap = EventGap(reason="overflow", count=2, first_event_id=c[0].event_id, last_event_id=c[1].event_id)
    assert stage.observer.seen == [*a, *b, gap, *d]
    await stage.buffer.aclose()


@virtual
async def test_the_end_of_a_run_that_may_not_wait_in_the_log_has_reserved_room() -> None:
    stage = Stage(max_deferred_runs=1, terminal_reserve=1)
    end = make_event(END, run_id="b", sequence=3)
    await stage.announce(*of_run("a", 3), *of_run("b", 2), end)
    await stage.buffer.flush(1)

    assert stage.observer.events[-1] is end
    assert stage.stats().dropped == {"overflow": 2}
    await stage.buffer.aclose()


@virtual
async def test_consumer_that_is_cancelled_in_a_read_loses_nothing() -> None:
    stage = Stage()
    run = of_run("a", 5)
    await stage.announce(*run)
    stage.log.answers.clear()
    await turns()
    for task in asyncio.all_tasks():
        if task.get_name() == "trackside-buffer-it":
            task.cancel()
    await turns()
    stage.log.answers.set()

    assert (stage.stats().deferred, stage.stats().consumer_deaths) == (3, 1)
    assert (await stage.buffer.flush(1)).complete
    assert stage.observer.events == run
    await stage.buffer.aclose()


def test_what_one_loop_deferred_is_read_by_the_next() -> None:
    stage = Stage()
    run = of_run("a", 7)

    async def leaves() -> None:
        await stage.announce(*run)
        stage.log.answers.clear()
        await turns()

    async def goes_on() -> None:
        stage.log.answers = asyncio.Event()
        stage.log.answers.set()
        await stage.buffer.flush(1)
        await stage.buffer.aclose()

    run_virtual(leaves())
    assert stage.stats().deferred == 5
    run_virtual(goes_on())
    assert stage.observer.events == run


def test_read_on_a_loop_that_the_buffer_has_left_disturbs_nobody() -> None:
    class Waits(RecordedLog):
        waits = True

        async def read(self, spans: Sequence[EventSpan]) -> list[RunLifecycleEvent]:
            if self.waits:
                self.left = asyncio.get_running_loop().create_future()
                await self.left
            return await super().read(spans)

    stage = Stage(log=(log := Waits()))
    stage.log = log
    run = of_run("a", 7)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(stage.announce(*run))
    loop.run_until_complete(turns())
    log.waits = False

    async def goes_on() -> None:
        await stage.buffer.flush(1)
        assert stage.observer.events == run

    run_virtual(goes_on())
    before = stage.stats()
    log.left.set_result(None)
    loop.run_until_complete(turns())
    loop.close()

    assert stage.stats() == before
    assert stage.observer.events == run


@virtual
async def test_nobody_waits_for_an_observer_that_has_events_in_the_log_to_catch_up() -> None:
    stage = Stage(RecordingObserver(Misbehaviour(how="hang")))
    await stage.announce(*of_run("a", 5))

    with pytest.raises(StopIteration):
        stage.buffer.catch_up().send(None)
    await stage.buffer.aclose(0)


@virtual
async def test_a_slow_observer_with_a_log_is_waited_for_shortly_and_not_again_before_it_has_caught_up() -> None:
    async def takes(event: RunLifecycleEvent) -> None:
        await asyncio.sleep(0.1)

    stage = Stage(takes, capacity=100)
    clock = asyncio.get_running_loop().time
    await stage.announce(*of_run("a", 10))
    await stage.buffer.catch_up()
    assert clock() == 0.25
    await asyncio.sleep(0.5)
    await stage.buffer.catch_up()  # two events wait
    assert clock() == 0.75
    await asyncio.sleep(0.2)
    await stage.buffer.catch_up()  # one event waits, which takes one call
    assert clock() == pytest.approx(1.0)
    await stage.buffer.aclose()
