"""Threads that are copied and pruned, through the SDK's clients, and what becomes of their checkpoints."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import httpx
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph_sdk.errors import NotFoundError
from tests.integration.server.thread_agents import Log, asking, asking_graph, chat, gated, logging_graph

from trackside.app.server.copying import copy_checkpoints
from trackside.app.storage.graph_checkpoints import StoreCheckpointer
from trackside.harness.ids import new_id


@pytest.mark.parametrize("agent", ["chat", "graph"])
async def test_a_copy_goes_on_for_itself(serve_agents: Any, agent: str) -> None:
    async with serve_agents({"chat": chat, "graph": logging_graph()}) as served:
        client = served.client
        thread = await client.threads.create(metadata={"k": "v"})
        await client.runs.wait(thread["thread_id"], agent, input={"log": ["zero"]})
        copy = await client.threads.copy(thread["thread_id"])
        before = await client.threads.get(thread["thread_id"])

        assert copy["thread_id"] != thread["thread_id"]
        assert (copy["values"], copy["metadata"]) == (before["values"], before["metadata"])
        histories = [await client.threads.get_history(one["thread_id"]) for one in (before, copy)]
        assert [state["values"] for state in histories[0]] == [state["values"] for state in histories[1]]
        await client.runs.wait(copy["thread_id"], agent, input={"log": ["more"]})
        assert await client.threads.get(thread["thread_id"]) == before
        assert len(await client.runs.list(copy["thread_id"])) == 1
        assert (await client.threads.get(copy["thread_id"]))["values"] != before["values"]


class CutOff(InMemorySaver):
    """Copies nothing by itself, and is cut off when the second checkpoint of a copy is put."""

    copied = 0

    async def aput(self, config: Any, *rest: Any) -> Any:
        self.copied += config["configurable"]["thread_id"] == "copy"
        if self.copied == 2:
            raise asyncio.CancelledError
        return await super().aput(config, *rest)


async def test_a_copy_that_is_cut_off_leaves_nothing(serve_agents: Any) -> None:
    saver = CutOff()
    graph = logging_graph()
    await graph.copy({"checkpointer": saver}).ainvoke({"log": []}, {"configurable": {"thread_id": "t"}})
    async with serve_agents({"graph": graph}) as served:
        parts = replace(served.app.parts, checkpointer=saver)
        with pytest.raises(asyncio.CancelledError):
            await copy_checkpoints(parts, parts.manager.agents["graph"], "t", "copy")

    assert (saver.copied, len([*saver.list({"configurable": {"thread_id": "t"}})])) == (2, 4)
    assert [*saver.list({"configurable": {"thread_id": "copy"}})] == []


async def test_a_copy_of_a_thread_that_is_deleted_meanwhile_leaves_nothing(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would ever look for what one of LangGraph's own savers has of a thread that is not there."""
    async with serve_agents({"graph": logging_graph()}, checkpoints_saver="langgraph") as served:
        threads, saver = served.client.threads, served.app.checkpointer
        thread_id = (await threads.create())["thread_id"]
        await served.client.runs.wait(thread_id, "graph", input={"log": ["zero"]})
        put = saver.aput
        copied: set[str] = set()

        async def put_as_the_thread_goes(config: Any, *rest: Any) -> Any:
            if not copied:
                await threads.delete(thread_id)
            copied.add(config["configurable"]["thread_id"])
            return await put(config, *rest)

        monkeypatch.setattr(saver, "aput", put_as_the_thread_goes)
        with pytest.raises(NotFoundError):
            await threads.copy(thread_id)
        left = {one.config["configurable"]["thread_id"] async for one in saver.alist(None)}

    assert len(copied) == 1
    assert not left & copied


async def test_a_copy_of_a_thread_that_asks_can_be_answered(serve_agents: Any) -> None:
    async with serve_agents({"asking": asking, "graph": asking_graph()}) as served:
        for agent, answered in (("asking", {"answer": "because"}), ("graph", {"log": ["because"]})):
            thread = await served.client.threads.create()
            await served.client.runs.wait(thread["thread_id"], agent, input={})
            copy = await served.client.threads.copy(thread["thread_id"])
            assert copy["status"] == "interrupted"
            values = await served.client.runs.wait(copy["thread_id"], agent, command={"resume": "because"})
            assert values == answered
            assert (await served.client.threads.get(thread["thread_id"]))["status"] == "interrupted"


async def test_threads_are_pruned_whole_or_to_their_latest_state(serve_agents: Any) -> None:
    async with serve_agents({"chat": chat, "graph": logging_graph()}) as served:
        client = served.client
        one, other = [(await client.threads.create())["thread_id"] for _ in range(2)]
        await client.runs.wait(one, "graph", input={"log": ["zero"]})
        await client.runs.wait(other, "chat", input="hello")
        before = [await client.threads.get_state(thread_id) for thread_id in (one, other)]
        assert len(await client.threads.get_history(one)) > 1

        pruned = await client.threads.prune([one, other, new_id()], strategy="keep_latest")
        assert pruned == {"pruned_count": 2}
        assert len(await client.threads.get_history(one)) == 1
        assert [await client.threads.get_state(thread_id) for thread_id in (one, other)] == [
            before[0] | {"parent_checkpoint": before[0]["parent_checkpoint"]},
            before[1],
        ]
        assert await client.threads.prune([one, other, new_id()]) == {"pruned_count": 2}
        assert await client.threads.count() == 0


async def test_what_a_graph_keeps_itself_is_neither_copied_nor_pruned_here(serve_agents: Any) -> None:
    builder = StateGraph(Log).add_node("say", lambda state: {"log": ["said"]}).add_edge(START, "say")
    own = builder.compile(checkpointer=InMemorySaver())
    async with serve_agents({"own": own, "graph": logging_graph()}) as served, httpx.AsyncClient() as http:
        thread_id = new_id()
        await served.client.runs.wait(thread_id, "own", input={"log": []}, if_not_exists="create")
        keep = {"thread_ids": [thread_id], "strategy": "keep_latest"}
        for path, body in ((f"/threads/{thread_id}/copy", None), ("/threads/prune", keep)):
            answer = await http.post(f"{served.url}{path}", json=body)
            assert answer.status_code == 501
            assert "no checkpointer of its own" in answer.json()["detail"]
        assert await served.client.threads.count() == 1
        assert len(await served.client.threads.get_history(thread_id)) == 3


class TellsOfRemovals(InMemorySaver):
    def __init__(self) -> None:
        super().__init__()
        self.removed = asyncio.Event()

    async def adelete_thread(self, thread_id: str) -> None:
        await super().adelete_thread(thread_id)
        self.removed.set()


async def test_what_a_graph_keeps_itself_goes_with_its_thread(serve_agents: Any) -> None:
    saver = TellsOfRemovals()
    builder = StateGraph(Log).add_node("say", lambda state: {"log": ["said"]}).add_edge(START, "say")
    graph = builder.compile(checkpointer=saver)
    async with serve_agents({"own": graph, "graph": logging_graph()}) as served:
        gone, kept = [(await served.client.threads.create(graph_id="own"))["thread_id"] for _ in range(2)]
        for thread_id in (gone, kept):
            await served.client.runs.wait(thread_id, "own", input={"log": []})
        await served.client.threads.delete(gone)
        await asyncio.wait_for(saver.removed.wait(), 60)
        assert gone not in saver.storage
        assert len(await served.client.threads.get_history(kept)) == 3


@pytest.mark.parametrize(
    ("path", "field", "more"), [("search", "ids", {}), ("prune", "thread_ids", {"strategy": "keep_latest"})]
)
async def test_so_many_threads_are_named_at_once_and_no_more(
    serve_agents: Any, path: str, field: str, more: dict[str, Any]
) -> None:
    async with serve_agents({"chat": chat}) as served, httpx.AsyncClient(base_url=served.url) as http:
        thread_id = (await served.client.threads.create())["thread_id"]
        ids = [thread_id, *(str(UUID(int=number)) for number in range(9_999))]
        most = await http.post(f"/threads/{path}", json={field: ids, **more})
        found = most.json()
        assert (most.status_code, found["pruned_count"] if more else len(found)) == (200, 1)
        refused = await http.post(f"/threads/{path}", json={field: [*ids, str(UUID(int=9_999))], **more})
        assert (refused.status_code, field in refused.text) == (422, True)


async def test_a_thread_with_a_run_is_not_pruned(serve_agents: Any) -> None:
    gate = asyncio.Event()
    async with serve_agents({"gated": gated(gate)}) as served:
        run = await served.client.runs.create(thread_id := new_id(), "gated", input={}, if_not_exists="create")
        for strategy in ("keep_latest", "delete"):
            assert await served.client.threads.prune([thread_id], strategy=strategy) == {"pruned_count": 0}
        gate.set()
        await served.client.runs.join(thread_id, run["run_id"])
        assert await served.client.threads.prune([thread_id], strategy="keep_latest") == {"pruned_count": 1}


async def test_a_thread_that_gets_a_run_while_others_are_pruned_is_left_alone(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prune, pruned, gate = StoreCheckpointer.aprune, [], asyncio.Event()

    async with serve_agents({"graph": logging_graph(), "gated": gated(gate)}) as served:
        client = served.client
        ids = [(await client.threads.create())["thread_id"] for _ in range(2)]
        for thread_id in ids:
            await client.runs.wait(thread_id, "graph", input={"log": ["zero"]})

        async def pruning(saver: StoreCheckpointer, thread_ids: list[str], *, strategy: str) -> None:
            pruned.extend(thread_ids)
            for other in {*ids} - {*pruned}:
                await client.runs.create(other, "gated", input={})
            await prune(saver, thread_ids, strategy=strategy)

        monkeypatch.setattr(StoreCheckpointer, "aprune", pruning)
        assert await client.threads.prune(ids, strategy="keep_latest") == {"pruned_count": 1}
        assert len(pruned) == 1
        gate.set()


async def test_a_copy_that_is_made_checkpoint_by_checkpoint_has_all_that_the_thread_has(serve_agents: Any) -> None:
    """Also what a graph below has kept, and what waits at a checkpoint for an answer."""
    saver = InMemorySaver()
    below = StateGraph(Log).add_node("beside", lambda state: {"log": ["beside"]}).add_node("below", asking_graph())
    graph = below.add_edge(START, "below").add_edge(START, "beside").compile()
    await graph.copy({"checkpointer": saver}).ainvoke({"log": ["zero"]}, {"configurable": {"thread_id": "t"}})

    def kept(thread_id: str) -> dict[tuple[str, str], Any]:
        found = {}
        for one in saver.list({"configurable": {"thread_id": thread_id}}):
            place, parent = one.config["configurable"], (one.parent_config or {}).get("configurable", {})
            writes = [(task, channel, repr(value)) for task, channel, value in one.pending_writes or ()]
            key = place["checkpoint_ns"], place["checkpoint_id"]
            found[key] = parent.get("checkpoint_id"), one.checkpoint, sorted(writes)
        return found

    async with serve_agents({"graph": graph}) as served:
        parts = replace(served.app.parts, checkpointer=saver)
        assert await copy_checkpoints(parts, parts.manager.agents["graph"], "t", "copy")

    assert len({namespace for namespace, _ in kept("t")}) == 2
    assert kept("copy") == kept("t")
