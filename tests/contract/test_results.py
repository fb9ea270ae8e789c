"""What the caller of a run gets from its agent, with both ways to run one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.contract.ways_to_run import ByManager, Way, both_ways, virtual

from trackside.harness import RunContext, RunStatus
from trackside.testing import RecordingObserver


async def says(input: str) -> str:
    return f"{input}, too"


def sums(input: list[int]) -> dict[str, int]:
    return {"sum": sum(input)}


async def counts(input: int) -> AsyncIterator[int]:
    for number in range(input):
        yield number


async def nothing(input: str) -> None: ...


@both_ways
@pytest.mark.parametrize(
    ("agent", "input", "output"),
    [(says, "hello", "hello, too"), (sums, [1, 2], {"sum": 3}), (counts, 3, 2), (nothing, "hello", None)],
)
@virtual
async def test_the_caller_gets_what_the_agent_returned(way: Way, agent: Any, input: Any, output: Any) -> None:
    seen = RecordingObserver()
    async with way(seen) as runs:
        result = await runs.run(agent, input)

    assert (result.status, result.output) == (RunStatus.success, output)
    assert all("output" not in event.payload for event in seen.events), "only the caller gets it"


async def asks(input: str, run: RunContext) -> str:
    return f"done: {run.interrupt('May I?')}"


async def fails(input: str) -> str:
    raise ValueError(input)


async def sleeps(input: str) -> str:
    await asyncio.sleep(10)
    return input


@both_ways
@pytest.mark.parametrize(
    ("agent", "status"), [(asks, RunStatus.interrupted), (fails, RunStatus.error), (sleeps, RunStatus.timeout)]
)
@virtual
async def test_a_run_that_came_to_nothing_has_no_output(way: Way, agent: Any, status: RunStatus) -> None:
    async with way() as runs:
        result = await runs.run(agent, "hello", timeout=1.0)

    assert (result.status, result.output) == (status, None)


@virtual
async def test_what_a_caller_does_to_an_output_is_not_what_the_thread_remembers() -> None:
    async def remembers(input: str, run: RunContext) -> dict[str, Any]:
        return {"heard": [*run.values.get("heard", ()), input]}

    async with ByManager() as runs:
        first = await runs.run(remembers, "one", thread_id="thread")
        first.output["heard"].clear()
        second = await runs.run(remembers, "two", thread_id="thread")

    assert second.output == {"heard": ["one", "two"]}
