"""The answer that streams a run: whether its client is still there, and what it gives back when he is not."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from trackside.app.server.run_events import RunEvents
from trackside.app.streams import StreamHub
from trackside.harness.types import RunRecord, RunSpec, RunStatus

THREAD, RUN = "thread-1", "run-1"


async def never() -> Any:
    await asyncio.Event().wait()


def following(hub: StreamHub, **more: Any) -> RunEvents:
    return RunEvents(run_id=RUN, reader=hub.read(RUN), ended=never, **more)


async def test_that_a_client_has_gone_is_noticed_also_while_the_run_says_something_all_the_time() -> None:
    hub, gone = StreamHub(), asyncio.Event()
    now = datetime.now(UTC)
    run = RunRecord(run_id=RUN, thread_id=THREAD, agent="a", status=RunStatus.running, created_at=now)
    hub.begin(run, RunSpec("a", stream_mode="custom"))

    async def receive() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        """As servers do, which let go what nobody takes any more."""

    answer = asyncio.create_task(following(hub, heartbeat=0.1)({}, receive, send))
    gone.set()
    async with asyncio.timeout(20):
        while not answer.done():
            hub.publish(RUN, "custom", "more")
            await asyncio.sleep(0.002)
    await answer
