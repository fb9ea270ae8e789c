"""The order of events where a loop is torn down: each started run ends, and what was being told is told again."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tests.contract.cancelled_runs import OPENING, sleeper
from tests.contract.ways_to_run import ByManager, ByRunAgent, Gate, Way, both_ways, end_of, required, told

from trackside.harness import LifecycleEventType, RunContext, RunLifecycleEvent
from trackside.testing import Misbehaviour, RecordingBatchObserver, RecordingObserver, VirtualTimeLoop, assert_run_order


def tear_down(loop: VirtualTimeLoop) -> None:
    """End a loop as `asyncio.run` does after its main task: cancel every task once, and wait for it."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()


@both_ways
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 20])
@pytest.mark.parametrize("seed", [None, *range(5)])
def test_every_started_run_ends_when_its_loop_is_torn_down(way: Way, turns: int, seed: int | None) -> None:
    seen = RecordingObserver()

    async def plain(input: Any) -> None:
        await asyncio.sleep(3_600)

    async def tidy(input: Any) -> None:
        try:
            await asyncio.sleep(3_600)
        finally:
            await asyncio.sleep(0)

    async def chatty(input: Any, run: RunContext) -> None:
        while True:
            run.message({"type": "human", "content": "still there?"})
            await asyncio.sleep(0)

    async def clumsy(input: Any) -> None:
        try:
            await asyncio.sleep(3_600)
        except asyncio.CancelledError:
            raise ConnectionError("closed in the middle of an answer") from None

    async def story() -> list[Any]:
        runs = way(required(seen))
        started = [await runs.start(agent, "x", run_id=agent.__name__) for agent in (plain, tidy, chatty, clumsy)]
        started += [await runs.start(plain, thread_id="shared", run_id=f"shared-{i}") for i in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        return [runs, started]  # kept alive until the loop has ended

    loop = VirtualTimeLoop(seed=seed)
    kept = loop.run_until_complete(story())
    tear_down(loop)
    assert kept
    taken = {event.event_id: event for event in seen.events}.values()  # a closing loop may repeat a dispatch
    assert_run_order(taken)
    run_ids = {"plain", "tidy", "chatty", "clumsy", "shared-0", "shared-1", "shared-2"}
    assert {e.run_id for e in taken} == run_ids
    assert told(taken, "shared-2")[0] == f"run_cancelled {'task_cancelled' if way is ByRunAgent else 'shutdown'}"
    if way is ByManager:
        ends = {run_id: end_of(taken, run_id).payload.get("cancel_mode") for run_id in run_ids}
        assert ends == dict.fromkeys(run_ids, "shutdown"), "nobody has cancelled any of them"


@both_ways
@pytest.mark.parametrize("during", [LifecycleEventType.RUN_STARTED, LifecycleEventType.RUN_CANCELLED])
def test_a_loop_that_is_torn_down_during_a_dispatch_repeats_it(way: Way, during: LifecycleEventType) -> None:
    gate = Gate(during)

    async def story() -> list[Any]:
        runs = way(required(gate))
        run = await runs.start(sleeper)
        if during is LifecycleEventType.RUN_CANCELLED:
            await asyncio.sleep(1)
            await run.cancel()
        await gate.reached.wait()
        return [runs, run]

    loop = VirtualTimeLoop()
    kept = loop.run_until_complete(story())
    gate.opened.set()
    tear_down(loop)
    assert kept
    assert_run_order({event.event_id: event for event in gate.events}.values())
    assert end_of(gate.events).event_type is LifecycleEventType.RUN_CANCELLED


class AwayAtTheStart(RecordingBatchObserver):
    """A store that is away when a run starts, and that blocks at the run's end until it is `opened`."""

    def __init__(self) -> None:
        super().__init__(Misbehaviour(how=OSError("away"), on=LifecycleEventType.RUN_STARTED, times=1))
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        if any(event.event_type is LifecycleEventType.RUN_FAILED for event in events):
            self.reached.set()
            await self.opened.wait()
        await super().on_events(events)


@both_ways
def test_a_loop_that_is_torn_down_during_a_dispatch_repeats_also_what_was_refused_before(way: Way) -> None:
    store = AwayAtTheStart()

    async def story() -> list[Any]:
        runs = way(required(store))
        run = await runs.start(sleeper)
        await store.reached.wait()
        return [runs, run]

    loop = VirtualTimeLoop()
    kept = loop.run_until_complete(story())
    store.opened.set()
    tear_down(loop)
    assert kept
    assert_run_order(store.events)
    assert told(store.events) == [*OPENING, "run_failed error", "thread_status_updated error"]


class AwayAtTheEnd(RecordingObserver):
    """A store that refuses an event once, takes its time when offered it again, and keeps what it never takes."""

    def __init__(self, refused: LifecycleEventType) -> None:
        super().__init__(Misbehaviour(how=OSError("away"), on=refused))
        self.refused = refused
        self.offers = 0
        self.reached = asyncio.Event()
        self.kept: list[RunLifecycleEvent] = []

    async def on_event(self, event: RunLifecycleEvent) -> None:
        if event.event_type is self.refused:
            self.offers += 1
            if self.offers == 2:
                self.reached.set()
                await asyncio.sleep(3_600)
        await super().on_event(event)

    async def on_missed(self, events: Sequence[RunLifecycleEvent], failure: BaseException) -> str:
        self.kept += events
        return "the spool"


class AwayAtTheEndInBatches(AwayAtTheEnd):
    """The same store, taking batches."""

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        for event in events:
            await self.on_event(event)


@both_ways
@pytest.mark.parametrize("kind", [AwayAtTheEnd, AwayAtTheEndInBatches])
@pytest.mark.parametrize("refused", [LifecycleEventType.RUN_STARTED, LifecycleEventType.RUN_COMPLETED])
def test_a_loop_that_is_torn_down_while_something_is_offered_once_more_loses_nothing_of_it(
    way: Way, refused: LifecycleEventType, kind: type[AwayAtTheEnd]
) -> None:
    store = kind(refused)

    async def plain(input: Any) -> str:
        return "done"

    async def story() -> list[Any]:
        runs = way(required(store))
        run = await runs.start(plain)
        await store.reached.wait()
        return [runs, run]

    loop = VirtualTimeLoop()
    kept = loop.run_until_complete(story())
    tear_down(loop)
    assert kept
    events = {event.event_id: event for event in (*store.events, *store.kept)}.values()
    assert_run_order(sorted(events, key=lambda event: event.sequence))
    assert refused in {event.event_type for event in store.kept}
