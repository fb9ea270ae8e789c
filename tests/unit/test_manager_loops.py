"""A manager belongs to one event loop: on another one it says so, instead of waiting for what cannot arrive there."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from trackside.harness import RunHandle, RunManager, RunSpec, RunStatus
from trackside.harness.errors import ManagerLoopError


async def elsewhere(asked: Callable[[], Awaitable[Any]]) -> Any:
    """What this call gives in an event loop of another thread."""

    async def ask() -> Any:
        return await asked()

    return await asyncio.to_thread(asyncio.run, ask())


async def first_part(manager: RunManager, run: RunHandle) -> Any:
    return await anext(manager.stream(run.run_id))


ASKED: dict[str, Callable[[RunManager, RunHandle], Awaitable[Any]]] = {
    "start": lambda manager, run: manager.start(RunSpec("waits", thread_id=run.thread_id)),
    "result of the handle": lambda manager, run: run.result(),
    "result of the manager": lambda manager, run: manager.result(run.run_id),
    "stream": first_part,
    "cancel": lambda manager, run: manager.cancel(run.run_id),
    "aclose": lambda manager, run: manager.aclose(),
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
async def test_on_another_loop_than_its_runs_a_manager_refuses_what_would_wait_for_ever(asked: Any) -> None:
    go = asyncio.Event()

    async def waits(input: Any) -> None:
        await go.wait()

    async with RunManager({"waits": waits}) as manager:
        run = await manager.start(RunSpec("waits"))
        with pytest.raises(ManagerLoopError, match="in use on another event loop"):
            await elsewhere(lambda: asked(manager, run))
        assert not manager.closing
        go.set()
        assert (await run.result()).status is RunStatus.success


async def at_once(input: int) -> int:
    return input


async def test_how_a_run_has_ended_is_told_on_any_loop() -> None:
    async with RunManager({"at_once": at_once}) as manager:
        run = await manager.start(RunSpec("at_once", 1))
        await run.result()
        assert (await elsewhere(run.result)).output == 1
        assert (await elsewhere(lambda: manager.get(run.run_id))).status is RunStatus.success
    await elsewhere(manager.aclose)


async def test_what_is_handed_to_its_own_loop_from_a_thread_is_executed_there() -> None:
    loop = asyncio.get_running_loop()

    async def asked(manager: RunManager) -> Any:
        return await (await manager.start(RunSpec("at_once", 2))).result()

    async with RunManager({"at_once": at_once}) as manager:
        await manager.start(RunSpec("at_once", 1))
        handed_over = await asyncio.to_thread(asyncio.run_coroutine_threadsafe, asked(manager), loop)
        assert (await asyncio.wrap_future(handed_over)).output == 2


def test_a_manager_that_has_run_nothing_belongs_to_no_loop_yet() -> None:
    manager = RunManager({"at_once": at_once})

    async def runs() -> Any:
        async with manager:
            return await (await manager.start(RunSpec("at_once", 3))).result()

    assert asyncio.run(runs()).output == 3
