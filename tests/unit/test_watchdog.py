"""The watchdog: it names once, with the place, what blocks the event loop, and wakes nobody for nothing."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from blockbuster import BlockBuster

from trackside.harness import InvalidSpecError, RunFieldsFilter, RunManager, RunSpec, RunStatus
from trackside.harness.managing.watchdog import LoopWatchdog
from trackside.testing import VirtualClock

LOG = "trackside.watchdog"


class Told(logging.Handler):
    """What the watchdog has said.

    A machine that is slow or stands still adds to it: a loop that does not turn for a moment is blocked, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._more = threading.Condition()
        self.addFilter(RunFieldsFilter())

    def emit(self, record: logging.LogRecord) -> None:
        with self._more:
            self.records.append(record)
            self._more.notify_all()

    def blocks(self) -> bool:
        """Block the loop until that is said. Only once it turns again, if its block was said before this did it."""
        with self._more:
            return self._more.wait_for(self._names_this_place, timeout=10.0)

    def _names_this_place(self) -> bool:
        return bool(self._blocks())

    def _blocks(self) -> list[int]:
        return [number for number, record in enumerate(self.records) if "told.blocks()" in record.getMessage()]

    @property
    def block(self) -> logging.LogRecord:
        """What was said when `blocks` blocked the loop."""
        return self.records[self._blocks()[0]]

    @property
    def since(self) -> list[logging.LogRecord]:
        """What was said after that."""
        return self.records[self._blocks()[0] + 1 :]

    def wait_for_more(self) -> None:
        with self._more:
            assert self._more.wait_for(lambda: self.since, timeout=60.0)


@pytest.fixture
def told(blockbuster: BlockBuster) -> Iterator[Told]:
    blockbuster.deactivate()  # blocking the loop is the point
    handler, logger = Told(), logging.getLogger(LOG)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def nobody_else_watches() -> None:
    for thread in threads():  # of an earlier test: that it ends, and what it still has to say, does not belong here
        thread.join(10.0)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "trackside-watchdog"]


async def gone(there: list[threading.Thread]) -> None:
    """Wait until these threads have ended, without blocking the loop that they may be waiting for."""
    for thread in there:
        await asyncio.to_thread(thread.join, 60.0)
        assert not thread.is_alive()


async def test_an_agent_that_blocks_the_loop_is_named_once_with_its_stack_and_then_said_to_be_over(told: Told) -> None:
    said: list[logging.LogRecord] = []

    async def blocker(input: Any) -> None:
        while not told.blocks():  # in a coroutine: nothing else can happen meanwhile
            await asyncio.sleep(0)
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            pass
        said.extend(told.since)
        await asyncio.to_thread(told.wait_for_more)

    async with RunManager({"blocker": blocker}, block_warning_after=0.02) as manager:
        run = await manager.start(RunSpec("blocker", run_id="r", thread_id="t"))
        assert (await run.result()).status is RunStatus.success
        assert manager.stats().loop_blocks_total >= 1
        there = threads()
    await gone(there)
    assert said == [], "once for a block, however long it takes"
    first, second = told.block, told.since[0]
    assert "run r of agent 'blocker' blocks it" in first.getMessage()
    assert (first.run_id, first.thread_id, first.agent) == ("r", "t", "blocker")  # type: ignore[attr-defined]
    assert "the event loop turns again, after" in second.getMessage()


async def test_of_a_deep_stack_the_frames_are_shown_in_which_it_stands(told: Told) -> None:
    def dive(depth: int) -> bool:
        if depth:
            return dive(depth - 1)
        return told.blocks()

    async def agent(input: Any) -> None:
        while not dive(40):
            await asyncio.sleep(0)

    async with RunManager({"agent": agent}, block_warning_after=0.02) as manager:
        await (await manager.start(RunSpec("agent"))).result()
        there = threads()
    await gone(there)
    said = told.block.getMessage()
    assert "dive(40)" not in said
    assert len(said.splitlines()) < 30


async def test_a_block_by_a_task_that_an_agent_started_is_put_down_to_its_run(told: Told) -> None:
    async def part() -> None:
        while not told.blocks():
            await asyncio.sleep(0)

    async def agent(input: Any) -> None:
        await asyncio.create_task(part(), name="mine")

    async with RunManager({"agent": agent}, block_warning_after=0.02) as manager:
        await (await manager.start(RunSpec("agent", run_id="r"))).result()
    assert "run r of agent 'agent' blocks it" in told.block.getMessage()


async def test_a_block_by_nobodys_task_is_put_down_to_nobody(told: Told) -> None:
    over = asyncio.Event()

    async with RunManager({"agent": lambda _: None}, block_warning_after=0.02) as manager:

        async def agent(input: Any) -> None:
            await over.wait()

        run = await manager.start(RunSpec(agent))
        await asyncio.sleep(0)
        while not told.blocks():
            await asyncio.sleep(0)
        over.set()
        await run.result()
    assert "something blocks it" in told.block.getMessage()
    assert told.block.run_id == ""  # type: ignore[attr-defined]


async def test_a_block_that_only_the_close_of_the_manager_ends_is_said_to_be_over(told: Told) -> None:
    async def blocker(input: Any) -> None:
        while not told.blocks():
            await asyncio.sleep(0)

    async with RunManager({"blocker": blocker}, block_warning_after=0.02) as manager:
        await (await manager.start(RunSpec("blocker"))).result()
        there = threads()
    await gone(there)
    assert "the event loop turns again, after" in told.since[0].getMessage()


async def test_one_thread_watches_all_runs_of_a_manager_and_ends_with_it() -> None:
    before = threads()
    async with RunManager({"agent": asyncio.sleep}, block_warning_after=3_600.0) as manager:
        assert set(threads()) <= {*before}, "there is none before the first run"
        for _ in range(5):
            await (await manager.start(RunSpec("agent", 0))).result()
        watchdog = manager._runs._watchdog
        assert watchdog is not None
        assert not watchdog._asleep, "runs that follow each other do not wake it again"
        (mine,) = [thread for thread in threads() if thread not in before]
        assert mine.daemon
    await gone([mine])


def test_the_thread_ends_with_an_event_loop_that_closes_without_the_manager() -> None:
    before = threads()

    async def leave_it() -> None:
        manager = RunManager({"agent": asyncio.sleep})
        await manager.start(RunSpec("agent", 1e6))
        await asyncio.sleep(0)

    asyncio.run(leave_it())
    for thread in threads():
        if thread not in before:
            thread.join(60.0)
    assert set(threads()) <= set(before)


@pytest.mark.parametrize("options", [{"block_warning_after": None}, {"clock": VirtualClock()}])
async def test_nothing_watches_where_it_is_switched_off_or_time_is_not_the_systems(options: dict[str, Any]) -> None:
    before = threads()
    async with RunManager({"agent": asyncio.sleep}, **options) as manager:
        await (await manager.start(RunSpec("agent", 0))).result()
        assert set(threads()) <= {*before}


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), True, "1"])
async def test_a_threshold_that_is_no_time_is_refused_by_name(seconds: Any) -> None:
    with pytest.raises(InvalidSpecError, match="block_warning_after"):
        RunManager(block_warning_after=seconds)


class Loop:
    """An event loop as the watchdog's thread sees it; it turns when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Callable[[], object]] = []
        self.running = True

    def call_soon_threadsafe(self, call: Callable[[], object]) -> None:
        self.asked.append(call)

    def is_running(self) -> bool:
        return self.running


async def test_an_idle_manager_wakes_nobody() -> None:
    watchdog = LoopWatchdog(1e-9)
    watchdog.enter()
    (mine,) = [thread for thread in threads() if thread is watchdog._thread]
    watchdog.leave()
    while not watchdog._asleep:
        await asyncio.sleep(0)
    watchdog._loop = None  # the thread would fail if it looked
    for _ in range(100):
        await asyncio.sleep(0)
    assert mine.is_alive()
    watchdog.close()
    await gone([mine])


def test_a_loop_that_was_stopped_is_not_blocked(told: Told) -> None:
    loop, watchdog = Loop(), LoopWatchdog(1e-9)
    loop.running = False
    watchdog._loop = loop  # type: ignore[assignment]
    thread = threading.Thread(target=watchdog._look)
    thread.start()
    while not loop.asked:
        os.sched_yield()
    loop.asked[0]()
    thread.join()
    assert watchdog.blocks == 0
    assert told.records == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_forked_process_does_not_wait_for_the_thread_that_it_does_not_have() -> None:
    watchdog = LoopWatchdog(10.0)
    watchdog.enter()
    held = watchdog._work._cond  # type: ignore[attr-defined]
    with held:  # as the thread may hold it at the moment of the fork
        if (child := os.fork()) == 0:
            try:
                watchdog._asleep = True
                watchdog.enter()
                watchdog.close()
                os._exit(0)
            finally:
                os._exit(1)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert status == 0
    watchdog.close()
