"""The answer that streams a run: whether its client is still there, and what it gives back when the client is gone."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from adverse_wire import AdverseWire
from told_ends import ToldEnds

from trackside.app.server.run_events import RunEvents
from trackside.app.streams import Mirrors, StreamHub
from trackside.harness.types import RunRecord, RunSpec, RunStatus

THREAD, RUN = "thread-1", "run-1"


async def never() -> Any:
    await asyncio.Event().wait()


def following(hub: StreamHub, **more: Any) -> RunEvents:
    return RunEvents(run_id=RUN, reader=hub.read(RUN), ended=never, **more)


async def test_what_brings_a_run_is_given_back_also_if_the_answer_is_cut_off_at_its_head() -> None:
    hub = StreamHub()
    mirrors = Mirrors(hub, AdverseWire(), ToldEnds())
    mirror = mirrors.run(THREAD, RUN)
    shared = mirror.shared
    assert shared is not None
    answer = asyncio.create_task(following(hub, mirror=mirror)({}, never, lambda message: never()))
    await asyncio.sleep(0)
    assert shared.users == {mirror}
    answer.cancel()
    await asyncio.wait((answer,))
    assert shared.users == set()
    await mirrors.aclose()


async def test_that_a_client_has_gone_is_noticed_also_while_the_run_says_something_all_the_time() -> None:
    hub, gone = StreamHub(), asyncio.Event()
    now = datetime.now(UTC)
    run = RunRecord(run_id=RUN, thread_id=THREAD, agent="a", status=RunStatus.running, created_at=now)
    hub.begin(run, RunSpec("a", stream_mode="custom"))

    async def receive() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        """Do as servers do, which drop what nobody takes any more."""

    answer = asyncio.create_task(following(hub, heartbeat=0.1)({}, receive, send))
    gone.set()
    async with asyncio.timeout(20):
        while not answer.done():
            hub.publish(RUN, "custom", "more")
            await asyncio.sleep(0.002)
    await answer
