"""Threads through the SDK's clients, asynchronous and synchronous: made, changed, found, removed."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import SyncLangGraphClient
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError
from tests.integration.server.thread_agents import asking, asking_graph, chat, gated, logging_graph

from trackside.app.storage import sweeping
from trackside.harness.ids import assistant_id_of, new_id


async def failing(input: Any) -> None:
    raise ValueError("it cannot be done")


async def _never(_: Any) -> None:
    await asyncio.Event().wait()


async def ids_of(client: Any, **query: Any) -> list[str]:
    return [thread["thread_id"] for thread in await client.threads.search(**query)]


async def test_a_thread_is_made_looked_at_changed_and_removed(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping.Sweeper, "_keep_on", _never)  # what is gone has a row until it was swept
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


async def test_who_is_refused_an_id_is_sent_to_the_thread_that_has_it_only_if_that_is_there(serve_agents: Any) -> None:
    async with serve_agents({"chat": chat}) as served:
        threads, told = served.client.threads, []
        thread_id = (await threads.create())["thread_id"]
        for _ in range(2):
            with pytest.raises(ConflictError) as refused:
                await threads.create(thread_id=thread_id)
            told.append(refused.value.body)
            await threads.delete(thread_id) if len(told) == 1 else None
        with pytest.raises(NotFoundError):
            await threads.create(thread_id=thread_id, if_exists="do_nothing")
    assert ["do_nothing" in one["detail"] for one in told] == [True, False]
    assert {one["code"] for one in told} == {"thread-exists"}


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


async def test_the_id_of_a_thread_that_could_not_be_made_step_by_step_is_free(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping.Sweeper, "_keep_on", _never)
    first = {"updates": [{"values": {"log": ["zero"]}, "as_node": "__start__"}]}
    wrong = {"updates": [{"values": {}, "as_node": "nobody"}]}
    async with serve_agents({"graph": logging_graph()}) as served:
        threads = served.client.threads
        other = await threads.create(graph_id="graph", supersteps=[first])
        with pytest.raises(UnprocessableEntityError):
            await threads.create(thread_id=(thread_id := new_id()), graph_id="graph", supersteps=[first, wrong])
        made = await threads.create(thread_id=thread_id, graph_id="graph", supersteps=[first])

        assert made["values"] == other["values"] == {"log": ["zero"]}
        history, of_other = [await threads.get_history(one["thread_id"]) for one in (made, other)]
        assert len(history) == len(of_other)


async def test_what_a_saver_has_of_a_thread_that_was_not_made_here_stays_though_its_steps_do_not_fit(
    serve_agents: Any,
) -> None:
    graph, place = logging_graph(InMemorySaver()), {"configurable": {"thread_id": (thread_id := new_id())}}
    await graph.ainvoke({"log": ["zero"]}, place, interrupt_before=["second"])
    before = await graph.aget_state(place)
    wrong = {"updates": [{"values": {}, "as_node": "nobody"}]}
    async with serve_agents({"graph": graph}) as served:
        with pytest.raises(UnprocessableEntityError, match="the graph's nodes are"):
            await served.client.threads.create(thread_id=thread_id, graph_id="graph", supersteps=[wrong])
        thread = await served.client.threads.get(thread_id)

    assert (thread["values"], thread["status"]) == ({"log": ["zero", "first"]}, "interrupted")
    assert await graph.aget_state(place) == before


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
