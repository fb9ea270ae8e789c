"""`BufferedObserver` with a log: events that it has no room for wait there, and it rereads them in their turn.

Times are virtual.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from typing import Any

import pytest
from tests.contract.gap_recorder import GapRecorder
from tests.contract.recorded_log import RecordedLog
from tests.contract.ways_to_run import virtual

from trackside.harness import backlog
from trackside.harness.buffered import BufferedObserver, BufferStats, EventGap, FlushReport
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.ports import EventSpan
from trackside.harness.types import LifecycleEventType
from trackside.testing import Misbehaviour, RecordingBatchObserver, RecordingObserver, make_event, make_run, run_virtual

END = LifecycleEventType.RUN_COMPLETED


def of_run(run_id: str, count: int, *, first: int = 1, **fields: Any) -> list[RunLifecycleEvent]:
    return [make_event(run_id=run_id, sequence=number, **fields) for number in range(first, first + count)]


def in_turns(*runs: Sequence[RunLifecycleEvent]) -> list[RunLifecycleEvent]:
    """The events of several runs of equal length: the first of each, then the second of each …"""
    return [event for row in zip(*runs, strict=True) for event in row]


def by_run(events: Iterable[RunLifecycleEvent]) -> dict[str, list[RunLifecycleEvent]]:
    runs: dict[str, list[RunLifecycleEvent]] = defaultdict(list)
    for event in events:
        runs[event.run_id].append(event)
    return runs


def assert_adds_up(stats: BufferStats) -> None:
    assert stats.accepted == stats.delivered + stats.failed + sum(stats.dropped.values()) + stats.pending


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Stage:
    """A buffer of two events, the log behind it, and what each is given."""

    def __init__(self, observer: Any = None, **options: Any) -> None:
        self.log = RecordedLog()
        self.observer = RecordingObserver() if observer is None else observer
        options = {"capacity": 2, "terminal_reserve": 0, "log": self.log, "name": "it"} | options
        self.buffer = BufferedObserver(self.observer, **options)

    async def announce(self, *events: RunLifecycleEvent) -> None:
        """Write the events, then offer them, as a manager does, without waiting for anything."""
        self.log.write(events)
        for event in events:
            with pytest.raises(StopIteration):
                self.buffer.on_event(event).send(None)

    def stats(self) -> BufferStats:
        stats = self.buffer.stats()
        assert_adds_up(stats)
        return stats


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
