"""What agents keep beyond their threads: graphs get it as LangGraph's store, functions as `run.items`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.config import get_store
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore, GetOp, MatchCondition, PutOp, SearchOp
from langgraph.store.base import ListNamespacesOp as ListOp
from langgraph.store.memory import InMemoryStore

from trackside import RunContext, RunManager, RunSpec, RunStatus
from trackside.app.storage import Store

ADA = ("memories", "ada")


class State(TypedDict, total=False):
    said: Any


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store.open(f"sqlite:///{tmp_path}/items.db") as store:
        yield store


def graph_of(*nodes: Callable[..., Any], **options: Any) -> Any:
    return (
        StateGraph(State)
        .add_sequence([(f"n{number}", node) for number, node in enumerate(nodes)])
        .add_edge(START, "n0")
        .compile(**options)
    )


async def outcome_of(agent: Any, store: Store | None) -> Any:
    async with RunManager({"agent": agent}, items=None if store is None else store.items) as manager:
        handle = await manager.start(RunSpec("agent", {"said": None}))
        return await handle.result()


async def test_a_node_reads_in_another_thread_what_a_node_of_another_run_has_kept(store: Store) -> None:
    async def remember(state: State, runtime: Runtime[Any]) -> State:
        assert runtime.store is not None
        await runtime.store.aput(ADA, "coffee", {"likes": "black", "cups": 2}, ttl=60)
        return {}

    def recall(state: State) -> State:
        held = get_store()
        held.put(ADA, "tea", {"likes": "green"})
        found = held.search(("memories",), filter={"cups": {"$gte": 2}})
        return {"said": [*(item.value["likes"] for item in found), held.get(ADA, "tea").value["likes"]]}  # type: ignore[union-attr]  # it is there

    await outcome_of(graph_of(remember), store)
    result = await outcome_of(graph_of(recall), store)

    assert result.output == {"said": ["black", "green"]}
    kept = await store.items.get(ADA, "coffee")
    assert kept is not None
    assert kept.ttl == 60


async def test_a_graph_inside_a_graph_has_the_same_store(store: Store) -> None:
    def inner(state: State) -> State:
        get_store().put(ADA, "k", {"by": "inner"})
        return {}

    await outcome_of(graph_of(graph_of(inner)), store)

    kept = await store.items.get(ADA, "k")
    assert kept is not None
    assert kept.value == {"by": "inner"}


async def test_a_store_of_its_own_stays_the_graphs(store: Store) -> None:
    own = InMemoryStore()

    def keep(state: State) -> State:
        get_store().put(ADA, "k", {"n": 1})
        return {}

    await outcome_of(graph_of(keep, store=own), store)

    assert own.get(ADA, "k") is not None
    assert await store.items.get(ADA, "k") is None


async def test_a_graph_is_never_changed(store: Store) -> None:
    graph = graph_of(lambda state: {})

    await outcome_of(graph, store)

    assert graph.store is None


async def test_waiting_for_the_store_on_the_event_loop_is_refused(store: Store) -> None:
    async def waits(state: State) -> State:
        get_store().get(ADA, "k")
        return {}

    result = await outcome_of(graph_of(waits), store)

    assert result.status is RunStatus.error
    assert "await store.aget" in result.error


async def test_a_thread_with_an_event_loop_of_its_own_reaches_the_store(store: Store) -> None:
    def node(state: State) -> State:
        held = get_store()
        asyncio.run(held.aput(ADA, "k", {"n": 1}))
        found = asyncio.run(held.aget(ADA, "k"))
        return {"said": found.value if found else None}

    result = await outcome_of(graph_of(node), store)

    assert result.output == {"said": {"n": 1}}


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda held: held.asearch(ADA, query="what does ada like?"), "query"),
        (lambda held: held.aput(ADA, "k", {"text": "x"}, index=["text"]), "index"),
        (lambda held: held.aput((), "k", {}), "Namespace cannot be empty"),
        (lambda held: held.aput(("langgraph", "x"), "k", {}), "langgraph"),
        (lambda held: held.aput(("a.b",), "k", {}), "periods"),
        (lambda held: held.abatch([PutOp(("a.b",), "k", {})]), "periods"),
        (lambda held: held.abatch([PutOp(("langgraph",), "k", {})]), "langgraph"),
        (lambda held: held.asearch(ADA, filter={"a": {"$in": [1]}}), r"\$in"),
    ],
)
async def test_what_the_store_cannot_do_fails_and_says_why(store: Store, call: Any, named: str) -> None:
    async def node(state: State) -> State:
        with pytest.raises((NotImplementedError, ValueError), match=named):
            await call(get_store())
        return {"said": "refused"}

    assert (await outcome_of(graph_of(node), store)).output == {"said": "refused"}
    assert await store.items.search() == []


async def test_operations_at_once_read_before_they_write(store: Store) -> None:
    async def node(state: State) -> State:
        held: BaseStore = get_store()
        await held.aput(ADA, "old", {"n": 1}, index=False)
        results = await held.abatch(
            [
                PutOp(ADA, "new", {"n": 2}),
                GetOp(ADA, "new"),
                SearchOp(("memories",)),
                ListOp((MatchCondition("prefix", ("*", "ada")),)),
                PutOp(ADA, "old", None),
            ]
        )
        found = [[item.key for item in results[2]], results[3]]  # type: ignore[union-attr]  # as asked for
        return {"said": [results[0], results[1], *found, [item.key for item in await held.asearch(ADA)]]}

    result = await outcome_of(graph_of(node), store)

    assert result.output == {"said": [None, None, ["old"], [["memories", "ada"]], ["new"]]}


async def test_without_a_place_for_items_a_graph_has_no_store() -> None:
    async def node(state: State, runtime: Runtime[Any]) -> State:
        return {"said": runtime.store is None}

    assert (await outcome_of(graph_of(node), None)).output == {"said": True}


async def test_a_function_keeps_items_by_its_run(store: Store) -> None:
    async def agent(input: Any, run: RunContext) -> Any:
        assert run.items is not None
        await run.items.put(ADA, "k", {"n": 1})
        return [item.value for item in await run.items.search(("memories",))]

    assert (await outcome_of(agent, store)).output == [{"n": 1}]
