"""A thread is busy from the creation of its run on, whether that has begun or has no place yet."""

from __future__ import annotations

import asyncio
from typing import Any


async def test_a_thread_is_busy_before_its_run_has_a_place(serve_agents: Any) -> None:
    go_on = asyncio.Event()

    async def waits(input: Any) -> dict[str, Any]:
        await go_on.wait()
        return {"done": True}

    async with serve_agents({"waits": waits}, max_running=1) as served:
        threads, runs = served.client.threads, served.client.runs
        first, second = [await threads.create() for _ in range(2)]
        begun = await runs.create(first["thread_id"], "waits", input={})
        queued = await runs.create(second["thread_id"], "waits", input={})

        seen = await threads.get(second["thread_id"])
        listed = {thread["thread_id"]: thread["status"] for thread in await threads.search()}
        status = (await runs.get(second["thread_id"], queued["run_id"]))["status"]
        go_on.set()
        for run in (begun, queued):
            await runs.join(run["thread_id"], run["run_id"])
        after = await threads.get(second["thread_id"])

    assert (status, seen["status"], after["status"]) == ("pending", "busy", "idle")
    assert set(listed.values()) == {"busy"}
