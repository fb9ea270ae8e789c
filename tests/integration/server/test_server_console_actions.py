"""What the console does with runs, and what it says about it."""

from __future__ import annotations

import asyncio
import html
import json
import re
from dataclasses import replace
from operator import add
from typing import Annotated, Any, TypedDict

import httpx
import pytest
from langgraph.graph import END, START, StateGraph

from trackside.app.dashboard.pages import _run_reading, run_actions
from trackside.app.server.routing import Call
from trackside.app.server.wire.log import RunDetails
from trackside.harness.ids import new_id
from trackside.harness.types import RunSpec, RunStatus
from trackside.testing import make_run

DIALECTS = ("sqlite",)


async def count(input: Any) -> Any:
    return {"counted": input}


async def sleep(input: Any) -> None:
    await asyncio.Event().wait()


def counting(node: str) -> Any:
    """A graph with one node of this name."""
    builder = StateGraph(dict)
    builder.add_node(node, lambda state: {"counted": state.get("counted", 0) + 1})
    builder.add_edge(START, node)
    builder.add_edge(node, END)
    return builder.compile()


async def sent(http: httpx.AsyncClient, path: str, **form: str) -> httpx.Response:
    """The console's answer to a form of one of its pages."""
    page = (await http.get("/ui/runs")).text
    token = html.unescape(re.findall(r'name="trackside-token" content="([^"]+)"', page)[0])
    return await http.post(path, data={"csrf": token, **form}, headers={"HX-Request": "true"})


async def started(http: httpx.AsyncClient, agent: str) -> dict[str, Any]:
    """Start a run on a thread of its own, which is kept."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    body = {"assistant_id": agent, "input": 1}
    run: dict[str, Any] = (await http.post(f"/threads/{thread_id}/runs", json=body)).json()
    return run


@pytest.mark.parametrize("most", [1, 2, 3, 1_000])
async def test_a_run_of_many_steps_is_forked_from_its_beginning(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    class Kept(TypedDict):
        steps: Annotated[list[str], add]

    builder, names = StateGraph(Kept), ["a", "b", "c", "d"]
    builder.add_sequence([(name, lambda state, name=name: {"steps": [name]}) for name in names])
    builder.add_edge(START, names[0])
    monkeypatch.setattr(run_actions, "_CHECKPOINTS", most)
    async with serve_agents({"steps": builder.compile()}) as served, httpx.AsyncClient(base_url=served.url) as http:
        path = f"/threads/{(await http.post('/threads', json={})).json()['thread_id']}"
        for said in ("first", "second"):
            body = {"assistant_id": "steps", "input": {"steps": [said]}}
            await http.post(f"{path}/runs/wait", json=body)
        (run, _) = (await http.get(f"{path}/runs")).json()
        forked = (await sent(http, f"/ui/runs/{run['run_id']}/fork")).headers["hx-redirect"].rpartition("/")[2]
        await http.get(f"/runs/{forked}/join")
        thread = (await http.get(f"/runs/{forked}")).json()["thread_id"]
        states = [(await http.get(f"{one}/state")).json()["values"] for one in (path, f"/threads/{thread}")]
        assert states == [{"steps": ["first", *names, "second", *names]}] * 2


@pytest.mark.parametrize("runs_before", [0, 1])
async def test_a_fork_has_the_limits_that_were_asked_for_with_its_run(serve_agents: Any, runs_before: int) -> None:
    limits = {"timeout": 300.0, "max_tokens": 5_000, "max_cost_usd": 0.5, "max_llm_calls": 7, "max_tool_calls": 9}
    async with (
        serve_agents({"graph": counting("one")}) as served,
        httpx.AsyncClient(base_url=served.url, timeout=60) as http,
    ):
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        for _ in range(runs_before):
            body = {"assistant_id": "graph", "input": {}}
            await http.post(f"/threads/{thread_id}/runs/wait", json=body)
        config = {"recursion_limit": 11}
        spec = RunSpec("graph", {}, thread_id=thread_id, config=config, any_owner=True, **limits)
        run = await served.app.manager.start(spec)
        await run.result()
        forked = (await sent(http, f"/ui/runs/{run.run_id}/fork")).headers["hx-redirect"].rpartition("/")[2]
        await http.get(f"/runs/{forked}/join")
        asked = await served.app.store.request_of(forked)
    assert {name: asked[name] for name in limits} == limits
    assert asked["config"]["recursion_limit"] == 11


@pytest.mark.parametrize("action", ["interrupt", "rollback"])
async def test_a_run_that_had_ended_is_not_said_to_be_cancelled(serve_agents: Any, action: str) -> None:
    async with serve_agents({"count": count}) as served, httpx.AsyncClient(base_url=served.url) as http:
        run = await started(http, "count")
        await http.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}/join")
        said = await sent(http, f"/ui/runs/{run['run_id']}/cancel", action=action)
        state = (await http.get(f"/threads/{run['thread_id']}/state")).json()
        assert (said.status_code, said.text) == (200, "It had already ended: success.")
        assert state["values"] == {"counted": 1}


async def test_nor_is_one_that_ends_while_it_is_to_be_cancelled(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = asyncio.Event()

    async def waits(input: Any) -> Any:
        await go_on.wait()
        return {"counted": input}

    async with serve_agents({"waits": waits}) as served, httpx.AsyncClient(base_url=served.url) as http:
        run = await started(http, "waits")
        look = _run_reading.details_of

        async def look_and_let_it_end(call: Call[Any, Any], run_id: str) -> RunDetails:
            found = await look(call, run_id)
            go_on.set()
            await http.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}/join")
            return found

        monkeypatch.setattr(_run_reading, "details_of", look_and_let_it_end)
        said = await sent(http, f"/ui/runs/{run['run_id']}/cancel", action="rollback")
        assert said.text == "It has ended meanwhile: success."


async def test_of_a_run_that_goes_on_as_another_attempt_that_is_cancelled(serve_agents: Any) -> None:
    first, other = new_id(), new_id()
    async with serve_agents({"sleep": sleep}) as served, httpx.AsyncClient(base_url=served.url) as http:
        last = {}
        for run_id in (first, other):
            last[run_id] = (await started(http, "sleep"))["run_id"]
            events = make_run(run_id, thread_id=new_id(), messages=0, status=RunStatus.error)[:3]
            end = replace(events[-1], payload={**events[-1].payload, "retried_as": last[run_id]})
            await served.app.store.append([*events[:-1], end])

        said = await sent(http, f"/ui/runs/{first}/cancel")
        assert said.text == f"It went on as run {last[first]}. Cancelled: what it has done so far stays."
        said = await sent(http, "/ui/runs/cancel", run_ids=other)
        assert f'is being cancelled</bdi></span> as <a class="id" href="/ui/runs/{last[other]}"' in said.text
        for run_id in last.values():
            async for stored in served.app.store.follow(run_id=run_id, types=["run_cancelled"]):
                assert stored.event.run_id == run_id
                break
        said = await sent(http, f"/ui/runs/{first}/cancel")
        assert said.text == f"It went on as run {last[first]}. It had already ended: cancelled."


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ("interrupt", "It went on as run {last}. Cancelled: what it has done so far stays."),
        ("rollback", "Cancelled: its thread goes back to what it was before."),
    ],
)
async def test_so_is_one_as_which_it_goes_on_while_it_is_to_be_cancelled(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch, action: str, says: str
) -> None:
    first, look = new_id(), _run_reading.details_of
    async with serve_agents({"sleep": sleep}) as served, httpx.AsyncClient(base_url=served.url) as http:
        store, last = served.app.store, (await started(http, "sleep"))["run_id"]
        events = make_run(first, thread_id=new_id(), messages=0, status=RunStatus.error)[:3]
        ends = [replace(events[-1], payload={**events[-1].payload, "retried_as": last})]
        await store.append(events[:-1])

        async def look_and_let_it_end(call: Call[Any, Any], run_id: str) -> RunDetails:
            found = await look(call, run_id)
            if ends:
                await store.append([ends.pop()])
            elif run_id == last:
                async for _ in store.follow(run_id=last, types=["run_cancelled"]):
                    break
                found = await look(call, run_id)
            return found

        monkeypatch.setattr(_run_reading, "details_of", look_and_let_it_end)
        said = await sent(http, f"/ui/runs/{first}/cancel", action=action)
        assert said.text == says.format(last=last)


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ("interrupt", "Cancelled: what it has done so far stays."),
        ("rollback", "Cancelled: its thread goes back to what it was before."),
    ],
)
async def test_what_a_cancel_does_is_said(serve_agents: Any, action: str, says: str) -> None:
    async with serve_agents({"sleep": sleep}) as served, httpx.AsyncClient(base_url=served.url) as http:
        run = await started(http, "sleep")
        assert (await sent(http, f"/ui/runs/{run['run_id']}/cancel", action=action)).text == says


async def test_a_fork_that_is_refused_leaves_no_thread_behind(serve_agents: Any) -> None:
    async with serve_agents({"graph": counting("one")}) as served, httpx.AsyncClient(base_url=served.url) as http:
        path = f"/threads/{(await http.post('/threads', json={})).json()['thread_id']}/runs"
        for _ in range(2):  # before the first one there is nothing that a fork would have to remember
            body = {"assistant_id": "graph", "input": {}, "interrupt_after": ["one"]}
            run = (await http.post(path, json=body)).json()
            await http.get(f"{path}/{run['run_id']}/join")
    async with serve_agents({"graph": counting("two")}) as served, httpx.AsyncClient(base_url=served.url) as http:
        said = await sent(http, f"/ui/runs/{run['run_id']}/fork")
        left = [one["thread_id"] for one in (await http.post("/threads/search", json={})).json()]
        assert (said.status_code, "the graph's nodes are two" in said.text) == (422, True)
        assert left == [run["thread_id"]]


async def test_what_the_protocol_has_started_is_asked_for_again(serve_agents: Any) -> None:
    async with (
        serve_agents({"graph": counting("a")}) as served,
        httpx.AsyncClient(base_url=served.url, timeout=30) as http,
    ):
        start = {"id": 1, "method": "run.start", "params": {"assistant_id": "graph", "input": {}}}
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        run_id = (await http.post(f"/threads/{thread_id}/commands", json=start)).json()["result"]["run_id"]
        await http.get(f"/runs/{run_id}/join")
        kept = (await served.app.store.request_of(run_id))["stream_mode"]
        seen = (await http.get(f"/threads/{thread_id}/runs/{run_id}")).json()["kwargs"]["stream_mode"]
        page = html.unescape((await http.get(f"/ui/runs/{run_id}")).text)
        copied = re.findall(r"--data-raw '(.*?)'", page, re.DOTALL)[0]
        again = await http.post("/runs", content=copied, headers={"Content-Type": "application/json"})
        forked = await sent(http, f"/ui/runs/{run_id}/fork")
    assert "checkpoint-marks" in kept
    assert seen == [mode for mode in kept if mode != "checkpoint-marks"]
    assert json.loads(copied)["stream_mode"] == seen
    assert again.status_code == 200
    assert forked.headers["hx-redirect"].startswith("/ui/runs/")
