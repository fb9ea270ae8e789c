"""What a required observer does not take is tried again in bounded time, held, and then missed by it and those after it."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from tests.contract.ways_to_run import Gate, required, virtual
from tests.unit.dispatched_runs import NO_RETRIES, POLICY, deliver_run, missed

from trackside.harness import DispatchPolicy, LifecycleEventType, ObserverBinding, RunLifecycleEvent
from trackside.harness.dispatch import ObserverSet
from trackside.harness.errors import ObserverTimeoutError
from trackside.harness.foreign.timelimit import left_behind
from trackside.harness.observer import PartlyTaken
from trackside.harness.observing.bounding import RequiredObserver
from trackside.testing import Misbehaviour, RecordingBatchObserver, RecordingObserver, make_run

STARTED = LifecycleEventType.RUN_STARTED


@virtual
async def test_a_required_observer_is_tried_again_with_growing_pauses_until_the_deadline() -> None:
    store = RecordingObserver(Misbehaviour(how=OSError("locked")))
    loop = asyncio.get_running_loop()
    observers = ObserverSet([required(store)], policy=POLICY)
    with pytest.raises(OSError, match="locked"):
        await observers.deliver(make_run()[:1])
    # 0.1 + 0.2 + 0.4 + 0.5 + 0.5 s; one more pause would end after 2 s.
    assert loop.time() == pytest.approx(1.7)
    assert len(store.offered) == 6


@virtual
async def test_the_deadline_counts_from_the_first_try_of_each_dispatch() -> None:
    store = RecordingObserver(Misbehaviour(how=OSError(), times=4))
    observers = ObserverSet([required(store)], policy=POLICY)
    for event in make_run():
        await observers.deliver([event])
    assert store.events == sorted(store.events, key=lambda e: e.sequence)
    assert len(store.events) == 5


@virtual
async def test_a_cancel_of_the_caller_neither_shortens_nor_repeats_a_dispatch() -> None:
    store = RecordingObserver(Misbehaviour(how=OSError(), on=STARTED, times=2))
    gate = Gate(STARTED)
    observers = ObserverSet([required(store), required(gate)], policy=POLICY)
    delivers = asyncio.create_task(deliver_run(observers))
    for _ in range(4):
        await asyncio.sleep(0.05)
        delivers.cancel()
    await gate.reached.wait()
    delivers.cancel()
    gate.opened.set()
    events = await delivers
    assert delivers.cancelling() == 5, "who dispatches knows of it and goes on with it afterwards"
    assert store.events == gate.events == events
    assert [e.sequence for e in store.offered] == [1, 1, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", [RecordingObserver, RecordingBatchObserver])
@virtual
async def test_what_was_not_taken_is_held_and_comes_before_the_next_event(kind: type[RecordingObserver]) -> None:
    store = kind(Misbehaviour(how=OSError(), on=LifecycleEventType.THREAD_STATUS_UPDATED, nth=1, times=1))
    after = RecordingObserver()
    observers = ObserverSet([required(store), required(after)], policy=NO_RETRIES)
    events = make_run()
    with pytest.raises(OSError):
        await observers.deliver(events[:3])
    taken = 1 if kind is RecordingObserver else 0
    assert after.events == events[:taken], "nobody after it sees what it did not take"
    await observers.deliver(events[3:])
    assert store.events == events
    assert after.events == events, "those after it get what it took late"
    assert await observers.finish("run-1") == []


@virtual
async def test_what_a_required_observer_refuses_twice_is_missed_by_it_and_those_after_it() -> None:
    events = make_run()
    before, after = RecordingObserver(), RecordingObserver()
    picky = RecordingObserver(Misbehaviour(how=OSError(), on=LifecycleEventType.RUN_STARTED))
    observers = ObserverSet([required(before), required(picky), after], policy=replace(NO_RETRIES, buffer=False))
    with pytest.raises(OSError):
        await observers.deliver(events[:3])
    assert (before.events, picky.events, after.events) == (events[:3], [], [])
    await observers.deliver(events[3:])
    assert before.events == events
    assert picky.events == after.events == events[1:]
    assert await missed(observers) == events[:1]


@virtual
async def test_what_the_last_dispatch_left_is_offered_once_more_when_the_run_is_over() -> None:
    events = make_run()
    picky = RecordingObserver(Misbehaviour(how=OSError(), on=LifecycleEventType.RUN_COMPLETED))
    later, after = RecordingObserver(), RecordingObserver()
    observers = ObserverSet([required(picky), required(later), after], policy=replace(NO_RETRIES, buffer=False))
    with pytest.raises(OSError):
        await observers.deliver(events)
    assert await missed(observers) == [events[3]]
    assert picky.events == later.events == after.events == [*events[:3], events[4]]


@virtual
async def test_a_batch_that_was_taken_in_part_is_tried_again_from_there() -> None:
    offers: list[list[int]] = []

    class Partial(RecordingObserver):
        async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
            offers.append([e.sequence for e in events])
            if len(offers) < 3:
                raise PartlyTaken(1, OSError())

    observers = ObserverSet([required(Partial())], policy=POLICY)
    await observers.deliver(make_run())
    assert offers == [[1, 2, 3, 4, 5], [2, 3, 4, 5], [3, 4, 5]]


@virtual
async def test_of_a_batch_that_was_taken_in_part_but_for_no_number_of_events_nothing_was_taken() -> None:
    offers: list[int] = []

    class Partial(RecordingObserver):
        async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
            offers.append(len(events))
            if len(offers) == 1:
                raise PartlyTaken("two", OSError())  # type: ignore[arg-type]

    await ObserverSet([required(Partial())], policy=POLICY).deliver(make_run())

    assert offers == [5, 5]


@pytest.mark.parametrize("is_required", [True, False])
@pytest.mark.parametrize("taken", [5, 99])
@virtual
async def test_a_batch_of_which_all_was_taken_in_part_is_taken(taken: int, is_required: bool) -> None:
    """Found by a generated schedule: the observer was called again, without events."""
    offers: list[int] = []

    class Partial(RecordingObserver):
        async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
            offers.append(len(events))
            raise PartlyTaken(taken, OSError())

    observers = ObserverSet(
        [ObserverBinding(Partial(), required=is_required)], policy=DispatchPolicy(buffer=False, retry_for=2.0)
    )
    await observers.deliver(make_run())
    await observers.deliver(make_run("another")[:1])
    assert offers == [5, 1]


@virtual
async def test_what_is_held_of_a_run_is_said_when_it_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    store = RecordingBatchObserver(Misbehaviour(how=OSError()))
    observers = ObserverSet([required(store)], policy=NO_RETRIES)
    events = make_run()
    for batch in (events[:3], events[3:]):
        with pytest.raises(OSError):
            await observers.deliver(batch)
    with caplog.at_level(logging.ERROR):
        assert await missed(observers) == events
        assert await observers.finish("run-1") == []
    (record,) = caplog.records
    assert record.getMessage() == (
        "run run-1: the required observer RecordingBatchObserver never took: run_started (1),"
        " thread_status_updated (2), human_message (3), run_completed (4), thread_status_updated (5)"
    )


@pytest.mark.parametrize("how", ["hang", "swallow"])
@virtual
async def test_a_required_observer_that_hangs_costs_its_limit(how: Any) -> None:
    store = RecordingObserver(Misbehaviour(how=how))
    loop = asyncio.get_running_loop()
    observers = ObserverSet([required(store)], policy=NO_RETRIES)
    with pytest.raises(ObserverTimeoutError, match="RecordingObserver did not finish within 10 s and was left behind"):
        await observers.deliver(make_run()[:1])
    assert loop.time() == 10
    await asyncio.sleep(1)
    assert left_behind() == (how == "swallow")
    store.release()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert left_behind() == 0


@virtual
async def test_a_call_that_was_left_behind_and_returns_has_taken_nothing_of_what_is_given_again() -> None:
    class GivesUp(RecordingObserver):
        """Its first call takes nothing, and does not say so."""

        async def on_event(self, event: RunLifecycleEvent) -> None:
            if not self.offered:
                self.offered.append(event)
                with suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
                return
            await asyncio.sleep(0.01)  # so that two calls in progress would mix
            await super().on_event(event)

    audit, behind = GivesUp(), RecordingObserver()
    observers = ObserverSet([required(audit), behind], policy=replace(POLICY, buffer=False))
    events = make_run()

    await observers.deliver(events)

    assert left_behind() == 0
    assert audit.events == behind.events == events
    assert audit.offered == [events[0], *events]


@virtual
async def test_what_a_required_observer_makes_a_batch_of_fails_with_what_the_event_fails_with() -> None:
    class Refusal(Exception):
        retryable = False

    class OfOne(RecordingObserver):
        async def on_event(self, event: RunLifecycleEvent) -> None:
            self.offered.append(event)
            raise PartlyTaken(0, Refusal())

    observer = OfOne()
    observers = ObserverSet([required(observer)], policy=POLICY)
    with pytest.raises(Refusal):
        await observers.deliver(make_run())
    assert len(observer.offered) == 1


@virtual
async def test_a_required_observer_by_itself_says_what_the_observer_raised() -> None:
    error = OSError()
    alone = RequiredObserver(RecordingObserver(Misbehaviour(how=error)), NO_RETRIES)
    assert await alone.give(make_run()) == ([], error)
