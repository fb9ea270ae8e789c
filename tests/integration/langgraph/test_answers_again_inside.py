"""An answer reaches the question it was given to, and no other, where inner graphs have asked or gone on."""

import asyncio
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from tests.integration.langgraph.asking_graphs import Desk, State, asked, graph_of

from trackside import RunStatus
from trackside.harness.adapters.langgraph import LangGraphAgent
from trackside.harness.states import ThreadPlace


def looking(saver: Any, where: str, fails: int = 1) -> Any:
    """Two nodes that ask, and between them one that fails a number of times."""
    failures = [ConnectionError("gone")] * fails

    async def look(state: State) -> State:
        return {"notes": [interrupt("look?")]}

    async def work(state: State) -> State:
        if failures:
            raise failures.pop()
        return {"notes": ["worked"]}

    async def delete(state: State) -> State:
        return {"notes": [interrupt("delete?")]}

    return graph_of(saver, where, look, work, delete)


@pytest.mark.parametrize("where", ["node", "inside", "inside-twice", "called", "keeping"])
async def test_an_answer_that_a_graph_has_gone_on_from_is_none_to_what_it_asks_next(
    stage: Any, saver: Any, where: str
) -> None:
    graph = looking(saver, where, fails=2)
    paused = await stage.play(graph, {"notes": []}, thread_id="t")
    command = {"resume": {paused.interrupts[0]["id"]: "yes"}}
    lost = await stage.play(graph, thread_id="t", command=command)
    refused = await stage.play(graph, thread_id="t", command={"resume": {paused.interrupts[0]["id"]: "no"}})
    tried = await stage.play(graph, thread_id="t", command=command, attempt=2, retry_of=lost.result.run_id)
    again = await stage.play(graph, thread_id="t", command=command, attempt=3, retry_of=tried.result.run_id)

    assert lost.events[-1].payload["status"] == "error"
    assert (refused.status, refused.end["error_type"]) == (RunStatus.error, "UnknownQuestionError")
    assert (tried.status, asked(again), again.humans) == (RunStatus.error, ["delete?"], [])
    done = await stage.play(graph, thread_id="t", command={"resume": "no"})
    assert done.values["notes"][-3:] == ["yes", "worked", "no"]


async def test_who_lets_a_graph_inside_go_on_that_has_failed_behind_an_answer_answers_nothing(
    stage: Any, saver: Any
) -> None:
    graph = looking(saver, "inside")
    await stage.play(graph, {"notes": []}, thread_id="t")
    await stage.play(graph, thread_id="t", command={"resume": "yes"})
    addressed = await LangGraphAgent(graph).answers_at(ThreadPlace(thread_id="t"), "yes", is_free=True)
    outcome = await stage.play(graph, thread_id="t", command={"resume": addressed})
    assert (asked(outcome), outcome.humans) == (["delete?"], [])


async def test_a_later_answer_to_a_graph_inside_that_was_changed_takes_the_place_of_the_earlier(
    stage: Any, saver: Any
) -> None:
    desk = Desk(fails_to_look=1)

    async def begin(state: State) -> State:
        return {"notes": ["begun"]}

    graph = graph_of(saver, "inside", begin, desk.clean)
    await stage.play(graph, {"notes": []}, thread_id="t")
    agent = LangGraphAgent(graph)
    state = await agent.state(ThreadPlace(thread_id="t"))
    assert state is not None
    inside = ThreadPlace(thread_id="t", namespace=state.tasks[0]["checkpoint"]["checkpoint_ns"])
    await agent.update_state(inside, {"notes": ["by hand"]}, as_node="begin")

    outcomes = [await stage.play(graph, thread_id="t", command={"resume": answer}) for answer in ("yes", "no")]
    assert (desk.told, asked(outcomes[-1])) == (["yes", "no"], ["delete?"])


def shipping_and_paying() -> Any:
    """A graph of two nodes that ask side by side; once, one fails after its answer, when the other has finished."""
    failures, shipped = [ConnectionError("the bank is away")], asyncio.Event()

    async def ship(state: State) -> State:
        answer = interrupt("ship?")
        shipped.set()
        return {"notes": [f"ship: {answer}"]}

    async def pay(state: State) -> State:
        answer = interrupt("pay?")
        if failures:
            await shipped.wait()
            raise failures.pop()
        return {"notes": [f"pay: {answer}"]}

    return StateGraph(State).add_node(ship).add_node(pay).add_edge(START, "ship").add_edge(START, "pay").compile()


async def test_of_two_who_asked_inside_the_one_that_failed_is_answered_alone(stage: Any, saver: Any) -> None:
    graph = (
        StateGraph(State).add_node("outer", shipping_and_paying()).add_edge(START, "outer").compile(checkpointer=saver)
    )
    ids = {each["value"]: each["id"] for each in (await stage.play(graph, {"notes": []}, thread_id="t")).interrupts}
    both = await stage.play(graph, thread_id="t", command={"resume": dict.fromkeys(ids.values(), "yes")})
    assert both.status is RunStatus.error

    alone = await stage.play(graph, thread_id="t", command={"resume": {ids["pay?"]: "no"}})

    assert sorted(alone.result.output["notes"]) == ["pay: no", "ship: yes"]


def asking(question: str, *, fails: int = 0) -> Any:
    """A graph of one node, named after its question, that fails a number of times before it asks."""
    failures = [ConnectionError("gone")] * fails

    async def ask(state: State) -> State:
        if failures:
            raise failures.pop()
        return {"notes": [f"{question}: {interrupt(question)}"]}

    return StateGraph(State).add_node(question, ask).add_edge(START, question).compile()


def calling(saver: Any, call: Any) -> Any:
    """A graph of one node that calls other graphs."""
    return StateGraph(State).add_node("calls", call).add_edge(START, "calls").compile(checkpointer=saver)


@pytest.mark.parametrize("by_id", [True, False])
@pytest.mark.parametrize("chosen", ["charge", "refund"])
async def test_an_answer_reaches_whichever_of_several_graphs_its_node_has_called(
    stage: Any, saver: Any, chosen: str, by_id: bool
) -> None:
    """LangGraph shows only one of them, and does not list in its tasks what another one asks."""
    charges, refunds = asking("charge"), asking("refund")

    async def routes(state: State) -> Any:
        return await (charges if state["notes"] == ["charge"] else refunds).ainvoke({"notes": []})

    graph = calling(saver, routes)
    paused = await stage.play(graph, {"notes": [chosen]}, thread_id="t")
    assert await LangGraphAgent(graph).answers_at(ThreadPlace(thread_id="t"), "yes", is_free=True) == {
        paused.interrupts[0]["id"]: "yes"
    }

    answer = {paused.interrupts[0]["id"]: "yes"} if by_id else "yes"
    outcome = await stage.play(graph, thread_id="t", command={"resume": answer})

    assert outcome.result.output == {"notes": [chosen, f"{chosen}: yes"]}, outcome.result.error


async def test_an_answer_reaches_the_first_of_two_graphs_that_its_node_calls(stage: Any, saver: Any) -> None:
    plan, act = asking("plan"), asking("act")

    async def calls(state: State) -> State:
        planned = await plan.ainvoke({"notes": []})
        return await act.ainvoke(planned)

    graph = calling(saver, calls)
    outcome = await stage.play(graph, {"notes": []}, thread_id="t")
    asked_one_by_one = asked(outcome)
    for _ in range(2):
        outcome = await stage.play(graph, thread_id="t", command={"resume": "yes"})
        asked_one_by_one += asked(outcome)

    assert (asked_one_by_one, outcome.result.output) == (["plan", "act"], {"notes": ["plan: yes", "act: yes"]})


async def test_of_two_who_asked_in_the_graph_that_was_called_who_has_finished_is_answered_no_more(
    stage: Any, saver: Any
) -> None:
    other, called = asking("other"), shipping_and_paying()

    async def routes(state: State) -> Any:
        return await (other if state["notes"] else called).ainvoke({"notes": []})

    graph = calling(saver, routes)
    ids = {each["value"]: each["id"] for each in (await stage.play(graph, {"notes": []}, thread_id="t")).interrupts}
    await stage.play(graph, thread_id="t", command={"resume": dict.fromkeys(ids.values(), "yes")})

    late = await stage.play(graph, thread_id="t", command={"resume": {ids["ship?"]: "no"}})

    assert late.end["error_type"] == "UnknownQuestionError"


@pytest.mark.parametrize("by_id", [True, False])
async def test_an_answer_to_the_second_of_two_graphs_is_none_to_what_the_first_asks_since(
    stage: Any, saver: Any, by_id: bool
) -> None:
    """LangGraph does not show what the second graph has asked."""
    cleanup, mailing = asking("delete", fails=1), asking("mail")

    async def calls(state: State) -> State:
        notes = list[Any]()
        try:
            notes += (await cleanup.ainvoke({"notes": []}))["notes"]
        except ConnectionError:
            notes.append("not cleaned up")
        return {"notes": notes + (await mailing.ainvoke({"notes": []}))["notes"]}

    graph = calling(saver, calls)
    paused = await stage.play(graph, {"notes": []}, thread_id="t")
    answer = {paused.interrupts[0]["id"]: "yes"} if by_id else "yes"
    answered = await stage.play(graph, thread_id="t", command={"resume": answer})

    assert (asked(paused), asked(answered)) == (["mail"], ["delete"])
