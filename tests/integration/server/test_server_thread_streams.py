"""Streams of threads as clients get them: over all of a thread's runs, changes by hand, and servers that begin anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from langgraph_sdk import get_client
from running_server import serving
from speaking_agents import counting
from tests.integration.server.stream_clients import RawClient, counted, events_in, new_thread

from trackside import RunContext
from trackside.app.settings import Settings
from trackside.app.streams.frames import Frame, now_ms
from trackside.app.wiring import App, open_app
from trackside.harness.ids import new_id


async def test_a_thread_is_followed_over_its_runs(serve_agents: Any) -> None:
    async with serve_agents({"counting": counting}) as served:
        thread_id = await new_thread(served)
        path = f"/threads/{thread_id}/stream"
        async with (
            RawClient.asking(served, "GET", path) as everything,
            RawClient.asking(served, "GET", f"{path}?stream_mode=lifecycle") as lifecycle,
        ):
            for to in (1, 2):
                await counted(served.client, thread_id, to)
                await everything.read_until(b'"counted":%d' % to)
            for client in (everything, lifecycle):
                while client.body.count(b"run_done") < 2:
                    await client.read_chunk()
        told = events_in(everything.body)
        assert [event for event, _, _ in told] == [
            *("metadata", "custom", "values", "metadata"),
            *("metadata", "custom", "custom", "values", "metadata"),
        ]
        assert [data["status"] for _, data, _ in events_in(lifecycle.body)] == ["run_started", "run_done"] * 2
        async with RawClient.asking(served, "GET", path, Last_Event_ID=told[4][2]) as again:
            await again.read_until(b"run_done")
            assert events_in(again.body) == told[5:]
        async with RawClient.asking(served, "GET", path, Last_Event_ID="-1") as again:
            while again.body.count(b"run_done") < 2:
                await again.read_chunk()
            assert events_in(again.body) == told
        async with RawClient.asking(served, "GET", path, Last_Event_ID="1-1") as again:
            await again.read_until(b"metadata")
            assert events_in(again.body)[0][0] == "gap"


SAID = {
    "messages-tuple": ["messages"],
    "messages": ["messages/metadata", "messages/complete"],
    "custom": ["custom"],
    "internal": ["internal"],
    "values": ["values"],
}


@pytest.mark.parametrize("asked", ["messages-tuple", "messages", "custom", "values"])
async def test_a_thread_says_what_its_runs_were_asked_to_say(serve_agents: Any, asked: str) -> None:
    async def answering(input: Any, run: RunContext) -> Any:
        run.message({"type": "ai", "id": "m1", "content": "hello"})
        run.send({"half": "way"})
        run.send({"of": "nobody"}, mode="internal")
        return {"done": True}

    async with serve_agents({"answering": answering}) as served:
        thread_id = await new_thread(served)
        run = await served.client.runs.create(thread_id, "answering", input={}, stream_mode=asked)
        await served.client.runs.join(thread_id, run["run_id"])
        path = f"/threads/{thread_id}/stream"
        async with RawClient.asking(served, "GET", path, Last_Event_ID="-1") as client:
            await client.read_until(b"run_done")
            told = events_in(client.body)
        assert [event for event, _, _ in told] == ["metadata", *SAID[asked], "metadata"]
        async with RawClient.asking(served, "GET", path, Last_Event_ID=str(told[0][2])) as again:  # behind its start
            await again.read_until(b"run_done")
            assert events_in(again.body) == told[1:]


async def test_of_a_run_whose_start_is_not_kept_a_thread_says_everything_once(serve_agents: Any) -> None:
    async with serve_agents({"counting": counting}) as served:
        thread_id, run_id = await new_thread(served), new_id()
        feed = served.app.streams.threads.feed_of(thread_id)
        for number, (mode, events) in enumerate(SAID.items(), 1):
            for event in events:
                feed.note_part(run_id, Frame(700 + number, mode, event, b"{}", (), now_ms()))
        feed.note_end(run_id, {"status": "success"})
        async with RawClient.asking(served, "GET", f"/threads/{thread_id}/stream", Last_Event_ID="-1") as client:
            await client.read_until(b"run_done")
            told = [event for event, _, _ in events_in(client.body)]
        assert told == ["messages", "custom", "internal", "values", "metadata"]


async def test_who_follows_a_thread_hears_of_its_state_that_is_changed_by_hand_and_of_its_removal(
    serve_agents: Any,
) -> None:
    async with serve_agents({"counting": counting}) as served:
        thread_id = await new_thread(served)
        await served.client.runs.wait(thread_id, "counting", input={"to": 0})
        path = f"/threads/{thread_id}/stream?stream_mode=state_update"
        async with RawClient.asking(served, "GET", path) as client:
            await served.client.threads.update_state(thread_id, {"counted": 7})
            await client.read_until(b"\r\n\r\n")
            await served.client.threads.delete(thread_id)
            while await client.read_chunk():  # to its end
                pass
        ((event, said, _),) = events_in(client.body)
        assert (event, said["state"]["values"], said["thread_id"]) == ("state_update", {"counted": 7}, thread_id)
        assert served.app.streams.threads.known(thread_id) is None


async def test_the_sdk_follows_a_thread(serve_agents: Any) -> None:
    async with serve_agents({"counting": counting}) as served:
        thread_id = await new_thread(served)
        await counted(served.client, thread_id, 1)
        found = []
        async for part in await served.client.threads.join_stream(thread_id, last_event_id="-1"):
            found.append(part.event)
            if len(found) == 4:
                break
        assert found == ["metadata", "custom", "values", "metadata"]


async def test_who_wants_some_agents_alone_is_sent_on_to_a_stream_of_these(serve_agents: Any) -> None:
    async with serve_agents({"counting": counting}) as served:
        asked = {"assistant_id": "counting", "input": {"to": 1}}
        path = "/runs/stream?namespace=a%7Cb&namespace="
        async with RawClient.asking(served, "POST", path, asked | {"stream_resumable": True}) as client:
            assert client.location.endswith("/stream?namespace=a%7Cb&namespace=")
        async with RawClient.asking(served, "POST", path, asked) as client:
            assert client.location.endswith("/stream?namespace=a%7Cb&namespace=&past=0")


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (None, ["metadata", "custom", "values", "metadata"]),
        ("lifecycle", ["metadata", "metadata"]),
    ],
)
async def test_the_sdk_goes_on_following_a_thread_when_the_server_begins_anew(
    database_url: str, wanted: Any, told: list[str]
) -> None:
    served: list[App] = []

    async def newest(scope: Any, receive: Any, send: Any) -> None:
        await served[-1].asgi(scope, receive, send)

    @asynccontextmanager
    async def begun() -> AsyncIterator[None]:
        async with open_app(Settings(database_url=database_url), {"counting": counting}) as app:
            served.append(app)
            yield
            app.streams.end_all()

    modes = {} if wanted is None else {"stream_mode": wanted}
    async with serving(newest) as url, get_client(url=url, api_key=None) as client, asyncio.timeout(60):
        async with begun():
            thread_id = (await client.threads.create())["thread_id"]
            await counted(client, thread_id, 1)
            following = await client.threads.join_stream(thread_id, last_event_id="-1", **modes)
            first = [(await anext(following)).event for _ in told]
        async with begun():
            await counted(client, thread_id, 1)  # before the client is back
            second = [(await anext(following)).event for _ in ["gap", *told]]
            await following.aclose()
    assert first == told
    assert second == ["gap", *told], "what was said meanwhile is not missing, and nobody could know that"
