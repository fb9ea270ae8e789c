"""A thread whose last step left what LangGraph cannot show goes on, and is shown as it was before that step."""

import operator
from typing import Annotated, Any

import pytest
from clashing_graph import clashing
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Send
from pydantic import BaseModel

from trackside import RunStatus
from trackside.harness.adapters.langgraph import LangGraphAgent
from trackside.harness.errors import UnshownStateError
from trackside.harness.states import ThreadPlace, last_shown


def says(text: str) -> dict[str, Any]:
    return {"messages": [{"type": "human", "content": text, "id": f"id of {text}"}]}


def place(saver: Any) -> ThreadPlace:
    return ThreadPlace(thread_id="t", checkpointer=saver)


async def test_a_thread_whose_nodes_have_clashed_takes_its_next_input(open_stage: Any, saver: Any) -> None:
    stage, graph = await open_stage(checkpointer=saver), clashing()
    heard = ["hello", "clash", "go on", "and on"]
    outcomes = [await stage.play(graph, says(text), thread_id="t") for text in heard]
    assert [outcome.status for outcome in outcomes] == ["success", "error", "success", "success"]
    assert [message["content"] for outcome in outcomes for message in outcome.humans] == heard
    contents = [message["content"] for message in outcomes[-1].values["messages"]]
    assert contents == ["hello", "reply 1", "clash", "go on", "reply 4", "and on", "reply 6"]


async def test_messages_that_a_thread_has_had_are_known_after_its_nodes_have_clashed(
    open_stage: Any, saver: Any
) -> None:
    stage, graph = await open_stage(checkpointer=saver), clashing()
    await stage.play(graph, says("clash"), thread_id="t")
    again = {"messages": [*says("clash")["messages"], *says("go on")["messages"]]}
    outcome = await stage.play(graph, again, thread_id="t")
    assert [message["content"] for message in outcome.humans] == ["go on"]


async def test_what_clashed_is_no_state_but_history_and_the_last_values_are_there(open_stage: Any, saver: Any) -> None:
    stage, graph = await open_stage(checkpointer=saver), clashing()
    await stage.play(graph, says("hello"), thread_id="t")
    await stage.play(graph, says("clash"), thread_id="t")
    agent = LangGraphAgent(graph)
    with pytest.raises(UnshownStateError, match="At key 'topic': Can receive only one value per step"):
        await agent.state(place(saver))
    newest, *_ = await agent.history(place(saver), limit=5)
    shown = await last_shown(agent, place(saver))
    assert shown is not None
    assert shown.values == newest.values
    assert [message["content"] for message in shown.values["messages"]] == ["hello", "reply 1", "clash"]
    assert shown.values["topic"] == "left"


async def test_an_answer_to_a_thread_whose_nodes_have_clashed_fails_as_the_graph_does(
    open_stage: Any, saver: Any
) -> None:
    stage, graph = await open_stage(checkpointer=saver), clashing()
    await stage.play(graph, says("clash"), thread_id="t")
    outcome = await stage.play(graph, thread_id="t", command={"resume": "well"})
    assert (outcome.status, outcome.end["error_type"]) == ("error", "InvalidUpdateError")


async def test_another_attempt_at_a_run_whose_nodes_have_clashed_fails_as_the_graph_does(
    open_stage: Any, saver: Any
) -> None:
    stage, graph = await open_stage(checkpointer=saver), clashing()
    first = await stage.play(graph, says("clash"), thread_id="t")
    outcome = await stage.play(graph, says("clash"), thread_id="t", retry_of=first.result.run_id)
    assert (outcome.status, outcome.end["error_type"]) == ("error", "InvalidUpdateError")


class Person(BaseModel):
    name: str = ""
    age: int = 0
    said: Annotated[list[Any], operator.add] = []


def aging() -> Any:
    builder = StateGraph(Person).add_node("ages", lambda person: {"age": person.age + 1})
    return builder.add_edge(START, "ages").compile()


async def test_what_does_not_fit_the_type_of_a_state_is_no_state_and_the_one_before_is_the_last(
    open_stage: Any, saver: Any
) -> None:
    stage, graph = await open_stage(checkpointer=saver), aging()
    await stage.play(graph, {"name": "Bo"}, thread_id="t")
    outcome = await stage.play(graph, {"age": "old"}, thread_id="t")
    agent = LangGraphAgent(graph)
    assert outcome.status is RunStatus.error
    for look in (agent.state(place(saver)), agent.history(place(saver), limit=5)):
        with pytest.raises(UnshownStateError, match="valid integer"):
            await look
    shown = await last_shown(agent, place(saver))
    assert shown is not None
    assert (shown.values, shown.next) == ({"name": "Bo", "age": 1, "said": []}, ())


async def test_a_node_that_is_sent_what_does_not_fit_leaves_the_last_values(open_stage: Any, saver: Any) -> None:
    def sums(state: Any) -> dict[str, Any]:
        return {"total": state["amount"]}

    class Sums(MessagesState):
        total: Annotated[int, operator.add]

    builder = StateGraph(Sums).add_node("sums", sums)
    builder.add_conditional_edges(START, lambda state: [Send("sums", {"amount": state["messages"][-1].content})])
    graph, stage = builder.compile(), await open_stage(checkpointer=saver)
    outcome = await stage.play(graph, says("three"), thread_id="t")  # the reducer cannot add this
    shown = await last_shown(LangGraphAgent(graph), place(saver))
    assert (outcome.status, outcome.end["error_type"]) == ("error", "TypeError")
    assert shown is not None
    assert shown.values["total"] == 0
    assert (await stage.play(graph, says("four"), thread_id="t")).end["error"].count("three") == 0
