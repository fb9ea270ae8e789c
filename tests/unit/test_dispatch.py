"""How events reach observers: what a set of observers and each one in it promise, whether in line or behind a buffer."""

import asyncio
import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
from tests.contract.recorded_log import RecordedLog
from tests.contract.ways_to_run import Draining, Gate, required, virtual
from tests.unit.dispatched_runs import NO_RETRIES, POLICY, deliver_run, missed

from trackside.harness import (
    CallbackObserver,
    CompositeObserver,
    DispatchPolicy,
    InvalidSpecError,
    LifecycleEventType,
    NullObserver,
    ObserverBinding,
    RunLifecycleEvent,
    RunStatus,
    run_agent,
)
from trackside.harness.dispatch import ObserverSet
from trackside.harness.observer import RunObserver, observer_name
from trackside.harness.observing.bounding import IN_LINE
from trackside.harness.observing.buffered import BufferedObserver, FlushReport
from trackside.testing import Misbehaviour, RecordingBatchObserver, RecordingObserver, assert_run_order, make_run

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
