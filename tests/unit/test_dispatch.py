"""How events reach observers: what a set of observers, a required and an optional one each promise."""

import asyncio
import logging
import math
import random
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from tests.contract.recorded_log import RecordedLog
from tests.contract.ways_to_run import Draining, Gate, required, virtual

from trackside.harness import (
    CallbackObserver,
    ClosedError,
    CompositeObserver,
    DispatchPolicy,
    InvalidSpecError,
    LifecycleEventType,
    NotAnObserverError,
    NullObserver,
    ObserverBinding,
    RunLifecycleEvent,
    RunStatus,
    run_agent,
)
from trackside.harness.bounding import IN_LINE, RequiredObserver
from trackside.harness.buffered import BufferedObserver, FlushReport
from trackside.harness.dispatch import ObserverSet
from trackside.harness.errors import ObserverTimeoutError
from trackside.harness.observer import PartlyTaken, RunObserver, observer_name
from trackside.harness.timelimit import left_behind
from trackside.testing import Misbehaviour, RecordingBatchObserver, RecordingObserver, assert_run_order, make_run

POLICY = DispatchPolicy(call_limit=10.0, retry_for=2.0, first_pause=0.1, longest_pause=0.5)
NO_RETRIES = DispatchPolicy(call_limit=10.0, retry_for=0.0)
TIMES = ["call_limit", "retry_for", "first_pause", "longest_pause"]
STARTED = LifecycleEventType.RUN_STARTED


class Held(RecordingObserver):
    """Takes nothing until it is released."""

    def __init__(self, released: asyncio.Event) -> None:
        super().__init__()
        self.released = released

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await self.released.wait()
        await super().on_event(event)


async def deliver_run(observers: ObserverSet, run_id: str = "run-1") -> list[RunLifecycleEvent]:
    """Deliver a run's events in two dispatches, as a worker makes them, and return them."""
    events = make_run(run_id)
    for batch in (events[:3], events[3:]):
        await observers.deliver(batch)
    return events


async def missed(observers: ObserverSet, run_id: str = "run-1") -> list[RunLifecycleEvent]:
    """What the only observer that did not take everything never took, and did not keep either."""
    (missed,) = await observers.finish(run_id)
    assert (missed.kept_in, missed.not_kept) == (None, None)
    return list(missed.events)


@virtual
async def test_each_binding_sees_the_events_of_a_run_in_order() -> None:
    seen = [RecordingObserver(), RecordingBatchObserver(), RecordingObserver(), RecordingBatchObserver()]
    observers = ObserverSet([required(seen[0]), required(seen[1]), seen[2], seen[3]], policy=POLICY)
    events = await deliver_run(observers)
    await observers.aclose(10)
    assert all(observer.events == events for observer in seen)
    assert [len(batch) for batch in seen[1].batches] == [3, 2]  # type: ignore[attr-defined]


@virtual
async def test_a_log_is_for_those_who_are_told_of_what_a_required_observer_has_taken() -> None:
    log = RecordedLog()
    released = asyncio.Event()
    first, before, after, own = (Held(released) for _ in range(4))

    async def writes(event: RunLifecycleEvent) -> None:
        log.write([event])

    small = BufferedObserver(own, capacity=1, terminal_reserve=0, max_wait=0)
    bound = [first, before, required(CallbackObserver(writes)), after, small]
    observers = ObserverSet(bound, policy=POLICY, log=log)
    runs = [await deliver_run(observers, f"run-{number}") for number in range(2_500)]
    stats = list(observers.stats().values())
    released.set()
    await observers.aclose(10)

    assert [bool(it.deferred) for it in stats] == [False, False, True, False]
    assert after.events == [event for run in runs for event in run]
    assert len(before.events) < len(after.events)
    assert len(own.events) == 1


@virtual
async def test_runs_that_are_dispatched_at_once_do_not_mix() -> None:
    gate, after = Gate(STARTED), RecordingObserver()
    observers = ObserverSet([required(gate), required(after)], policy=POLICY)
    slow = asyncio.create_task(deliver_run(observers, "slow"))
    await gate.reached.wait()
    quick = await deliver_run(observers, "quick")
    assert after.events == quick
    gate.opened.set()
    assert after.events == quick
    assert [e for e in (await slow, after.events)[1] if e.run_id == "slow"] == await slow


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


@pytest.mark.parametrize("is_required", [True, False])
@virtual
async def test_an_observer_that_empties_the_batch_it_is_given_hides_nothing_from_those_after_it(
    is_required: bool,
) -> None:
    draining, after = Draining(), RecordingBatchObserver()
    observers = ObserverSet(
        [ObserverBinding(draining, required=is_required), required(after)], policy=DispatchPolicy(buffer=False)
    )
    events = await deliver_run(observers)
    assert draining.events == after.events == events


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, value) for field in TIMES for value in [-1, math.nan, math.inf, 10**400, True, "1", [1]]),
        *((field, None) for field in TIMES if field != "call_limit"),
        *((field, 0) for field in TIMES if field != "retry_for"),
        ("first_pause", 1e-9),
        ("longest_pause", 1e-9),
        *(("buffer", value) for value in ["no", 1, None]),
    ],
)
def test_a_policy_that_cannot_be_kept_is_refused_by_the_name_of_what_is_wrong(field: str, value: Any) -> None:
    with pytest.raises(InvalidSpecError, match=re.escape(f"{field} = {value!r} does not fit a run: ")):
        DispatchPolicy(**{field: value})


def test_a_policy_may_be_as_patient_and_as_hasty_as_can_be() -> None:
    DispatchPolicy(call_limit=None, retry_for=0, first_pause=0.001, longest_pause=0.001, buffer=False)
    DispatchPolicy(call_limit=1, retry_for=86_400, first_pause=60, longest_pause=1)


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
async def test_without_a_limit_an_observer_may_take_its_time() -> None:
    gate = Gate(STARTED)
    observers = ObserverSet([gate], policy=DispatchPolicy(call_limit=None, buffer=False))
    delivers = asyncio.create_task(observers.deliver(make_run()))
    await asyncio.sleep(10_000)
    assert not delivers.done()
    gate.opened.set()
    await delivers


@virtual
async def test_an_optional_batch_observer_gets_a_bad_batch_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    bad = RecordingBatchObserver(Misbehaviour(how=ValueError(), on=STARTED))
    observers = ObserverSet([bad], policy=IN_LINE)
    events = make_run()
    await observers.deliver(events)
    assert bad.events == events[1:]
    assert [r.getMessage() for r in caplog.records] == [
        "observer RecordingBatchObserver failed on run_started of run run-1"
    ]


@pytest.mark.parametrize("policy", [IN_LINE, NO_RETRIES])
@virtual
async def test_an_observer_that_overrides_on_event_alone_has_each_event_by_it(policy: DispatchPolicy) -> None:
    class Counting(RecordingBatchObserver):
        counted = 0

        async def on_event(self, event: RunLifecycleEvent) -> None:
            self.counted += 1
            await super().on_event(event)

    gates, watches = Counting(), Counting()
    observers = ObserverSet([required(gates), watches], policy=policy)
    events = await deliver_run(observers)
    await observers.aclose(10)
    assert gates.events == watches.events == events
    assert gates.counted == watches.counted == len(events)
    assert gates.batches == watches.batches == []


@virtual
async def test_a_buffer_that_overrides_on_event_alone_has_each_event_by_it() -> None:
    class OfMessages(BufferedObserver):
        async def on_event(self, event: RunLifecycleEvent) -> None:
            if event.event_type is LifecycleEventType.HUMAN_MESSAGE:
                await super().on_event(event)

    seen = RecordingObserver()
    observers = ObserverSet([OfMessages(seen)], policy=POLICY)
    events = await deliver_run(observers)
    await observers.aclose(10)
    assert seen.events == [event for event in events if event.event_type is LifecycleEventType.HUMAN_MESSAGE]
    (stats,) = observers.stats().values()
    assert (stats.accepted, stats.delivered) == (1, 1)


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


@pytest.mark.parametrize("kind", [RecordingObserver, RecordingBatchObserver])
@pytest.mark.parametrize("how", ["hang", "swallow"])
@virtual
async def test_an_optional_observer_that_hangs_in_line_holds_a_run_up_for_its_whole_limit_only_once(
    kind: type[RecordingObserver], how: Any
) -> None:
    hangs = kind(Misbehaviour(how=how))
    loop = asyncio.get_running_loop()
    observers = ObserverSet([hangs], policy=IN_LINE)

    await deliver_run(observers)

    assert len({event.event_id for event in hangs.offered}) == 5, "each is offered all the same"
    assert 30.0 < loop.time() <= 30.0 + 6 * 3.0
    before = loop.time()
    await observers.deliver(make_run("run-2")[:1])
    assert loop.time() == before + 30.0, "what it did to a run that is over is not held against it"
    hangs.release()
    await asyncio.sleep(0)


@virtual
async def test_an_optional_observer_that_hung_once_has_its_whole_limit_again_when_a_call_ends_in_time() -> None:
    class Slow(RecordingObserver):
        async def on_event(self, event: RunLifecycleEvent) -> None:
            await asyncio.sleep([100.0, 2.0, 20.0][event.sequence - 1])
            await super().on_event(event)

    slow = Slow()
    observers = ObserverSet([slow], policy=IN_LINE)
    events = make_run()[:3]

    for event in events:
        await observers.deliver([event])

    assert slow.events == events[1:]
    assert asyncio.get_running_loop().time() == 30.0 + 2.0 + 20.0


@virtual
async def test_methods_that_raise_before_they_can_be_awaited_are_failures_like_any_other() -> None:
    class Eager(RecordingObserver):
        def on_events(self, events: Sequence[RunLifecycleEvent]) -> Any:
            raise OSError("at once")

    seen = RecordingObserver()
    observers = ObserverSet([Eager(), required(seen)], policy=IN_LINE)
    events = make_run()
    await observers.deliver(events)
    assert seen.events == events
    observers = ObserverSet([required(Eager())], policy=NO_RETRIES)
    with pytest.raises(OSError, match="at once"):
        await observers.deliver(events)
    assert await missed(observers) == events


@virtual
async def test_a_composite_may_be_passed_and_changed_later() -> None:
    first, second = RecordingObserver(), RecordingObserver()
    composite = CompositeObserver([required(first)])
    observers = ObserverSet(composite, policy=POLICY)
    await observers.deliver(make_run("a"))
    composite.add(second, required=True)
    await observers.deliver(make_run("b"))
    composite.remove(first)
    await observers.deliver(make_run("c"))
    assert {e.run_id for e in first.events} == {"a", "b"}
    assert {e.run_id for e in second.events} == {"b", "c"}
    assert observers.bindings == composite.bindings


@virtual
async def test_a_composite_of_ones_own_kind_is_one_required_observer() -> None:
    class Custom(CompositeObserver):
        async def on_event(self, event: RunLifecycleEvent) -> None:
            raise OSError("mine")

    custom = Custom()
    observers = ObserverSet(custom, policy=NO_RETRIES)
    (binding,) = observers.bindings
    assert (binding.observer, binding.required) == (custom, True)
    with pytest.raises(OSError, match="mine"):
        await observers.deliver(make_run())


@virtual
async def test_nobody_to_tell_costs_nothing() -> None:
    for nobody in (ObserverSet(policy=POLICY), ObserverSet([NullObserver()], policy=POLICY)):
        await nobody.deliver(make_run())
        assert nobody._chain == ()
        await nobody.aclose(1)


@virtual
async def test_a_buffer_of_ones_own_is_used_as_it_is_and_not_closed_when_it_is_removed() -> None:
    seen = RecordingObserver()
    own = BufferedObserver(seen, capacity=5, max_wait=0, terminal_reserve=0)
    observers = ObserverSet([own], policy=POLICY)
    await observers.deliver(make_run("a"))
    observers.remove(own)
    await observers.deliver(make_run("b"))
    await own.on_events(make_run("c"))
    assert (await own.aclose()).complete
    assert own.stats().dropped == {"overflow": 5}
    assert {e.run_id for e in seen.events} == {"a"}


async def test_a_buffer_that_is_in_use_on_another_loop_costs_a_run_there_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    released, seen = asyncio.Event(), RecordingObserver()
    shared = BufferedObserver(Held(released), name="shared")
    await shared.on_events(make_run("here"))

    async def echo(input: str) -> str:
        return input

    elsewhere = run_agent(echo, "x", observer=CompositeObserver([shared, seen]))
    result = await asyncio.to_thread(asyncio.run, elsewhere)
    assert (result.status, result.output) == (RunStatus.success, "x")
    assert "observer shared cannot be waited for" in caplog.text
    assert_run_order(seen.events)
    released.set()
    assert (await shared.aclose()).delivered == len(make_run("here"))


async def test_a_buffer_that_is_in_use_on_another_loop_is_left_as_it_is_by_whoever_closes_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    released, seen = asyncio.Event(), RecordingObserver()
    shared = BufferedObserver(Held(released), name="shared")
    await shared.on_events(make_run("here"))

    async def elsewhere() -> tuple[FlushReport, bool]:
        observers = ObserverSet([shared, seen], policy=POLICY)
        await observers.deliver(make_run("there"))
        flushed, _ = await observers.flush(1)
        await observers.aclose(1)
        return flushed, observers.stats()[type(seen).__name__].pending == 0

    waiting = len(make_run("here"))
    flushed, is_closed = await asyncio.to_thread(asyncio.run, elsewhere())
    assert (flushed.complete, flushed.pending, is_closed) == (False, waiting, True)
    assert caplog.text.count("observer shared is left as it is") == 2
    released.set()
    await shared.on_event(make_run("here, later")[0])
    assert (await shared.aclose()).delivered == waiting + 1


@virtual
async def test_what_is_removed_during_a_dispatch_still_gets_its_events() -> None:
    """I19, even when other runs dispatch meanwhile and the buffer is being retired."""
    gate, removed = Gate(STARTED), RecordingObserver()
    observers = ObserverSet([required(gate), removed], policy=POLICY)
    await observers.deliver(make_run("before")[1:])
    slow = asyncio.create_task(observers.deliver(make_run("slow")))
    await gate.reached.wait()
    observers.remove(removed)
    await observers.deliver(make_run("quick"))
    await asyncio.sleep(1_000)
    gate.opened.set()
    await slow
    await asyncio.sleep(1)
    assert [e.run_id for e in removed.events] == ["before"] * 4 + ["slow"]
    assert removed.events[-1].event_type is STARTED
    assert asyncio.all_tasks() == {asyncio.current_task()}, "its buffer has been closed"
    await observers.aclose(1)


class Changing:
    """Takes events one by one; at some of them it binds another, removes itself or one behind it, or fails."""

    def __init__(self, name: str, seed: int, bound: CompositeObserver, told: dict[str, list[int]]) -> None:
        self._name, self._seed, self._bound, self._told = name, seed, bound, told
        bound.add(self, required=self.is_required)

    @property
    def is_required(self) -> bool:
        return len(self._name) % 2 == 0 or self._name in "ac"

    async def on_event(self, event: RunLifecycleEvent) -> None:
        self._told.setdefault(self._name, []).append(event.sequence)
        chance = random.Random(f"{self._seed} {self._name} {event.sequence}")
        if chance.random() < 0.2:
            Changing(f"{self._name}{event.sequence}", self._seed, self._bound, self._told)
        if chance.random() < 0.2:
            gone = {"a": "c", "c": "d", "d": None}.get(self._name, self._name)
            for binding in self._bound.bindings:
                if isinstance(binding.observer, Changing) and binding.observer._name == gone:
                    self._bound.remove(binding.observer)
        if chance.random() < 0.2 and not self.is_required:
            raise OSError("an optional one")

    @classmethod
    def four(cls, seed: int) -> tuple[CompositeObserver, dict[str, list[int]]]:
        bound, told = CompositeObserver(), dict[str, list[int]]()
        for name in "abcd":
            cls(name, seed, bound, told)
        bound.add(RecordingBatchObserver())
        return bound, told


@pytest.mark.parametrize("seed", range(100))
@virtual
async def test_observers_that_come_and_go_at_one_event_of_several_count_from_the_next_one(seed: int) -> None:
    events = make_run(messages=4)
    singly, told = Changing.four(seed)
    for event in events:
        await singly.on_event(event)

    in_line, told_in_line = Changing.four(seed)
    await ObserverSet(in_line, policy=IN_LINE).deliver(events)
    inside, told_inside = Changing.four(seed)
    await ObserverSet([inside], policy=IN_LINE).deliver(events)

    assert told_in_line == told_inside == told
    for composite in (in_line, inside):
        batches = next(b.observer for b in composite.bindings if isinstance(b.observer, RecordingBatchObserver))
        assert batches.events == events


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("nested", [False, True])
@virtual
async def test_an_observer_that_one_behind_it_binds_anew_hears_each_event_once(nested: bool, required: bool) -> None:
    heard: list[int] = []

    async def audit(event: RunLifecycleEvent) -> None:
        heard.append(event.sequence)

    async def last(event: RunLifecycleEvent) -> None:
        if event.sequence == 1:
            bound.remove(audit)
            bound.add(audit, required=required)

    bound = CompositeObserver([audit, last])
    events = make_run(messages=2)
    observers = ObserverSet([bound] if nested else bound, policy=IN_LINE)
    await observers.deliver(events[:3])
    await observers.deliver(events[3:])
    assert heard == [event.sequence for event in events]


@virtual
async def test_an_observer_that_is_bound_once_more_hears_what_comes_next_once_more() -> None:
    heard: list[int] = []

    async def audit(event: RunLifecycleEvent) -> None:
        heard.append(event.sequence)

    async def last(event: RunLifecycleEvent) -> None:
        if event.sequence == 1:
            bound.add(audit)

    bound = CompositeObserver([audit, last])
    await bound.on_events(make_run()[:3])
    assert heard == [1, 2, 3, 2, 3]


@virtual
async def test_who_refuses_an_event_hears_no_later_one_where_somebody_has_come_at_one_of_them() -> None:
    class Adding(RecordingObserver):
        async def on_event(self, event: RunLifecycleEvent) -> None:
            await super().on_event(event)
            if event.sequence == 1:
                bound.add(late)

    adding, refusing, last, late = (
        Adding(),
        RecordingObserver(Misbehaviour(how=OSError("locked"))),
        RecordingObserver(),
        RecordingObserver(),
    )
    between = RecordingObserver()
    bound = CompositeObserver([adding, between, required(refusing), last])
    events = make_run()
    with pytest.raises(OSError, match="locked"):
        await bound.on_events(events)
    assert adding.events == between.events == events
    assert refusing.offered == events[:1]
    assert last.events == late.events == []


@virtual
async def test_who_is_taken_away_at_an_event_that_another_one_refuses_hears_no_later_one() -> None:
    class Removing(RecordingObserver):
        async def on_event(self, event: RunLifecycleEvent) -> None:
            await super().on_event(event)
            if event.sequence == 1:
                bound.remove(gone)

    removing, gone, stays = Removing(), RecordingObserver(), RecordingObserver()
    bound = CompositeObserver([removing, gone, stays, required(RecordingObserver(Misbehaviour(how=OSError("locked"))))])
    events = make_run()
    with pytest.raises(OSError, match="locked"):
        await bound.on_events(events)
    assert removing.events == stays.events == events
    assert gone.events == events[:1]


@virtual
async def test_what_a_required_observer_adds_at_an_event_that_it_takes_at_the_second_try_counts_from_the_next() -> None:
    class Adding(RecordingObserver):
        async def on_event(self, event: RunLifecycleEvent) -> None:
            if not self.offered:
                observers.add(late, required=True)
            await super().on_event(event)

    adding, late = Adding(Misbehaviour(how=OSError("locked"), times=1)), RecordingObserver()
    first, last = RecordingObserver(), RecordingObserver()
    observers = ObserverSet([required(first), required(adding), required(last)], policy=POLICY)
    events = make_run()
    await observers.deliver(events)
    assert first.events == adding.events == last.events == events
    assert late.events == events[1:]


@virtual
async def test_closing_waits_for_what_was_removed_and_is_slow() -> None:
    slow = Gate(STARTED)
    observers = ObserverSet([slow], policy=DispatchPolicy(call_limit=None))
    await observers.deliver(make_run("a"))
    observers.remove(slow)
    await observers.deliver(make_run("b"))
    closes = asyncio.create_task(observers.aclose(10))
    await asyncio.sleep(5)
    slow.opened.set()
    await closes
    assert {e.run_id for e in slow.events} == {"a"}
    assert asyncio.all_tasks() == {asyncio.current_task()}


@virtual
async def test_after_the_close_nobody_can_be_added() -> None:
    observers = ObserverSet(policy=POLICY)
    await observers.aclose(1)
    await observers.aclose(1)
    with pytest.raises(ClosedError):
        observers.add(RecordingObserver())


@virtual
async def test_what_is_not_bound_cannot_be_removed_and_what_is_no_observer_cannot_be_added() -> None:
    observers = ObserverSet(policy=POLICY)
    with pytest.raises(ValueError, match="is not bound"):
        observers.remove(RecordingObserver())
    with pytest.raises(NotAnObserverError):
        observers.add(5)  # type: ignore[arg-type]
    with pytest.raises(NotAnObserverError):
        ObserverSet([5], policy=POLICY)  # type: ignore[list-item]


@virtual
async def test_flush_reports_for_every_buffer() -> None:
    quick, stuck = RecordingObserver(), RecordingObserver(Misbehaviour(how="hang"))
    observers = ObserverSet([quick, required(RecordingObserver()), stuck], policy=DispatchPolicy(call_limit=None))
    await observers.deliver(make_run())
    first, second = await observers.flush(5)
    assert (first.complete, first.pending, len(quick.events)) == (True, 0, 5)
    assert (second.complete, second.pending) == (False, 5)
    stuck.release()
    await observers.aclose(5)


@virtual
async def test_a_required_observer_by_itself_says_what_the_observer_raised() -> None:
    error = OSError()
    alone = RequiredObserver(RecordingObserver(Misbehaviour(how=error)), NO_RETRIES)
    assert await alone.give(make_run()) == ([], error)


@virtual
async def test_the_same_observer_bound_twice_sees_each_event_twice() -> None:
    seen = RecordingObserver()
    observers = ObserverSet([ObserverBinding(seen, required=True), ObserverBinding(seen, required=True)], policy=POLICY)
    events = make_run()
    await observers.deliver(events)
    assert seen.events == [*events, *events]


@virtual
async def test_observers_that_are_closed_before_the_first_event_are_closed() -> None:
    buffer, seen = BufferedObserver(RecordingObserver()), RecordingObserver()
    observers = ObserverSet([buffer, seen], policy=POLICY)
    await observers.aclose(5)
    await observers.deliver(make_run())  # as a run does that was left behind
    assert (buffer.stats().accepted, seen.events) == (0, [])
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("trackside-buffer")]


@virtual
async def test_the_numbers_of_each_observer_behind_a_buffer_go_by_the_name_of_its_binding() -> None:
    bound = [
        required(RecordingObserver()),
        ObserverBinding(RecordingObserver(), name="mail"),
        RecordingObserver(),
        RecordingObserver(),
    ]
    observers = ObserverSet(bound, policy=POLICY)
    await deliver_run(observers)
    await observers.flush(10)
    assert {name: stats.delivered for name, stats in observers.stats().items()} == {
        "mail": 5,
        "RecordingObserver": 5,
        "RecordingObserver 2": 5,
    }
    await observers.aclose(10)


@virtual
async def test_an_observer_is_called_the_same_for_as_long_as_it_is_bound() -> None:
    def delivered() -> dict[str, int]:
        return {name.removeprefix("Recording"): stats.delivered for name, stats in observers.stats().items()}

    first, named = RecordingObserver(), ObserverBinding(RecordingObserver(), name="RecordingObserver 3")
    observers = ObserverSet([first, RecordingObserver(), named], policy=POLICY)
    await deliver_run(observers, "a")
    observers.remove(first)
    await deliver_run(observers, "b")
    await observers.flush(10)
    assert delivered() == {"Observer 2": 10, "Observer 3": 10}

    observers.add(RecordingObserver())
    observers.add(RecordingObserver())
    await deliver_run(observers, "c")
    await observers.flush(10)
    assert delivered() == {"Observer 2": 15, "Observer 3": 15, "Observer": 5, "Observer 4": 5}
    await observers.aclose(10)


def test_an_observer_that_passes_events_on_is_called_as_the_one_behind_it() -> None:
    class Forwarder:
        def __init__(self, observer: RunObserver) -> None:
            self.__wrapped__ = observer

        async def on_event(self, event: RunLifecycleEvent) -> None: ...

    assert observer_name(Forwarder(Forwarder(NullObserver()))) == "NullObserver"
