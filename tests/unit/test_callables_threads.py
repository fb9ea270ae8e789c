"""Agents that are plain functions, in their threads."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.contract.ways_to_run import ByManager, ByRunAgent, Way, both_ways

from trackside.harness import RunContext, RunStatus, StopPolicy
from trackside.harness.adapters import callables


@both_ways
async def test_sixty_four_plain_functions_run_at_once(way: Way) -> None:
    together = threading.Barrier(64, timeout=20)

    def agent(input: int) -> int:
        together.wait()  # passes only if all of them are here
        return input

    async with way() as runs:
        results = await asyncio.gather(*(runs.run(agent, i) for i in range(64)))
    assert {result.status for result in results} == {RunStatus.success}


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two threads for the plain functions of each depth, so that two runs take them all."""
    monkeypatch.setattr(callables, "AGENT_THREADS", 2)
    callables._threads.cache_clear()
    yield
    callables._threads.cache_clear()


@both_ways
@pytest.mark.usefixtures("two_threads")
async def test_plain_functions_that_wait_for_plain_functions_leave_them_threads(way: Way) -> None:
    together = threading.Barrier(2, timeout=20)
    loop = asyncio.get_running_loop()

    def delegates(depth: int) -> int:
        together.wait()  # passes only if all threads of this depth are taken
        below = runs.run(delegates if depth < 3 else echo, depth + 1)
        return int(asyncio.run_coroutine_threadsafe(below, loop).result(20).output)

    def echo(input: int) -> int:
        return input

    async with way() as runs:
        results = await asyncio.gather(*(runs.run(delegates, 0) for _ in range(2)))
    assert [result.output for result in results] == [4, 4]


@pytest.fixture
def startable(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many more threads may be started for agents, as under a limit of processes or of memory."""
    left = [0]
    start = threading.Thread.start

    def start_one(thread: threading.Thread) -> None:
        if thread.name.startswith("trackside-agent"):
            if not left[0]:
                raise RuntimeError("can't start new thread")
            left[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    callables._threads.cache_clear()
    yield left
    callables._threads.cache_clear()


@both_ways
async def test_a_plain_function_that_gets_no_thread_is_not_called_after_its_run(way: Way, startable: list[int]) -> None:
    called: list[str] = []

    async with way() as runs:
        refused = await runs.run(called.append, "refused")
        startable[0] = 1
        taken = await runs.run(called.append, "taken")
    assert (refused.status, taken.status) == (RunStatus.error, RunStatus.success)
    assert "can't start new thread" in str(refused.error)
    assert called == ["taken"]


@both_ways
async def test_plain_functions_wait_for_the_threads_that_could_be_started(way: Way, startable: list[int]) -> None:
    startable[0] = 2
    together = threading.Barrier(2, timeout=20)

    def agent(input: int) -> int:
        together.wait()
        return input

    async with way() as runs:
        results = await asyncio.gather(*(runs.run(agent, i) for i in range(8)))
    assert [result.output for result in results] == [*range(8)]


@both_ways
async def test_a_cancelled_plain_function_is_waited_for(way: Way) -> None:
    running, stop = threading.Event(), threading.Event()
    returned = False

    def agent(input: Any, run: RunContext) -> str:
        nonlocal returned
        running.set()
        stop.wait(20)
        returned = True
        return "too late"

    async with way() as runs:
        run = await runs.start(agent)
        await asyncio.to_thread(running.wait, 20)
        for _ in range(3):
            await run.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
        assert not run.waits.done(), "cancelled is said only when the agent has really stopped"
        stop.set()
        await run.ended()
        assert returned


@pytest.mark.parametrize(
    ("way", "options"),
    [(ByRunAgent, {}), (ByManager, {}), (ByManager, {"stopping": StopPolicy(cancel_after=1_000.0)})],
    ids=["run_agent", "RunManager", "one that may look"],
)
async def test_a_plain_function_that_waits_for_a_thread_is_not_called_once_its_run_shall_stop(
    way: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go, called = threading.Event(), threading.Event(), list[Any]()

    def busy(input: Any) -> None:
        begun.set()
        go.wait(20)

    pool = ThreadPoolExecutor(1)
    monkeypatch.setattr(callables, "_threads", lambda depth: pool)
    async with way(**options) as runs:
        ahead = await runs.start(busy)
        await asyncio.to_thread(begun.wait, 20)
        run = await runs.start(called.append)
        while pool._work_queue.empty():
            await asyncio.sleep(0)
        await run.cancel()
        if options:
            go.set()
        ended = await run.ended()
        go.set()
        await ahead.ended()
    pool.shutdown()
    assert isinstance(ended, asyncio.CancelledError) or ended.status is RunStatus.cancelled
    assert called == []


@both_ways
async def test_a_cancelled_plain_function_that_fails_is_cancelled_and_no_one_complains(way: Way) -> None:
    running = threading.Event()

    def agent(input: Any, run: RunContext) -> str:
        running.set()
        while not run.cancelled:
            threading.Event().wait(0.001)
        raise ValueError("stopped in the middle")

    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    async with way() as runs:
        run = await runs.start(agent)
        await asyncio.to_thread(running.wait, 20)
        await run.cancel()
        ended = await run.ended()
    assert isinstance(ended, asyncio.CancelledError) or ended.status is RunStatus.cancelled
    assert complaints == []
