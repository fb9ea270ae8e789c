"""Streams of clients that go away, take nothing, wait or are many, and of servers that stop: whom that stops, whom not."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from running_server import serving
from speaking_agents import Held, counting
from tests.integration.server.stream_clients import RawClient, events_in, new_thread, parts

from trackside import RunSpec
from trackside.app.server.front import Front
from trackside.app.server.log import ServerLog
from trackside.app.settings import Settings
from trackside.app.wiring import open_app


async def cancelling(served: Any, thread_id: str, way: str) -> tuple[str, str, Any]:
    """A request that starts a run of `held`, or joins one, which the client's going is to cancel: method, path and body."""
    if not way.startswith("join"):
        asked = {"assistant_id": "held", "on_disconnect": "cancel", "stream_mode": ["custom"]}
        return "POST", f"/threads/{thread_id}/runs/{way}", asked
    run = await served.client.runs.create(thread_id, "held")
    path = f"/threads/{thread_id}/runs/{run['run_id']}/{way.removeprefix('join_')}?cancel_on_disconnect=true"
    return "GET", path, None


@pytest.mark.parametrize("way", ["stream", "wait", "join_stream"])
async def test_a_run_is_cancelled_when_the_client_who_wanted_that_goes(serve_agents: Any, way: str) -> None:
    held = Held()
    async with serve_agents({"held": held.agent()}) as served:
        thread_id = await new_thread(served)
        async with RawClient.asking(served, *await cancelling(served, thread_id, way)) as client:
            await client.read_chunk()
            await held.started.wait()
        await asyncio.wait_for(held.cancelled.wait(), 60)
        (run,) = (await served.app.store.threads_of(None).runs(thread_id)).runs
        await served.client.runs.join(thread_id, run.run_id)
        assert (await served.client.runs.get(thread_id, run.run_id))["status"] == "interrupted"


@pytest.mark.parametrize("way", ["stream", "wait", "join_stream", "join"])
async def test_a_run_is_cancelled_when_the_client_goes_who_goes_on_at_its_location_and_wanted_that(
    serve_agents: Any, way: str
) -> None:
    held = Held()
    async with serve_agents({"held": held.agent()}) as served:
        thread_id = await new_thread(served)
        async with RawClient.asking(served, *await cancelling(served, thread_id, way)) as client:
            await client.read_chunk()
            await held.started.wait()
            async with RawClient.asking(served, "GET", client.location) as again:
                await again.read_chunk()
            await asyncio.wait_for(held.cancelled.wait(), 60)
    assert again.location == client.location


@pytest.mark.parametrize("way", ["stream", "join"])
async def test_a_run_of_another_process_is_cancelled_when_the_client_who_wanted_that_goes(
    serve_agents: Any, database_url: str, way: str
) -> None:
    held = Held()
    async with (
        open_app(Settings(database_url=database_url), {"held": held.agent()}) as other,
        serve_agents({"held": counting}) as served,
    ):
        thread_id = await new_thread(served)
        handle = await other.manager.start(RunSpec("held", thread_id=thread_id))
        await held.started.wait()
        path = f"/threads/{thread_id}/runs/{handle.run_id}/{way}?cancel_on_disconnect=true"
        async with RawClient.asking(served, "GET", path) as client:
            await client.read_chunk()
        await asyncio.wait_for(held.cancelled.wait(), 60)
        assert (await handle.result()).status == "cancelled"


async def test_a_run_goes_on_when_its_client_goes_who_did_not_want_that(serve_agents: Any) -> None:
    held = Held()
    async with serve_agents({"held": held.agent()}) as served:
        thread_id = await new_thread(served)
        async with RawClient.asking(
            served, "POST", f"/threads/{thread_id}/runs/stream", {"assistant_id": "held"}
        ) as client:
            await client.read_chunk()
        held.say(None)
        (run,) = (await served.app.store.threads_of(None).runs(thread_id)).runs
        assert await served.client.runs.join(thread_id, run.run_id) == {"done": True}


async def test_a_client_that_takes_nothing_is_let_go_and_the_others_get_everything(
    serve_agents: Any, caplog: pytest.LogCaptureFixture
) -> None:
    held = Held()
    async with serve_agents({"held": held.agent()}) as served:
        options = served.app.parts.options
        thread_id = await new_thread(served)
        run = await served.client.runs.create(thread_id, "held", stream_mode="custom")
        path = f"/threads/{thread_id}/runs/{run['run_id']}/stream"
        patience = options.patience
        object.__setattr__(options, "patience", 0.2)
        async with RawClient.asking(served, "GET", path) as slow:
            await slow.read_until(b"metadata")
            object.__setattr__(options, "patience", patience)
            quick = asyncio.create_task(parts(served.client.runs.join_stream(thread_id, run["run_id"])))
            said = 0
            while "took nothing" not in caplog.text:  # until the buffers between the two are full
                held.say({"n": said, "text": "x" * 300_000})
                said += 1
                await asyncio.sleep(0.01)
        held.say(None)
        got = await quick
        assert [data["n"] for event, data in got if event == "custom"][-1] == said - 1
        assert caplog.text.count("took nothing") == 1


async def test_a_connection_that_waits_says_that_it_is_alive(serve_agents: Any) -> None:
    held = Held()
    async with serve_agents({"held": held.agent()}) as served:
        object.__setattr__(served.app.parts.options, "heartbeat", 0.02)
        thread_id = await new_thread(served)
        base = f"/threads/{thread_id}"
        async with RawClient.asking(served, "POST", f"{base}/runs/stream", {"assistant_id": "held"}) as client:
            await client.read_until(b": heartbeat\r\n\r\n: heartbeat\r\n\r\n")
        async with RawClient.asking(served, "GET", f"{base}/stream") as client:
            await client.read_until(b": heartbeat\r\n\r\n")
        async with RawClient.asking(served, "POST", f"{base}/runs/wait", {"assistant_id": "held"}) as client:
            await client.read_until(b"\n\n\n")
            held.say(None, None)
            await client.read_until(b'{"done":true}')


async def test_five_hundred_streams_at_once(serve_agents: Any) -> None:
    held = Held()
    async with serve_agents({"held": held.agent()}) as served:
        thread_id = await new_thread(served)
        run = await served.client.runs.create(thread_id, "held", stream_mode="custom")
        path = f"/threads/{thread_id}/runs/{run['run_id']}/stream"
        joined = asyncio.Semaphore(0)

        async def follow() -> list[Any]:
            async with RawClient.asking(served, "GET", path) as client:
                await client.read_until(b"metadata")
                joined.release()
                await client.read_until(b"event: end")
                return [data for event, data, _ in events_in(client.body) if event == "custom"]

        async with asyncio.TaskGroup() as group:  # what fails for one of them is seen at once
            followers = [group.create_task(follow()) for _ in range(500)]
            for _ in followers:
                await joined.acquire()
            held.say(*range(10), None)
        assert [follower.result() for follower in followers] == [list(range(10))] * 500


async def test_streams_stop_when_the_server_does_and_say_that_the_run_may_go_on(serve_agents: Any) -> None:
    held = Held()
    async with serve_agents({"held": held.agent()}) as served:
        thread_id = await new_thread(served)
        async with (
            RawClient.asking(served, "POST", f"/threads/{thread_id}/runs/stream", {"assistant_id": "held"}) as run,
            RawClient.asking(served, "GET", f"/threads/{thread_id}/stream") as thread,
        ):
            await run.read_until(b"metadata")
            await thread.read_until(b"metadata")
            served.app.streams.end_all()
            for client in (run, thread):
                await client.read_until(b": the server closes this stream; the run may go on\r\n\r\n")
                assert await client.rest() == b"", "it has no end, but is cut off, so that clients come back"
        held.say(None)


async def test_a_stream_that_is_cut_off_on_purpose_is_no_error_of_the_server(
    serve_agents: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trackside.app.server.log._PATIENCE", 60.0)
    logged = tmp_path / "log"
    with logged.open("w", encoding="utf-8") as file, ServerLog(file, as_json=True) as log:
        async with (
            serve_agents({"counting": counting}) as served,
            serving(Front(served.app.asgi, note=partial(log.say, "request"))) as served.url,
            RawClient.asking(served, "GET", f"/threads/{await new_thread(served)}/stream") as thread,
        ):
            served.app.streams.end_all()
            await thread.read_until(b": the server closes this stream; the run may go on\r\n\r\n")
            assert await thread.rest() == b""
    lines = [json.loads(line) for line in (await asyncio.to_thread(logged.read_text, "utf-8")).splitlines()]
    assert [(line["level"], line["event"], line.get("cut")) for line in lines] == [("info", "request", True)]
