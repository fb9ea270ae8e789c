"""Questions about which LangGraph shows less than about those of a graph's nodes."""

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from trackside import RunStatus
from trackside.harness.adapters.langgraph import LangGraphAgent, NoCheckpointerError
from trackside.harness.states import ThreadPlace


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


async def test_an_edge_from_the_start_cannot_ask_without_a_checkpointer(run_context: Any) -> None:
    with pytest.raises(NoCheckpointerError, match="wait for a human"):
        await LangGraphAgent(routed().compile()).run(run_context({"notes": []}))


@pytest.mark.parametrize("named", [{}, {"run_id": "nightly"}], ids=["uuid", "other"])
async def test_what_another_graph_asks_that_an_edge_from_the_start_calls_is_none_of_its_own(
    stage: Any, saver: Any, named: dict[str, Any]
) -> None:
    other = StateGraph(State).add_node("asks", asks).add_edge(START, "asks").compile(checkpointer=InMemorySaver())
    another: Any = {"configurable": {"thread_id": "another"}}

    async def ask_other(state: State) -> Any:
        await other.ainvoke({"notes": []}, another)
        return "left"

    builder = StateGraph(State).add_node("left", left).add_node("right", right)
    graph = builder.add_conditional_edges(START, ask_other, ["left", "right"]).compile(checkpointer=saver)
    outcome = await stage.play(graph, {"notes": []}, thread_id="t", **named)
    assert (outcome.status, outcome.interrupts, outcome.values) == (RunStatus.success, [], {"notes": ["left"]})
    assert len((await other.aget_state(another)).interrupts) == 1


async def test_an_edge_from_the_start_asks_where_the_graph_gives_back_nothing_of_its_input(
    stage: Any, saver: Any
) -> None:
    graph = routed(Hidden, output_schema=State).compile(checkpointer=saver)
    asked = await stage.play(graph, {"seen": ["in"]}, thread_id="t", stream_mode=["values"])
    assert (asked.status, [one["value"] for one in asked.interrupts]) == (RunStatus.interrupted, ["left or right?"])
    assert [one["value"] for one in asked.values["__interrupt__"]] == ["left or right?"]


class Bank:
    """Fails at every charge; its handlers ask whether to go on, and fail a number of times with the answer."""

    def __init__(self, *, fails: int = 0) -> None:
        self.fails = fails
        self.told: list[Any] = []

    async def charge(self, state: State) -> State:
        raise ConnectionError("the bank is away")

    async def ask(self, state: State) -> State:
        self.told.append(interrupt("go on?"))
        if self.fails:
            self.fails -= 1
            raise ConnectionError("still away")
        return {"notes": [self.told[-1]]}

    def graph(self, saver: Any, *beside: Any, is_default: bool = False) -> Any:
        handler: dict[str, Any] = {} if is_default else {"error_handler": self.ask}
        builder: Any = StateGraph(State).add_node("charge", self.charge, **handler).add_edge(START, "charge")
        if is_default:
            builder.set_node_defaults(error_handler=self.ask)
        for node in beside:
            builder.add_node(node.__name__, node).add_edge(START, node.__name__)
        return builder.compile(checkpointer=saver)


@pytest.mark.parametrize("is_default", [False, True])
@pytest.mark.parametrize("is_named", [False, True])
async def test_what_a_nodes_error_handler_asks_is_answered(
    stage: Any, saver: Any, is_named: bool, is_default: bool
) -> None:
    graph = Bank().graph(saver, is_default=is_default)
    (question,) = (await stage.play(graph, {"notes": []}, thread_id="t")).interrupts
    assert question["value"] == "go on?"
    agent, place = LangGraphAgent(graph), ThreadPlace(thread_id="t")
    for state in (await agent.state(place), *await agent.history(place, limit=1)):
        assert state is not None
        assert [one["id"] for one in state.interrupts] == [question["id"]]
        assert [task["interrupts"] for task in state.tasks] == [[], [question]]
        assert all(task["name"] in graph.nodes for task in state.tasks)

    answer = {question["id"]: "yes"} if is_named else "yes"
    outcome = await stage.play(graph, thread_id="t", command={"resume": answer})
    assert (outcome.status, outcome.values) == (RunStatus.success, {"notes": ["yes"]})
    for later in (await agent.state(place), *await agent.history(place, limit=1)):
        assert later is not None
        assert (later.interrupts, later.next) == ([], ())


async def test_an_error_handlers_question_is_one_of_several(stage: Any, saver: Any) -> None:
    bank = Bank()

    async def pay(state: State) -> State:
        return await bank.charge(state)

    builder: Any = StateGraph(State).add_node("charge", bank.charge, error_handler=bank.ask).add_node("asks", asks)
    builder.add_node("pay", pay, error_handler=bank.ask)
    for node in ("charge", "pay", "asks"):
        builder.add_edge(START, node)
    graph = builder.compile(checkpointer=saver)
    asked = await stage.play(graph, {"notes": []}, thread_id="t")
    assert sorted(one["value"] for one in asked.interrupts) == ["beside?", "go on?", "go on?"]
    ambiguous = await stage.play(graph, thread_id="t", command={"resume": "one of them"})
    assert ambiguous.status is RunStatus.error

    first, *others = (one["id"] for one in asked.interrupts)
    left = await stage.play(graph, thread_id="t", command={"resume": {first: "first"}})
    assert {one["id"] for one in left.interrupts} >= {*others}
    outcome = await stage.play(graph, thread_id="t", command={"resume": dict.fromkeys(others, "other")})
    assert (outcome.status, sorted(outcome.values["notes"])) == (RunStatus.success, ["first", "other", "other"])


async def test_an_error_handler_keeps_its_answer_until_another_takes_its_place(stage: Any, saver: Any) -> None:
    bank = Bank(fails=2)
    graph = bank.graph(saver)
    await stage.play(graph, {"notes": []}, thread_id="t")
    first = await stage.play(graph, thread_id="t", command={"resume": "yes"})
    assert first.status is RunStatus.error
    again = await stage.play(graph, thread_id="t")
    assert (again.status, bank.told) == (RunStatus.error, ["yes", "yes"])
    outcome = await stage.play(graph, thread_id="t", command={"resume": "no"})
    assert (outcome.status, bank.told) == (RunStatus.success, ["yes", "yes", "no"])


@pytest.mark.parametrize("options", [{}, {"interrupt_before": ["left"]}])
async def test_a_graph_whose_edge_from_the_start_asks_nothing_is_as_any_other(
    stage: Any, saver: Any, options: dict[str, Any]
) -> None:
    builder = StateGraph(State).add_node("left", left).add_conditional_edges(START, lambda _: "left", ["left"])
    graph = builder.compile(checkpointer=saver)
    outcome = await stage.play(graph, {"notes": []}, thread_id="t", stream_mode=["updates"], **options)
    assert outcome.status is (RunStatus.interrupted if options else RunStatus.success)
    assert [one["value"] for one in outcome.interrupts] == ([None] if options else [])
