"""Runs that begin at a checkpoint of their thread or stop at a breakpoint, through the SDK's clients."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import httpx
import pytest
from langgraph.graph import START, StateGraph
from langgraph_sdk.errors import UnprocessableEntityError
from tests.integration.server.state_agents import Log, agents, step, thread_of

from trackside.harness.ids import new_id
from trackside.harness.lifecycle import TERMINAL_EVENTS


async def checkpoint_before(client: Any, thread_id: str, *following: str) -> dict[str, Any]:
    history = await client.threads.get_history(thread_id, limit=50)
    return next(state["checkpoint"] for state in history if state["next"] == [*following])


async def test_a_run_does_not_begin_at_the_newest_state_where_it_names_one_by_half(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads, runs = served.client.threads, served.client.runs
        thread_id = await thread_of(served.client, "nested", {"log": ["in"]})
        inside = (await threads.get_state(thread_id))["tasks"][0]["checkpoint"]
        for half in (inside, {"checkpoint_map": {"": "x"}}):
            with pytest.raises(UnprocessableEntityError, match="give its checkpoint_id, too"):
                await runs.create(thread_id, "nested", input={"log": []}, checkpoint=half)
        assert len(await runs.list(thread_id)) == 1
        nowhere = {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": None, "checkpoint_map": {}}
        await runs.wait(thread_id, "nested", input={"log": []}, checkpoint=nowhere)

    assert inside["checkpoint_id"] is None


async def test_the_state_of_a_graph_inside_that_has_not_run_is_not_that_of_the_graph_around_it(
    serve_agents: Any,
) -> None:
    async with serve_agents(agents()) as served:
        threads = served.client.threads
        thread_id = await thread_of(served.client, "nested", {"log": ["in"]}, interrupt_before=["inside"])
        inside = (await threads.get_state(thread_id))["tasks"][0]["checkpoint"]
        state = await threads.get_state(thread_id, checkpoint=inside)
        await threads.update_state(thread_id, {"log": ["for inside"]}, checkpoint=state["checkpoint"])
        around = await threads.get_state(thread_id)

    assert inside["checkpoint_ns"].startswith("inside:")
    assert (state["checkpoint"]["checkpoint_ns"], state["values"]) == (inside["checkpoint_ns"], {})
    assert around["values"] == {"log": ["in"]}


async def test_a_thread_forks_and_both_branches_stay(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads, runs = served.client.threads, served.client.runs
        thread_id = await thread_of(served.client, "talking", {"messages": [{"role": "user", "content": "one"}]})
        checkpoint = (await threads.get_state(thread_id))["checkpoint"]
        await runs.wait(thread_id, "talking", input={"messages": [{"role": "user", "content": "two"}]})

        values = await runs.wait(
            thread_id, "talking", input={"messages": [{"role": "user", "content": "other"}]}, checkpoint=checkpoint
        )
        history = await threads.get_history(thread_id, limit=50)

    assert [message["content"] for message in values["messages"]] == ["one", "reply 1", "other", "reply 3"]
    children = [state["values"]["messages"][-1]["content"] for state in history if state["next"] == []]
    assert children == ["reply 3", "reply 3", "reply 1"]
    forks = [state for state in history if state["parent_checkpoint"] == checkpoint]
    assert len(forks) == 2


async def test_a_run_goes_on_from_the_checkpoint_that_it_names(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        thread_id = await thread_of(served.client, "steps", {"log": ["in"]})
        checkpoint = await checkpoint_before(served.client, thread_id, "second")
        stream = served.client.runs.stream(
            thread_id, "steps", input=None, checkpoint_id=checkpoint["checkpoint_id"], stream_mode="values"
        )
        parts = [part.data async for part in stream if part.event == "values"]

    assert parts == [{"log": ["in", "first"]}, {"log": ["in", "first", "second"]}]


async def test_a_checkpoint_that_is_not_there_is_not_found_before_anything_runs(serve_agents: Any) -> None:
    nowhere = new_id()
    async with serve_agents(agents()) as served:
        threads, runs = served.client.threads, served.client.runs
        thread_id = await thread_of(served.client, "steps", {"log": []})
        for ask_for in (
            partial(threads.get_state, thread_id, checkpoint_id=nowhere),
            partial(threads.update_state, thread_id, {"log": []}, as_node="first", checkpoint_id=nowhere),
            partial(runs.create, thread_id, "steps", input=None, checkpoint_id=nowhere),
            partial(runs.wait, thread_id, "steps", input=None, checkpoint={"checkpoint_id": nowhere}),
            partial(runs.wait, new_id(), "steps", input=None, checkpoint_id=nowhere, if_not_exists="create"),
            partial(runs.wait, None, "steps", input={"log": []}, checkpoint_id=nowhere),
        ):
            with pytest.raises(httpx.HTTPStatusError) as refused:
                await ask_for()
            said = refused.value.response
            assert (said.status_code, said.json()["code"]) == (404, "unknown-checkpoint")
            assert nowhere in said.json()["detail"]
            assert "None" not in said.json()["detail"]
        with pytest.raises(UnprocessableEntityError, match="another thread"):
            await threads.get_state(thread_id, checkpoint={"thread_id": nowhere, "checkpoint_ns": ""})
        own = {"thread_id": thread_id.upper(), "checkpoint_ns": ""}  # as clients may write an id
        assert await threads.get_state(thread_id.upper(), checkpoint=own) == await threads.get_state(thread_id)
        assert len(await threads.get_history(thread_id, checkpoint=own)) == len(await threads.get_history(thread_id))
        assert (await runs.wait(thread_id, "steps", input=None, checkpoint=own))["log"]
        assert len(await runs.list(thread_id)) == 2


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("state/a%00b", None),
        ("history?before=a%00b", None),
        ("history", {"before": "a\0b"}),
        ("history", {"before": {"checkpoint_id": "a\0b"}}),
        ("history", {"before": {"configurable": {"checkpoint_id": "a\0b"}}}),
        ("history", {"checkpoint": {"checkpoint_id": "a\0b"}}),
        ("state/checkpoint", {"checkpoint": {"checkpoint_id": "a\0b"}}),
        ("state/checkpoint", {"checkpoint": {"checkpoint_ns": "a\0b"}}),
        ("state/checkpoint", {"checkpoint": {"checkpoint_ns": "a", "checkpoint_map": {"a": "a\0b"}}}),
        ("state", {"values": {"log": []}, "as_node": "first", "checkpoint_id": "a\0b"}),
        ("runs", {"assistant_id": "steps", "checkpoint_id": "a\0b"}),
        ("runs", {"assistant_id": "steps", "checkpoint": {"checkpoint_id": "a", "checkpoint_ns": "a\0b"}}),
        ("runs", {"assistant_id": "steps", "config": {"configurable": {"checkpoint_id": "a\0b"}}}),
    ],
)
async def test_what_no_database_can_hold_is_no_place_in_a_thread(serve_agents: Any, path: str, asked: Any) -> None:
    async with serve_agents(agents()) as served, httpx.AsyncClient(base_url=served.url) as http:
        thread_id = await thread_of(served.client, "steps", {"log": []})
        method = "GET" if asked is None else "POST"
        answer = await http.request(method, f"/threads/{thread_id}/{path}", json=asked)
        assert (answer.status_code, "without NUL" in answer.text) == (422, True)


async def test_a_thread_whose_run_was_stopped_is_idle_and_goes_on_where_that_was(serve_agents: Any) -> None:
    started = asyncio.Event()

    async def hold(state: Log) -> Log:
        if not started.is_set():
            started.set()
            await asyncio.Event().wait()
        return {"log": ["held"]}

    builder = StateGraph(Log).add_node("first", step("first")).add_node("hold", hold)
    graph = builder.add_edge(START, "first").add_edge("first", "hold").compile()
    async with serve_agents({"holding": graph}) as served:
        runs, threads = served.client.runs, served.client.threads
        thread_id = (await threads.create())["thread_id"]
        run = await runs.create(thread_id, "holding", input={"log": []})
        await started.wait()
        await runs.cancel(thread_id, run["run_id"], wait=True)
        state = await threads.get_state(thread_id)
        found = {said: len(await threads.search(status=said)) for said in ("idle", "interrupted")}
        values = await runs.wait(thread_id, "holding", input=None)
    assert (state["values"], state["next"], found) == ({"log": ["first"]}, ["hold"], {"idle": 1, "interrupted": 0})
    assert values == {"log": ["first", "held"]}


@pytest.mark.parametrize("mode", ["values", "custom"])
async def test_who_waits_for_a_run_that_stops_at_a_breakpoint_is_asked_nothing(serve_agents: Any, mode: str) -> None:
    async with serve_agents(agents()) as served:
        threads, runs = served.client.threads, served.client.runs
        thread_id = (await threads.create())["thread_id"]
        asked = {"input": {"log": []}, "interrupt_before": ["second"], "stream_mode": mode}
        run = await runs.create(thread_id, "steps", **asked)
        joined = await runs.join(thread_id, run["run_id"])
        again = await runs.join(thread_id, run["run_id"])
        waited = await runs.wait(None, "steps", input={"log": []}, interrupt_after=["first"])
        thread = await threads.get(thread_id)
        (end,) = await served.app.store.events(run_id=run["run_id"], types=TERMINAL_EVENTS)

    assert joined == again == waited == {"log": ["first"]}
    assert (thread["status"], thread["interrupts"]) == ("interrupted", {})
    assert [stop["next"] for stop in end.event.payload["interrupts"]] == [["second"]]


async def test_breakpoints_stop_and_go_on(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads, runs = served.client.threads, served.client.runs
        thread_id = await thread_of(served.client, "steps", {"log": []}, interrupt_after=["first"])
        state = await threads.get_state(thread_id)
        values = await runs.wait(thread_id, "steps", input=None)
        gone_to = await runs.wait(thread_id, "steps", command={"goto": "second", "update": {"log": ["jump"]}})

    assert (state["next"], state["values"]) == (["second"], {"log": ["first"]})
    assert values == {"log": ["first", "second"]}
    assert gone_to == {"log": ["first", "second", "jump", "second"]}
