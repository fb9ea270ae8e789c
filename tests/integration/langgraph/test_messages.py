"""Which messages a run counts and announces, and the thread's title."""

import itertools
import json
import operator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage, convert_to_messages
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint
from langgraph.graph import START, MessagesState, StateGraph, add_messages
from langgraph.graph.message import _messages_delta_reducer
from langgraph.types import Command, interrupt

from trackside import RunStatus


def chat(*nodes: Any, state: Any = MessagesState, **compiled: Any) -> Any:
    """A graph of these nodes, one after the other."""
    builder = StateGraph(state)
    names = [START, *(f"node{i}" for i in range(len(nodes)))]
    for name, node in zip(names[1:], nodes, strict=True):
        builder.add_node(name, node)
    for before, after in itertools.pairwise(names):
        builder.add_edge(before, after)
    return builder.compile(**compiled)


def say(text: str) -> Any:
    async def node(state: Any) -> dict[str, Any]:
        return {"messages": [AIMessage(text)]}

    return node


async def fail(state: Any) -> dict[str, Any]:
    raise ConnectionError("gone")


def counted(outcome: Any) -> tuple[int, str | None, str | None]:
    usage = outcome.usage
    return usage["message_count"], usage["first_human_message"], usage["last_ai_message"]


async def test_every_new_message_of_the_state_counts_once(stage: Any) -> None:
    outcome = await stage.play(chat(say("first"), say("second")), "hello")
    assert counted(outcome) == (3, "hello", "second")
    assert [human["content"] for human in outcome.humans] == ["hello"]


@pytest.mark.parametrize(("said", "marked"), [("a\0b", [True]), ("hello", [None])])
async def test_an_object_of_langchains_is_marked_where_its_text_could_not_be_kept(
    said: str, marked: list[Any], stage: Any
) -> None:
    outcome = await stage.play(chat(say("hi")), {"messages": [HumanMessage(said)]})
    assert [human.get("sanitized") for human in outcome.humans] == marked


async def test_messages_of_earlier_runs_of_the_thread_are_not_new(stage: Any) -> None:
    graph = chat(say("one"), say("two"), checkpointer=InMemorySaver())
    first = await stage.play(graph, "hello", thread_id="t")
    second = await stage.play(graph, "again", thread_id="t")
    assert counted(first) == (3, "hello", "two")
    assert counted(second) == (3, "again", "two")
    assert len(second.values["messages"]) == 6


async def test_a_history_that_is_sent_again_is_not_new(stage: Any) -> None:
    graph = chat(say("sure"), checkpointer=InMemorySaver())
    hello = {"role": "user", "content": "hello", "id": "h1"}
    first = await stage.play(graph, {"messages": [hello]}, thread_id="t")
    history = first.values["messages"]
    more = {"role": "user", "content": "more", "id": "h2"}
    second = await stage.play(graph, {"messages": [*history, more]}, thread_id="t")
    assert [human["id"] for human in second.humans] == ["h2"]
    assert counted(second) == (2, "more", "sure")
    assert len(second.values["messages"]) == 4


async def test_ids_of_another_thread_are_new_here(stage: Any) -> None:
    graph = chat(say("sure"), checkpointer=InMemorySaver())
    hello = {"role": "user", "content": "hello", "id": "h1"}
    for thread in ("a", "b"):
        outcome = await stage.play(graph, {"messages": [hello]}, thread_id=thread)
        assert [human["id"] for human in outcome.humans] == ["h1"]


async def test_other_messages_in_the_input_count_but_are_nobodys_words(stage: Any) -> None:
    given = [SystemMessage("be kind"), HumanMessage("hello"), AIMessage("hi"), HumanMessage("how are you?")]
    outcome = await stage.play(chat(say("well")), {"messages": given})
    assert counted(outcome) == (5, "hello", "well")
    assert [human["content"] for human in outcome.humans] == ["hello", "how are you?"]


async def test_a_failed_run_counts_what_was_said_before(stage: Any) -> None:
    outcome = await stage.play(chat(say("about to fail"), fail), "hello")
    assert outcome.status is RunStatus.error
    assert counted(outcome) == (2, "hello", "about to fail")


async def test_a_message_that_changes_is_still_one_message(stage: Any) -> None:
    async def draft(state: Any) -> dict[str, Any]:
        return {"messages": [AIMessage("draft", id="a1")]}

    async def final(state: Any) -> dict[str, Any]:
        return {"messages": [AIMessage("final", id="a1"), ToolMessage("done", tool_call_id="1")]}

    outcome = await stage.play(chat(draft, final), "hello")
    assert outcome.usage["message_count"] == 3


async def test_messages_of_a_list_that_langgraph_does_not_merge_are_counted_by_place(stage: Any) -> None:
    class Plain(TypedDict):
        messages: Annotated[list[AnyMessage], operator.add]

    graph = chat(say("one"), say("two"), state=Plain, checkpointer=InMemorySaver())
    await stage.play(graph, {"messages": [HumanMessage("hello")]}, thread_id="t")
    outcome = await stage.play(graph, {"messages": [HumanMessage("again")]}, thread_id="t")
    assert counted(outcome) == (3, "again", "two")


async def test_messages_that_are_plain_dicts_are_counted(stage: Any) -> None:
    class Plain(TypedDict):
        messages: Annotated[list[dict[str, str]], operator.add]

    async def reply(state: Any) -> dict[str, Any]:
        return {"messages": [{"role": "assistant", "content": "hi"}]}

    outcome = await stage.play(chat(reply, state=Plain), {"messages": [{"role": "user", "content": "hello"}]})
    assert counted(outcome) == (2, "hello", "hi")
    assert outcome.values["messages"][0] == {"role": "user", "content": "hello"}


async def test_messages_kept_as_deltas_are_counted(stage: Any) -> None:
    class Delta(TypedDict):
        messages: Annotated[list[AnyMessage], DeltaChannel(_messages_delta_reducer)]

    graph = chat(say("one"), state=Delta, checkpointer=InMemorySaver())
    for text in ("hello", "again"):
        outcome = await stage.play(graph, text, thread_id="t")
        assert counted(outcome) == (2, text, "one")
        assert outcome.humans[0]["id"] == outcome.values["messages"][-2]["id"]


class Unmerged(TypedDict):
    messages: Annotated[list[AnyMessage], operator.add]


class Asked(TypedDict):
    question: str


@pytest.mark.parametrize("state", [MessagesState, Unmerged], ids=["merged", "unmerged"])
@pytest.mark.parametrize("given", [{}, {"nothing": "of it"}, {"question": "?"}], ids=["empty", "unknown", "hidden"])
async def test_what_a_graph_says_is_new_where_its_input_has_nothing_for_its_state(
    stage: Any, saver: Any, state: Any, given: Any
) -> None:
    options: dict[str, Any] = {"input_schema": Asked} if "question" in given else {}
    builder = StateGraph(state, **options).add_sequence([("one", say("one")), ("two", say("two"))])
    graph = builder.add_edge(START, "one").compile(checkpointer=saver)
    for count in (2, 4):
        outcome = await stage.play(graph, given, thread_id="t")
        assert counted(outcome) == (2, None, "two")
        assert len(outcome.values["messages"]) == count
    if not options:
        assert counted(await stage.play(graph, "hello", thread_id="t")) == (3, "hello", "two")

    unkept = await stage.play(builder.compile(), given)
    assert counted(unkept) == (2, None, "two")


def beside_one_that_fails_once(said: Any, state: Any, saver: Any) -> Any:
    fails = iter((True,))

    async def says(state: Any) -> dict[str, Any]:
        return {"messages": [said]}

    async def beside(state: Any) -> dict[str, Any]:
        return await fail(state) if next(fails, False) else {}

    builder: Any = StateGraph(state).add_node("says", says).add_node("beside", beside)
    return builder.add_edge(START, "says").add_edge(START, "beside").compile(checkpointer=saver)


@pytest.mark.parametrize(
    ("state", "given", "expected"),
    [
        (Unmerged, {}, (1, None, "well")),
        (MessagesState, {}, (1, None, "well")),
        (MessagesState, {"messages": [{"role": "user", "content": "hello", "id": "h"}]}, (2, "hello", "well")),
    ],
    ids=["unmerged", "merged", "given"],
)
async def test_what_was_said_in_a_step_that_was_left_open_is_new_once_it_is_said_again(
    stage: Any, saver: Any, state: Any, given: Any, expected: Any
) -> None:
    graph = beside_one_that_fails_once(AIMessage("well", id="w"), state, saver)
    assert (await stage.play(graph, {}, thread_id="t")).status is RunStatus.error
    assert counted(await stage.play(graph, given, thread_id="t")) == expected


async def test_messages_that_a_graph_does_not_take_make_none_of_its_thread_new(stage: Any, saver: Any) -> None:
    builder = StateGraph(MessagesState, input_schema=Asked).add_node("one", say("one")).add_edge(START, "one")
    graph = builder.compile(checkpointer=saver)
    await stage.play(graph, {"question": "?"}, thread_id="t")
    outcome = await stage.play(graph, {"messages": [AIMessage("x", id="x"), AIMessage("y")]}, thread_id="t")
    assert counted(outcome) == (1, None, "one")


async def test_a_tool_that_fails_is_the_last_word_of_a_run_without_an_input(stage: Any) -> None:
    async def write(state: Any) -> dict[str, Any]:
        return {"messages": [ToolMessage("disk full", tool_call_id="1", status="error")]}

    graph = chat(write, checkpointer=InMemorySaver())
    for _ in range(2):
        outcome = await stage.play(graph, {}, thread_id="t")
        assert (outcome.status, "disk full" in str(outcome.result.error)) == (RunStatus.error, True)


async def test_a_tool_that_fails_again_after_a_step_that_was_left_open_is_the_last_word(stage: Any, saver: Any) -> None:
    graph = beside_one_that_fails_once(ToolMessage("disk full", tool_call_id="1", status="error"), Unmerged, saver)
    for said in ("gone", "disk full"):
        outcome = await stage.play(graph, {}, thread_id="t")
        assert (outcome.status, said in str(outcome.result.error)) == (RunStatus.error, True)


async def test_an_entrypoints_messages_are_counted_without_what_its_thread_had(stage: Any) -> None:
    @entrypoint(checkpointer=InMemorySaver())
    async def talk(given: list[AnyMessage], *, previous: list[AnyMessage] | None = None) -> Any:
        messages = add_messages(previous or [], given)
        messages = add_messages(messages, [AIMessage("well"), AIMessage(f"{len(messages)} so far")])
        return entrypoint.final(value=messages, save=messages)

    first = await stage.play(talk, [HumanMessage("hello")], thread_id="t")
    second = await stage.play(talk, [HumanMessage("again")], thread_id="t")
    assert counted(first) == (3, "hello", "1 so far")
    assert counted(second) == (3, "again", "4 so far")


async def test_the_text_of_content_blocks_is_what_was_said(stage: Any) -> None:
    async def node(state: Any) -> dict[str, Any]:
        return {"messages": [AIMessage([{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}])]}

    outcome = await stage.play(chat(node), "hello")
    assert outcome.usage["last_ai_message"] == "in parts"


async def test_an_answer_is_a_human_message_even_where_the_graph_keeps_it(stage: Any) -> None:
    async def ask(state: Any) -> dict[str, Any]:
        return {"messages": [HumanMessage(interrupt("name?"))]}

    graph = chat(ask, say("thanks"), checkpointer=InMemorySaver())
    await stage.play(graph, "hello", thread_id="t")
    outcome = await stage.play(graph, thread_id="t", command={"resume": "Ada"})
    assert [human["content"] for human in outcome.humans] == ["Ada"]
    assert counted(outcome) == (2, "Ada", "thanks")


def in_json(*messages: Any) -> dict[str, Any]:
    """An input as LangChain's clients send it to a server: tuples as lists, objects as they serialize themselves."""
    given: dict[str, Any] = json.loads(dumps({"messages": messages}))
    return given


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"messages": [("user", "hello")]}, ["hello"]),
        ({"messages": ("user", "hello")}, ["hello"]),
        (in_json(("user", "hello")), ["hello"]),
        (in_json("user", "hello"), ["user", "hello"]),
        (in_json(HumanMessage("hello")), ["hello"]),
        ({"messages": in_json(HumanMessage("hello"))["messages"][0]}, ["hello"]),
        (in_json(HumanMessage("hello"))["messages"][0], ["hello"]),
        (
            in_json(("user", "hello"), HumanMessage("again"), {"role": "user", "content": "bye"}),
            ["hello", "again", "bye"],
        ),
    ],
)
async def test_a_message_as_langchains_clients_send_it_is_announced_once_as_the_one_that_the_thread_keeps(
    stage: Any, given: Any, said: list[str]
) -> None:
    outcome = await stage.play(chat(say("well")), given)
    assert [human["content"] for human in outcome.humans] == said
    assert counted(outcome) == (len(said) + 1, said[0], "well")
    kept = outcome.values["messages"][:-1]
    assert [(one["id"], one["type"], one["content"]) for one in kept] == [
        (human["id"], "human", human["content"]) for human in outcome.humans
    ]


async def test_objects_of_langchain_reach_the_graph_through_json_as_langchain_reads_them(stage: Any) -> None:
    call = {"name": "look", "args": {"at": "x"}, "id": "c1", "type": "tool_call"}
    said = [
        HumanMessage("hello", id="h1", name="ada"),
        AIMessage("", id="a1", tool_calls=[call]),
        ToolMessage("seen", id="t1", tool_call_id="c1", status="error"),
    ]
    graph = chat(say("well"), checkpointer=InMemorySaver())
    outcome = await stage.play(graph, given := in_json(*said), thread_id="t")
    kept = (await graph.aget_state({"configurable": {"thread_id": "t"}})).values["messages"]
    assert kept[:-1] == convert_to_messages(given["messages"])
    assert [(human["id"], human["name"]) for human in outcome.humans] == [("h1", "ada")]
    again = await stage.play(graph, in_json(*said, HumanMessage("more", id="h2")), thread_id="t")
    assert [human["id"] for human in again.humans] == ["h2"]
    assert counted(again) == (2, "more", "well")


async def test_pairs_in_json_of_a_list_that_langgraph_does_not_merge_stay_and_are_announced(stage: Any) -> None:
    class Plain(TypedDict):
        messages: Annotated[list[Any], operator.add]

    outcome = await stage.play(chat(say("well"), state=Plain), in_json(("user", "hello")))
    assert counted(outcome) == (2, "hello", "well")
    assert outcome.values["messages"][0] == ["user", "hello"]


@pytest.mark.parametrize("update", [{"role": "user", "content": "and this"}, ["user", "and this"]])
async def test_messages_of_a_commands_update_are_announced_and_counted(stage: Any, update: Any) -> None:
    graph = chat(say("one"), checkpointer=InMemorySaver())
    await stage.play(graph, "hello", thread_id="t")
    command = {"update": {"messages": [update]}, "goto": "node0"}
    outcome = await stage.play(graph, thread_id="t", command=command)
    assert [human["content"] for human in outcome.humans] == ["and this"]
    assert counted(outcome) == (2, "and this", "one")


class Titled(MessagesState):
    title: str


async def test_the_states_title_becomes_the_threads(stage: Any) -> None:
    async def name_it(state: Any) -> dict[str, Any]:
        return {"title": "Greetings"}

    outcome = await stage.play(chat(name_it, state=Titled), "hello")
    assert outcome.result.title == "Greetings"
    assert outcome.end["title"] == "Greetings"


async def test_a_failed_run_has_the_title_that_was_found_before(stage: Any) -> None:
    async def name_it(state: Any) -> dict[str, Any]:
        return {"title": "Greetings"}

    outcome = await stage.play(chat(name_it, fail, state=Titled), "hello")
    assert outcome.end["title"] == "Greetings"


async def test_what_stays_inside_a_subgraph_is_neither_counted_nor_a_title(stage: Any) -> None:
    async def name_it(state: Any) -> dict[str, Any]:
        return {"title": "Inner", "messages": [AIMessage("to myself")]}

    inner = chat(name_it, state=Titled)

    async def consult(state: Any) -> dict[str, Any]:
        await inner.ainvoke({"messages": "psst"})
        return {"messages": [AIMessage("aloud")]}

    outcome = await stage.play(chat(consult), "hello", stream_subgraphs=True)
    assert any(part.namespace for part in outcome.parts)
    assert counted(outcome) == (2, "hello", "aloud")
    assert outcome.result.title is None


async def test_a_node_that_gives_back_a_command_is_counted_like_any_other(stage: Any) -> None:
    async def node(state: Any) -> Command[Any]:
        return Command(update={"messages": [AIMessage("by command")]})

    outcome = await stage.play(chat(node), "hello")
    assert counted(outcome) == (2, "hello", "by command")
