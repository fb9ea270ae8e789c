"""`StorageObserver` with a spool, on virtual time: when it delivers, what nothing may overtake, what it declines."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster
from tests.contract.ways_to_run import required, virtual
from tests.unit.spooled_log import AwayError, Log, missed, observing, settled

from trackside.app.observers.storage import StorageObserver
from trackside.harness import DispatchPolicy, LifecycleEventType, RunLifecycleEvent, RunManager, RunSpec
from trackside.harness.errors import EventOrderError, TracksideError
from trackside.harness.lifecycle import is_terminal
from trackside.testing import RecordingObserver, VirtualClock, assert_run_order, make_event, make_run

POLICY = DispatchPolicy(call_limit=30.0, retry_for=0.0)


class BrokenError(TracksideError):
    """The log cannot do this."""

    fault = "store"


@virtual
async def test_a_run_that_ends_while_the_log_is_away_is_delivered_when_it_is_back(tmp_path: Path) -> None:
    async def agent(input: Any) -> str:
        log.away = AwayError()
        return "done"

    log = Log()
    async with observing(log, tmp_path / "spool") as (observer, spool):
        async with RunManager(
            {"agent": agent}, observers=[required(observer)], policy=POLICY, clock=VirtualClock()
        ) as manager:
            result = await (await manager.start(RunSpec("agent"))).result()
            assert manager.observers.missed.kept == 2
        log.away = None
        await settled(observer)
        assert spool.waiting == 0

    assert result.error == (
        "the run ended as success, but a required observer did not take that: The log is away;"
        f" kept for later in {tmp_path}/spool"
    )
    assert_run_order(log.events)
    assert sum(is_terminal(event.event_type) for event in log.events) == 1


class Witness(RecordingObserver):
    """Checks whether the log had the events that it is told of."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log
        self.unknown: list[RunLifecycleEvent] = []

    async def on_event(self, event: RunLifecycleEvent) -> None:
        known = {one.event_id for one in self._log.events}
        self.unknown += [] if event.event_id in known else [event]
        await super().on_event(event)


@virtual
async def test_those_behind_it_are_told_of_an_end_once_when_the_log_has_it(tmp_path: Path) -> None:
    async def agent(input: Any) -> str:
        if input == "away":
            log.away = AwayError()
        return "done"

    log = Log()
    witness = Witness(log)
    async with observing(log, tmp_path / "spool") as (observer, _):
        bound = [required(observer), witness]
        async with RunManager({"agent": agent}, observers=bound, policy=POLICY, clock=VirtualClock()) as manager:
            first = await (await manager.start(RunSpec("agent", "away", thread_id="t"))).result()
            assert not any(is_terminal(event.event_type) for event in witness.events)
            await asyncio.sleep(10)
            assert not any(is_terminal(event.event_type) for event in witness.events)
            log.away = None
            second = await (await manager.start(RunSpec("agent", "back", thread_id="t"))).result()
            await settled(observer)

    assert witness.unknown == [], "I11"
    assert [event.event_id for event in witness.events] == [event.event_id for event in log.events]
    for result in (first, second):
        events = [event for event in witness.events if event.run_id == result.run_id]
        assert_run_order(events)
        assert sum(is_terminal(event.event_type) for event in events) == 1


@virtual
async def test_those_behind_it_are_told_by_the_manager_of_the_run(tmp_path: Path) -> None:
    async def agent(input: Any) -> None:
        log.away = AwayError()

    def manager_of(behind: RecordingObserver) -> RunManager:
        return RunManager({"agent": agent}, observers=[required(observer), behind], policy=POLICY, clock=VirtualClock())

    log, one, another = Log(), RecordingObserver(), RecordingObserver()
    async with (
        observing(log, tmp_path / "spool") as (observer, _),
        manager_of(one) as first,
        manager_of(another) as second,
    ):
        of_one = (await (await first.start(RunSpec("agent"))).result()).run_id
        log.away = None
        of_another = (await (await second.start(RunSpec("agent"))).result()).run_id
        log.away = None
        await settled(observer)

    assert {event.run_id for event in one.events} == {of_one}
    assert {event.run_id for event in another.events} == {of_another}
    for behind in (one, another):
        assert_run_order(behind.events)
        assert sum(is_terminal(event.event_type) for event in behind.events) == 1


@virtual
async def test_what_the_log_refuses_in_the_end_is_told_to_nobody(tmp_path: Path) -> None:
    log = Log()
    told: list[RunLifecycleEvent] = []

    async def tell(events: Sequence[RunLifecycleEvent]) -> None:
        told.extend(events)

    run = make_run()
    async with observing(log, tmp_path / "spool") as (observer, _):
        await observer.on_events(run[:3])
        log.away = AwayError()
        await missed(observer, run[3:], tell)
        log.events += make_run()[3:]  # written by somebody else
        log.away = None
        await settled(observer)
        assert (await observer.deliver_spooled()).waiting == 0

    assert told == []


@virtual
async def test_while_the_log_stays_away_the_pauses_grow_up_to_a_minute(tmp_path: Path) -> None:
    log = Log()
    log.away = AwayError()
    async with observing(log, tmp_path / "spool") as (observer, _):
        await missed(observer, make_run())
        log.tries.clear()
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(300)

    assert [round(when - began) for when in log.tries] == [1, 3, 7, 15, 31, 63, 123, 183, 243]


@virtual
async def test_it_delivers_at_once_when_the_log_takes_something_again(tmp_path: Path) -> None:
    log = Log()
    log.away = AwayError()
    async with observing(log, tmp_path / "spool") as (observer, spool):
        await missed(observer, make_run("a", thread_id="a"))
        await asyncio.sleep(100)  # the next try is half a minute away
        log.away = None
        before = asyncio.get_running_loop().time()
        await observer.on_events(make_run("b", thread_id="b"))
        await settled(observer)

        assert spool.waiting == 0
        assert asyncio.get_running_loop().time() - before < 1
    assert [event.run_id for event in log.events] == ["b"] * 5 + ["a"] * 5, "off the path of the run"


@virtual
async def test_a_log_that_refuses_something_is_there_again(tmp_path: Path) -> None:
    log = Log()
    async with observing(log, tmp_path / "spool") as (observer, spool):
        await observer.on_events(make_run("b", thread_id="b"))
        log.away = AwayError()
        await missed(observer, make_run("a", thread_id="a"))
        await asyncio.sleep(100)
        log.away = None
        before = asyncio.get_running_loop().time()
        with pytest.raises(EventOrderError):
            await observer.on_events(make_run("b", thread_id="b"))
        await settled(observer)

        assert spool.waiting == 0
        assert asyncio.get_running_loop().time() - before < 1


@virtual
async def test_a_run_that_goes_on_does_not_wait_for_what_is_spooled_of_other_threads(tmp_path: Path) -> None:
    log = Log()
    log.away = AwayError()
    async with observing(log, tmp_path / "spool") as (observer, spool):
        await missed(observer, make_run("a", thread_id="a"))
        log.away = None
        await observer.on_events(make_run("b", thread_id="b"))

        assert {event.run_id for event in log.events} == {"b"}
        assert spool.waiting == 1


@virtual
async def test_later_events_of_a_run_come_behind_what_is_spooled_of_it(tmp_path: Path) -> None:
    log, events = Log(), make_run()
    async with observing(log, tmp_path / "spool") as (observer, spool):
        log.away = AwayError()
        await missed(observer, events[:4])
        await missed(observer, events[4:])
        assert spool.waiting == 2
        log.away = None
        await observer.on_events([late := make_event(LifecycleEventType.THREAD_STATUS_UPDATED, sequence=6)])

        assert spool.waiting == 0
    assert log.events == [*events, late]


@virtual
async def test_the_next_run_of_a_thread_is_stored_behind_what_is_spooled_of_the_thread(tmp_path: Path) -> None:
    log = Log()
    async with observing(log, tmp_path / "spool") as (observer, _):
        log.away = AwayError()
        await missed(observer, make_run("first", thread_id="t"))
        with pytest.raises(AwayError):
            await observer.on_events(make_run("second", thread_id="t"))
        log.away = None
        await observer.on_events(make_run("second", thread_id="t"))

    assert [event.run_id for event in log.events] == ["first"] * 5 + ["second"] * 5


@virtual
async def test_a_record_that_cannot_be_stored_holds_up_its_own_run_and_not_the_thread(tmp_path: Path) -> None:
    log, events = Log(), make_run("first", thread_id="t")
    async with observing(log, tmp_path / "spool") as (observer, _):
        await observer.on_events(events[:3])
        log.away = BrokenError()
        await missed(observer, events[3:4])
        append = log.append

        async def all_but_the_end(events: Sequence[RunLifecycleEvent]) -> None:
            log.away = BrokenError() if is_terminal(events[0].event_type) else None
            await append(events)

        log.append = all_but_the_end  # type: ignore[method-assign]
        with pytest.raises(BrokenError):
            await observer.on_events(events[4:])
        await observer.on_events(second := make_run("second", thread_id="t"))

    assert log.events == [*events[:3], *second]


@virtual
async def test_many_that_wait_for_the_same_delivery_cause_one(tmp_path: Path) -> None:
    log = Log()
    async with observing(log, tmp_path / "spool") as (observer, _):
        log.away = AwayError()
        await missed(observer, make_run("first", thread_id="t"))
        log.tries.clear()
        tries = [observer.on_events(make_run(f"next-{number}", thread_id="t")) for number in range(50)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)

    assert {type(outcome) for outcome in outcomes} == {AwayError}
    assert len(log.tries) == 1


@virtual
async def test_who_joins_a_delivery_that_began_too_early_for_him_waits_for_the_next(tmp_path: Path) -> None:
    class Gated(Log):
        async def append(self, events: Sequence[RunLifecycleEvent]) -> None:
            if events[0].run_id == "first":
                reached.set()
                await opened.wait()
            await super().append(events)

    log, reached, opened = Gated(), asyncio.Event(), asyncio.Event()
    events = make_run("second", thread_id="other")
    async with observing(log, tmp_path / "spool") as (observer, _):
        await observer.on_missed(make_run("first"), AwayError())
        delivering = asyncio.create_task(observer.deliver_spooled())
        await reached.wait()
        await observer.on_missed(events[:4], AwayError())
        later = asyncio.create_task(observer.on_events(events[4:]))
        await asyncio.sleep(0.01)
        opened.set()
        await asyncio.gather(delivering, later)

    assert [event for event in log.events if event.run_id == "second"] == events


@virtual
async def test_what_the_log_refuses_for_good_is_not_spooled(tmp_path: Path) -> None:
    log = Log()
    async with observing(log, tmp_path / "spool") as (observer, spool):
        await observer.on_events(make_run())
        with pytest.raises(EventOrderError) as refused:
            await observer.on_events(again := make_run())
        assert await observer.on_missed(again, refused.value) is None
        assert spool.waiting == 0


@virtual
async def test_without_a_spool_nothing_is_kept(tmp_path: Path) -> None:
    observer = StorageObserver(Log())

    assert await observer.on_missed(make_run(), AwayError()) is None
    assert (await observer.deliver_spooled()).waiting == 0
    await observer.aclose()


def test_a_record_that_cannot_be_set_aside_is_tried_in_pauses_and_holds_up_no_run(
    tmp_path: Path, blockbuster: BlockBuster
) -> None:
    blockbuster.deactivate()

    @virtual
    async def story() -> None:
        log = Log()
        async with observing(log, tmp_path / "spool") as (observer, spool):
            log.away = AwayError()
            await missed(observer, make_run("gone", thread_id="t")[3:])
            await missed(observer, make_run("before", thread_id="u"))
            (tmp_path / "spool" / "refused.jsonl").mkdir()
            log.away = None
            await observer.on_events(make_run("after", thread_id="u"))
            await asyncio.sleep(0.1)  # since the log is back, it was delivered once more
            tries = len(log.tries)
            for number in range(20):
                await observer.on_events(make_run(f"next-{number}", thread_id="t"))

            assert len(log.tries) == tries + 20, "each of these alone: a full disk does not say that the log is away"
            assert spool.waiting == 1
        assert [event.run_id for event in log.events][:10] == ["before"] * 5 + ["after"] * 5

    story()


@virtual
async def test_deliveries_do_not_run_in_the_context_of_a_run(tmp_path: Path) -> None:
    async def agent(input: Any) -> None:
        log.away = AwayError()

    log = Log()
    async with observing(log, tmp_path / "spool") as (observer, _):
        async with RunManager({"agent": agent}, observers=[required(observer)], policy=POLICY) as manager:
            await (await manager.start(RunSpec("agent"))).result()
        log.away = None
        log.seen_by.clear()
        await settled(observer)

    assert log.seen_by == {None}
