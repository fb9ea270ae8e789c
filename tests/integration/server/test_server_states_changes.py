"""States of threads that are changed by hand, through the SDK's clients, and what meanwhile becomes of the threads."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from dialects import BOTH
from langgraph.graph import END, START, StateGraph
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError
from tests.integration.server.state_agents import Log, agents, step, thread_of

from trackside.harness.adapters.langgraph import LangGraphAgent
from trackside.harness.ids import new_id
from trackside.harness.states import ThreadPlace
from trackside.harness.types import JsonObject

DIALECTS = BOTH


def routed() -> tuple[Any, asyncio.Event, asyncio.Event]:
    """Graph; an event, set when it looks for its next step; one without which it finds none, set at first."""
    routing, go_on = asyncio.Event(), asyncio.Event()
    go_on.set()

    async def route(state: Log) -> str:
        routing.set()
        await go_on.wait()
        return END

    builder = StateGraph(Log).add_node("talk", step("talked")).add_edge(START, "talk")
    return builder.add_conditional_edges("talk", route, [END]).compile(), routing, go_on


async def test_an_update_goes_on_as_if_a_node_had_returned_it(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads = served.client.threads
        thread_id = await thread_of(served.client, "steps", {"log": []}, interrupt_before=["second"])
        answer = await threads.update_state(thread_id, {"log": ["by hand"]}, as_node="first")
        state = await threads.get_state(thread_id)
        values = await served.client.runs.wait(thread_id, "steps", input=None)

    assert state["checkpoint"] == answer["checkpoint"]
    assert (state["next"], state["values"]) == (["second"], {"log": ["first", "by hand"]})
    assert values == {"log": ["first", "by hand", "second"]}


@pytest.mark.parametrize("kept_by", ["store", "langgraph"])
async def test_what_is_changed_by_hand_of_a_thread_that_is_deleted_meanwhile_is_not_left(
    serve_agents: Any, kept_by: Any
) -> None:
    graph, routing, go_on = routed()
    async with serve_agents({"routed": graph}, checkpoints_saver=kept_by) as served:
        threads = served.client.threads
        thread_id = await thread_of(served.client, "routed", {"log": ["I am Ada"]})
        routing.clear(), go_on.clear()
        change = asyncio.create_task(threads.update_state(thread_id, {"log": ["born 1815"]}, as_node="talk"))
        await routing.wait()
        await threads.delete(thread_id)
        await served.app.store.sweeper().sweep()
        go_on.set()
        with pytest.raises(NotFoundError):
            await change
        made = await threads.create(thread_id=thread_id, graph_id="routed")
        state = await threads.get_state(thread_id)

    assert (made["status"], made["values"]) == ("idle", None)
    assert (state["values"], state["checkpoint"]["checkpoint_id"]) == ({}, None)


async def test_what_is_changed_by_hand_of_a_thread_is_not_of_one_that_is_begun_anew_meanwhile(
    serve_agents: Any,
) -> None:
    graph, routing, go_on = routed()
    async with serve_agents({"routed": graph}) as served:
        threads, log = served.client.threads, {"log": ["I am Ada"]}
        thread_id = await thread_of(served.client, "routed", log)
        routing.clear(), go_on.clear()
        change = asyncio.create_task(threads.update_state(thread_id, {"log": ["born 1815"]}, as_node="talk"))
        await routing.wait()
        await threads.delete(thread_id)
        await served.app.store.sweeper().sweep()
        await threads.create(thread_id=thread_id, graph_id="routed")
        go_on.set()
        with pytest.raises(NotFoundError):
            await change
        values = await served.client.runs.wait(thread_id, "routed", input={"log": ["I am Bob"]})

    assert values == {"log": ["I am Bob", "talked"]}


async def test_values_and_nodes_that_do_not_fit_are_refused(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads = served.client.threads
        thread_id = await thread_of(served.client, "steps", {"log": []})
        with pytest.raises(UnprocessableEntityError, match="as_node = .third.: the graph.s nodes are first, second"):
            await threads.update_state(thread_id, {"log": []}, as_node="third")
        with pytest.raises(UnprocessableEntityError, match="as_node = .__third.: the graph.s nodes are first, second"):
            await threads.update_state(thread_id, {"log": []}, as_node="__third")
        with pytest.raises(UnprocessableEntityError, match="as_node = .__end__. does not fit a run: .* no values"):
            await threads.update_state(thread_id, {"log": []}, as_node="__end__")
        with pytest.raises(UnprocessableEntityError, match="values"):
            await threads.update_state(thread_id, {"log": 5}, as_node="first")


async def test_a_busy_thread_is_not_changed(serve_agents: Any) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def waiting(input: Any) -> None:
        started.set()
        await go_on.wait()

    async with serve_agents({"waiting": waiting}) as served:
        run = await served.client.runs.create(thread_id := new_id(), "waiting", if_not_exists="create")
        await started.wait()
        busy = f"is busy with run '{run['run_id']}'; wait for it, or cancel it. Another run can be started"
        with pytest.raises(ConflictError, match=re.escape(busy)):  # a change of the state has no strategy to choose
            await served.client.threads.update_state(thread_id, {"a": 1})
        go_on.set()
        await served.client.runs.join(thread_id, run["run_id"])


@pytest.mark.parametrize("is_over", [False, True], ids=["goes_on", "is_over"])
async def test_who_changes_a_thread_is_told_of_a_run_that_began_meanwhile(serve_agents: Any, is_over: bool) -> None:
    written, answered, end = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Slow(LangGraphAgent):
        async def update_state(self, place: ThreadPlace, values: Any, *, as_node: str | None = None) -> JsonObject:
            checkpoint = await super().update_state(place, values, as_node=as_node)
            written.set()
            await answered.wait()
            return checkpoint

    async def wait(state: Log) -> Log:
        await end.wait()
        return {"log": ["run"]}

    graph = StateGraph(Log).add_node("wait", wait).add_edge(START, "wait").compile()
    async with serve_agents({"waiting": Slow(graph, name="waiting")}) as served:
        threads, runs = served.client.threads, served.client.runs
        await threads.create(thread_id=(thread_id := new_id()), graph_id="waiting")
        changing = asyncio.create_task(threads.update_state(thread_id, {"log": ["by hand"]}, as_node="wait"))
        await written.wait()
        run = await runs.create(thread_id, "waiting", input={"log": []})
        if is_over:
            end.set()
            await runs.join(thread_id, run["run_id"])
        answered.set()
        with pytest.raises(ConflictError, match=f"{run['run_id']}.*may not have seen"):
            await changing
        end.set()
        await runs.join(thread_id, run["run_id"])
        thread = await threads.get(thread_id)
        state = await threads.get_state(thread_id)

    assert thread["status"] == "idle"
    assert state["values"] == {"log": ["by hand", "run"]}


@pytest.mark.parametrize(
    ("agent", "node", "status"),
    [("asking", "ask", "idle"), ("steps", "first", "interrupted"), ("failing", None, "idle")],
)
async def test_a_thread_that_is_changed_by_hand_is_found_by_what_it_is_then(
    serve_agents: Any, agent: str, node: str | None, status: str
) -> None:
    async def failing(input: Any) -> None:
        raise ValueError("no")

    async with serve_agents({**agents(), "failing": failing}) as served:
        client, threads = served.client, served.client.threads
        thread_id = await thread_of(client, agent, {"log": []}, raise_error=False)
        before = await threads.get(thread_id)
        await threads.update_state(thread_id, {"log": ["by hand"]}, as_node=node)
        (thread,) = await threads.search(status=status, values={"log": ["by hand"]})
        assert thread["thread_id"] == thread_id
        assert thread["updated_at"] > before["updated_at"]
        assert thread["error"] is None
        assert thread["interrupts"] == {}
        *_, last = await served.app.store.events(thread_id=thread_id)
        assert last.event.payload == {"status": status, "previous": before["status"]}
        events = len(await served.app.store.events(thread_id=thread_id))
        await threads.update_state(thread_id, {"log": ["again"]}, as_node=node)
        assert len(await served.app.store.events(thread_id=thread_id)) == events  # it is what it was
        assert await client.runs.wait(thread_id, "counting", input={}) == {"count": 1}
        assert (await threads.get(thread_id))["status"] == "idle"
