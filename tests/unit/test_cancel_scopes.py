"""anyio's cancel scopes around code that waits for runs: a scope recognises its own cancel by its message."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from tests.contract.slow_ports import SlowCoordinator

from trackside import RunManager, RunSpec, RunStatus, run_agent


async def sleeper(input: Any) -> None:
    await asyncio.Event().wait()


async def one_run() -> None:
    await run_agent(sleeper)


async def one_run_in_its_turn() -> None:
    first = asyncio.create_task(run_agent(sleeper, thread_id="of-scopes"))
    try:
        await run_agent(sleeper, thread_id="of-scopes")
    finally:
        first.cancel()


async def close() -> None:
    manager = RunManager()
    await manager.start(RunSpec(sleeper))
    await manager.aclose()


@pytest.mark.parametrize("waits", [one_run, one_run_in_its_turn, close])
def test_a_scope_that_is_cancelled_moves_on(waits: Callable[[], Awaitable[None]]) -> None:
    async def story() -> bool:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await waits()
        return scope.cancelled_caught

    assert asyncio.run(story())


@pytest.mark.parametrize("waits", [one_run, close])
def test_a_scope_whose_time_is_up_says_so(waits: Callable[[], Awaitable[None]]) -> None:
    async def story() -> None:
        with anyio.fail_after(0):
            await waits()

    with pytest.raises(TimeoutError):
        asyncio.run(story())


def test_an_agent_that_cleans_up_is_cancelled_once_by_a_scope() -> None:
    cancels = 0

    async def agent(input: Any) -> None:
        nonlocal cancels
        for turns in (1_000_000, 10):
            try:
                for _ in range(turns):
                    await asyncio.sleep(0)
            except asyncio.CancelledError:
                cancels += 1

    async def story() -> None:
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_soon(scope.cancel)
            await run_agent(agent)

    asyncio.run(story())
    assert cancels == 1


def test_a_task_that_is_cancelled_with_words_ends_with_them() -> None:
    async def story() -> None:
        waits = asyncio.create_task(run_agent(sleeper))
        await asyncio.sleep(0)
        waits.cancel("by whoever knows these words")
        await waits

    with pytest.raises(asyncio.CancelledError, match="by whoever knows these words"):
        asyncio.run(story())


def test_a_scope_leaves_no_run_that_it_has_started_but_not_received() -> None:
    async def story() -> RunStatus:
        async with RunManager(coordinator=SlowCoordinator(0.0)) as manager:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await manager.start(RunSpec(sleeper, run_id="unreceived"))
            assert scope.cancelled_caught
            while not manager.stats().ended_by_status:
                await asyncio.sleep(0)
            return (await manager.get("unreceived")).status

    assert asyncio.run(story()) is RunStatus.cancelled
