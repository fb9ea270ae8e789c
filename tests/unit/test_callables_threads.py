"""Agents that are plain functions, in their threads."""

import asyncio
import threading
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
    monkeypatch.setattr(callables, "_threads", lambda: pool)
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
