"""What a required observer never took of a run goes to its `on_missed` once, in order, in bounded time."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from tests.contract.ways_to_run import required, virtual

from trackside.harness import (
    DispatchPolicy,
    LifecycleEventType,
    MissedEventsObserver,
    ObserverBinding,
    RunLifecycleEvent,
    RunManager,
    RunResult,
    RunSpec,
    RunStatus,
)
from trackside.harness.dispatch import ObserverSet
from trackside.harness.memory import MemoryStream
from trackside.harness.observer import HearTaken
from trackside.harness.observing.bounding import MissedEvents
from trackside.harness.ports import RunStream
from trackside.testing import (
    Misbehaviour,
    RecordingBatchObserver,
    RecordingObserver,
    VirtualClock,
    assert_run_order,
    make_run,
)

POLICY = DispatchPolicy(call_limit=10.0, retry_for=0.0)
COMPLETED = LifecycleEventType.RUN_COMPLETED
FULL = OSError("disk full")


class Keeper(RecordingBatchObserver):
    """Takes nothing that its plan hits, and keeps what it missed."""

    def __init__(
        self, *plan: Misbehaviour, keeps: Misbehaviour | None = None, place: str | None = "a safe place"
    ) -> None:
        super().__init__(*plan)
        self.kept: list[list[RunLifecycleEvent]] = []
        self.reasons: list[BaseException] = []
        self._keeping = RecordingObserver(*([keeps] if keeps else []))
        self._place = place

    async def on_missed(self, events: Sequence[RunLifecycleEvent], failure: BaseException) -> str | None:
        self.reasons.append(failure)
        await self._keeping.on_event(events[0])
        self.kept.append(list(events))
        return self._place


class LateTaker(Keeper):
    """Keeps what it missed, and takes it when asked to."""

    def __init__(self, *plan: Misbehaviour) -> None:
        super().__init__(*plan)
        self.taken: list[RunLifecycleEvent] = []
        self._later: list[tuple[Sequence[RunLifecycleEvent], HearTaken]] = []

    async def on_missed(
        self, events: Sequence[RunLifecycleEvent], failure: BaseException, on_taken: HearTaken | None = None
    ) -> str | None:
        assert on_taken is not None
        self._later.append((events, on_taken))
        return await super().on_missed(events, failure)

    async def take_now(self) -> None:
        while self._later:
            events, on_taken = self._later.pop(0)
            self.taken += events
            await on_taken(events)


async def deliver(observers: ObserverSet, *batches: Sequence[RunLifecycleEvent]) -> None:
    for batch in batches:
        with pytest.raises(OSError):
            await observers.deliver(batch)


async def run_once(*observers: Any, agent: Any = None, stream: RunStream | None = None) -> RunResult:
    async def echo(input: Any) -> Any:
        return input

    bound = [ObserverBinding(observer, required=True) for observer in observers]
    clock = VirtualClock()
    async with RunManager(
        {"agent": agent or echo}, observers=bound, policy=POLICY, clock=clock, stream=stream
    ) as manager:
        return await (await manager.start(RunSpec("agent", "hello"))).result()


@virtual
async def test_the_rest_of_the_run_is_handed_over_once_and_in_order() -> None:
    keeper = Keeper(Misbehaviour(how=FULL))
    observers = ObserverSet([required(keeper)], policy=POLICY)
    events = make_run()
    await deliver(observers, events[:3], events[3:])

    assert isinstance(keeper, MissedEventsObserver)
    assert await observers.finish("run-1") == [MissedEvents("Keeper", events, "a safe place")]
    assert await observers.finish("run-1") == []
    assert keeper.kept == [events]
    assert keeper.reasons == [FULL]
    assert (observers.missed.kept, observers.missed.lost) == (5, 0)


@virtual
async def test_what_is_taken_at_the_last_offer_is_not_missed() -> None:
    keeper = Keeper(Misbehaviour(how=FULL, on=COMPLETED, times=1))
    observers = ObserverSet([required(keeper)], policy=POLICY)
    events = make_run()
    await deliver(observers, events)

    assert await observers.finish("run-1") == []
    assert (keeper.events, keeper.kept) == (events, [])


@virtual
async def test_an_observer_of_single_events_is_handed_those_that_it_refused() -> None:
    class Single(RecordingObserver):
        kept: Sequence[RunLifecycleEvent] = ()

        async def on_missed(self, events: Sequence[RunLifecycleEvent], failure: BaseException) -> str:
            self.kept = events
            return "a safe place"

    single = Single(Misbehaviour(how=FULL, on=lambda event: event.sequence in {1, 4}))
    observers = ObserverSet([required(single)], policy=POLICY)
    events = make_run()
    await deliver(observers, events[:3], events[3:])
    await observers.finish("run-1")

    assert list(single.kept) == [events[0], events[3]]
    assert single.events == [events[1], events[2], events[4]]


@virtual
async def test_those_bound_after_it_do_not_see_what_is_only_kept() -> None:
    keeper, after = Keeper(Misbehaviour(how=FULL)), RecordingObserver()
    observers = ObserverSet([required(keeper), required(after)], policy=POLICY)
    await deliver(observers, make_run())
    await observers.finish("run-1")

    assert after.offered == []


@pytest.mark.parametrize("buffer", [True, False])
@virtual
async def test_those_bound_after_it_see_once_and_in_order_what_it_takes_after_all(buffer: bool) -> None:
    late, second, last = LateTaker(Misbehaviour(how=FULL)), Keeper(), RecordingObserver()
    before = RecordingObserver()
    policy = DispatchPolicy(retry_for=0.0, buffer=buffer)
    observers = ObserverSet([ObserverBinding(before), required(late), required(second), last], policy=policy)
    events = make_run()
    await deliver(observers, events[:3])
    await observers.finish("run-1")
    await deliver(observers, events[3:])
    await observers.finish("run-1")
    await observers.flush(10)
    assert second.events == last.events == []

    await late.take_now()
    await observers.aclose(10)

    assert late.taken == second.events == last.events == events
    assert before.events == events


@virtual
async def test_what_another_required_observer_refuses_of_that_is_missed_by_it_in_turn() -> None:
    late, second, last = LateTaker(Misbehaviour(how=FULL)), Keeper(Misbehaviour(how=FULL, on=COMPLETED)), Keeper()
    observers = ObserverSet([required(late), required(second), last], policy=POLICY)
    await deliver(observers, events := make_run())
    await observers.finish("run-1")
    await late.take_now()
    await observers.flush(10)

    assert second.kept == [events]
    assert last.events == []
    assert (observers.missed.kept, observers.missed.lost) == (10, 0)


@virtual
async def test_who_is_closed_meanwhile_is_not_told_and_does_not_fail(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    late, last = LateTaker(Misbehaviour(how=FULL)), RecordingObserver()
    observers = ObserverSet([required(late), last], policy=POLICY)
    await deliver(observers, make_run())
    await observers.finish("run-1")
    await observers.aclose(10)
    caplog.clear()
    await late.take_now()

    assert last.events == []
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "the rest of run run-1 was taken when observers were closed" in caplog.text


@virtual
async def test_who_is_bound_no_more_has_nobody_told() -> None:
    late, last = LateTaker(Misbehaviour(how=FULL)), RecordingObserver()
    observers = ObserverSet([required(late), last], policy=POLICY)
    await deliver(observers, make_run())
    await observers.finish("run-1")
    observers.remove(late)
    await late.take_now()
    await observers.aclose(10)

    assert last.events == []


@pytest.mark.parametrize("how", ["hang", "swallow"])
@virtual
async def test_keeping_is_bounded_in_time(how: Any, caplog: pytest.LogCaptureFixture) -> None:
    keeper = Keeper(Misbehaviour(how=FULL), keeps=Misbehaviour(how=how))
    observers = ObserverSet([required(keeper)], policy=POLICY)
    await deliver(observers, make_run())
    began = asyncio.get_running_loop().time()
    (missed,) = await observers.finish("run-1")
    keeper._keeping.release()

    assert asyncio.get_running_loop().time() - began == 10
    assert missed.kept_in is None
    assert observers.missed.lost == 5
    assert "could not keep what it never took" in caplog.text


@pytest.mark.parametrize("how", [OSError("no room"), asyncio.CancelledError(), SystemExit()])
@virtual
async def test_what_an_observer_fails_to_keep_is_said_to_be_lost_and_why(
    how: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    result = await run_once(Keeper(Misbehaviour(how=FULL), keeps=Misbehaviour(how=how)))

    assert (result.error or "").startswith(
        "the run ended as error, but a required observer did not take that: disk full;"
        " it could not be kept for later either, and is lost: "
    )
    (said,) = [record.getMessage() for record in caplog.records if "run_failed" in record.getMessage()]
    assert "; they are lost: it failed (disk full), and could not keep them either (" in said
    if isinstance(how, OSError):
        assert (result.error or "").endswith("lost: no room")
        assert said.endswith("(no room)")


@pytest.mark.parametrize(("place", "told"), [("a safe place", ["success"]), (None, [None])])
@virtual
async def test_who_follows_a_run_is_told_no_end_that_is_kept_nowhere(place: str | None, told: list[str | None]) -> None:
    heard: list[str | None] = []

    class Ends(MemoryStream):
        def close(self, run_id: str, *, end: Mapping[str, Any] | None = None) -> None:
            heard.append(None if end is None else end["status"])
            super().close(run_id, end=end)

    keeper = Keeper(Misbehaviour(how=FULL, on=lambda event: event.event_type is COMPLETED), place=place)
    result = await run_once(keeper, stream=Ends())

    assert result.status is RunStatus.error
    assert heard == told


@virtual
async def test_a_closing_event_loop_that_cancels_the_keeping_does_not_prevent_it() -> None:
    class Struck(Keeper):
        async def on_missed(self, events: Sequence[RunLifecycleEvent], failure: BaseException) -> str | None:
            self.reasons.append(failure)
            if len(self.reasons) == 1:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(1)
            return await super().on_missed(events, failure)

    keeper = Struck(Misbehaviour(how=FULL))
    observers = ObserverSet([required(keeper)], policy=POLICY)
    events = make_run()
    await deliver(observers, events)

    assert [missed.kept_in for missed in await observers.finish("run-1")] == ["a safe place"]
    assert keeper.kept == [events]


@virtual
async def test_the_result_says_that_the_end_was_kept_and_where(caplog: pytest.LogCaptureFixture) -> None:
    keeper = Keeper(Misbehaviour(how=FULL, on=COMPLETED))
    with caplog.at_level(logging.ERROR, "trackside.dispatch"):
        result = await run_once(keeper)

    assert result.status is RunStatus.error
    assert result.error == (
        "the run ended as success, but a required observer did not take that: disk full; kept for later in a safe place"
    )
    assert_run_order([*keeper.events, *keeper.kept[0]])
    (record,) = caplog.records
    assert record.getMessage().endswith(
        "never took: run_completed (4), thread_status_updated (5); it keeps them in a safe place"
    )


@virtual
async def test_a_run_that_was_never_stored_is_kept_whole_and_its_agent_not_called() -> None:
    called: list[object] = []

    async def agent(input: Any) -> None:
        called.append(input)

    keeper = Keeper(Misbehaviour(how=FULL))
    await run_once(keeper, agent=agent)

    (kept,) = keeper.kept
    assert_run_order(kept)
    assert called == []


@virtual
async def test_an_observer_that_declines_to_keep_is_as_one_that_cannot() -> None:
    result = await run_once(Keeper(Misbehaviour(how=FULL), place=None))

    assert "kept" not in (result.error or "")


@virtual
async def test_an_optional_observer_is_never_asked_to_keep_anything() -> None:
    keeper = Keeper(Misbehaviour(how=FULL))
    observers = ObserverSet([keeper], policy=DispatchPolicy(retry_for=0.0, buffer=False))
    await observers.deliver(make_run())

    assert await observers.finish("run-1") == []
    assert keeper.kept == []


@virtual
async def test_what_the_release_of_the_thread_still_has_to_announce_is_handed_over_after_the_rest() -> None:
    class Withdrawing(Keeper):
        """Has the run that waits for the thread withdrawn when the first one's end says that the thread stays busy."""

        async def on_missed(self, events: Sequence[RunLifecycleEvent], failure: BaseException) -> str | None:
            place = await super().on_missed(events, failure)
            if len(self.kept) == 1:
                await second.cancel()
            return place

    async def agent(input: Any) -> None:
        await begin.wait()

    begin = asyncio.Event()
    keeper = Withdrawing(Misbehaviour(how=FULL, on=lambda event: event.run_id == first.run_id and event.sequence > 3))
    async with RunManager(
        {"agent": agent}, observers=[required(keeper)], policy=POLICY, clock=VirtualClock()
    ) as manager:
        first = await manager.start(RunSpec("agent", "hello", thread_id="t"))
        second = await manager.start(RunSpec("agent", "hello", thread_id="t", multitask="enqueue"))
        begin.set()
        result = await first.result()
        await second.result()

    assert "kept for later in a safe place" in (result.error or "")
    end, afterwards = keeper.kept
    assert [event.event_type for event in end] == [COMPLETED]
    assert [event.payload["status"] for event in afterwards] == ["idle"]
    assert_run_order([event for event in [*keeper.events, *end, *afterwards] if event.run_id == first.run_id])
