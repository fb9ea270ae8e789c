"""What threads are and were, through the SDK's clients; and runs that begin at one of their checkpoints."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, datetime
from functools import partial
from typing import Annotated, Any, TypedDict

import httpx
import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Command, Send, interrupt
from langgraph_sdk import get_sync_client
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError
from pydantic import BaseModel, field_serializer

from trackside import RunContext
from trackside.harness.adapters.langgraph import LangGraphAgent
from trackside.harness.ids import new_id
from trackside.harness.lifecycle import TERMINAL_EVENTS
from trackside.harness.states import ThreadPlace
from trackside.harness.types import JsonObject


class Log(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


def step(name: str) -> Any:
    return lambda state: {"log": [name]}


def ask(state: Log) -> Log:
    return {"log": [f"answered {interrupt('why?')}"]}


def steps() -> Any:
    builder = StateGraph(Log).add_node("first", step("first")).add_node("second", step("second"))
    return builder.add_edge(START, "first").add_edge("first", "second").compile()


def asking(*names: str) -> Any:
    builder = StateGraph(Log)
    for name in names:
        builder.add_node(name, ask).add_edge(START, name)
    return builder.compile()


def nested() -> Any:
    return StateGraph(Log).add_node("inside", asking("ask")).add_edge(START, "inside").compile()


def routed() -> tuple[Any, asyncio.Event, asyncio.Event]:
    """Where it goes on is found out slowly, unless it may go on; and it is said that it is being found out."""
    routing, go_on = asyncio.Event(), asyncio.Event()
    go_on.set()

    async def route(state: Log) -> str:
        routing.set()
        await go_on.wait()
        return END

    builder = StateGraph(Log).add_node("talk", step("talked")).add_edge(START, "talk")
    return builder.add_conditional_edges("talk", route, [END]).compile(), routing, go_on


def talking() -> Any:
    async def talk(state: MessagesState) -> dict[str, Any]:
        model = GenericFakeChatModel(messages=iter([AIMessage(f"reply {len(state['messages'])}")]))
        return {"messages": [await model.ainvoke(state["messages"])]}

    return StateGraph(MessagesState).add_node("talk", talk).add_edge(START, "talk").compile()


async def counting(input: Any, run: RunContext) -> dict[str, Any]:
    return {"count": run.values.get("count", 0) + 1}


async def wondering(input: Any, run: RunContext) -> dict[str, Any]:
    return {"answer": run.interrupt("which?")}


def agents() -> dict[str, Any]:
    return {
        "steps": steps(),
        "asking": asking("ask"),
        "several": asking("one", "two"),
        "nested": nested(),
        "talking": talking(),
        "counting": counting,
        "wondering": wondering,
    }


async def thread_of(client: Any, agent: str, input: Any, **asked: Any) -> str:
    """A thread on which the agent has run."""
    thread_id = new_id()
    await client.runs.wait(thread_id, agent, input=input, if_not_exists="create", **asked)
    return thread_id


async def checkpoint_before(client: Any, thread_id: str, *following: str) -> dict[str, Any]:
    history = await client.threads.get_history(thread_id, limit=50)
    return next(state["checkpoint"] for state in history if state["next"] == [*following])


@asynccontextmanager
async def savers_of_langgraph(database_url: str) -> AsyncIterator[Any]:
    """LangGraph's own saver for a database."""
    opened = (
        AsyncPostgresSaver.from_conn_string(database_url)
        if database_url.startswith("postgresql")
        else AsyncSqliteSaver.from_conn_string(database_url.removeprefix("sqlite:///"))
    )
    async with opened as saver:
        await saver.setup()
        yield saver


async def test_a_thread_that_langgraph_s_saver_left_waits_once_it_is_made(serve_agents: Any, database_url: str) -> None:
    waiting, over = new_id(), new_id()
    async with savers_of_langgraph(database_url) as saver:
        for graph, thread_id in ((asking("ask"), waiting), (steps(), over)):
            graph.checkpointer = saver
            await graph.ainvoke({"log": []}, {"configurable": {"thread_id": thread_id}})

    async with serve_agents({"ask": asking("ask"), "steps": steps()}) as served:
        threads = served.client.threads
        made = await threads.create(thread_id=waiting, graph_id="ask")
        others = [await threads.create(thread_id=over, graph_id="steps"), await threads.create(graph_id="ask")]
        found = await threads.search(status="interrupted")
        answered = await served.client.runs.wait(waiting, "ask", command={"resume": "because"})

    assert made["status"] == "interrupted"
    assert [interrupt["value"] for asked in made["interrupts"].values() for interrupt in asked] == ["why?"]
    assert [other["status"] for other in others] == ["idle", "idle"]
    assert [thread["thread_id"] for thread in found] == [waiting]
    assert answered == {"log": ["answered because"]}


async def test_a_state_says_what_is_open(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads = served.client.threads
        thread_id = await thread_of(served.client, "asking", {"log": ["in"]})
        state = await threads.get_state(thread_id)
        by_id = await threads.get_state(thread_id, checkpoint_id=state["checkpoint"]["checkpoint_id"])
        by_place = await threads.get_state(thread_id, checkpoint=state["checkpoint"])
        with get_sync_client(url=served.url, api_key=None) as client:
            synced = await asyncio.to_thread(client.threads.get_state, thread_id)

    assert state["values"] == {"log": ["in"]}
    assert state["next"] == ["ask"]
    assert [question["value"] for question in state["interrupts"]] == ["why?"]
    assert state["tasks"][0]["interrupts"] == state["interrupts"]
    assert state["checkpoint"]["thread_id"] == thread_id
    assert state["parent_checkpoint"]["thread_id"] == thread_id
    assert state["metadata"]["run_id"]
    assert state["created_at"]
    assert by_id == by_place == synced == state


class Trip(BaseModel):
    to: str
    day: date

    @field_serializer("day")
    def as_shown(self, day: date) -> str:
        return day.strftime("%d.%m.%Y")


class Plan(Log, total=False):
    trip: Trip


async def test_a_question_beside_a_model_that_its_serializer_cannot_take_back_is_shown_and_answered(
    serve_agents: Any,
) -> None:
    def plan(state: Plan) -> Plan:
        return {"trip": Trip(to="Rome", day=date(2026, 5, 1))}

    builder = StateGraph(Plan).add_node("plan", plan).add_node("ask", ask)
    booking = builder.add_edge(START, "plan").add_edge("plan", "ask").compile()
    shown = {"to": "Rome", "day": "01.05.2026"}
    async with serve_agents({"booking": booking}) as served:
        threads = served.client.threads
        thread_id = await thread_of(served.client, "booking", {"log": []})
        thread = await threads.get(thread_id)
        state = await threads.get_state(thread_id)
        answered = await served.client.runs.wait(thread_id, "booking", command={"resume": "yes"})
        await threads.update_state(thread_id, {"log": ["by hand"]})
        history = await threads.get_history(thread_id)

    assert [question["value"] for asked in thread["interrupts"].values() for question in asked] == ["why?"]
    assert thread["values"]["trip"] == state["values"]["trip"] == answered["trip"] == shown
    assert answered["log"] == ["answered yes"]
    assert [kept["values"].get("trip") for kept in history] == [shown, shown, shown, None, None]


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_run_of_another_agent_that_has_not_begun_hides_nothing_of_a_thread(
    serve_agents: Any, is_cancelled: bool
) -> None:
    async with serve_agents(agents()) as served:
        threads, runs = served.client.threads, served.client.runs
        thread_id = await thread_of(served.client, "asking", {"log": ["in"]})
        before = await threads.get_state(thread_id)
        later = await runs.create(thread_id, "steps", input={}, after_seconds=3_600)
        if is_cancelled:
            await runs.cancel(thread_id, later["run_id"], wait=True)
        (found,) = await threads.search(status="interrupted")
        state = await threads.get_state(thread_id)
        await threads.update_state(thread_id, {"log": ["corrected"]}, as_node=START)
        answered = await runs.wait(thread_id, "asking", input=None)
        answered = await runs.wait(thread_id, "asking", command={"resume": "because"})

    assert (state["values"], state["interrupts"]) == (before["values"], before["interrupts"])
    assert [question["value"] for asked in found["interrupts"].values() for question in asked] == ["why?"]
    assert found["metadata"]["graph_id"] == "asking"
    assert answered == {"log": ["in", "corrected", "answered because"]}


async def test_a_thread_shows_what_a_node_asks_to_which_a_command_has_gone(serve_agents: Any) -> None:
    builder = StateGraph(Log).add_node("first", step("first")).add_node("ask", ask).add_edge(START, "first")
    async with serve_agents({"goes": builder.compile()}) as served:
        threads, runs = served.client.threads, served.client.runs
        thread_id = await thread_of(served.client, "goes", {"log": []})
        asked = await runs.wait(thread_id, "goes", command={"goto": "ask"})
        (found,) = await threads.search(status="interrupted")
        state = await threads.get_state(thread_id)
        answered = await runs.wait(thread_id, "goes", command={"resume": "because"})

    assert [question["value"] for question in asked["__interrupt__"]] == ["why?"]
    assert [*found["interrupts"].values()] == [asked["__interrupt__"]]
    assert (state["next"], state["interrupts"]) == (["ask"], asked["__interrupt__"])
    assert answered == {"log": ["first", "answered because"]}


async def test_several_questions_stand_in_several_tasks(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        thread_id = await thread_of(served.client, "several", {"log": []})
        state = await served.client.threads.get_state(thread_id)
        answers = {question["id"]: question["id"][:4] for question in state["interrupts"]}
        values = await served.client.runs.wait(thread_id, "several", command={"resume": answers})

    assert [task["name"] for task in state["tasks"]] == ["one", "two"]
    assert len(answers) == 2
    assert sorted(values["log"]) == sorted(f"answered {answer}" for answer in answers.values())


async def test_only_what_was_selected_is_sent(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads = served.client.threads
        thread_id = await thread_of(served.client, "steps", {"log": []})
        state = await threads.get_state(thread_id, select=["next", "values.log", "values.none"])
        history = await threads.get_history(thread_id, select=["created_at"])
        with pytest.raises(UnprocessableEntityError, match="but no colour"):
            await threads.get_state(thread_id, select=["colour"])

    assert state == {"next": [], "values": {"log": ["first", "second"]}}
    assert {tuple(one) for one in history} == {("created_at",)}


async def test_states_inside_come_when_asked_for(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads = served.client.threads
        thread_id = await thread_of(served.client, "nested", {"log": ["in"]})
        plain = await threads.get_state(thread_id)
        deep = await threads.get_state(thread_id, subgraphs=True)
        inside = await threads.get_state(thread_id, checkpoint=plain["tasks"][0]["checkpoint"])
        history = await threads.get_history(thread_id, checkpoint=plain["tasks"][0]["checkpoint"])
        await threads.update_state(
            thread_id, {"log": ["by hand"]}, as_node="ask", checkpoint=plain["tasks"][0]["checkpoint"]
        )
        changed = await threads.get_state(thread_id, subgraphs=True)

    assert plain["tasks"][0]["state"] is None
    assert deep["tasks"][0]["state"] == inside == history[0]
    assert inside["next"] == ["ask"]
    assert changed["tasks"][0]["state"]["values"] == {"log": ["in", "by hand"]}


async def test_a_run_does_not_begin_at_the_newest_state_where_it_names_one_by_half(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads, runs = served.client.threads, served.client.runs
        thread_id = await thread_of(served.client, "nested", {"log": ["in"]})
        inside = (await threads.get_state(thread_id))["tasks"][0]["checkpoint"]
        for half in (inside, {"checkpoint_map": {"": "x"}}):
            with pytest.raises(UnprocessableEntityError, match="give its checkpoint_id, too"):
                await runs.create(thread_id, "nested", input={"log": []}, checkpoint=half)
        assert len(await runs.list(thread_id)) == 1
        nowhere = {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": None, "checkpoint_map": {}}
        await runs.wait(thread_id, "nested", input={"log": []}, checkpoint=nowhere)

    assert inside["checkpoint_id"] is None


async def test_history_goes_back_page_by_page(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads = served.client.threads
        thread_id = await thread_of(served.client, "steps", {"log": []})
        everything = await threads.get_history(thread_id)
        first = await threads.get_history(thread_id, limit=2)
        rest = await threads.get_history(thread_id, before=first[-1]["checkpoint"])
        same = await threads.get_history(thread_id, before=first[-1]["checkpoint"]["checkpoint_id"])
        config: Any = {
            "configurable": {**first[-1]["checkpoint"], "language": "de"}
        }  # as the types of the JavaScript client say
        by_config = await threads.get_history(thread_id, before=config)
        inputs = await threads.get_history(thread_id, metadata={"source": "input"})
        at = await threads.get_history(thread_id, checkpoint=first[-1]["checkpoint"])
        async with httpx.AsyncClient() as browser:
            read = (await browser.get(f"{served.url}/threads/{thread_id}/history?limit=1")).json()

    assert first + rest == everything
    assert same == by_config == rest
    assert inputs == everything[-1:]
    assert at == first[1:]
    assert read == everything[:1]


async def test_an_update_goes_on_as_if_a_node_had_returned_it(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads = served.client.threads
        thread_id = await thread_of(served.client, "steps", {"log": []}, interrupt_before=["second"])
        answer = await threads.update_state(thread_id, {"log": ["by hand"]}, as_node="first")
        state = await threads.get_state(thread_id)
        values = await served.client.runs.wait(thread_id, "steps", input=None)

    assert state["checkpoint"] == answer["checkpoint"]
    assert (state["next"], state["values"]) == (["second"], {"log": ["first", "by hand"]})
    assert values == {"log": ["first", "by hand", "second"]}


@pytest.mark.parametrize("kept_by", ["store", "langgraph"])
async def test_what_is_changed_by_hand_of_a_thread_that_is_deleted_meanwhile_is_not_left(
    serve_agents: Any, kept_by: Any
) -> None:
    graph, routing, go_on = routed()
    async with serve_agents({"routed": graph}, checkpoints_saver=kept_by) as served:
        threads = served.client.threads
        thread_id = await thread_of(served.client, "routed", {"log": ["I am Ada"]})
        routing.clear(), go_on.clear()
        change = asyncio.create_task(threads.update_state(thread_id, {"log": ["born 1815"]}, as_node="talk"))
        await routing.wait()
        await threads.delete(thread_id)
        await served.app.store.sweeper().sweep()
        go_on.set()
        with pytest.raises(NotFoundError):
            await change
        made = await threads.create(thread_id=thread_id, graph_id="routed")
        state = await threads.get_state(thread_id)

    assert (made["status"], made["values"]) == ("idle", None)
    assert (state["values"], state["checkpoint"]["checkpoint_id"]) == ({}, None)


async def test_what_is_changed_by_hand_of_a_thread_is_not_of_one_that_is_begun_anew_meanwhile(
    serve_agents: Any,
) -> None:
    graph, routing, go_on = routed()
    async with serve_agents({"routed": graph}) as served:
        threads, log = served.client.threads, {"log": ["I am Ada"]}
        thread_id = await thread_of(served.client, "routed", log)
        routing.clear(), go_on.clear()
        change = asyncio.create_task(threads.update_state(thread_id, {"log": ["born 1815"]}, as_node="talk"))
        await routing.wait()
        await threads.delete(thread_id)
        await served.app.store.sweeper().sweep()
        await threads.create(thread_id=thread_id, graph_id="routed")
        go_on.set()
        with pytest.raises(NotFoundError):
            await change
        values = await served.client.runs.wait(thread_id, "routed", input={"log": ["I am Bob"]})

    assert values == {"log": ["I am Bob", "talked"]}


async def test_a_thread_forks_and_both_branches_stay(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads, runs = served.client.threads, served.client.runs
        thread_id = await thread_of(served.client, "talking", {"messages": [{"role": "user", "content": "one"}]})
        checkpoint = (await threads.get_state(thread_id))["checkpoint"]
        await runs.wait(thread_id, "talking", input={"messages": [{"role": "user", "content": "two"}]})

        values = await runs.wait(
            thread_id, "talking", input={"messages": [{"role": "user", "content": "other"}]}, checkpoint=checkpoint
        )
        history = await threads.get_history(thread_id, limit=50)

    assert [message["content"] for message in values["messages"]] == ["one", "reply 1", "other", "reply 3"]
    children = [state["values"]["messages"][-1]["content"] for state in history if state["next"] == []]
    assert children == ["reply 3", "reply 3", "reply 1"]
    forks = [state for state in history if state["parent_checkpoint"] == checkpoint]
    assert len(forks) == 2


async def test_a_run_goes_on_from_the_checkpoint_that_it_names(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        thread_id = await thread_of(served.client, "steps", {"log": ["in"]})
        checkpoint = await checkpoint_before(served.client, thread_id, "second")
        stream = served.client.runs.stream(
            thread_id, "steps", input=None, checkpoint_id=checkpoint["checkpoint_id"], stream_mode="values"
        )
        parts = [part.data async for part in stream if part.event == "values"]

    assert parts == [{"log": ["in", "first"]}, {"log": ["in", "first", "second"]}]


async def test_a_checkpoint_that_is_not_there_is_not_found_before_anything_runs(serve_agents: Any) -> None:
    nowhere = new_id()
    async with serve_agents(agents()) as served:
        threads, runs = served.client.threads, served.client.runs
        thread_id = await thread_of(served.client, "steps", {"log": []})
        for ask_for in (
            partial(threads.get_state, thread_id, checkpoint_id=nowhere),
            partial(threads.update_state, thread_id, {"log": []}, as_node="first", checkpoint_id=nowhere),
            partial(runs.create, thread_id, "steps", input=None, checkpoint_id=nowhere),
            partial(runs.wait, thread_id, "steps", input=None, checkpoint={"checkpoint_id": nowhere}),
            partial(runs.wait, new_id(), "steps", input=None, checkpoint_id=nowhere, if_not_exists="create"),
            partial(runs.wait, None, "steps", input={"log": []}, checkpoint_id=nowhere),
        ):
            with pytest.raises(httpx.HTTPStatusError) as refused:
                await ask_for()
            said = refused.value.response
            assert (said.status_code, said.json()["code"]) == (404, "unknown-checkpoint")
            assert nowhere in said.json()["detail"]
            assert "None" not in said.json()["detail"]
        with pytest.raises(UnprocessableEntityError, match="another thread"):
            await threads.get_state(thread_id, checkpoint={"thread_id": nowhere, "checkpoint_ns": ""})
        own = {"thread_id": thread_id.upper(), "checkpoint_ns": ""}  # as clients may write an id
        assert await threads.get_state(thread_id.upper(), checkpoint=own) == await threads.get_state(thread_id)
        assert len(await threads.get_history(thread_id, checkpoint=own)) == len(await threads.get_history(thread_id))
        assert (await runs.wait(thread_id, "steps", input=None, checkpoint=own))["log"]
        assert len(await runs.list(thread_id)) == 2


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("state/a%00b", None),
        ("history?before=a%00b", None),
        ("history", {"before": "a\0b"}),
        ("history", {"before": {"checkpoint_id": "a\0b"}}),
        ("history", {"before": {"configurable": {"checkpoint_id": "a\0b"}}}),
        ("history", {"checkpoint": {"checkpoint_id": "a\0b"}}),
        ("state/checkpoint", {"checkpoint": {"checkpoint_id": "a\0b"}}),
        ("state/checkpoint", {"checkpoint": {"checkpoint_ns": "a\0b"}}),
        ("state/checkpoint", {"checkpoint": {"checkpoint_ns": "a", "checkpoint_map": {"a": "a\0b"}}}),
        ("state", {"values": {"log": []}, "as_node": "first", "checkpoint_id": "a\0b"}),
        ("runs", {"assistant_id": "steps", "checkpoint_id": "a\0b"}),
        ("runs", {"assistant_id": "steps", "checkpoint": {"checkpoint_id": "a", "checkpoint_ns": "a\0b"}}),
        ("runs", {"assistant_id": "steps", "config": {"configurable": {"checkpoint_id": "a\0b"}}}),
    ],
)
async def test_what_no_database_can_hold_is_no_place_in_a_thread(serve_agents: Any, path: str, asked: Any) -> None:
    async with serve_agents(agents()) as served, httpx.AsyncClient(base_url=served.url) as http:
        thread_id = await thread_of(served.client, "steps", {"log": []})
        method = "GET" if asked is None else "POST"
        answer = await http.request(method, f"/threads/{thread_id}/{path}", json=asked)
        assert (answer.status_code, "without NUL" in answer.text) == (422, True)


async def test_values_and_nodes_that_do_not_fit_are_refused(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads = served.client.threads
        thread_id = await thread_of(served.client, "steps", {"log": []})
        with pytest.raises(UnprocessableEntityError, match="as_node = .third.: the graph.s nodes are first, second"):
            await threads.update_state(thread_id, {"log": []}, as_node="third")
        with pytest.raises(UnprocessableEntityError, match="values"):
            await threads.update_state(thread_id, {"log": 5}, as_node="first")


async def test_a_busy_thread_is_not_changed(serve_agents: Any) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def waiting(input: Any) -> None:
        started.set()
        await go_on.wait()

    async with serve_agents({"waiting": waiting}) as served:
        run = await served.client.runs.create(thread_id := new_id(), "waiting", if_not_exists="create")
        await started.wait()
        with pytest.raises(ConflictError, match=run["run_id"]):
            await served.client.threads.update_state(thread_id, {"a": 1})
        go_on.set()
        await served.client.runs.join(thread_id, run["run_id"])


@pytest.mark.parametrize("is_over", [False, True], ids=["goes_on", "is_over"])
async def test_who_changes_a_thread_is_told_of_a_run_that_began_meanwhile(serve_agents: Any, is_over: bool) -> None:
    written, answered, end = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Slow(LangGraphAgent):
        async def update_state(self, place: ThreadPlace, values: Any, *, as_node: str | None = None) -> JsonObject:
            checkpoint = await super().update_state(place, values, as_node=as_node)
            written.set()
            await answered.wait()
            return checkpoint

    async def wait(state: Log) -> Log:
        await end.wait()
        return {"log": ["run"]}

    graph = StateGraph(Log).add_node("wait", wait).add_edge(START, "wait").compile()
    async with serve_agents({"waiting": Slow(graph, name="waiting")}) as served:
        threads, runs = served.client.threads, served.client.runs
        await threads.create(thread_id=(thread_id := new_id()), graph_id="waiting")
        changing = asyncio.create_task(threads.update_state(thread_id, {"log": ["by hand"]}, as_node="wait"))
        await written.wait()
        run = await runs.create(thread_id, "waiting", input={"log": []})
        if is_over:
            end.set()
            await runs.join(thread_id, run["run_id"])
        answered.set()
        with pytest.raises(ConflictError, match=f"{run['run_id']}.*may not have seen"):
            await changing
        end.set()
        await runs.join(thread_id, run["run_id"])
        thread = await threads.get(thread_id)
        state = await threads.get_state(thread_id)

    assert thread["status"] == "idle"
    assert state["values"] == {"log": ["by hand", "run"]}


@pytest.mark.parametrize(
    ("agent", "node", "status"),
    [("asking", "ask", "idle"), ("steps", "first", "interrupted"), ("failing", None, "idle")],
)
async def test_a_thread_that_is_changed_by_hand_is_found_by_what_it_is_then(
    serve_agents: Any, agent: str, node: str | None, status: str
) -> None:
    async def failing(input: Any) -> None:
        raise ValueError("no")

    async with serve_agents({**agents(), "failing": failing}) as served:
        client, threads = served.client, served.client.threads
        thread_id = await thread_of(client, agent, {"log": []}, raise_error=False)
        before = await threads.get(thread_id)
        await threads.update_state(thread_id, {"log": ["by hand"]}, as_node=node)
        (thread,) = await threads.search(status=status, values={"log": ["by hand"]})
        assert thread["thread_id"] == thread_id
        assert thread["updated_at"] > before["updated_at"]
        assert thread["error"] is None
        assert thread["interrupts"] == {}
        *_, last = await served.app.store.events(thread_id=thread_id)
        assert last.event.payload == {"status": status, "previous": before["status"]}
        events = len(await served.app.store.events(thread_id=thread_id))
        await threads.update_state(thread_id, {"log": ["again"]}, as_node=node)
        assert len(await served.app.store.events(thread_id=thread_id)) == events  # it is what it was
        assert await client.runs.wait(thread_id, "counting", input={}) == {"count": 1}
        assert (await threads.get(thread_id))["status"] == "idle"


async def test_a_thread_whose_run_was_stopped_is_idle_and_goes_on_where_that_was(serve_agents: Any) -> None:
    started = asyncio.Event()

    async def hold(state: Log) -> Log:
        if not started.is_set():
            started.set()
            await asyncio.Event().wait()
        return {"log": ["held"]}

    builder = StateGraph(Log).add_node("first", step("first")).add_node("hold", hold)
    graph = builder.add_edge(START, "first").add_edge("first", "hold").compile()
    async with serve_agents({"holding": graph}) as served:
        runs, threads = served.client.runs, served.client.threads
        thread_id = (await threads.create())["thread_id"]
        run = await runs.create(thread_id, "holding", input={"log": []})
        await started.wait()
        await runs.cancel(thread_id, run["run_id"], wait=True)
        state = await threads.get_state(thread_id)
        found = {said: len(await threads.search(status=said)) for said in ("idle", "interrupted")}
        values = await runs.wait(thread_id, "holding", input=None)
    assert (state["values"], state["next"], found) == ({"log": ["first"]}, ["hold"], {"idle": 1, "interrupted": 0})
    assert values == {"log": ["first", "held"]}


async def test_who_joins_an_older_run_gets_its_values_while_they_are_kept_then_the_threads(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        runs = served.client.runs
        thread_id = (await served.client.threads.create())["thread_id"]
        older = await runs.create(thread_id, "steps", input={"log": ["a"]})
        own = await runs.join(thread_id, older["run_id"])
        newest = await runs.wait(thread_id, "steps", input={"log": ["b"]})
        assert await runs.join(thread_id, older["run_id"]) == own == {"log": ["a", "first", "second"]}
    async with serve_agents(agents()) as served:
        assert await served.client.runs.join(thread_id, older["run_id"]) == newest
    assert newest == {"log": ["a", "first", "second", "b", "first", "second"]}


async def test_a_thread_that_nothing_has_run_on_is_empty(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads = served.client.threads
        thread_id = (await threads.create())["thread_id"]
        made_for = (await threads.create(graph_id="steps"))["thread_id"]
        state = await threads.get_state(thread_id)
        with pytest.raises(UnprocessableEntityError, match="graph_id"):
            await threads.update_state(thread_id, {"log": ["x"]})
        await threads.update_state(made_for, {"log": ["by hand"]}, as_node="first")
        changed = await threads.get_state(made_for)
        with pytest.raises(NotFoundError):
            await threads.get_state(new_id())
        assert await threads.get_history(thread_id) == []

    assert (state["values"], state["next"], state["tasks"], state["interrupts"]) == ({}, [], [], [])
    assert state["checkpoint"] == {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": None}
    assert changed["values"] == {"log": ["by hand"]}


async def test_a_function_has_one_state_that_goes_by_its_thread(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads, runs = served.client.threads, served.client.runs
        thread_id = await thread_of(served.client, "counting", {})
        state = await threads.get_state(thread_id)
        history = await threads.get_history(thread_id)
        await threads.update_state(thread_id, {"count": 10, "note": "by hand"})
        values = await runs.wait(thread_id, "counting", input={}, checkpoint=state["checkpoint"])
        for ask_for in (
            partial(threads.get_state, thread_id, checkpoint_id=new_id()),
            partial(runs.create, thread_id, "counting", input={}, checkpoint_id=new_id()),
        ):
            with pytest.raises(UnprocessableEntityError, match="keeps no checkpoints"):
                await ask_for()
        with pytest.raises(UnprocessableEntityError, match="has no nodes"):
            await threads.update_state(thread_id, {"count": 1}, as_node="counting")
        with pytest.raises(UnprocessableEntityError, match="object of the values"):
            await threads.update_state(thread_id, [{"count": 1}])

    assert state["values"] == {"count": 1}
    assert state["checkpoint"]["checkpoint_id"] == thread_id
    assert history == [state]
    assert values == {"count": 11}


async def test_a_function_s_state_is_as_old_as_what_the_thread_remembers(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads, runs = served.client.threads, served.client.runs
        thread_id = await thread_of(served.client, "counting", {})
        made = (await threads.get_state(thread_id))["created_at"]
        await threads.update(thread_id, metadata={"title": "Greetings"})
        await runs.create(thread_id, "counting", input={}, after_seconds=3_600)
        later = (await threads.get_state(thread_id))["created_at"]
        await threads.update_state(thread_id, {"count": 10})
        changed = (await threads.get_state(thread_id))["created_at"]

    assert later == made
    assert datetime.fromisoformat(changed) > datetime.fromisoformat(made)


async def test_a_thread_whose_run_has_not_begun_goes_on_as_well(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads, runs = served.client.threads, served.client.runs
        thread_id = await thread_of(served.client, "steps", {})
        assert (await threads.get_state(thread_id))["next"] == []
        run = await runs.create(thread_id, "steps", input={}, after_seconds=3_600)
        assert (await threads.get_state(thread_id))["next"] == ["__start__"]
        await runs.cancel(thread_id, run["run_id"], wait=True)
        assert (await threads.get_state(thread_id))["next"] == []


@pytest.mark.parametrize("agent", ["function", "graph"])
async def test_who_comes_back_to_a_thread_sees_that_it_goes_on(serve_agents: Any, agent: str) -> None:
    gate, begun = asyncio.Event(), asyncio.Event()

    async def wait(input: Any) -> dict[str, Any]:
        begun.set()
        await gate.wait()
        return {"log": ["waited"]}

    graph = StateGraph(Log).add_node("wait", wait).add_edge(START, "wait").compile()
    async with serve_agents({"function": wait, "graph": graph}) as served:
        threads, runs = served.client.threads, served.client.runs
        thread_id = (await threads.create())["thread_id"]
        # It keeps no checkpoint before it is over, as agents of other kinds keep none at all.
        run = await runs.create(thread_id, agent, input={}, durability="exit" if agent == "graph" else None)
        await begun.wait()
        assert (await threads.get_state(thread_id))["next"] == ["__start__"]
        queued = await runs.create(thread_id, agent, input={})
        async with threads.stream(thread_id, assistant_id=agent) as thread:
            output = asyncio.ensure_future(thread.output)
            while thread._lifecycle_cursor is None:  # else the thread may be at rest when it is first watched
                await asyncio.sleep(0.01)
            gate.set()
            assert (await output)["log"][0] == "waited"
        await runs.join(thread_id, run["run_id"])
        await runs.join(thread_id, queued["run_id"])
        assert (await threads.get_state(thread_id))["next"] == []


async def test_a_question_of_a_function_stands_in_its_state_and_outlives_a_change(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads = served.client.threads
        thread_id = await thread_of(served.client, "wondering", {})
        await threads.update_state(thread_id, {"note": "by hand"})
        state = await threads.get_state(thread_id)
        values = await served.client.runs.wait(thread_id, "wondering", command={"resume": "this"})
        after = await threads.get_state(thread_id)

    assert [question["value"] for question in state["interrupts"]] == ["which?"]
    assert state["tasks"][0]["interrupts"] == state["interrupts"]
    assert (state["next"], state["values"]) == (["wondering"], {"note": "by hand"})
    assert values == {"answer": "this"}
    assert (after["interrupts"], after["next"]) == ([], [])


async def test_a_task_says_what_has_called_for_it(serve_agents: Any) -> None:
    async def work(state: Any) -> Any:
        interrupt("which?")

    def send(state: Any) -> Any:
        return [Send("work", {}), Send("work", {})]

    sending = StateGraph(Log).add_node("work", work).add_conditional_edges(START, send, ["work"]).compile()
    async with serve_agents(agents() | {"sending": sending}) as served:
        threads = served.client.threads
        paths = {
            name: [
                task["path"] for task in (await threads.get_state(await thread_of(served.client, name, {})))["tasks"]
            ]
            for name in ("sending", "asking", "wondering")
        }

    assert paths == {
        # By the first two of these `useStream` finds what subagents have said.
        "sending": [["__pregel_push", 0, False], ["__pregel_push", 1, False]],
        "asking": [["__pregel_pull", "ask"]],
        "wondering": [[]],
    }


async def test_a_remote_graph_sees_and_changes_threads_as_a_graph_does(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        remote = RemoteGraph("asking", client=served.client)
        config: Any = {"configurable": {"thread_id": new_id()}}
        streamed = [chunk async for chunk in remote.astream({"log": ["in"]}, config, stream_mode="values")]
        state = await remote.aget_state(config)
        history = [one async for one in remote.aget_state_history(config, limit=10)]
        at = await remote.aget_state(history[-1].config)
        answered = await remote.ainvoke(Command(resume="so"), config)
        forked = await remote.aupdate_state(state.config, {"log": ["by hand"]}, as_node="ask")
        after = await remote.aget_state(config)
        jumped = await remote.ainvoke(Command(goto="ask", update={"log": ["jumped"]}), config)

    assert streamed[0] == {"log": ["in"]}
    assert streamed[-1]["__interrupt__"][0]["value"] == "why?"
    assert state.next == ("ask",)
    assert [question.value for question in state.interrupts] == ["why?"]
    assert history[0] == state
    assert at == history[-1]
    assert answered == {"log": ["in", "answered so"]}
    assert after.config["configurable"]["checkpoint_id"] == forked["configurable"]["checkpoint_id"]
    assert after.values == {"log": ["in", "by hand"]}
    assert jumped["log"] == ["in", "by hand", "jumped"]


@pytest.mark.parametrize("mode", ["values", "custom"])
async def test_who_waits_for_a_run_that_stops_at_a_breakpoint_is_asked_nothing(serve_agents: Any, mode: str) -> None:
    async with serve_agents(agents()) as served:
        threads, runs = served.client.threads, served.client.runs
        thread_id = (await threads.create())["thread_id"]
        asked = {"input": {"log": []}, "interrupt_before": ["second"], "stream_mode": mode}
        run = await runs.create(thread_id, "steps", **asked)
        joined = await runs.join(thread_id, run["run_id"])
        again = await runs.join(thread_id, run["run_id"])
        waited = await runs.wait(None, "steps", input={"log": []}, interrupt_after=["first"])
        thread = await threads.get(thread_id)
        (end,) = await served.app.store.events(run_id=run["run_id"], types=TERMINAL_EVENTS)

    assert joined == again == waited == {"log": ["first"]}
    assert (thread["status"], thread["interrupts"]) == ("interrupted", {})
    assert [stop["next"] for stop in end.event.payload["interrupts"]] == [["second"]]


async def test_breakpoints_stop_and_go_on(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads, runs = served.client.threads, served.client.runs
        thread_id = await thread_of(served.client, "steps", {"log": []}, interrupt_after=["first"])
        state = await threads.get_state(thread_id)
        values = await runs.wait(thread_id, "steps", input=None)
        gone_to = await runs.wait(thread_id, "steps", command={"goto": "second", "update": {"log": ["jump"]}})

    assert (state["next"], state["values"]) == (["second"], {"log": ["first"]})
    assert values == {"log": ["first", "second"]}
    assert gone_to == {"log": ["first", "second", "jump", "second"]}
