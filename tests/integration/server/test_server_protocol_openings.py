"""Where a stream of a thread begins for who opens it anew, by version 2 of the protocol, and what it is told of before."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.integration.server.protocol_agents import Held
from tests.integration.server.test_server_protocol import command, ends, events_until, of

from trackside.harness.ids import new_id

DIALECTS = ("sqlite",)
WATCH = ["lifecycle", "input"]


async def count(input: Any) -> Any:
    return {"n": input["n"] + 100}


async def test_who_opens_a_stream_for_a_run_that_waits_for_its_place_is_not_told_of_the_one_before(
    serve_agents: Any,
) -> None:
    held = Held()
    async with serve_agents({"count": count, "held": held}, max_running=1) as served:
        thread_id = new_id()
        async with served.client.threads.stream(thread_id, assistant_id="count") as it:
            await it.run.start(input={"n": 1})
            await events_until(it, ends)
            await served.client.runs.create(None, "held", input={})
            await held.begun.wait()
            said = await command(served, thread_id, "run.start", assistant_id="count", input={"n": 2})
            streams = [
                asyncio.create_task(events_until(it, ends, channels)) for channels in (WATCH, ["values", *WATCH])
            ]
            await asyncio.wait(streams, timeout=0.3)  # they are told nothing
            held.let_go.set()
            watched, read = await asyncio.gather(*streams)
    for events in (watched, read):
        assert [one["event"] for one in of(events, "lifecycle")] == ["running", "completed"]
        assert {one["run_id"] for one in of(events, "lifecycle")} == {said["result"]["run_id"]}
    assert of(read, "values") == [{"n": 102}]
