"""Copies and prunes of threads on which a graph ran that is no longer served, or after which a function ran."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.checkpoint.memory import MemorySaver
from langgraph.graph import START, StateGraph
from langgraph_sdk.errors import ConflictError

from trackside import RunContext
from trackside.harness.ids import new_id


class Log(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


def logging_graph(saver: Any = None) -> Any:
    graph = StateGraph(Log).add_node("one", lambda state: {"log": ["one"]}).add_edge(START, "one")
    return graph.compile(checkpointer=saver)


async def chat(input: Any) -> dict[str, Any]:
    return {"said": input}


async def logged(client: Any, *agents: str) -> str:
    """Make a thread on which these agents have run, one after the other."""
    thread_id = new_id()
    for agent in agents:
        await client.runs.wait(thread_id, agent, input={"log": ["in"]}, if_not_exists="create")
    return thread_id


@pytest.mark.parametrize("saver", ["store", "langgraph"])
async def test_what_a_graph_left_before_a_function_is_copied_and_pruned(serve_agents: Any, saver: str) -> None:
    async with serve_agents({"graph": logging_graph(), "chat": chat}, checkpoints_saver=saver) as served:
        client, checkpointer = served.client, served.app.checkpointer
        thread_id = await logged(client, "graph", "graph", "chat")
        never = await logged(client, "chat")

        async def kept(of: str) -> int:
            return len([one async for one in checkpointer.alist({"configurable": {"thread_id": of}})])

        copy = await client.threads.copy(thread_id)
        assert (copy["values"], await kept(copy["thread_id"])) == ({"said": {"log": ["in"]}}, await kept(thread_id))
        assert (await client.threads.copy(never))["values"] == {"said": {"log": ["in"]}}
        assert await client.threads.prune([never], strategy="keep_latest") == {"pruned_count": 1}
        if saver == "store":
            assert await client.threads.prune([thread_id], strategy="keep_latest") == {"pruned_count": 1}
            assert await kept(thread_id) == 1
        for one in (thread_id, copy["thread_id"]):
            values = await client.runs.wait(one, "graph", input={"log": ["more"]})
            assert values == {"log": ["in", "one", "in", "one", "more", "one"]}


async def test_what_a_graph_left_before_a_function_is_copied_where_no_graph_is_served(serve_agents: Any) -> None:
    async with serve_agents({"graph": logging_graph(), "chat": chat}) as served:
        thread_id = await logged(served.client, "graph", "chat")
    async with serve_agents({"chat": chat}) as served:
        copy = (await served.client.threads.copy(thread_id))["thread_id"]
    async with serve_agents({"graph": logging_graph()}) as served:
        values = await served.client.runs.wait(copy, "graph", input={"log": ["more"]})
        assert values == {"log": ["in", "one", "more", "one"]}


async def test_what_the_store_has_of_a_thread_is_copied_whoever_is_served(serve_agents: Any) -> None:
    async with serve_agents({"old": chat}) as served:
        thread_id = await logged(served.client, "old")
    async with serve_agents({"new": chat}) as served:
        assert (await served.client.threads.copy(thread_id))["values"] == {"said": {"log": ["in"]}}
        assert await served.client.threads.prune([thread_id], strategy="keep_latest") == {"pruned_count": 1}


@pytest.mark.parametrize("agents", [("chat", "own"), ("own", "chat", "own"), ("chat", "own", "own")])
async def test_what_an_earlier_agent_left_is_not_taken_for_what_the_last_one_did(
    serve_agents: Any, agents: tuple[str, ...]
) -> None:
    async with serve_agents({"own": logging_graph(MemorySaver()), "chat": chat}) as served:
        thread_id = await logged(served.client, *agents)
    async with serve_agents({"chat": chat}) as served:
        client = served.client
        with pytest.raises(ConflictError, match="'own' is not served here"):
            await client.threads.copy(thread_id)
        assert await client.threads.prune([thread_id], strategy="keep_latest") == {"pruned_count": 0}


async def test_what_the_store_has_is_copied_also_of_copies_of_changed_threads_and_behind_runs_that_failed(
    serve_agents: Any,
) -> None:
    async def fails_later(input: Any, run: RunContext) -> Any:
        if input.get("log") is None:
            raise ValueError("nothing to say")
        return await chat(input)

    async with serve_agents({"own": logging_graph(MemorySaver()), "old": fails_later}) as served:
        client = served.client
        changed, behind = await logged(client, "own", "old"), await logged(client, "old", "old")
        await client.threads.update_state(changed, {"more": True})
        await client.runs.wait(behind, "old", input={}, raise_error=False)
        copied = (await client.threads.copy(changed))["thread_id"]
    async with serve_agents({"new": chat}) as served:
        for thread_id in (changed, behind, copied):
            values = (await served.client.threads.get(thread_id))["values"]
            assert values["said"] == {"log": ["in"]}
            assert (await served.client.threads.copy(thread_id))["values"] == values


async def test_a_thread_whose_agent_is_not_served_is_neither_copied_nor_pruned_to_its_latest_state(
    serve_agents: Any,
) -> None:
    async with serve_agents({"graph": logging_graph()}) as served:
        thread_id = await logged(served.client, "graph", "graph")
        before = await served.client.threads.get_history(thread_id)
    async with serve_agents({"chat": chat}) as served:
        client = served.client
        other = await logged(client, "chat")
        with pytest.raises(ConflictError, match="'graph' is not served here"):
            await client.threads.copy(thread_id)
        assert await client.threads.count() == 2
        assert await client.threads.prune([thread_id, other], strategy="keep_latest") == {"pruned_count": 1}
    async with serve_agents({"graph": logging_graph()}) as served:
        assert await served.client.threads.get_history(thread_id) == before
