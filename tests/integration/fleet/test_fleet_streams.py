"""What clients of any server get of a worker's runs: the same as if that server had executed them."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from fleet_here import fleet_here
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import UnprocessableEntityError
from langgraph_sdk.sse import SSEDecoder
from looking_graph import ids, looking
from nats_server import NatsServer
from speaking_agents import Held, bursting, counting
from tests.integration.fleet.following import Events, said
from webhook_receiver import NEW, WebhookReceiver

from trackside import RunContext
from trackside.app.server.failures import HttpError
from trackside.app.server.following import final_body
from trackside.app.settings import ServerSettings
from trackside.harness.context import AgentResult
from trackside.harness.ids import new_id
from trackside.harness.states import Caller


async def failing(input: Any, run: RunContext) -> dict[str, Any]:
    run.send("about to")
    raise ValueError("no good")


def decoded(body: bytes) -> list[tuple[str, Any, str | None]]:
    decoder = SSEDecoder()
    parts = [decoder.decode(line) for line in body.replace(b"\r\n", b"\n").split(b"\n")]
    return [(part.event, part.data, part.id) for part in parts if part is not None]


async def test_a_run_is_streamed_by_the_server_that_started_it(have_fleet: Any) -> None:
    async with have_fleet({"counting": counting}) as fleet:
        client = fleet.servers[0].client
        stream = client.runs.stream(None, "counting", input={"to": 50}, stream_mode=["custom", "values"])
        parts = await Events(stream).rest()
        assert parts[0].event == "metadata"
        assert [part.data["n"] for part in parts if part.event == "custom"] == list(range(50))
        assert said(parts)[-2:-1] == [("values", {"counted": 50})]
        assert (parts[-1].event, parts[-1].data["status"]) == ("end", "success")
        assert not fleet.servers[0].app.manager.stats().running


async def test_who_keeps_up_gets_all_of_what_a_worker_s_run_says_at_once_however_large_that_is(have_fleet: Any) -> None:
    async with have_fleet({"bursting": bursting}) as fleet:
        asked = {"input": {"parts": 15, "length": 1_000_000}, "stream_mode": "custom"}
        got = await Events(fleet.servers[0].client.runs.stream(None, "bursting", **asked)).rest()
    assert [part.data["n"] for part in got if part.event == "custom"] == list(range(15))
    assert "gap" not in [part.event for part in got]


async def test_who_follows_a_run_that_ends_while_its_server_is_replaced_misses_nothing(have_fleet: Any) -> None:
    held, stopped = Held(), asyncio.Event()
    async with have_fleet({"held": held.agent()}) as fleet:
        old, new = fleet.servers
        thread_id = (await new.client.threads.create())["thread_id"]

        async def balance(request: httpx.Request) -> None:
            if stopped.is_set():
                await new.client.runs.join(thread_id, run_id)  # the run is over before any request arrives
                request.url = request.url.copy_with(port=httpx.URL(new.url).port)

        async with httpx.AsyncClient(base_url=old.url, event_hooks={"request": [balance]}) as http:
            runs = LangGraphClient(http).runs
            stream = Events(runs.stream(thread_id, "held", stream_mode=["custom", "values"], stream_resumable=True))
            held.say("before")
            begun = await stream.until("custom")
            run_id = begun[0].data["run_id"]
            old.app.streams.end_all()
            stopped.set()
            held.say("meanwhile", None)
            rest = await stream.rest()
    assert said(begun[1:] + rest[:-1]) == [("custom", "before"), ("custom", "meanwhile"), ("values", {"done": True})]
    assert rest[-1].event == "end"


async def test_who_waits_gets_what_the_run_gave_or_why_it_failed(have_fleet: Any) -> None:
    async with have_fleet({"counting": counting, "failing": failing}) as fleet:
        one, other = (server.client for server in fleet.servers)
        assert await one.runs.wait(None, "counting", input={"to": 3}) == {"counted": 3}
        assert await one.runs.wait(None, "counting", input={"to": 3}, raise_error=False) == {"counted": 3}
        failed = await other.runs.wait(None, "failing", input={}, raise_error=False)
        assert failed["__error__"] == {"error": "ValueError", "message": "no good"}
        thread = await one.threads.create()
        run = await one.runs.create(thread["thread_id"], "counting", input={"to": 2})
        for client in (other, one):
            assert await client.runs.join(thread["thread_id"], run["run_id"]) == {"counted": 2}


async def test_who_waits_for_a_run_that_gives_nothing_back_gets_an_object_on_each_server(have_fleet: Any) -> None:
    go_on = asyncio.Event()

    async def quiet(input: Any) -> None:
        return None

    async def slow(input: Any, run: RunContext) -> None:
        run.send("begun")
        await go_on.wait()

    async with have_fleet({"quiet": quiet, "slow": slow}) as fleet:
        one, other = (server.client for server in fleet.servers)
        assert await one.runs.wait(None, "quiet", input={}) == {}
        run = await one.runs.create(None, "slow", input={}, stream_mode=["custom", "values"])
        place = run["thread_id"], run["run_id"]
        begun = [Events(client.runs.join_stream(*place)) for client in (one, other)]
        for stream in begun:
            await stream.until("custom")
        waiting = [asyncio.create_task(client.runs.join(*place)) for client in (one, other)]
        await asyncio.sleep(0)
        go_on.set()
        async with asyncio.timeout(20):
            assert await asyncio.gather(*waiting) == [{}, {}]
        assert [await client.runs.join(*place) for client in (one, other)] == [{}, {}]  # from what is kept


async def test_who_waits_for_a_run_that_asked_gets_its_question_also_when_its_thread_has_gone(have_fleet: Any) -> None:
    async def asking(input: Any, run: RunContext) -> None:
        run.interrupt("sure?")

    async with have_fleet({"asking": asking}) as fleet:
        runs = fleet.servers[0].client.runs
        run = await runs.create(None, "asking", input={})
        place = run["thread_id"], run["run_id"]
        body = await runs.join(*place)
        assert [asked["value"] for asked in body["__interrupt__"]] == ["sure?"]
        store = fleet.servers[0].app.parts.store
        await store.sweeper().forget()
        assert await store.thread_states().load(run["thread_id"]) is None
        assert await runs.join(*place) == body


@pytest.mark.parametrize("kind", ["function", "graph"])
async def test_who_answers_as_soon_as_the_stream_asks_has_answered(have_fleet: Any, kind: str) -> None:
    async def function(input: Any, run: RunContext) -> dict[str, Any]:
        return {"answer": run.interrupt("sure?")}

    def node(state: dict[str, Any]) -> dict[str, Any]:
        return {"answer": interrupt("sure?")}

    graph = StateGraph(dict).add_node("node", node).add_edge(START, "node").compile()
    async with have_fleet({"asking": {"function": function, "graph": graph}[kind]}) as fleet:
        one, other = (server.client.runs for server in fleet.servers)
        for _ in range(3):
            thread_id = new_id()
            stream = one.stream(thread_id, "asking", input={"of": 1}, if_not_exists="create", stream_mode="updates")
            async with asyncio.timeout(20):
                async with aclosing(stream) as parts:
                    async for part in parts:
                        if "__interrupt__" in part.data:
                            break
                done = await other.wait(thread_id, "asking", command={"resume": "yes"})
            assert done["answer"] == "yes"


async def test_who_waits_for_a_run_that_did_not_say_values_is_not_told_that_there_were_none(have_fleet: Any) -> None:
    class Unsaid:
        """An agent that returns an output but neither streams it nor has its thread remember it."""

        name = "unsaid"
        uses_thread_state = True

        async def human_messages(self, run: RunContext) -> list[Any]:
            return []

        async def run(self, run: RunContext) -> AgentResult:
            return AgentResult(output={"n": 1})

        async def rollback(self, run: RunContext) -> None:
            return None

    async with have_fleet({"unsaid": Unsaid()}) as fleet:
        run = await fleet.servers[0].client.runs.create(None, "unsaid", input={})
        for server in fleet.servers:
            parts = server.app.parts
            record = await parts.store.run(run["run_id"], removed=True)
            with pytest.raises(HttpError, match="what it gave back went with its thread"):
                await asyncio.wait_for(final_body(parts, record, Caller()), 20)


async def test_a_graph_finds_the_ids_of_its_run_in_a_worker_as_in_a_server(have_fleet: Any) -> None:
    async with have_fleet({"look": looking()}) as fleet:
        client = fleet.servers[0].client
        thread = (await client.threads.create())["thread_id"]
        found = await client.runs.wait(thread, "look", input={})
        (run,) = await client.runs.list(thread)
    expected = ids("look", run["run_id"], thread)
    assert (found["own"], found["said"]) == ({**expected, "user_id": None}, expected)
    assert found["server"] == {"assistant_id": expected["assistant_id"], "graph_id": "look"}


async def test_a_client_goes_on_at_another_server_exactly_where_he_was(have_fleet: Any) -> None:
    held = Held()
    async with have_fleet({"held": held.agent()}) as fleet:
        one, other = (server.client for server in fleet.servers)
        thread = (await one.threads.create())["thread_id"]
        run = (await one.runs.create(thread, "held", stream_mode="custom", stream_resumable=True))["run_id"]
        held.say(*range(3))
        events = Events(one.runs.join_stream(thread, run))
        seen = [*await events.until("custom"), *await events.until("custom")]
        held.say(*range(3, 6))
        again = Events(other.runs.join_stream(thread, run, last_event_id=seen[-1].id))
        assert [part.data for part in await again.until("custom")] == [2]
        held.say(None)
        rest = await again.rest()
        assert [part.data for part in rest[:-1]] == [3, 4, 5]
        assert rest[-1].event == "end"
        # The whole stream of the finished run, from both servers: the same bytes with the same ids.
        bodies = []
        for server in fleet.servers:
            url = f"{server.url}/threads/{thread}/runs/{run}/stream"
            async with httpx.AsyncClient() as http:
                bodies.append((await http.get(url, headers={"Last-Event-ID": "-1"})).content)
        assert bodies[0] == bodies[1]
        assert [data for event, data, _ in decoded(bodies[0]) if event == "custom"] == [*range(6)]


async def test_an_id_that_the_run_never_gave_is_refused_on_each_server(have_fleet: Any) -> None:
    held = Held()
    async with have_fleet({"held": held.agent()}) as fleet:
        client = fleet.servers[0].client
        thread = (await client.threads.create())["thread_id"]
        run = (await client.runs.create(thread, "held", stream_mode="custom", stream_resumable=True))["run_id"]
        held.say(1)
        await asyncio.wait_for(held.started.wait(), 20)
        for server in fleet.servers:
            for wrong in ("17-1", "17-99", "x"):
                with pytest.raises(UnprocessableEntityError):
                    await Events(server.client.runs.join_stream(thread, run, last_event_id=wrong)).rest()
        held.say(None)
        await client.runs.join(thread, run)


async def test_a_cancel_on_one_server_ends_the_stream_on_the_other(have_fleet: Any) -> None:
    held = Held()
    async with have_fleet({"held": held.agent()}) as fleet:
        one, other = (server.client for server in fleet.servers)
        thread = (await one.threads.create())["thread_id"]
        run = (await one.runs.create(thread, "held", stream_mode="custom"))["run_id"]
        held.say(1)
        events = Events(one.runs.join_stream(thread, run))
        await events.until("custom")
        await other.runs.cancel(thread, run, wait=True)
        assert held.cancelled.is_set()
        last = (await events.rest())[-1]
        assert (last.event, last.data["status"]) == ("end", "interrupted")


async def test_a_run_that_is_cancelled_before_a_worker_has_it_ends_for_all(have_fleet: Any) -> None:
    async with have_fleet({"counting": counting}, workers=0) as fleet:
        one, other = (server.client for server in fleet.servers)
        thread = (await one.threads.create())["thread_id"]
        run = (await one.runs.create(thread, "counting", input={"to": 1}))["run_id"]
        following = asyncio.create_task(Events(other.runs.join_stream(thread, run)).rest())
        waiting = asyncio.create_task(other.runs.join(thread, run))
        mirrors = fleet.servers[1].app.parts.mirrors
        async with asyncio.timeout(20):
            while not mirrors.stats.open:
                await asyncio.sleep(0.01)
        await one.runs.cancel(thread, run)
        async with asyncio.timeout(20):
            last = (await following)[-1]
            await waiting
        assert (last.event, last.data["status"]) == ("end", "interrupted")


async def test_a_client_that_goes_cancels_the_run_on_its_worker(have_fleet: Any) -> None:
    held = Held()
    async with have_fleet({"held": held.agent()}) as fleet:
        client = fleet.servers[0].client
        thread = (await client.threads.create())["thread_id"]
        stream = client.runs.stream(thread, "held", stream_mode="custom", on_disconnect="cancel")
        held.say(1)
        await Events(stream).until("custom")
        await stream.aclose()
        await asyncio.wait_for(held.cancelled.wait(), 20)


async def test_a_thousand_followers_of_a_workers_run_share_each_part(have_fleet: Any) -> None:
    held = Held()
    async with have_fleet({"held": held.agent()}, servers=1) as fleet:
        server = fleet.servers[0]
        thread = (await server.client.threads.create())["thread_id"]
        run = (await server.client.runs.create(thread, "held", stream_mode="custom"))["run_id"]
        mirrors, streams = server.app.parts.mirrors, server.app.streams
        uses = [mirrors.run(thread, run) for _ in range(1_000)]
        readers = [streams.read(run) for _ in range(1_000)]
        held.say(*range(20), None)
        async with asyncio.timeout(20):
            frames: set[int] = set()
            for reader in readers:
                while not reader.is_over:
                    frames |= {id(frame.sse) for frame in reader.take()}
                    await reader.wait()
        assert len(frames) == 20
        for use in uses:
            use.close()


async def test_a_receiver_is_told_once_of_the_end_of_a_workers_run(have_fleet: Any) -> None:
    server = ServerSettings(private_webhooks=True, webhook_secret=NEW)
    async with WebhookReceiver(NEW) as receiver, have_fleet({"counting": counting}, server=server) as fleet:
        for served in fleet.servers:
            for number in range(3):
                await served.client.runs.create(None, "counting", input={"to": number}, webhook=receiver.url)
        await asyncio.wait_for(receiver.until(6), 30)
        told = [json.loads(request.body) for request in receiver.requests]
        assert sorted(one["values"]["counted"] for one in told) == [0, 0, 1, 1, 2, 2]
        assert len({one["run_id"] for one in told}) == 6


async def test_a_stream_goes_on_when_nats_does(postgres_with_tables: str) -> None:
    held = Held()
    with NatsServer() as nats:
        async with fleet_here({"held": held.agent()}, postgres_with_tables, nats.url) as fleet:
            one, other = (server.client for server in fleet.servers)
            thread = (await one.threads.create())["thread_id"]
            run = (await one.runs.create(thread, "held", stream_mode="custom", stream_resumable=True))["run_id"]
            held.say(0)
            events = Events(one.runs.join_stream(thread, run))
            await events.until("custom")
            await asyncio.to_thread(nats.stop, "KILL")
            for app in (fleet.workers[0], fleet.servers[0].app):
                assert app.engine is not None
                async with asyncio.timeout(20):
                    while app.engine.status().connected:
                        await asyncio.sleep(0.01)
            held.say(1, 2)
            await asyncio.to_thread(nats.start)
            assert [part.data for part in await events.until("custom")] == [1]
            held.say(3, None)
            rest = await events.rest()
            assert [part.data for part in rest[:-1]] == [2, 3]
            again = await Events(other.runs.join_stream(thread, run, last_event_id=rest[0].id)).rest()
            assert [part.data for part in again[:-1]] == [3]


async def test_without_nats_the_log_tells_how_a_run_ends(postgres_with_tables: str) -> None:
    held = Held()
    with NatsServer() as nats:
        async with fleet_here({"held": held.agent()}, postgres_with_tables, nats.url) as fleet:
            one, other = (server.client for server in fleet.servers)
            thread = (await one.threads.create())["thread_id"]
            run = (await one.runs.create(thread, "held"))["run_id"]
            following = asyncio.create_task(Events(one.runs.join_stream(thread, run)).rest())
            waiting = asyncio.create_task(other.runs.join(thread, run))
            await asyncio.wait_for(held.started.wait(), 20)
            await asyncio.to_thread(nats.stop, "KILL")
            held.say(None)
            async with asyncio.timeout(20):
                last = (await following)[-1]
                assert (last.event, last.data["status"]) == ("end", "success")
                assert await waiting == {"done": True}
