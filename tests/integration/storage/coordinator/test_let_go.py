"""A coordinator that is closed before its store leaves nothing of itself in the store."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from tests.integration.runs.stage import Agents
from tests.integration.storage.coordinator.conftest import required

from trackside import RunManager, RunSpec
from trackside.app.storage import Store
from trackside.harness.types import RunStatus


async def test_a_closed_coordinator_is_let_go_of_with_its_manager_and_its_agents(store: Store) -> None:
    async def job() -> list[weakref.ref[Any]]:
        async def agent(input: Any) -> Any:
            return input

        coordinator = store.coordinator()
        async with RunManager({"work": agent}, observers=required(store), coordinator=coordinator) as manager:
            assert (await (await manager.start(RunSpec("work", "do"))).result()).output == "do"
            waits = await manager.start(RunSpec("work", "later", after_seconds=3_600))
        await coordinator.aclose()
        await coordinator.aclose()
        left = await store.run(waits.run_id)
        assert left is not None
        assert left.status is RunStatus.pending, "it waits for another"
        return [weakref.ref(one) for one in (coordinator, manager, agent)]

    held = [ref for _ in range(3) for ref in await job()]
    async with asyncio.timeout(30):
        while any(ref() is not None for ref in held):  # a thread may still be finishing its last work for one
            await asyncio.sleep(0.01)
            gc.collect()


async def test_a_run_that_a_closed_coordinator_has_begun_still_hears_that_its_end_is_in_the_log(
    worker: Any, agents: Agents, caplog: pytest.LogCaptureFixture
) -> None:
    one = await worker()
    run = await one.start("first", thread_id="t")
    await agents.until_running("first")
    await one.coordinator.aclose()
    agents.let("first")
    await run.result()

    assert await one.told("t") == [
        "run_started",
        "thread_status_updated busy",
        "human_message",
        "run_completed success",
        "thread_status_updated idle",
    ]
    assert "it is not known yet" not in caplog.text
