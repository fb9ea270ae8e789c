"""Which run started a run: the one whose code starts it, while that goes on, or while its observer's call does."""

import asyncio
import gc
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.contract.shared_ports import SharedCoordinator
from tests.contract.ways_to_run import Way, both_ways, required, virtual

from trackside.harness import (
    LifecycleEventType,
    RunContext,
    RunLifecycleEvent,
    RunManager,
    RunRecord,
    RunSpec,
    RunStatus,
    run_agent,
)
from trackside.harness.errors import RunDepthError
from trackside.harness.ports import Admission
from trackside.testing import RecordingObserver, VirtualClock

COMPLETED = LifecycleEventType.RUN_COMPLETED


async def echo(input: Any) -> Any:
    return input


class Consumer:
    """One per program, started by the first agent that needs it: it does what is asked for, one thing after another."""

    def __init__(self) -> None:
        self._asked: asyncio.Queue[Callable[[], Coroutine[Any, Any, Any]]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    def be_there(self) -> None:
        self._task = self._task or asyncio.create_task(self._consume())

    async def ask[T](self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def answer() -> None:
            done.set_result(await work())

        self._asked.put_nowait(answer)
        return await done

    async def _consume(self) -> None:
        while True:
            await (await self._asked.get())()


def parents(seen: RecordingObserver) -> dict[str, str | None]:
    started = (e for e in seen.events if e.event_type is LifecycleEventType.RUN_STARTED)
    return {event.run_id: event.payload.get("parent_run_id") for event in started}


@both_ways
@virtual
async def test_what_a_run_has_left_behind_that_has_ended_starts_runs_of_no_run_however_many(way: Way) -> None:
    seen = RecordingObserver()
    consumer = Consumer()
    depths: list[int] = []

    async def first(input: Any) -> None:
        consumer.be_there()

    async def again(left: int, run: RunContext) -> None:
        """An agent whose last act is to arrange a later call of itself, as a reminder does."""
        depths.append(run.depth)
        if left:
            asyncio.get_running_loop().call_later(
                1, lambda: later.append(asyncio.create_task(runs.run(again, left - 1)))
            )

    later: list[asyncio.Task[Any]] = []
    async with way(required(seen)) as runs:
        await runs.run(first)
        await consumer.ask(lambda: runs.run(echo))
        await runs.run(again, 12)
        await asyncio.sleep(100)
        await asyncio.gather(*later)
    assert depths == [0] * 13
    assert set(parents(seen).values()) == {None}


@both_ways
@virtual
async def test_a_run_that_has_ended_is_kept_by_none_of_those_that_it_has_set_going(way: Way) -> None:
    begun: list[weakref.ref[RunContext]] = []
    kept: list[RunContext | None] = []
    rounds: set[asyncio.Task[Any]] = set()
    over = asyncio.Event()

    async def again(left: int, run: RunContext) -> None:
        begun.append(weakref.ref(run))
        if left:
            asyncio.get_running_loop().call_later(1, go_on, left - 1)
        else:
            gc.collect()
            kept.extend(one() for one in begun[:-2])  # the last but one set the timer, which is its own
            over.set()

    def go_on(left: int) -> None:
        task = asyncio.create_task(runs.run(again, left))
        rounds.add(task)
        task.add_done_callback(rounds.discard)

    async with way() as runs:
        await runs.run(again, 12)
        await over.wait()
        await asyncio.gather(*rounds)
    assert kept == [None] * 11


@virtual
async def test_runs_that_are_started_by_what_an_ended_run_has_left_behind_need_places() -> None:
    consumer = Consumer()
    counts: Counter[str] = Counter()

    async def first(input: Any) -> None:
        consumer.be_there()

    async def job(input: Any) -> None:
        counts["now"] += 1
        counts["most"] = max(counts["most"], counts["now"])
        await asyncio.sleep(10)
        counts["now"] -= 1

    async with RunManager(clock=VirtualClock(), max_running=1, shutdown_grace=1e6) as manager:
        await (await manager.start(RunSpec(first))).result()
        for _ in range(5):
            await consumer.ask(lambda: manager.start(RunSpec(job)))
    assert counts["most"] == 1


@virtual
async def test_what_an_ended_run_has_left_behind_starts_runs_for_the_run_above_it_that_goes_on() -> None:
    """The run above may wait for them: here it has the only place."""
    seen = RecordingObserver()
    consumer = Consumer()

    async def first(input: Any) -> None:
        consumer.be_there()

    async def outer(input: Any) -> Any:
        await run_agent(first, run_id="first")
        inner = await consumer.ask(lambda: manager.start(RunSpec(echo, "hello", run_id="inner")))
        return (await inner.result()).output

    async with RunManager(observers=[required(seen)], clock=VirtualClock(), max_running=1) as manager:
        assert (await (await manager.start(RunSpec(outer, run_id="outer"))).result()).output == "hello"
    assert parents(seen) == {"outer": None, "inner": "outer"}


@virtual
async def test_a_start_that_is_on_its_way_when_its_run_ends_is_that_runs() -> None:
    seen = RecordingObserver()
    admitted = asyncio.Event()
    starts: list[asyncio.Task[Any]] = []

    class Slow(SharedCoordinator):
        async def admit(self, record: RunRecord, **asked: Any) -> Admission:
            if record.run_id == "inner":
                await admitted.wait()
            return await super().admit(record, **asked)

    async def outer(input: Any) -> None:
        starts.append(asyncio.create_task(manager.start(RunSpec(echo, run_id="inner"))))
        await asyncio.sleep(0)

    async with RunManager(observers=[required(seen)], coordinator=Slow(), clock=VirtualClock()) as manager:
        await (await manager.start(RunSpec(outer, run_id="outer"))).result()
        admitted.set()
        await (await starts[0]).result()
    assert parents(seen) == {"outer": None, "inner": "outer"}


@virtual
async def test_what_an_ended_run_has_left_behind_goes_on_asking_on_behalf_of_its_owner() -> None:
    consumer = Consumer()

    async def first(input: Any) -> None:
        consumer.be_there()

    async def whose(input: Any, run: RunContext) -> str | None:
        return run.owner

    async with RunManager(clock=VirtualClock()) as manager:
        await (await manager.start(RunSpec(first, owner="ada"))).result()
        later = await consumer.ask(lambda: manager.start(RunSpec(whose)))
        assert (await later.result()).output == "ada"
        assert (await consumer.ask(lambda: run_agent(whose))).output == "ada"


async def at_once(start: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    await start()


async def after_a_while(start: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    await asyncio.sleep(1)
    await start()


async def in_a_task(start: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(after_a_while(start))


async def and_awaits_it(start: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    await (await start()).result()


@pytest.mark.parametrize("starts", [at_once, after_a_while, in_a_task, and_awaits_it])
@virtual
async def test_an_observer_that_starts_a_run_at_each_end_is_stopped_although_the_runs_have_ended(starts: Any) -> None:
    refused: list[RunDepthError] = []
    began: list[int] = []

    async def agent(input: Any, run: RunContext) -> None:
        began.append(run.depth)

    async def start() -> Any:
        try:
            assert len(began) < 20, "nothing stops it"
            return await manager.start(RunSpec(agent))
        except RunDepthError as exc:
            refused.append(exc)
            raise

    async def breeds(event: RunLifecycleEvent) -> None:
        if event.event_type is COMPLETED:
            await starts(start)

    async with RunManager(observers=[breeds], clock=VirtualClock()) as manager:
        await manager.start(RunSpec(agent))
        await asyncio.sleep(100)
    assert began == list(range(9))
    assert len(refused) == 1


@virtual
async def test_what_an_observers_call_has_left_behind_starts_runs_of_no_run() -> None:
    seen = RecordingObserver()
    left: list[asyncio.Task[Any]] = []

    async def start() -> None:
        await asyncio.sleep(10)
        await manager.start(RunSpec(echo, run_id="later"))

    async def leaves(event: RunLifecycleEvent) -> None:
        if event.event_type is COMPLETED and not left:
            left.append(asyncio.create_task(start()))

    async with RunManager(observers=[required(seen), leaves], clock=VirtualClock()) as manager:
        await (await manager.start(RunSpec(echo, run_id="first"))).result()
        await asyncio.sleep(20)
    assert parents(seen) == {"first": None, "later": None}


@virtual
async def test_the_agent_of_a_run_that_is_lost_may_await_what_it_starts_while_it_stops() -> None:
    """Another process has its run, but the agent goes on, and has the only place."""
    coordinator = SharedCoordinator()
    cleaned: list[RunStatus] = []

    async def agent(input: Any) -> None:
        try:
            await asyncio.sleep(1e6)
        finally:
            cleaned.append((await (await manager.start(RunSpec(echo))).result()).status)

    async with RunManager(coordinator=coordinator, clock=VirtualClock(), max_running=1) as manager:
        run = await manager.start(RunSpec(agent, run_id="lost"))
        await asyncio.sleep(1)
        await coordinator.end("lost")
        await run.result()
    assert cleaned == [RunStatus.success]
