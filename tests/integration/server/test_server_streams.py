"""Streams of runs as clients get them: what they say, from wherever they begin, cut off at any point."""

from __future__ import annotations

import asyncio
from itertools import cycle
from typing import Any

import httpx
import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph_sdk.errors import UnprocessableEntityError
from speaking_agents import Held, bursting, counting
from tests.integration.server.stream_clients import RawClient, events_in, new_thread, parts

from trackside import RunContext, RunSpec
from trackside.app.settings import Settings
from trackside.app.streams import HubLimits
from trackside.app.wiring import open_app


async def speaking(input: Any, run: RunContext) -> dict[str, Any]:
    run.message({"type": "ai", "content": "hello", "id": "m1"})
    return {"messages": [{"type": "ai", "content": "hello", "id": "m1"}]}


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


async def test_who_keeps_up_gets_all_of_what_a_run_says_at_once_however_large_that_is(serve_agents: Any) -> None:
    async with serve_agents({"bursting": bursting}) as served:
        asked = {"input": {"parts": 15, "length": 1_000_000}, "stream_mode": "custom"}
        got = await parts(served.client.runs.stream(None, "bursting", **asked))
    assert [event for event, _ in got] == ["metadata", *["custom"] * 15, "end"]
    assert [data["n"] for event, data in got if event == "custom"] == list(range(15))


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
