"""Streams that code which the server runs reads of it by `get_client()`: to their end, late, not at all, or broken off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from langgraph.graph import START, StateGraph
from langgraph_sdk import get_client
from tests.integration.server.asking_graphs import KEYS, Said, client_of, graph_of

from trackside.app.server import in_process
from trackside.app.settings import ServerSettings

type ServeAgents = Callable[..., Any]


SPEAK = {"assistant_id": "speak", "input": 1, "stream_mode": "custom"}


async def test_what_another_run_says_comes_while_it_runs_and_who_breaks_off_ends_it(serve_agents: ServeAgents) -> None:
    is_heard, was_cancelled = asyncio.Event(), asyncio.Event()

    async def speak(input: Any, run: Any) -> str:
        run.send("hello")
        try:
            await (is_heard if input == "wait" else asyncio.Event()).wait()
        except asyncio.CancelledError:
            was_cancelled.set()
            raise
        return "done"

    async def follow(state: Said) -> Said:
        said: list[Any] = []
        more: Any = {"stream_mode": ["custom"], "on_disconnect": "cancel"}
        async for part in get_client().runs.stream(None, "speak", input="wait", **more):
            said.append(part.data)
            if part.event == "custom":
                is_heard.set()
        async for part in get_client().runs.stream(None, "speak", input="for ever", **more):
            if part.event == "custom":
                break
        await was_cancelled.wait()
        return {"said": said[1]}

    agents = {"follow": graph_of(follow), "speak": speak}
    async with serve_agents(agents, access=KEYS) as served, client_of(served, "ada") as ada:
        assert await ada.runs.wait(None, "follow", input={}) == {"said": "hello"}


async def test_a_stream_that_a_node_does_not_read_is_let_go_and_not_kept(
    serve_agents: ServeAgents, caplog: pytest.LogCaptureFixture
) -> None:
    is_over = asyncio.Event()

    async def speak(input: Any, run: Any) -> None:
        for _ in range(200):
            if "took nothing" in caplog.text:
                break
            run.send("x" * 300_000)
            await asyncio.sleep(0.01)
        is_over.set()

    async def follow(state: Said) -> Said:
        size = 0
        async with get_client().http.client.stream("POST", "/runs/stream", json=SPEAK) as answer:
            await is_over.wait()
            with pytest.raises(httpx.RemoteProtocolError):
                async for part in answer.aiter_bytes():
                    size += len(part)
        return {"said": size}

    async with serve_agents({"follow": graph_of(follow), "speak": speak}) as served:
        object.__setattr__(served.app.parts.options, "patience", 0.2)
        values = await served.client.runs.wait(None, "follow", input={})

    assert caplog.text.count("took nothing") == 1
    assert in_process._ROOM < values["said"] < 2 * in_process._ROOM


async def test_a_node_that_reads_a_little_later_misses_nothing(
    serve_agents: ServeAgents, caplog: pytest.LogCaptureFixture
) -> None:
    is_read = asyncio.Event()

    async def speak(input: Any, run: Any) -> None:
        for number in range(100):
            run.send(number)
            await asyncio.sleep(0.01)  # each is said by itself
        await is_read.wait()

    async def follow(state: Said) -> Said:
        said: list[Any] = []
        async for part in get_client().runs.stream(None, "speak", input=1, stream_mode="custom"):
            if part.event == "custom":
                if not said:
                    await asyncio.sleep(0.5)
                said.append(part.data)
                if len(said) == 100:
                    is_read.set()
        return {"said": said}

    async with serve_agents({"follow": graph_of(follow), "speak": speak}) as served:
        object.__setattr__(served.app.parts.options, "patience", 0.1)
        values = await served.client.runs.wait(None, "follow", input={})

    assert values == {"said": [*range(100)]}
    assert "took nothing" not in caplog.text


async def test_a_client_whose_loop_is_closed_without_a_word_has_gone(
    serve_agents: ServeAgents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_process, "_LOOK", 0.05)
    is_said, was_cancelled = asyncio.Event(), asyncio.Event()

    async def speak(input: Any, run: Any) -> None:
        for _ in range(10):
            run.send("x" * 300_000)
            await asyncio.sleep(0.01)
        is_said.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            was_cancelled.set()
            raise

    async def begin() -> None:
        client = get_client().http.client
        request = client.build_request("POST", "/runs/stream", json=SPEAK | {"on_disconnect": "cancel"})
        await client.send(request, stream=True)
        while not is_said.is_set():
            await asyncio.sleep(0.01)

    async def wait(state: Said) -> Said:
        await was_cancelled.wait()
        return {"said": "cancelled"}

    begun = StateGraph(Said).add_node("begin", lambda _: asyncio.run(begin())).add_node("wait", wait)
    graph = begun.add_edge(START, "begin").add_edge("begin", "wait").compile()
    async with serve_agents({"follow": graph, "speak": speak}) as served:
        assert await served.client.runs.wait(None, "follow", input={}) == {"said": "cancelled"}


async def test_a_stream_goes_on_though_no_key_of_its_run_can_be_looked_at_again(serve_agents: ServeAgents) -> None:
    goes_on = asyncio.Event()

    async def speak(input: Any) -> str:
        await goes_on.wait()
        return "done"

    async def follow(state: Said) -> Said:
        said: list[str] = []
        asked = {"assistant_id": "speak", "input": 1}
        async with get_client().http.client.stream("POST", "/runs/stream", json=asked) as answer:
            async for line in answer.aiter_lines():
                said.append(line)
                if len([one for one in said if one.startswith(":")]) == 3:  # each time keys are looked at again
                    goes_on.set()
        return {"said": said}

    more = {"access": KEYS, "server": ServerSettings(heartbeat=0.05)}
    agents = {"follow": graph_of(follow), "speak": speak}
    async with serve_agents(agents, **more) as served, client_of(served, "ada") as ada:
        values = await ada.runs.wait(None, "follow", input={})

    assert "event: end" in values["said"]
