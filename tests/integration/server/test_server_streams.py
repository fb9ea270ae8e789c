"""Streams of runs and threads as clients get them: from wherever they begin, cut off at any point, however slow they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph_sdk import get_client
from langgraph_sdk.errors import UnprocessableEntityError
from langgraph_sdk.sse import SSEDecoder
from running_server import serving
from speaking_agents import Held, counting

from trackside import RunContext, RunSpec
from trackside.app.server.front import Front
from trackside.app.server.log import ServerLog
from trackside.app.settings import Settings
from trackside.app.streams import HubLimits
from trackside.app.streams.frames import Frame, now_ms
from trackside.app.wiring import App, open_app
from trackside.harness.ids import new_id


async def speaking(input: Any, run: RunContext) -> dict[str, Any]:
    run.message({"type": "ai", "content": "hello", "id": "m1"})
    return {"messages": [{"type": "ai", "content": "hello", "id": "m1"}]}


async def new_thread(served: Any) -> str:
    return str((await served.app.store.threads_of(None).create()).thread_id)


async def counted(client: Any, thread_id: str, to: int) -> None:
    """A run of `counting` on a thread, which is asked for each number, too, and ends."""
    run = await client.runs.create(thread_id, "counting", input={"to": to}, stream_mode=["custom", "values"])
    await client.runs.join(thread_id, run["run_id"])


def events_in(text: bytes) -> list[tuple[str, Any, str | None]]:
    """The events of a stream, as the SDK reads them."""
    decoder = SSEDecoder()
    decoded = [decoder.decode(line) for line in text.replace(b"\r\n", b"\n").split(b"\n")]
    return [(part.event, part.data, part.id) for part in decoded if part is not None]


class RawClient:
    """A client on a bare socket, that reads as much as it likes and goes when it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.body = b""
        self.location = ""

    @classmethod
    @asynccontextmanager
    async def asking(
        cls, served: Any, method: str, path: str, body: Any = None, **headers: str
    ) -> AsyncIterator[RawClient]:
        host, port = served.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        content = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(content)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        client = cls(reader, writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            client.location = next((line[10:] for line in head if line.lower().startswith("location: ")), "")
            yield client
        finally:
            writer.transport.abort()

    async def read_chunk(self) -> bytes:
        """The next chunk of the body; empty at its end."""
        size = int(await self._reader.readline(), 16)
        data = (await self._reader.readexactly(size + 2))[:-2]
        self.body += data
        return data

    async def read_until(self, text: bytes) -> None:
        """Read until the body has this."""
        while text not in self.body:
            assert await self.read_chunk(), "the stream has ended before"

    async def rest(self) -> bytes:
        """What comes until the connection is closed, as it comes."""
        return await self._reader.read()


async def parts(stream: Any) -> list[tuple[str, Any]]:
    return [(part.event, part.data) async for part in stream]


async def test_frames_are_as_clients_expect_them(serve_agents: Any) -> None:
    async with serve_agents({"counting": counting}) as served, httpx.AsyncClient(base_url=served.url) as http:
        asked = {"assistant_id": "counting", "input": {"to": 1}, "stream_mode": ["custom", "values"]}
        plain = (await http.post("/runs/stream", json=asked)).content
        resumable = (await http.post("/runs/stream", json=asked | {"stream_resumable": True})).content
    frames = plain.split(b"\r\n\r\n")
    assert frames[0].startswith(b'event: metadata\r\ndata: {"run_id":"')
    assert frames[0].endswith(b'","attempt":1}')
    assert frames[1:3] == [b'event: custom\r\ndata: {"n":0}', b'event: values\r\ndata: {"counted":1}']
    assert frames[3].startswith(b"event: end\r\ndata: ")
    assert frames[4] == b""
    assert b"id:" not in plain
    ids = [line for line in resumable.split(b"\r\n") if line.startswith(b"id: ")]
    numbers = [int(line.rpartition(b"-")[2]) for line in ids]
    assert numbers == [0, 1, 2]


async def test_only_what_was_asked_for_is_said(serve_agents: Any) -> None:
    async with serve_agents({"counting": counting}) as served:
        runs = served.client.runs
        default = await parts(runs.stream(None, "counting", input={"to": 2}))
        assert [event for event, _ in default] == ["metadata", "values", "end"]
        thread_id = await new_thread(served)
        modes = ["custom", "values"]
        run = await runs.create(thread_id, "counting", input={"to": 2}, stream_mode=modes)
        joined = await parts(runs.join_stream(thread_id, run["run_id"]))
        assert [event for event, _ in joined] == ["metadata", "custom", "custom", "values", "end"]
        filtered = await parts(runs.join_stream(thread_id, run["run_id"], stream_mode="values"))
        assert [event for event, _ in filtered] == ["metadata", "values", "end"]
        async with httpx.AsyncClient(base_url=served.url) as http:
            path = f"/threads/{thread_id}/runs/{run['run_id']}/stream"
            array = await http.get(path, params={"stream_mode": '["updates","values"]'})
        assert [event for event, _, _ in events_in(array.content)] == ["metadata", "values", "end"]


async def test_a_stream_ends_after_its_runs_end_is_stored(serve_agents: Any) -> None:
    async with serve_agents({"counting": counting}) as served:
        runs = served.client.runs
        thread_id = await new_thread(served)
        for _ in range(10):
            run_ids: list[str] = []
            stream = runs.stream(
                thread_id,
                "counting",
                input={"to": 1},
                on_run_created=lambda meta, ids=run_ids: ids.append(meta["run_id"]),
            )
            stored = [await served.app.store.run(run_ids[0]) async for part in stream if part.event == "end"]
            assert [run.status for run in stored] == ["success"]


@pytest.mark.parametrize("resumable", [True, False])
async def test_a_client_that_is_cut_off_at_any_point_goes_on_without_a_gap_or_a_repeat(
    serve_agents: Any, *, resumable: bool
) -> None:
    held = Held()
    async with serve_agents({"held": held.agent()}) as served:
        thread_id = await new_thread(served)
        asked = {"assistant_id": "held", "stream_mode": ["custom", "values"], "stream_resumable": resumable}
        for seen in range(5):
            path = f"/threads/{thread_id}/runs/stream"
            async with RawClient.asking(served, "POST", path, asked) as client:
                await client.read_until(b"metadata")
                run_id = events_in(client.body)[0][1]["run_id"]
                for number in range(seen):
                    held.say(number)
                    await client.read_until(b"data: %d\r\n" % number)
            got = events_in(client.body)
            held.say(*range(seen, 4), None)
            base = f"/threads/{thread_id}/runs/{run_id}"
            if not resumable:
                await served.client.runs.join(thread_id, run_id)
                async with RawClient.asking(served, "GET", f"{base}/stream?past=0") as again:
                    await again.read_until(b"event: end")
                assert [event for event, _, _ in events_in(again.body)] == ["end"]
                continue
            async with RawClient.asking(served, "GET", f"{base}/stream", Last_Event_ID=got[-1][2]) as again:
                await again.read_until(b"event: end")
            numbers = [data for event, data, _ in [*got, *events_in(again.body)] if event == "custom"]
            assert numbers == [0, 1, 2, 3]


async def test_a_client_without_ids_that_is_cut_off_twice_is_told_nothing_again(serve_agents: Any) -> None:
    held = Held()
    async with serve_agents({"held": held.agent()}) as served:
        thread_id = await new_thread(served)
        run = await served.client.runs.create(thread_id, "held", stream_mode="custom")
        path = f"/threads/{thread_id}/runs/{run['run_id']}/stream?stream_mode=custom&namespace="
        for number in range(3):
            async with RawClient.asking(served, "GET", path) as client:
                path = client.location
                held.say(number)
                await client.read_until(b"data: %d\r\n" % number)
            assert [data for event, data, _ in events_in(client.body) if event == "custom"] == [number]
            assert path.endswith("/stream?stream_mode=custom&namespace=&past=0")
        held.say(None)


async def test_who_joins_before_a_run_begins_gets_ids_if_it_was_asked_for_with_them(serve_agents: Any) -> None:
    held = Held()
    async with serve_agents({"held": held.agent()}) as served:
        thread_id = await new_thread(served)
        first = await served.client.runs.create(thread_id, "held", stream_resumable=True)
        waiting = await served.client.runs.create(
            thread_id, "held", stream_resumable=True, multitask_strategy="enqueue"
        )
        async with RawClient.asking(served, "GET", f"/threads/{thread_id}/runs/{waiting['run_id']}/stream") as client:
            await client.read_until(b"metadata")
            await client.read_until(b"id: ")
            assert client.location.endswith("/stream")
            held.say(None)
            await served.client.runs.join(thread_id, first["run_id"])
            held.say(None)
            await client.read_until(b"event: end")


async def test_who_joins_gets_the_past_then_what_comes_without_a_gap_or_a_repeat(serve_agents: Any) -> None:
    held = Held()
    async with serve_agents({"held": held.agent()}) as served:
        runs = served.client.runs
        thread_id = await new_thread(served)
        run = await runs.create(thread_id, "held", stream_mode="custom")
        followers = []
        for number in range(20):
            held.say(number)
            followers.append(asyncio.create_task(parts(runs.join_stream(thread_id, run["run_id"]))))
            await asyncio.sleep(0)
        held.say(None)
        for follower in followers:
            assert [data for event, data in await follower if event == "custom"] == list(range(20))


async def test_last_event_ids(serve_agents: Any) -> None:
    async with serve_agents({"counting": counting}) as served:
        runs = served.client.runs
        thread_id = await new_thread(served)
        asked = {"input": {"to": 5}, "stream_mode": "custom", "stream_resumable": True}
        run_id = (await runs.create(thread_id, "counting", **asked))["run_id"]
        everything = [part async for part in runs.join_stream(thread_id, run_id, last_event_id="-1")]
        assert [part.data for part in everything if part.event == "custom"] == [{"n": n} for n in range(5)]
        middle = everything[3]
        rest = [part async for part in runs.join_stream(thread_id, run_id, last_event_id=middle.id)]
        assert rest == everything[4:]
        at_the_end = await parts(runs.join_stream(thread_id, run_id, last_event_id=everything[-2].id))
        assert [event for event, _ in at_the_end] == ["end"]
        for nonsense in ("x", "1", "1-", "-2", "1-2-3", "١-١", "9" * 60 + "-1", "1-2", f"{middle.id}9"):
            with pytest.raises((UnprocessableEntityError, UnicodeEncodeError)):
                await parts(runs.join_stream(thread_id, run_id, last_event_id=nonsense))


async def test_what_fell_out_of_the_ring_is_told_as_a_gap(serve_agents: Any) -> None:
    async with serve_agents({"counting": counting}) as served:
        served.app.streams.limits = HubLimits(parts=3)
        runs = served.client.runs
        thread_id = await new_thread(served)
        run_id = (await runs.create(thread_id, "counting", input={"to": 10}, stream_mode="custom"))["run_id"]
        await runs.join(thread_id, run_id)
        joined = await parts(runs.join_stream(thread_id, run_id))
    assert joined[1] == ("gap", {"first": 1, "last": 7})
    assert [data for event, data in joined if event == "custom"] == [{"n": 7}, {"n": 8}, {"n": 9}]


async def test_a_run_that_has_ended_in_another_life_has_its_end_at_once(serve_agents: Any) -> None:
    async with serve_agents({"counting": counting}) as served:
        thread_id = await new_thread(served)
        run = await served.client.runs.create(thread_id, "counting", input={"to": 1}, stream_resumable=True)
        await served.client.runs.join(thread_id, run["run_id"])
    async with serve_agents({"counting": counting}) as served:
        runs = served.client.runs
        for last_event_id in (None, "-1", "1764124800000-1"):
            joined = await parts(runs.join_stream(thread_id, run["run_id"], last_event_id=last_event_id))
            first = 2 if last_event_id == "1764124800000-1" else 1
            (missed,) = [data for event, data in joined if event == "gap"]
            assert (missed["first"], missed["last"]) == (first, first)
            assert "not kept here" in missed["why"]
            assert joined[-1] == ("end", {"run_id": run["run_id"], "status": "success"})
        assert await runs.join(thread_id, run["run_id"]) == {"counted": 1}


async def test_a_run_of_another_process_is_waited_for_and_nobody_hangs(serve_agents: Any, database_url: str) -> None:
    held = Held()
    async with (
        open_app(Settings(database_url=database_url), {"held": held.agent()}) as other,
        serve_agents({"held": counting}) as served,
    ):
        thread_id = await new_thread(served)
        handle = await other.manager.start(RunSpec("held", thread_id=thread_id))
        held.say("unheard here")
        runs = served.client.runs
        waiting = [
            asyncio.create_task(runs.join(thread_id, handle.run_id)),
            asyncio.create_task(parts(runs.join_stream(thread_id, handle.run_id))),
            asyncio.create_task(parts(runs.join_stream(thread_id, handle.run_id))),
        ]
        async with RawClient.asking(served, "GET", f"/threads/{thread_id}/runs/{handle.run_id}/stream") as client:
            await client.read_until(b"metadata")
            held.say(None)
            await client.read_until(b"event: end")
        values, *streams = await asyncio.gather(*waiting)
        assert values == {"done": True}
        assert [[event for event, _ in stream] for stream in streams] == [["metadata", "gap", "end"]] * 2


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
        await asyncio.wait_for(held.cancelled.wait(), 20)
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
            await asyncio.wait_for(held.cancelled.wait(), 20)
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
        await asyncio.wait_for(held.cancelled.wait(), 20)
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


async def test_a_stream_that_is_cut_off_on_purpose_is_no_error_of_the_server(serve_agents: Any, tmp_path: Path) -> None:
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


async def test_a_message_of_a_function_is_there_in_both_modes(serve_agents: Any) -> None:
    async with serve_agents({"speaking": speaking}) as served:
        runs = served.client.runs
        tuples = await parts(runs.stream(None, "speaking", stream_mode="messages-tuple"))
        cumulative = await parts(runs.stream(None, "speaking", stream_mode="messages"))
    message = {"type": "ai", "content": "hello", "id": "m1"}
    assert tuples[1:-1] == [("messages", [message, {}])]
    assert cumulative[1:-1] == [("messages/metadata", {"m1": {"metadata": {}}}), ("messages/complete", [message])]


async def test_what_a_function_passes_on_of_a_model_is_there_in_each_mode(serve_agents: Any) -> None:
    model = GenericFakeChatModel(messages=cycle([AIMessage("hello there")]))

    async def passing_on(input: Any, run: RunContext) -> None:
        for mode in run.stream_modes:
            async for piece in model.astream("hi"):
                run.send(piece if run.input == "alone" else (piece, {"node": "n"}), mode)

    async with serve_agents({"passing_on": passing_on}) as served:
        runs = served.client.runs
        for given in ("alone", "pair"):
            grown = await parts(runs.stream(None, "passing_on", input=given, stream_mode="messages"))
            pieces = await parts(runs.stream(None, "passing_on", input=given, stream_mode="messages-tuple"))
            assert [data[0]["content"] for event, data in grown if event == "messages/partial"][-1] == "hello there"
            assert [event for event, _ in pieces].count("messages") >= 3


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
    async with serving(newest) as url, get_client(url=url, api_key=None) as client, asyncio.timeout(20):
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
