"""Where a thread's stream begins when it is opened anew, by version 2 of the protocol, and what it first tells."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk import get_sync_client
from tests.integration.server.protocol_agents import Held
from tests.integration.server.test_server_protocol import command, ends, events_until, of

from trackside.app.streams.live_messages import BY_COMMAND
from trackside.app.streams.protocol import events as protocol_events
from trackside.harness.ids import new_id

DIALECTS = ("sqlite",)
WATCH = ["lifecycle", "input"]


async def count(input: Any) -> Any:
    return {"n": input["n"] + 100}


async def test_who_opens_a_stream_for_a_run_that_waits_for_its_place_is_not_told_of_the_one_before(
    serve_agents: Any,
) -> None:
    held = Held()
    async with serve_agents({"count": count, "held": held}, max_running=1) as served:
        thread_id = new_id()
        async with served.client.threads.stream(thread_id, assistant_id="count") as it:
            await it.run.start(input={"n": 1})
            await events_until(it, ends)
            await served.client.runs.create(None, "held", input={})
            await held.begun.wait()
            said = await command(served, thread_id, "run.start", assistant_id="count", input={"n": 2})
            both = [asyncio.Event(), asyncio.Event()]
            streams = [
                asyncio.create_task(events_until(it, ends, channels, opened=opened))
                for opened, channels in zip(both, (WATCH, ["values", *WATCH]), strict=True)
            ]
            for opened in both:
                await opened.wait()
            await asyncio.wait(streams, timeout=0.3)  # nothing reaches them
            held.let_go.set()
            watched, read = await asyncio.gather(*streams)
    for events in (watched, read):
        assert [one["event"] for one in of(events, "lifecycle")] == ["running", "completed"]
        assert {one["run_id"] for one in of(events, "lifecycle")} == {said["result"]["run_id"]}
    assert of(read, "values") == [{"n": 102}]


class Counts(Held):
    """Adds 100, to 0 at once, otherwise when it is let go; fails with -1."""

    async def __call__(self, input: Any) -> Any:
        if input["n"] < 0:
            raise ValueError("the first one fails")
        if input["n"] > 0:
            await super().__call__(input)
        return {"n": input["n"] + 100}


async def run(client: Any, thread_id: str, how: str, number: int) -> None:
    """Run `counts` to its end, by any means except a command."""
    about = (thread_id, "counts")
    if how == "wait":
        await client.runs.wait(*about, input={"n": number}, raise_error=False)
    elif how.startswith("stream"):
        inside = how == "stream as a command does"
        assert [part async for part in client.runs.stream(*about, input={"n": number}, stream_subgraphs=inside)]
    else:
        created = await client.runs.create(*about, input={"n": number})
        await client.runs.join(thread_id, created["run_id"])


async def watches(thread: Any) -> None:
    """Wait until the stream is open over which the client watches how runs go."""
    async with asyncio.timeout(60):
        while thread._lifecycle_watcher_handle is None:
            await asyncio.sleep(0.01)
        await thread._lifecycle_watcher_handle.ready


@pytest.fixture(params=["kept", "not kept"])
def redact(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """A hook that keeps a server from storing what runs were asked for, or None, with which it stores that."""
    if request.param == "kept":
        return None
    (tmp_path / "hook.py").write_text("def keep(kind, payload):\n    return payload\n")
    return f"{tmp_path / 'hook.py'}:keep"


@pytest.mark.parametrize(
    ("how", "number"), [("wait", 0), ("wait", -1), ("stream", 0), ("stream as a command does", 0), ("create", 0)]
)
async def test_the_end_of_a_run_that_no_command_has_asked_for_is_not_that_of_the_one_that_is_started(
    serve_agents: Any, how: str, number: int, redact: str | None
) -> None:
    counts = Counts()
    async with serve_agents({"counts": counts}, redact=redact) as served:
        thread_id = (await served.client.threads.create())["thread_id"]
        await run(served.client, thread_id, how, number)
        async with served.client.threads.stream(thread_id, assistant_id="counts") as thread:
            await watches(thread)
            await thread.run.start(input={"n": 1})
            output = asyncio.ensure_future(thread.output._get_task())
            await counts.begun.wait()
            await asyncio.wait({output}, timeout=0.3)  # nothing reaches it
            counts.let_go.set()
            assert await output == {"n": 101}


async def test_the_synchronous_client_too_has_the_end_of_the_run_that_it_has_started(serve_agents: Any) -> None:
    counts = Counts()

    def turn(url: str, thread_id: str) -> Any:
        with (
            get_sync_client(url=url, api_key=None) as client,
            client.threads.stream(thread_id, assistant_id="counts") as thread,
        ):
            thread.run.start(input={"n": 1})
            return thread.output

    async with serve_agents({"counts": counts}) as served:
        thread_id = (await served.client.threads.create())["thread_id"]
        await run(served.client, thread_id, "wait", 0)
        output = asyncio.create_task(asyncio.to_thread(turn, served.url, thread_id))
        await counts.begun.wait()
        await asyncio.wait({output}, timeout=0.3)  # nothing reaches it
        counts.let_go.set()
        assert await output == {"n": 101}


@pytest.mark.parametrize("more", [{}, {"stream_subgraphs": False}])
async def test_who_watches_a_run_that_he_has_asked_for_hears_its_end_also_if_it_was_faster(
    serve_agents: Any, more: dict[str, Any], redact: str | None
) -> None:
    async with (
        serve_agents({"counts": Counts()}, redact=redact) as served,
        served.client.threads.stream(assistant_id="counts") as it,  # the client watches no thread whose id it made up
    ):
        await served.client.threads.create(thread_id=it.thread_id)
        await run(served.client, it.thread_id, "wait", 0)
        said = await command(served, it.thread_id, "run.start", assistant_id="counts", input={"n": 0}, **more)
        joined = said["result"]["run_id"]
        await served.client.runs.join(it.thread_id, joined)
        shown = await served.client.runs.get(it.thread_id, joined)
        assert BY_COMMAND not in shown.get("kwargs", {})
        events = await events_until(it, ends, WATCH)
    assert {one["run_id"] for one in of(events, "lifecycle")} == {said["result"]["run_id"]}


@pytest.mark.parametrize("is_first", [True, False])
async def test_who_watches_a_run_that_he_has_asked_for_hears_that_it_was_cancelled_before_it_began(
    serve_agents: Any, *, is_first: bool
) -> None:
    counts, held = Counts(), Held()
    async with serve_agents({"counts": counts, "held": held}, max_running=1) as served:
        client, thread_id = served.client, new_id()
        async with client.threads.stream(thread_id, assistant_id="counts") as it:
            if not is_first:
                await command(served, thread_id, "run.start", assistant_id="counts", input={"n": 0})
                await events_until(it, ends, WATCH)
            await client.runs.create(None, "held", input={})
            await held.begun.wait()
            said = await command(served, thread_id, "run.start", assistant_id="counts", input={"n": 0})
            await client.runs.cancel(thread_id, asked := said["result"]["run_id"], wait=True)
            events = await events_until(it, ends, WATCH)
        held.let_go.set()
    assert [(one["run_id"], one["status"]) for one in of(events, "lifecycle")] == [(asked, "cancelled")]


async def test_the_end_of_a_retry_is_not_that_of_the_run_that_whoever_watches_asks_for_next(serve_agents: Any) -> None:
    counts = Counts()
    async with (
        serve_agents({"counts": counts}) as served,
        served.client.threads.stream(assistant_id="counts") as it,  # the client watches no thread whose id it made up
    ):
        said = await command(served, it.thread_id, "run.start", assistant_id="counts", input={"n": 0})
        await served.client.runs.join(it.thread_id, asked := said["result"]["run_id"])
        retried = await served.client.http.post(f"/runs/{asked}/retry", json=None)
        await served.client.runs.join(it.thread_id, retried["run_id"])
        watching = asyncio.create_task(events_until(it, ends, WATCH, opened=(opened := asyncio.Event())))
        await opened.wait()
        counts.let_go.set()
        more = await command(served, it.thread_id, "run.start", assistant_id="counts", input={"n": 1})
        assert {one["run_id"] for one in of(await watching, "lifecycle")} == {more["result"]["run_id"]}


async def test_the_end_that_nobody_has_watched_is_not_that_of_the_next_run_a_while_later(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Counts()
    async with serve_agents({"counts": counts}) as served:
        said = await command(served, thread_id := new_id(), "run.start", assistant_id="counts", input={"n": 0})
        await served.client.runs.join(thread_id, said["result"]["run_id"])
        monkeypatch.setattr(protocol_events, "_COMES_SOON", 0.0)  # a while has passed
        async with served.client.threads.stream(thread_id, assistant_id="counts") as thread:
            watching = asyncio.create_task(events_until(thread, ends, WATCH, opened=(opened := asyncio.Event())))
            await opened.wait()
            await asyncio.wait({watching}, timeout=0.3)  # nothing reaches it
            counts.let_go.set()
            more = await thread.run.start(input={"n": 1})
            assert {one["run_id"] for one in of(await watching, "lifecycle")} == {more["run_id"]}
