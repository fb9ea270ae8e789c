"""Threads through the SDK's clients, asynchronous and synchronous: made, changed, found, copied, pruned, removed."""

from __future__ import annotations

import asyncio
import operator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypedDict
from uuid import UUID

import httpx
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import SyncLangGraphClient
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError

from trackside import RunContext
from trackside.app.server.copying import copy_checkpoints
from trackside.app.storage import sweeping
from trackside.app.storage.graph_checkpoints import StoreCheckpointer
from trackside.harness.ids import assistant_id_of, new_id


class Log(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


def logging_graph() -> Any:
    builder = StateGraph(Log).add_node("first", lambda state: {"log": ["first"]})
    builder.add_node("second", lambda state: {"log": ["second"]})
    return builder.add_edge(START, "first").add_edge("first", "second").compile()


def asking_graph() -> Any:
    def ask(state: Log) -> Log:
        return {"log": [str(interrupt("why?"))]}

    return StateGraph(Log).add_node("ask", ask).add_edge(START, "ask").compile()


async def chat(input: Any, run: RunContext) -> dict[str, Any]:
    return {"said": input, "nested": {"list": [1, {"deep": True}]}}


async def asking(input: Any, run: RunContext) -> dict[str, Any]:
    return {"answer": run.interrupt({"question": "why?"})}


async def failing(input: Any) -> None:
    raise ValueError("it cannot be done")


def gated(gate: asyncio.Event) -> Any:
    async def wait(input: Any) -> dict[str, Any]:
        await gate.wait()
        return {"waited": True}

    return wait


async def ids_of(client: Any, **query: Any) -> list[str]:
    return [thread["thread_id"] for thread in await client.threads.search(**query)]


async def test_a_thread_is_made_looked_at_changed_and_removed(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "_LEAST_PAUSE", sweeping.SWEEP_EVERY)  # what is gone has a row until it was swept
    async with serve_agents({"chat": chat}) as served:
        threads, thread_id = served.client.threads, new_id()
        made = await threads.create(thread_id=thread_id, metadata={"customer": "acme", "n": 1}, ttl=60)
        assert (made["thread_id"], made["status"], made["values"]) == (thread_id, "idle", None)
        assert made["ttl"]["ttl_minutes"] == 60
        assert made["interrupts"] == {}

        changed = await threads.update(thread_id, metadata={"n": 2, "new": True})
        assert changed["metadata"] == {"customer": "acme", "n": 2, "new": True}
        assert changed["updated_at"] > made["updated_at"]
        assert await threads.update(thread_id, metadata={"n": 3}, return_minimal=True) is None
        found = await threads.get(thread_id, include=["ttl"])
        assert found == changed | {"metadata": {"customer": "acme", "n": 3, "new": True}} | {
            name: found[name] for name in ("updated_at", "state_updated_at")
        }

        await threads.delete(thread_id)
        for gone in (threads.get, threads.delete, threads.get_state, threads.copy, served.client.runs.list):
            with pytest.raises(NotFoundError):
                await gone(thread_id)
        with pytest.raises(NotFoundError):
            await threads.update(thread_id, metadata={})
        assert await ids_of(served.client) == []
        with pytest.raises(NotFoundError):
            await served.client.runs.create(thread_id, "chat", input={}, if_not_exists="create")


async def test_an_id_names_one_thread(serve_agents: Any) -> None:
    async with serve_agents({"chat": chat}) as served:
        threads = served.client.threads
        made = await threads.create(metadata={"a": 1})
        with pytest.raises(ConflictError, match='if_exists="do_nothing"'):
            await threads.create(thread_id=made["thread_id"])
        assert await threads.create(thread_id=made["thread_id"], metadata={"b": 2}, if_exists="do_nothing") == made
        with pytest.raises(UnprocessableEntityError, match="UUID"):
            await threads.create(thread_id="mine")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"ttl": {"ttl": 5, "strategy": "keep_latest"}}, "strategy"),
        ({"ttl": 0}, "ttl"),
        ({"if_exists": "perhaps"}, "if_exists"),
        ({"colour": "red"}, "colour"),
        ({"supersteps": [{"updates": [{"values": {}, "as_node": "x"}]}]}, "supersteps"),
    ],
)
async def test_what_is_not_supported_is_named(serve_agents: Any, body: Any, why: str) -> None:
    async with serve_agents({"chat": chat}) as served, httpx.AsyncClient(base_url=served.url) as http:
        answer = await http.post("/threads", json=body)

    assert (answer.status_code, why in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize("name", ["g" * 256, "g\0"])
async def test_a_graph_that_no_thread_can_have_is_named_as_it_was_said(serve_agents: Any, name: str) -> None:
    async with serve_agents({"chat": chat}) as served, httpx.AsyncClient(base_url=served.url) as http:
        made = (await http.post("/threads", json={})).json()["thread_id"]
        places = [("POST", "/threads"), ("PATCH", f"/threads/{made}")]
        if "\0" in name:  # a search by one that is too long finds none
            places += [("POST", "/threads/search"), ("POST", "/threads/count")]
        for method, path in places:
            answer = await http.request(method, path, json={"metadata": {"graph_id": name}})
            assert (answer.status_code, answer.json()["field"]) == (422, "metadata.graph_id")
            assert "agent" not in answer.text


async def test_a_thread_that_is_made_for_a_run_is_found_by_the_metadata_of_that(serve_agents: Any) -> None:
    async with serve_agents({"chat": chat}) as served, httpx.AsyncClient(base_url=served.url) as http:
        runs, threads = served.client.runs, served.client.threads
        named, commanded = new_id(), new_id()
        asked: dict[str, Any] = {"input": "hello", "metadata": {"customer": "acme"}}
        await runs.wait(named, "chat", if_not_exists="create", **asked)
        start = {"id": 1, "method": "run.start", "params": {"assistant_id": "chat", **asked}}
        (await http.post(f"/threads/{commanded}/commands", json=start)).raise_for_status()
        kept = (await runs.create(None, "chat", on_completion="keep", **asked))["thread_id"]
        await runs.wait(named, "chat", input="again", metadata={"customer": "another"})
        found = await threads.search(metadata={"customer": "acme"})
        others = await threads.search(metadata={"customer": "another"})

    assert {thread["thread_id"] for thread in found} == {named, commanded, kept}
    assert others == []


async def test_what_a_hook_takes_out_of_metadata_is_not_kept_with_the_thread(serve_agents: Any, tmp_path: Path) -> None:
    (tmp_path / "hook.py").write_text(
        "def take_out(kind, payload):\n    return {**payload, 'metadata': {'card': '…'}}\n"
    )
    async with serve_agents({"chat": chat}, redact=f"{tmp_path}/hook.py:take_out") as served:
        asked = {"input": "hello", "on_completion": "keep", "metadata": {"card": "4111"}}
        run = await served.client.runs.create(None, "chat", **asked)
        thread = await served.client.threads.get(run["thread_id"])

    assert thread["metadata"]["card"] == "…"


async def test_a_thread_shows_what_its_latest_run_left(serve_agents: Any) -> None:
    async with serve_agents({"chat": chat, "failing": failing, "asking": asking, "graph": asking_graph()}) as served:
        client = served.client
        thread = await client.threads.create(metadata={"graph_id": "chat", "mine": 1})
        await client.runs.wait(thread["thread_id"], "chat", input="hello", config={"tags": ["t"]})
        shown = await client.threads.get(thread["thread_id"])
        assert shown["values"] == {"said": "hello", "nested": {"list": [1, {"deep": True}]}}
        assert shown["metadata"] == {"mine": 1, "graph_id": "chat", "assistant_id": assistant_id_of("chat")}
        assert (shown["config"], shown["error"]) == ({"tags": ["t"]}, None)

        await client.runs.wait(thread["thread_id"], "failing", raise_error=False)
        shown = await client.threads.get(thread["thread_id"])
        assert (shown["status"], shown["error"]["error"]) == ("error", "ValueError")
        assert "it cannot be done" in shown["error"]["message"]
        assert shown["metadata"]["graph_id"] == "failing"

        for agent in ("asking", "graph"):
            thread = await client.threads.create()
            await client.runs.wait(thread["thread_id"], agent, input={})
            shown = await client.threads.get(thread["thread_id"])
            (task, questions), *others = shown["interrupts"].items()
            state = await client.threads.get_state(thread["thread_id"])
            assert (shown["status"], others) == ("interrupted", [])
            assert [(one["id"], one["interrupts"]) for one in state["tasks"]] == [(task, questions)]
            assert [question["value"] for question in questions] == [state["interrupts"][0]["value"]]
            assert await ids_of(client, status="interrupted", limit=1) == [thread["thread_id"]]


async def test_threads_are_found_by_what_they_say(serve_agents: Any) -> None:
    async with serve_agents({"chat": chat, "graph": logging_graph()}) as served:
        client, threads = served.client, served.client.threads
        a = (await threads.create(metadata={"k": "v", "n": 1, "deep": {"tags": ["x", "y"], "z": 1.5}}))["thread_id"]
        b = (await threads.create(metadata={"k": "v", "long": "l" * 2_000}, graph_id="graph"))["thread_id"]
        c = (await threads.create(metadata={"k": "w"}))["thread_id"]
        await client.runs.wait(a, "chat", input="hello")
        await client.runs.wait(b, "graph", input={"log": ["zero"]})

        found: list[tuple[dict[str, Any], list[str]]] = [
            ({}, [b, a, c]),
            ({"metadata": {"k": "v"}}, [b, a]),
            ({"metadata": {"k": "v", "n": 1}}, [a]),
            ({"metadata": {"n": True}}, []),
            ({"metadata": {"deep": {"tags": ["y"]}}}, [a]),
            ({"metadata": {"deep": {"tags": ["y", "no"]}}}, []),
            ({"metadata": {"deep": {"z": 1.5}}}, [a]),
            ({"metadata": {"long": "l" * 2_000}}, [b]),
            ({"metadata": {"graph_id": "graph"}}, [b]),
            ({"metadata": {"assistant_id": assistant_id_of("chat")}}, [a]),
            ({"metadata": {"assistant_id": assistant_id_of("chat"), "graph_id": "graph"}}, []),
            ({"values": {"said": "hello"}}, [a]),
            ({"values": {"log": ["second", "zero"]}}, [b]),
            ({"values": {"log": ["third"]}}, []),
            ({"status": "idle"}, [b, a, c]),
            ({"status": "busy"}, []),
        ]
        for query, expected in found:
            assert await ids_of(client, **query) == expected, query
            assert await threads.count(**query) == len(expected), query
        assert await ids_of(client, ids=[c, a, new_id()]) == [a, c]
        for sort_by, expected in (
            ("created_at", [a, b, c]),
            ("thread_id", sorted([a, b, c])),
            ("updated_at", [c, a, b]),
        ):
            assert await ids_of(client, sort_by=sort_by, sort_order="asc") == expected
            assert await ids_of(client, sort_by=sort_by, sort_order="desc") == expected[::-1]


async def test_pages_of_threads_say_how_many_there_are_and_where_the_next_begins(serve_agents: Any) -> None:
    async with serve_agents({"chat": chat}) as served, httpx.AsyncClient(base_url=served.url) as http:
        made = [(await served.client.threads.create(metadata={"n": number}))["thread_id"] for number in range(5)]
        offset, listed, totals = 0, [], []
        while True:
            answer = await http.post("/threads/search", json={"limit": 2, "offset": offset})
            listed += [thread["thread_id"] for thread in answer.json()]
            totals.append(answer.headers["X-Pagination-Total"])
            if "X-Pagination-Next" not in answer.headers:
                break
            offset = int(answer.headers["X-Pagination-Next"])

    assert (listed, totals) == (made[::-1], ["5", "5", "5"])


async def test_only_what_is_selected_or_extracted_is_sent(serve_agents: Any) -> None:
    async with serve_agents({"chat": chat}) as served:
        threads = served.client.threads
        thread = await threads.create(metadata={"k": {"l": "v"}})
        await served.client.runs.wait(thread["thread_id"], "chat", input="hello")

        (found,) = await threads.search(select=["thread_id", "values"])
        assert set(found) == {"thread_id", "values"}
        assert await served.client.http.post("/threads/search", json={"select": []}) == await threads.search()
        paths = {"deep": "values.nested.list[-1].deep", "none": "values.nested.list[7].x", "k": "metadata.k.l"}
        (found,) = await threads.search(select=["thread_id"], extract=paths)
        assert found == {"thread_id": thread["thread_id"], "extracted": {"deep": True, "none": None, "k": "v"}}
        for wrong in ("colour", "[0]", "values..x", "values[x]", "values" + ".x" * 500):
            with pytest.raises(UnprocessableEntityError, match="extract"):
                await threads.search(extract={"wrong": wrong})


async def test_a_thread_that_is_busy_is_removed_once_its_run_is_cancelled(serve_agents: Any) -> None:
    gate = asyncio.Event()
    async with serve_agents({"gated": gated(gate)}) as served:
        client = served.client
        thread = await client.threads.create()
        run = await client.runs.create(thread["thread_id"], "gated", input={})
        with pytest.raises(ConflictError, match="cancel it first"):
            await client.threads.delete(thread["thread_id"])
        assert (await client.threads.prune([thread["thread_id"]]))["pruned_count"] == 0
        await client.runs.cancel(thread["thread_id"], run["run_id"], wait=True)
        await client.threads.delete(thread["thread_id"])
        with pytest.raises(NotFoundError):
            await client.runs.get(thread["thread_id"], run["run_id"])


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
        await asyncio.wait_for(saver.removed.wait(), 20)
        assert gone not in saver.storage
        assert len(await served.client.threads.get_history(kept)) == 3


@pytest.mark.parametrize(
    ("path", "field", "more"), [("search", "ids", {}), ("prune", "thread_ids", {"strategy": "keep_latest"})]
)
async def test_so_many_threads_are_named_at_once_and_no_more(
    serve_agents: Any, path: str, field: str, more: dict[str, Any]
) -> None:
    async with serve_agents({"chat": chat}) as served, httpx.AsyncClient(base_url=served.url, timeout=60) as http:
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


async def test_a_thread_is_made_step_by_step(serve_agents: Any) -> None:
    async with serve_agents({"graph": logging_graph()}) as served:
        steps = [
            {"updates": [{"values": {"log": ["zero"]}, "as_node": "__start__"}]},
            {"updates": [{"values": {"log": ["one"]}, "as_node": "first"}]},
        ]
        thread = await served.client.threads.create(graph_id="graph", supersteps=steps)
        state = await served.client.threads.get_state(thread["thread_id"])

        assert (state["values"], state["next"]) == ({"log": ["zero", "one"]}, ["second"])
        assert thread["status"] == "interrupted"
        wrong = [{"updates": [{"values": {}, "as_node": "nobody"}]}]
        with pytest.raises(UnprocessableEntityError):
            await served.client.threads.create(graph_id="graph", supersteps=wrong)
        assert await served.client.threads.count() == 1


async def test_a_thread_that_is_there_is_not_made_over(serve_agents: Any) -> None:
    steps = [{"updates": [{"values": {"log": ["first"]}, "as_node": "first"}]}]
    wrong = [{"updates": [{"values": {}, "as_node": "nobody"}]}]
    async with serve_agents({"graph": logging_graph()}) as served:
        threads = served.client.threads
        thread_id = (await threads.create(graph_id="graph"))["thread_id"]
        await threads.update_state(thread_id, {"log": ["precious"]}, as_node="first")
        before = await threads.get(thread_id)
        for again in (steps, wrong):
            found = await threads.create(
                thread_id=thread_id, graph_id="graph", if_exists="do_nothing", supersteps=again
            )
            assert found == before
        assert await threads.get(thread_id) == before
        assert len(await threads.get_history(thread_id)) == 1


async def test_a_stateless_run_leaves_no_thread_unless_it_is_kept(serve_agents: Any) -> None:
    async with serve_agents({"chat": chat}) as served:
        client = served.client
        await client.runs.wait(None, "chat", input="hello")
        assert await client.threads.count() == 0
        kept = await client.runs.create(None, "chat", input="hello", on_completion="keep")
        assert await ids_of(client) == [kept["thread_id"]]
        (run,) = await served.app.store.runs(removed=True, thread_id=None, until=None, limit=1)
        assert run.run_id == kept["run_id"]
        assert len(await served.app.store.runs(removed=True)) == 2


def ask_synchronously(url: str) -> None:
    with get_sync_client(url=url, api_key=None) as client:
        use_threads(client)


def use_threads(client: SyncLangGraphClient) -> None:
    threads = client.threads
    thread = threads.create(metadata={"k": "v"}, ttl=5)
    assert threads.get(thread["thread_id"]) == thread
    assert threads.update(thread["thread_id"], metadata={"n": 1}, ttl={"ttl": 7})["ttl"]["ttl_minutes"] == 7
    assert threads.update(thread["thread_id"], metadata={"n": 2}, return_minimal=True) is None
    client.runs.wait(thread["thread_id"], "chat", input="hello")
    (found,) = threads.search(metadata={"n": 2}, values={"said": "hello"}, status="idle", sort_by="created_at")
    assert (found["thread_id"], threads.count(metadata={"n": 2})) == (thread["thread_id"], 1)
    copy = threads.copy(thread["thread_id"])
    assert copy["values"] == found["values"]
    assert threads.prune([copy["thread_id"]]) == {"pruned_count": 1}
    threads.delete(thread["thread_id"])
    with pytest.raises(NotFoundError):
        threads.get(thread["thread_id"])


async def test_a_run_may_say_how_long_its_thread_lives(serve_agents: Any) -> None:
    async with serve_agents({"chat": chat}) as served, httpx.AsyncClient(base_url=served.url) as http:
        threads = served.client.threads
        thread_id = new_id()
        asked: dict[str, Any] = {"assistant_id": "chat", "input": {}, "if_not_exists": "create"}
        for ttl, minutes in (
            (60, 60.0),
            ({"ttl": 5, "strategy": "delete"}, 5.0),
        ):  # of one that is new, and one that is not
            answer = await http.post(f"/threads/{thread_id}/runs/wait", json={**asked, "ttl": ttl})
            assert answer.status_code == 200
            assert (await threads.get(thread_id))["ttl"]["ttl_minutes"] == minutes
        await http.post(f"/threads/{thread_id}/runs/wait", json=asked)
        assert (await threads.get(thread_id))["ttl"]["ttl_minutes"] == 5.0
        assert (await http.post("/runs", json={**asked, "ttl": 0})).status_code == 422
        batch = [{"assistant_id": "chat", "input": {}, "onCompletion": "keep", "ttl": 7}]
        (run,) = (await http.post("/runs/batch", json=batch)).json()
        assert (await threads.get(run["thread_id"]))["ttl"]["ttl_minutes"] == 7.0


async def test_the_synchronous_client_has_the_same(serve_agents: Any) -> None:
    async with serve_agents({"chat": chat}) as served:
        await asyncio.to_thread(partial(ask_synchronously, served.url))


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
