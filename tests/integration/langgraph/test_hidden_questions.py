"""Questions of which LangGraph shows less than of those of a graph's nodes."""

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from trackside import RunStatus


class State(TypedDict, total=False):
    notes: Annotated[list[Any], operator.add]


class Hidden(State, total=False):
    seen: list[str]


async def left(state: State) -> State:
    return {"notes": ["left"]}


async def right(state: State) -> State:
    return {"notes": ["right"]}


async def asks(state: State) -> State:
    return {"notes": [interrupt("beside?")]}


def route(state: State) -> Any:
    return interrupt("left or right?")


def routed(schema: type = State, **of_builder: Any) -> Any:
    builder: Any = (
        StateGraph(schema, **of_builder).add_node("left", left).add_node("right", right).add_node("asks", asks)
    )
    return builder.add_conditional_edges(START, route, ["left", "right"])


@pytest.mark.parametrize("durability", ["exit", "async", "sync"])
async def test_an_edge_from_the_start_asks_as_a_node_does(stage: Any, saver: Any, durability: str) -> None:
    graph = routed().compile(checkpointer=saver)
    asked = await stage.play(
        graph, {"notes": ["in"]}, thread_id="t", stream_mode=["values", "updates"], durability=durability
    )
    assert (asked.status, [one["value"] for one in asked.interrupts]) == (RunStatus.interrupted, ["left or right?"])
    assert asked.values["notes"] == ["in"]
    for mode in ("values", "updates"):
        (said,) = asked.streamed(mode)[-1]["__interrupt__"]
        assert said["id"] == asked.interrupts[0]["id"]

    answered = await stage.play(graph, thread_id="t", command={"resume": "left"})
    assert (answered.status, answered.values) == (RunStatus.success, {"notes": ["in", "left"]})


async def test_an_edge_from_the_start_asks_beside_a_node(stage: Any, saver: Any) -> None:
    graph = routed().compile(checkpointer=saver)
    (first,) = (await stage.play(graph, {"notes": []}, thread_id="t")).interrupts
    both = await stage.play(graph, thread_id="t", command={"goto": "asks"}, stream_mode="updates")
    assert sorted(one["value"] for one in both.interrupts) == ["beside?", "left or right?"]
    assert first in both.interrupts
    beside = await stage.play(graph, thread_id="t", command={"resume": {both.interrupts[0]["id"]: "right"}})
    assert beside.interrupts == [one for one in both.interrupts if one is not both.interrupts[0]]


async def test_an_edge_from_the_start_asks_where_the_graph_gives_back_nothing_of_its_input(
    stage: Any, saver: Any
) -> None:
    graph = routed(Hidden, output_schema=State).compile(checkpointer=saver)
    asked = await stage.play(graph, {"seen": ["in"]}, thread_id="t", stream_mode=["values"])
    assert (asked.status, [one["value"] for one in asked.interrupts]) == (RunStatus.interrupted, ["left or right?"])
    assert [one["value"] for one in asked.values["__interrupt__"]] == ["left or right?"]


@pytest.mark.parametrize("options", [{}, {"interrupt_before": ["left"]}])
async def test_a_graph_whose_edge_from_the_start_asks_nothing_is_as_any_other(
    stage: Any, saver: Any, options: dict[str, Any]
) -> None:
    builder = StateGraph(State).add_node("left", left).add_conditional_edges(START, lambda _: "left", ["left"])
    graph = builder.compile(checkpointer=saver)
    outcome = await stage.play(graph, {"notes": []}, thread_id="t", stream_mode=["updates"], **options)
    assert outcome.status is (RunStatus.interrupted if options else RunStatus.success)
    assert [one["value"] for one in outcome.interrupts] == ([None] if options else [])
