"""What a graph is given: messages in every form, text, commands, a context; and what does not fit."""

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime
from langgraph.types import Command, interrupt
from pydantic import BaseModel
from tests.integration.langgraph.counting_graphs import Count, calling, counting

from trackside import InvalidSpecError, RunStatus
from trackside.harness.adapters.langgraph import LangGraphAgent


@pytest.mark.parametrize(
    "input",
    [
        "hello",
        HumanMessage("hello"),
        [HumanMessage("hello")],
        {"role": "user", "content": "hello"},
        [{"type": "human", "content": "hello"}],
        {"messages": "hello"},
        {"messages": ["hello"]},
        {"messages": ("user", "hello")},
        {"messages": [("human", "hello")]},
        {"messages": HumanMessage("hello")},
        {"messages": [{"role": "user", "content": "hello"}]},
    ],
    ids=repr,
)
async def test_every_form_of_a_message_reaches_a_graph_that_keeps_messages(stage: Any, input: Any) -> None:
    async def reply(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"you said {state['messages'][-1].content}")]}

    outcome = await stage.play(calling(reply, MessagesState), input)
    asked, replied = outcome.values["messages"]
    assert (asked["type"], asked["content"]) == ("human", "hello")
    assert replied["content"] == "you said hello"
    assert [human["id"] for human in outcome.humans] == [asked["id"]]
    assert outcome.usage["message_count"] == 2


async def test_a_message_object_of_the_caller_is_not_changed(stage: Any) -> None:
    message = HumanMessage("hello")
    await stage.play(calling(lambda state: {}, MessagesState), {"messages": [message]})
    assert message.id is None


class Chat(BaseModel):
    messages: Annotated[list[AnyMessage], add_messages] = []
    mood: str | None = None


@dataclass(frozen=True)
class Talk:
    messages: Annotated[list[AnyMessage], add_messages]
    mood: str | None = None


@dataclass(slots=True)
class Chatter:
    messages: Annotated[list[AnyMessage], add_messages]
    mood: str | None = None


@pytest.mark.parametrize("kind", [Chat, Talk, Chatter])
async def test_messages_in_an_object_of_the_states_class_are_those_in_a_mapping(stage: Any, kind: Any) -> None:
    async def reply(state: Any) -> dict[str, Any]:
        return {"messages": [AIMessage(f"you said {state.messages[-1].content}")]}

    given = kind(messages=[AIMessage("well?"), message := HumanMessage("hello")], mood="fine")
    outcome = await stage.play(calling(reply, kind), given)
    _, asked, replied = outcome.values["messages"]
    assert replied["content"] == "you said hello"
    assert [(human["id"], human["content"]) for human in outcome.humans] == [(asked["id"], "hello")]
    assert outcome.usage["message_count"] == 3
    assert outcome.usage["first_human_message"] == "hello"
    assert outcome.values["mood"] == "fine"
    assert message.id is None
    assert given == kind(messages=[AIMessage("well?"), HumanMessage("hello")], mood="fine")


async def test_a_command_as_input_is_refused_for_it_would_be_announced_nowhere(stage: Any) -> None:
    outcome = await stage.play(calling(lambda state: {}, MessagesState), Command(resume="yes"))
    assert outcome.end["error_type"] == "InvalidSpecError"
    assert "goes into the run's `command`" in outcome.end["error"]


async def test_text_for_a_graph_without_messages_stays_text(run_context: Any) -> None:
    @entrypoint()
    async def length(text: str) -> int:
        return len(text)

    assert (await LangGraphAgent(length).run(run_context("four"))).output == 4


async def test_a_command_updates_and_jumps(stage: Any) -> None:
    async def skipped(state: Count) -> Count:
        raise AssertionError("the command goes past this")

    async def target(state: Count) -> Count:
        return {"seen": [f"saw {state['n']}"]}

    graph = (
        StateGraph(Count).add_node("skipped", skipped).add_node("target", target).add_edge(START, "skipped")
    ).compile(checkpointer=InMemorySaver())
    await graph.aupdate_state({"configurable": {"thread_id": "t"}}, {"n": 1}, as_node="target")
    outcome = await stage.play(graph, thread_id="t", command={"update": {"n": 4}, "goto": "target"})
    assert outcome.values == {"n": 5, "seen": ["saw 5"]}
    outcome = await stage.play(graph, thread_id="t", command={"goto": [{"node": "target", "input": {"n": 9}}]})
    assert outcome.values == {"n": 5, "seen": ["saw 9"]}


async def test_a_command_that_goes_to_the_end_leaves_the_thread_as_it_is(stage: Any) -> None:
    async def ask(state: Count) -> Count:
        return {"seen": [interrupt("why?")]}

    to_the_end = {"command": {"goto": "__end__", "update": None}, "thread_id": "t"}
    graph = calling(ask, checkpointer=InMemorySaver())
    asked = await stage.play(graph, {"n": 1}, thread_id="t")
    while_it_asks = await stage.play(graph, **to_the_end)
    await stage.play(graph, thread_id="t", command={"resume": "because"})
    at_rest = await stage.play(graph, **to_the_end)
    updated = await stage.play(graph, thread_id="t", command={"goto": ["__end__"], "update": {"n": 4}})

    assert (while_it_asks.status, while_it_asks.interrupts) == (RunStatus.interrupted, asked.interrupts)
    assert (at_rest.status, at_rest.values) == (RunStatus.success, {"n": 1, "seen": ["because"]})
    assert (updated.status, updated.values) == (RunStatus.success, {"n": 5, "seen": ["because"]})


async def test_a_command_begins_a_thread(stage: Any) -> None:
    outcome = await stage.play(counting().compile(), command={"update": {"n": 4}, "goto": ["add"]})
    assert outcome.status is RunStatus.success
    assert outcome.values["n"] >= 5


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"command": {"goto": "nowhere"}}, "the graph's nodes are add"),
        ({"command": {"goto": ["__end__", "nowhere"]}}, "command.goto = ['nowhere'] does not fit"),
        ({"command": {"goto": "__start__x"}}, "the graph's nodes are add"),
        ({"command": {"goto": {"node": "__end__"}}}, "the graph's nodes are add"),
        ({"command": {"goto": 3}}, "it is a node's name"),
        ({"stream_mode": ["values", "vibes"]}, "checkpoints, custom, debug, events"),
        ({"interrupt_before": ["nowhere"]}, "the graph's nodes are add"),
        ({"interrupt_after": "nowhere"}, "the graph's nodes are add"),
        ({"config": {"configurable": {"thread_id": "other"}}}, "give the run a `thread_id` instead"),
        ({"config": {"configurable": 3}}, "it is an object"),
        ({"config": {"max_turns": 3}}, "LangGraph's config has callbacks, configurable, max_concurrency"),
        ({"config": {"run_id": "7"}}, "give the run a `run_id` instead"),
    ],
    ids=str,
)
async def test_what_does_not_fit_the_graph_is_refused_by_name(
    stage: Any, run_context: Any, spec: dict[str, Any], says: str
) -> None:
    agent = LangGraphAgent(counting().compile(checkpointer=InMemorySaver()))
    given = None if "command" in spec else {"n": 1}
    with pytest.raises(InvalidSpecError) as caught:
        await agent.run(run_context(given, **spec))
    assert says in str(caught.value)
    assert caught.value.fault == "caller"
    outcome = await stage.play(agent, given, **spec)
    assert outcome.status is RunStatus.error
    assert says in outcome.end["error"]


async def test_an_input_that_the_graph_cannot_take_is_langgraphs_error(stage: Any) -> None:
    outcome = await stage.play(counting().compile(), "text")
    assert outcome.status is RunStatus.error
    assert outcome.end["error_type"] == "InvalidUpdateError"


@pytest.mark.parametrize("asked", [{}, {"config": {"configurable": {"name": "ada"}}}])
async def test_a_context_is_what_the_caller_gives_as_with_a_plain_graph(stage: Any, asked: dict[str, Any]) -> None:
    @dataclass
    class Who:
        name: str = "nobody"

    async def look(state: dict[str, Any], runtime: Runtime[Who]) -> dict[str, Any]:
        return {"messages": [AIMessage(repr(runtime.context))]}

    builder: Any = StateGraph(MessagesState, context_schema=Who)
    graph = builder.add_node("look", look).add_edge(START, "look").compile()
    given: Any = {"messages": []}
    outcome = await stage.play(graph, given, **asked)
    plain = await graph.ainvoke(given, asked.get("config"))
    assert outcome.values["messages"][0]["content"] == plain["messages"][0].content == "None"
