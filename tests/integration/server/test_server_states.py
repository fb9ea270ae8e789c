"""What threads are and were, through the SDK's clients: their states, what is open in these, and their history."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from typing import Any

import httpx
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Command, Send, interrupt
from langgraph_sdk import get_sync_client
from langgraph_sdk.errors import NotFoundError, UnprocessableEntityError
from pydantic import BaseModel, field_serializer
from tests.integration.server.state_agents import Log, agents, ask, asking, step, steps, thread_of

from trackside.harness.ids import new_id


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
