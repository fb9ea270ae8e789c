"""Runs through the SDK's client: awaited, followed, left in the background."""

from __future__ import annotations

from typing import Any

from trackside import RunContext


async def counting(input: Any, run: RunContext) -> dict[str, Any]:
    for number in range(3):
        run.send({"number": number})
    return {"counted": 3, "given": input}


async def failing(input: Any) -> None:
    raise ValueError("it cannot be done")


async def test_a_run_is_waited_for_on_a_thread_of_its_own(serve_agents: Any) -> None:
    async with serve_agents({"counting": counting}) as served:
        values = await served.client.runs.wait(None, "counting", input={"up": "to three"})

    assert values == {"counted": 3, "given": {"up": "to three"}}


async def test_a_run_is_followed_to_its_end(serve_agents: Any) -> None:
    async with serve_agents({"counting": counting}) as served:
        stream = served.client.runs.stream(None, "counting", input={}, stream_mode=["custom", "values"])
        parts = [(part.event, part.data) async for part in stream]

    assert parts[0][0] == "metadata"
    assert parts[1:4] == [("custom", {"number": number}) for number in range(3)]
    assert parts[4] == ("values", {"counted": 3, "given": {}})


async def test_a_run_that_fails_says_so_in_its_stream(serve_agents: Any) -> None:
    async with serve_agents({"failing": failing}) as served:
        parts = [part async for part in served.client.runs.stream(None, "failing", input={})]

    assert (parts[-1].event, parts[-1].data) == ("error", {"error": "ValueError", "message": "it cannot be done"})
