"""Followed threads that outlive a server: its streams are cut off, and the next server knows what was missed."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from tests.integration.server.conftest import serve
from tests.integration.server.protocol_agents import Held, asking, talking
from tests.integration.server.test_server_protocol import HI, ends, events_until, interrupted, of

from trackside.app.server.protocol import thread_events
from trackside.app.server.thread_states import StatesOfThread
from trackside.app.settings import ServerSettings
from trackside.harness import AgentLimits
from trackside.harness.ids import new_id


@asynccontextmanager
async def followed(
    agent: Any, database: str, thread_id: str | None = None, **settings: Any
) -> AsyncIterator[tuple[Any, Any]]:
    """A server, and one of its threads as the client follows it."""
    async with (
        serve({"it": agent}, database, **settings) as served,
        served.client.threads.stream(thread_id, assistant_id="it") as thread,
    ):
        yield served, thread


async def test_a_question_is_found_and_answered_after_the_server_has_begun_anew(database_url: str) -> None:
    async with followed(asking("why"), database_url) as (_, thread):
        await thread.run.start(input={"log": []})
        await interrupted(thread)
    async with followed(asking("why"), database_url, thread.thread_id) as (_, again):
        await interrupted(again)
        assert again.interrupts[0]["interrupt_id"] == thread.interrupts[0]["interrupt_id"]
        await again.run.respond("because")
        assert await again.output == {"log": ["why because"]}


async def test_who_comes_back_to_another_server_is_told_of_the_gap_and_of_the_end(database_url: str) -> None:
    async with followed(talking(), database_url) as (_, thread):
        await thread.run.start(input=HI)
        seen = await events_until(thread, ends)
    async with followed(talking(), database_url, thread.thread_id) as (_, again):
        events = await events_until(again, ends, since=seen[3]["seq"])
        assert [event["method"] for event in events] == ["gap", "values", "lifecycle"]
        assert len(of(events, "values")[0]["messages"]) == 2
        assert of(events, "lifecycle")[0]["run_id"] == of(seen, "lifecycle")[0]["run_id"]
        numbers = [event["seq"] for event in [*seen, *events]]
        assert numbers == sorted(set(numbers))
        await again.run.start(input={"messages": [{"role": "user", "content": "more", "id": "5"}]})
        more = await events_until(again, ends, since=events[-1]["seq"])
        assert [said["event"] for said in of(more, "lifecycle")] == ["running", "completed"]


async def test_who_comes_to_another_server_hears_why_a_strict_answer_was_refused(database_url: str) -> None:
    async with followed(asking("why"), database_url) as (served, thread):
        await thread.run.start(input={"log": []})
        await events_until(thread, lambda event: ends(event, "interrupted"))
        (question,) = (await served.client.threads.get_state(thread.thread_id))["interrupts"]
        answer = {"resume": {new_id(): "because"}}
        await served.client.runs.wait(thread.thread_id, "it", command=answer, strict_resume=True, raise_error=False)
    async with followed(asking("why"), database_url, thread.thread_id) as (_, again):
        *_, failed = await events_until(again, ends)
    says = failed["params"]["data"]
    assert (says["reason"], says["interrupt_ids"]) == ("not_pending", [*answer["resume"]])
    assert says["pending_ids"] == [question["id"]]


async def test_who_comes_back_without_a_number_is_told_of_the_end_and_who_watches_only_what_comes(
    database_url: str,
) -> None:
    async with followed(talking(), database_url) as (_, thread):
        started = await thread.run.start(input=HI)
        await events_until(thread, ends)
    async with followed(talking(), database_url, thread.thread_id) as (_, again):
        watching = asyncio.create_task(events_until(again, ends, ["lifecycle", "input"]))
        events = await events_until(again, ends)
        assert [event["method"] for event in events] == ["values", "lifecycle"]
        assert events[-1]["event_id"].split(":")[1] == started["run_id"]
        assert events == await events_until(again, ends), "it is told once, and as often as somebody comes"
        more = await again.run.start(input={"messages": [{"role": "user", "content": "more", "id": "5"}]})
        assert {event["event_id"].split(":")[1] for event in await watching} == {more["run_id"]}


async def test_who_comes_back_hears_what_comes_though_the_thread_does_not_say_what_it_was_left_with(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, given_up = asyncio.Event(), asyncio.Event()

    async def state(*_: Any, **__: Any) -> Any:
        hangs.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    def quiet(_: Any) -> None:
        """Nothing comes of it."""

    async with followed(quiet, database_url) as (_, thread):
        await thread.run.start(input={})
        await events_until(thread, ends)
    monkeypatch.setattr(thread_events, "_LOOK_FIRST", 0.01)
    monkeypatch.setattr(StatesOfThread, "state", state)
    settings: Any = {"server": ServerSettings(heartbeat=0.05)}
    async with followed(quiet, database_url, **settings) as (served, _), httpx.AsyncClient(base_url=served.url) as http:
        path, asked = f"/threads/{thread.thread_id}/stream/events", {"channels": ["lifecycle", "values"]}
        async with asyncio.timeout(60), http.stream("POST", path, json=asked) as stream:
            lines = stream.aiter_lines()
            await hangs.wait()
            while await anext(lines) != ": heartbeat":
                pass
            await served.client.runs.create(thread.thread_id, "it", input={})
            while '"event":"completed"' not in await anext(lines):
                pass
            assert not given_up.is_set()
        async with asyncio.timeout(60):
            await given_up.wait()  # since the client has gone


async def test_a_look_at_a_thread_that_fails_as_its_client_goes_is_nobodys_failure(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, reported = asyncio.Event(), list[Any]()

    async def look_back(*_: Any) -> None:
        looks.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise OSError("the database is away") from None

    monkeypatch.setattr(thread_events.ProtocolEvents, "_look_back", look_back)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    async with serve({"it": asking("why")}, database_url) as served, httpx.AsyncClient(base_url=served.url) as http:
        thread_id = (await served.client.threads.create())["thread_id"]
        path, asked = f"/threads/{thread_id}/stream/events", {"channels": ["lifecycle"]}
        async with asyncio.timeout(60), http.stream("POST", path, json=asked):
            await looks.wait()
    gc.collect()
    assert reported == []


async def test_who_has_started_a_run_that_has_not_begun_is_not_told_of_the_end_of_the_last_one(
    database_url: str,
) -> None:
    before, held = Held(), Held()
    before.let_go.set()
    async with followed(before, database_url) as (_, thread):
        await thread.run.start(input={})
        await events_until(thread, ends)
    one_place: Any = {"limits": {"it": AgentLimits(max_running=1)}}
    async with followed(held, database_url, thread.thread_id, **one_place) as (served, again):
        await served.client.runs.create(None, "it", input={})
        await held.begun.wait()
        started = await again.run.start(input={})
        following = asyncio.create_task(events_until(again, ends, since=0))
        await asyncio.wait({following}, timeout=0.3)  # nothing reaches it
        held.let_go.set()
        events = await following
        assert [said["event"] for said in of(events, "lifecycle")] == ["running", "completed"]
        assert {event["event_id"].split(":")[1] for event in events if event["method"] == "lifecycle"} == {
            started["run_id"]
        }


async def test_who_has_started_a_run_for_later_is_not_told_of_the_end_of_the_last_one(database_url: str) -> None:
    held = Held()
    held.let_go.set()
    async with followed(held, database_url) as (_, thread):
        await thread.run.start(input={})
        await events_until(thread, ends)
    async with followed(held, database_url, thread.thread_id) as (served, again):
        later = {"assistant_id": "it", "input": {}, "after_seconds": 1}
        command = {"id": 1, "method": "run.start", "params": later}
        async with httpx.AsyncClient(base_url=served.url) as http:
            answer = (await http.post(f"/threads/{thread.thread_id}/commands", json=command)).json()
        events = await events_until(again, ends, since=0)
        assert {event["event_id"].split(":")[1] for event in events if event["method"] == "lifecycle"} == {
            answer["result"]["run_id"]
        }


@pytest.mark.parametrize("is_over", [False, True])
async def test_a_run_that_goes_on_at_another_server_keeps_its_name_and_has_one_end(
    database_url: str, is_over: bool
) -> None:
    first, second = Held(), Held()
    tried: Any = {"limits": {"it": AgentLimits(max_attempts=2)}, "shutdown_grace": 0.0}
    async with followed(first, database_url, **tried) as (_, thread):
        started = await thread.run.start(input={})
        await first.begun.wait()
    if is_over:
        second.let_go.set()
    async with followed(second, database_url, thread.thread_id, **tried) as (served, again):
        await second.begun.wait()
        while is_over and (await served.client.threads.get(thread.thread_id))["status"] != "idle":
            await asyncio.sleep(0.01)
        if not is_over:
            second.let_go.set()
        events = [event for event in await events_until(again, ends) if event["method"] == "lifecycle"]
        assert {event["event_id"].split(":")[1] for event in events} == {started["run_id"]}
        assert [event["params"]["data"]["event"] for event in events][-1] == "completed"
    async with followed(Held(), database_url, thread.thread_id, **tried) as (_, later):
        [*_, event] = await events_until(later, ends)
        assert event["event_id"].split(":")[1] == started["run_id"]
        assert event["params"]["data"]["event"] == "completed"


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_third_attempt_keeps_the_name_of_the_first_whenever_the_client_comes_back(
    database_url: str, is_late: bool
) -> None:
    first, second, third = Held(), Held(), Held()
    tried: Any = {"limits": {"it": AgentLimits(max_attempts=3)}, "shutdown_grace": 0.0}
    async with followed(first, database_url, **tried) as (_, thread):
        started = await thread.run.start(input={})
        await first.begun.wait()
    async with serve({"it": second}, database_url, **tried):
        await second.begun.wait()
    async with serve({"it": third}, database_url, **tried) as served:
        if is_late:
            await third.begun.wait()
        async with served.client.threads.stream(thread.thread_id, assistant_id="it") as again:
            following = asyncio.create_task(events_until(again, ends))
            await third.begun.wait()
            third.let_go.set()
            events = [event for event in await following if event["method"] == "lifecycle"]
    assert {event["event_id"].split(":")[1] for event in events} == {started["run_id"]}
    assert events[-1]["params"]["data"]["event"] == "completed"


async def test_an_attempt_that_somebody_has_asked_for_is_known_as_itself_after_a_restart(database_url: str) -> None:
    async def fails(input: Any) -> None:
        raise LookupError("no")

    async with followed(fails, database_url) as (_, thread):
        started = await thread.run.start(input={})
        await events_until(thread, ends)
    held = Held()
    async with serve({"it": held}, database_url) as served:
        async with httpx.AsyncClient(base_url=served.url) as http:
            again = (await http.post(f"/runs/{started['run_id']}/retry")).json()
        await held.begun.wait()
        async with served.client.threads.stream(thread.thread_id, assistant_id="it") as stream:
            held.let_go.set()
            events = [event for event in await events_until(stream, ends) if event["method"] == "lifecycle"]
    assert {event["event_id"].split(":")[1] for event in events} == {again["run_id"]}


async def test_a_server_that_stops_cuts_streams_off_so_that_clients_come_back(database_url: str) -> None:
    held = Held()
    async with followed(held, database_url) as (served, thread), httpx.AsyncClient(base_url=served.url) as http:
        await thread.run.start(input={})
        await held.begun.wait()
        url, wanted = f"/threads/{thread.thread_id}/stream/events", {"channels": ["lifecycle"]}
        with pytest.raises(httpx.RemoteProtocolError):
            async with http.stream("POST", url, json=wanted, timeout=30) as stream:
                async for line in stream.aiter_lines():
                    if '"running"' in line:
                        served.app.streams.end_all()
        held.let_go.set()
