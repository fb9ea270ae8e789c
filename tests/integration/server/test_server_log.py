"""The log over HTTP: pages, and a stream that browsers resume without a gap."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import httpx
from postgres_server import PostgresServer

from trackside import RunSpec
from trackside.app.server.log_stream import EventFrames, LogEvents
from trackside.app.settings import Settings
from trackside.app.storage import Store
from trackside.app.wiring import App, open_app


async def echo(input: Any) -> Any:
    return input


async def failing(input: Any) -> None:
    raise ValueError("it cannot be done")


AGENTS = {"echo": echo, "failing": failing}


async def lines_of(response: httpx.Response) -> AsyncGenerator[dict[str, str]]:
    """The server-sent events of a response, each as its fields; comments have the empty name."""
    event: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(":")
            event[name] = value.removeprefix(" ")
        elif event:
            yield event
            event = {}


async def positions(http: httpx.AsyncClient, wanted: int, **request: Any) -> list[int]:
    """The positions of a stream's first events, so many of them."""
    seen: list[int] = []
    async with http.stream("GET", "/events/stream", **request) as response, aclosing(lines_of(response)) as events:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for event in events:
            if "data" in event:
                assert json.loads(event["data"])["position"] == int(event["id"])
                seen.append(int(event["id"]))
                if len(seen) == wanted:
                    break
    return seen


async def test_the_log_comes_in_pages_and_each_says_where_the_next_begins(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        for _ in range(3):
            await served.client.runs.wait(None, "echo", input={"a": 1})
        everything = (await http.get("/events")).json()
        pages: list[Any] = []
        params: dict[str, Any] = {"limit": 4}
        while True:
            page = await http.get("/events", params=params)
            pages += page.json()
            if (after := page.headers.get("X-Pagination-Next")) is None:
                break
            params["after"] = after
        newest = (await http.get("/events", params={"newest_first": True, "limit": 2})).json()

    assert pages == everything
    assert len(everything) >= 9
    assert [event["position"] for event in newest] == [event["position"] for event in everything[:-3:-1]]


async def test_events_are_chosen_by_run_agent_and_several_types(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        await served.client.runs.wait(None, "echo", input={})
        await served.client.runs.wait(None, "failing", input={}, raise_error=False)
        ends = (await http.get("/events?type=run_completed&type=run_failed")).json()
        of_one = (await http.get("/events", params={"run_id": ends[0]["run_id"]})).json()
        of_agent = (await http.get("/events", params={"agent": "failing"})).json()

    assert [event["event_type"] for event in ends] == ["run_completed", "run_failed"]
    assert {event["run_id"] for event in of_one} == {ends[0]["run_id"]}
    assert {event["run_id"] for event in of_agent} == {ends[1]["run_id"]}


async def test_a_query_that_does_not_fit_is_refused_with_its_name(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        for query in ("limit=0", "limit=1001", "after=-1", "type=run_vanished", "since=2026-01-01T00:00:00", "befor=1"):
            answer = await http.get(f"/events?{query}")
            assert answer.status_code == 422, query
            assert query.partition("=")[0] in answer.json()["detail"]


async def test_a_browser_that_comes_back_misses_nothing_and_sees_nothing_twice(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        for _ in range(3):
            await served.client.runs.wait(None, "echo", input={})
        everything = [event["position"] for event in (await http.get("/events")).json()]
        for cut in range(1, len(everything)):
            first = await positions(http, cut, params={"after": 0})
            rest = await positions(
                http, len(everything) - cut, params={"after": 0}, headers={"Last-Event-ID": str(first[-1])}
            )
            assert first + rest == everything


async def test_a_reader_who_saw_no_event_yet_knows_where_to_resume(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        await served.client.runs.wait(None, "echo", input={})
        async with http.stream("GET", "/events/stream") as response, aclosing(lines_of(response)) as events:
            place = await anext(events)
        await served.client.runs.wait(None, "failing", input={}, raise_error=False)
        end = (await http.get("/events")).json()[-1]["position"]
        missed = await positions(http, end - int(place["id"]), headers={"Last-Event-ID": place["id"]})

    assert "data" not in place
    assert missed == list(range(int(place["id"]) + 1, end + 1))


async def test_a_follower_gets_only_what_it_asked_for_as_it_comes(serve_agents: Any) -> None:
    async with (
        serve_agents(AGENTS) as served,
        httpx.AsyncClient(base_url=served.url) as http,
        http.stream("GET", "/events/stream?type=run_failed") as response,
        aclosing(lines_of(response)) as events,
    ):
        await anext(events)
        await served.client.runs.wait(None, "echo", input={})
        await served.client.runs.wait(None, "failing", input={}, raise_error=False)
        event = await anext(events)

    assert event["event"] == "run_failed"
    assert json.loads(event["data"])["payload"]["error"] == "it cannot be done"


async def test_a_place_that_the_log_never_had_is_refused(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        for request in (
            {"params": {"after": 7}},
            {"headers": {"Last-Event-ID": "7"}},
            {"headers": {"Last-Event-ID": "-1"}},
            {"headers": {"Last-Event-ID": "9" * 40}},
            {"headers": {"Last-Event-ID": "1786000000000-3"}},
        ):
            answer = await http.get("/events/stream", **request)  # type: ignore[arg-type]  # any of these
            assert answer.status_code == 422, request


class Client:
    """An ASGI client that reads only as much as it likes."""

    def __init__(self, *, reads: int | None = None) -> None:
        self.sent: list[bytes] = []
        self.left = asyncio.Event()
        self.reads = reads
        self._more = asyncio.Event()

    async def got(self, count: int) -> None:
        """Wait until so many messages were sent."""
        while len(self.sent) < count:
            self._more.clear()
            await self._more.wait()

    async def got_one_like(self, part: bytes) -> None:
        """Wait until something that contains this was sent."""
        while not any(part in said for said in self.sent):
            self._more.clear()
            await self._more.wait()

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            return
        if self.reads is not None and len(self.sent) >= self.reads:
            await asyncio.Event().wait()
        self.sent.append(message["body"])
        self._more.set()


def follows(served: Any, frames: EventFrames, **options: Any) -> LogEvents:
    return LogEvents(
        follower=served.app.store.follow(), frames=frames, **{"heartbeat": 60.0, "patience": 60.0, **options}
    )


async def test_an_event_is_encoded_once_for_all_who_follow(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served:
        frames = EventFrames()
        clients = [Client() for _ in range(50)]
        tasks = [asyncio.create_task(follows(served, frames)({}, client.receive, client.send)) for client in clients]
        await served.client.runs.wait(None, "echo", input={})
        end = await served.app.store.subscriptions.end()
        for client in clients:
            await client.got(end + 1)
            client.left.set()
        await asyncio.gather(*tasks)

    _, *events = clients[0].sent
    for client in clients:
        assert all(one is same for one, same in zip(client.sent[1:], events, strict=True))


async def test_a_reader_that_takes_nothing_is_let_go(serve_agents: Any, caplog: Any) -> None:
    async with serve_agents(AGENTS) as served:
        client = Client(reads=1)
        following = asyncio.create_task(follows(served, EventFrames(), patience=0.01)({}, client.receive, client.send))
        await served.client.runs.wait(None, "echo", input={})
        await following

    assert [one.levelname for one in caplog.records if "took nothing" in one.message] == ["WARNING"]


async def test_a_quiet_stream_says_that_it_lives_and_where_it_is(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served:
        client = Client()
        following = asyncio.create_task(follows(served, EventFrames(), heartbeat=0.01)({}, client.receive, client.send))
        await client.got(3)
        client.left.set()
        await following

    assert client.sent[1] == b": heartbeat\r\nid: 0\r\n\r\n"


async def test_a_stream_ends_when_its_store_is_closed(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served:
        client = Client()
        following = asyncio.create_task(follows(served, EventFrames())({}, client.receive, client.send))
        await client.got(1)
    await following

    assert client.sent[-1] == b": the server closes\r\n\r\n"


async def test_what_is_kept_encoded_is_bounded_in_count_and_bytes(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served:
        await served.client.runs.wait(None, "echo", input={})
        stored = await served.app.store.events()
    few, small = EventFrames(count=2), EventFrames(size=1)
    first = (few.of(stored[0]), small.of(stored[0]))
    for event in stored:
        assert few.of(event) == small.of(event)

    assert few.of(stored[-2]) is few.of(stored[-2])
    for frames, before in zip((few, small), first, strict=True):
        assert frames.of(stored[-1]) is frames.of(stored[-1])  # the newest stays, however large
        again = frames.of(stored[0])
        assert (again, again is before) == (before, False)


async def test_what_took_the_position_of_a_lost_event_is_not_sent_as_that(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served:
        await served.client.runs.wait(None, "echo", input={})
        one, other, *_ = await served.app.store.events()
    frames = EventFrames()
    frames.of(one)

    assert other.event.event_id.encode() in frames.of(replace(other, position=one.position))


async def test_a_database_that_is_away_is_a_comment_and_no_end(own_postgres_server: PostgresServer) -> None:
    url = own_postgres_server.create_database("runs")
    async with open_app(Settings(database_url=url), AGENTS) as app:
        await run_agent(app, "echo")
        end = await app.store.subscriptions.end()
    async with Store.open(url, busy_timeout=0.2) as store:
        client = Client()
        await asyncio.to_thread(own_postgres_server.stop, "immediate")
        follower = store.follow(after=0)
        answer = LogEvents(follower=follower, frames=EventFrames(), heartbeat=0.01, patience=60.0)
        following = asyncio.create_task(answer({}, client.receive, client.send))
        await client.got_one_like(b"cannot be read for now")
        assert not any(b"data:" in said for said in client.sent)
        await asyncio.to_thread(own_postgres_server.start)
        await client.got_one_like(b"id: %d\r\nevent:" % end)
        client.left.set()
        await following

    ids = [int(said.split()[1]) for said in client.sent if b"data:" in said]
    assert ids == list(range(1, end + 1))


async def run_agent(app: App, agent: str) -> None:
    handle = await app.manager.start(RunSpec(agent, {"a": 1}))
    await handle.result()


async def test_a_path_refuses_methods_that_it_does_not_have_and_names_those_that_it_has(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        of_runs = await http.patch("/runs")
        no_run = await http.get("/runs/wait")
        head = await http.head("/events")
        nothing = await http.get("/nothing")

    assert (of_runs.status_code, of_runs.headers["Allow"]) == (405, "GET, HEAD, POST")
    assert (no_run.status_code, no_run.headers["Allow"]) == (405, "POST")
    assert (head.status_code, head.content) == (200, b"")
    assert nothing.status_code == 404
    assert "/nothing" in nothing.json()["detail"]
