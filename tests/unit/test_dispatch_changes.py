"""Observers that are added and removed, also during a dispatch: each has the events from the next one on, and once."""

import asyncio
import random

import pytest
from tests.contract.ways_to_run import Gate, required, virtual
from tests.unit.dispatched_runs import POLICY

from trackside.harness import (
    ClosedError,
    CompositeObserver,
    DispatchPolicy,
    LifecycleEventType,
    NotAnObserverError,
    RunLifecycleEvent,
)
from trackside.harness.dispatch import ObserverSet
from trackside.harness.observing.bounding import IN_LINE
from trackside.testing import Misbehaviour, RecordingBatchObserver, RecordingObserver, make_run

STARTED = LifecycleEventType.RUN_STARTED


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
