"""What the streams of threads and the protocol of threads say, on any server of a fleet."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from speaking_agents import Held, counting
from tests.integration.fleet.following import Events, said

from trackside.app.server.protocol import thread_events
from trackside.app.streams.live_messages import message_of
from trackside.app.streams.mirror import Mirrors


async def test_a_thread_is_followed_on_any_server_and_gone_on_with_on_another(have_fleet: Any) -> None:
    async with have_fleet({"counting": counting}) as fleet:
        one, other = (server.client for server in fleet.servers)
        thread = (await one.threads.create())["thread_id"]
        following = Events(await one.threads.join_stream(thread, last_event_id="-1"))
        await one.runs.create(thread, "counting", input={"to": 2}, stream_mode="custom")
        first = [*await following.until("metadata"), *await following.until("metadata")]
        assert [part.event for part in first] == ["metadata", "custom", "custom", "metadata"]
        await other.runs.create(thread, "counting", input={"to": 1}, stream_mode="custom")
        again = Events(await other.threads.join_stream(thread, last_event_id=first[1].id))
        assert said(await again.until("metadata")) == said(first[2:])
        second = [*await again.until("metadata"), *await again.until("metadata")]
        assert [part.event for part in second] == ["metadata", "custom", "metadata"]
        assert second[-1].data["run_status"] == "success"
        same = [*await following.until("metadata"), *await following.until("metadata")]
        assert [(part.id, part.data) for part in same] == [(part.id, part.data) for part in second]


async def test_who_joins_a_run_whose_thread_ends_with_it_gets_its_end_though_others_follow_the_thread(
    have_fleet: Any,
) -> None:
    held = Held()
    async with have_fleet({"held": held.agent()}, servers=1) as fleet:
        client = fleet.servers[0].client
        run = await client.runs.create(None, "held", stream_mode=["custom", "values"])
        thread_id, run_id = run["thread_id"], run["run_id"]
        following = Events(await client.threads.join_stream(thread_id))
        await following.until("metadata")
        joined = Events(client.runs.join_stream(thread_id, run_id))
        waiting = asyncio.create_task(client.runs.join(thread_id, run_id))
        held.say(1)
        await joined.until("custom")
        held.say(None)
        last = (await joined.rest())[-1]
        assert (last.event, last.data["status"]) == ("end", "success")
        assert await asyncio.wait_for(waiting, 20) == {"done": True}


async def test_a_changed_state_is_told_on_all_servers(have_fleet: Any) -> None:
    async with have_fleet({"counting": counting}) as fleet:
        one, other = (server.client for server in fleet.servers)
        thread = (await one.threads.create())["thread_id"]
        await one.runs.wait(thread, "counting", input={"to": 1})
        streams = [Events(await c.threads.join_stream(thread, stream_mode=["state_update"])) for c in (one, other)]
        told = [asyncio.create_task(stream.until("state_update")) for stream in streams]
        async with asyncio.timeout(20):
            for server in fleet.servers:
                while (feed := server.app.streams.threads.known(thread)) is None or not feed.readers:
                    await asyncio.sleep(0.01)
        await one.threads.update_state(thread, {"counted": 7})
        got = [said(await one) for one in told]
        assert got[0] == got[1]
        assert got[0][0][1]["state"]["values"] == {"counted": 7}
        assert got[0][0][1]["thread_id"] == thread


async def test_a_changed_state_is_told_where_the_thread_is_followed_if_it_is_not_where_it_was_changed(
    have_fleet: Any,
) -> None:
    async with have_fleet({"counting": counting}) as fleet:
        one, other = (server.client for server in fleet.servers)
        thread = (await one.threads.create(graph_id="counting"))["thread_id"]
        following = Events(await other.threads.join_stream(thread, stream_mode=["state_update"]))
        told = asyncio.create_task(following.until("state_update"))
        here, there = (server.app.streams.threads for server in fleet.servers)
        async with asyncio.timeout(20):
            while (feed := there.known(thread)) is None or not feed.readers:
                await asyncio.sleep(0.01)
        assert here.known(thread) is None
        await one.threads.update_state(thread, {"counted": 7})
        assert said(await told)[0][1]["state"]["values"] == {"counted": 7}


async def test_the_stream_of_a_thread_ends_with_the_thread_on_whichever_server_that_is_deleted(have_fleet: Any) -> None:
    async with have_fleet({"counting": counting}) as fleet:
        one, other = (server.client for server in fleet.servers)
        thread = (await one.threads.create())["thread_id"]
        await one.runs.wait(thread, "counting", input={"to": 1})
        following = asyncio.create_task(Events(await other.threads.join_stream(thread)).rest())
        threads = fleet.servers[1].app.streams.threads
        async with asyncio.timeout(20):
            while (feed := threads.known(thread)) is None or not feed.readers:
                await asyncio.sleep(0.01)
        await one.threads.delete(thread)
        assert await following == []


async def test_the_protocol_of_threads_says_the_same_on_each_server(have_fleet: Any) -> None:
    async with have_fleet({"counting": counting}) as fleet:
        async with fleet.servers[0].client.threads.stream(assistant_id="counting") as thread:
            await thread.run.start(input={"to": 3})
            output = await asyncio.wait_for(thread.output, 20)
            assert output == {"counted": 3}
        bodies = []
        for server in fleet.servers:
            url = f"{server.url}/threads/{thread.thread_id}/stream/events"
            asks = {"channels": ["lifecycle", "values", "custom"], "since": 0}
            async with httpx.AsyncClient() as http, http.stream("POST", url, json=asks) as answer:
                lines: list[str] = []
                async with asyncio.timeout(20):
                    async for line in answer.aiter_lines():
                        lines.append(line)
                        if '"completed"' in line:
                            break
                bodies.append(lines)
        assert bodies[0] == bodies[1]
        ids = [int(line.partition(" ")[2]) for line in bodies[0] if line.startswith("id: ") and line[4:].isdecimal()]
        async with httpx.AsyncClient() as http:
            url = f"{fleet.servers[1].url}/threads/{thread.thread_id}/stream/events"
            asks["since"] = ids[0]
            async with http.stream("POST", url, json=asks) as answer, asyncio.timeout(20):
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        assert '"gap"' not in line
                        assert f'"seq":{ids[1]}' in line
                        break


async def test_one_client_may_speak_about_a_thread_with_one_server_after_the_other(have_fleet: Any) -> None:
    async with have_fleet({"counting": counting}) as fleet:
        one, other = (server.client for server in fleet.servers)
        thread_id = (await one.threads.create())["thread_id"]
        for number, client in enumerate((one, other, one, other), 1):
            # This watches the thread from before the run starts, and must not take the last run's end for its own.
            async with client.threads.stream(thread_id, assistant_id="counting") as thread:
                await thread.run.start(input={"to": number})
                assert await asyncio.wait_for(thread.output, 20) == {"counted": number}


async def test_the_end_of_a_run_is_not_that_of_the_next_where_word_of_who_watched_it_comes_late(
    have_fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hear(self: Mirrors, shared: Any, data: bytes) -> None:
        if message_of(data).watched is None:
            hear_now(self, shared, data)
        else:
            asyncio.get_running_loop().call_later(0.05, hear_now, self, shared, data)

    hear_now = Mirrors._hear
    monkeypatch.setattr(Mirrors, "_hear", hear)
    monkeypatch.setattr(thread_events, "_WORD_OF_WATCHERS", 20.0)  # on a busy machine the word comes later still
    async with have_fleet({"counting": counting}) as fleet:
        one, other = (server.client for server in fleet.servers)
        thread_id = (await one.threads.create())["thread_id"]
        for number, client in enumerate((one, other, one), 1):
            async with client.threads.stream(thread_id, assistant_id="counting") as thread:
                await thread.run.start(input={"to": number})
                assert await asyncio.wait_for(thread.output, 20) == {"counted": number}


async def test_who_starts_a_run_where_the_thread_is_not_known_yet_is_shown_that_run_and_no_older_one(
    have_fleet: Any,
) -> None:
    async with have_fleet({"counting": counting}) as fleet:
        one, other = (server.client for server in fleet.servers)
        thread_id = (await one.threads.create())["thread_id"]
        await one.runs.wait(thread_id, "counting", input={"to": 1})
        async with other.threads.stream(thread_id, assistant_id="counting") as thread, asyncio.timeout(20):
            await thread.run.start(input={"to": 2})
            # The client begins with the state as it finds it, and follows what it is told up to the run's end.
            assert [values async for values in thread.values][-1] == {"counted": 2}
