"""Answers without an id, as unmodified clients send them: each answers what was open when it came."""

from __future__ import annotations

import asyncio
import operator
from contextlib import aclosing
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from tests.integration.langgraph.savers import ShownToTwo

from trackside import RunContext
from trackside.harness.ids import new_id
from trackside.harness.questions import NO_QUESTION

YES = {"resume": "yes"}


class Orders(TypedDict, total=False):
    refunded: Annotated[list[int], operator.add]


class Answers(TypedDict, total=False):
    answers: Annotated[list[str], operator.add]


class Refunds:
    """Asks about two orders, and between the two questions is busy until it may go on."""

    def __init__(self) -> None:
        self.busy, self.go_on = asyncio.Event(), asyncio.Event()

    async def pay(self) -> None:
        self.busy.set()
        await self.go_on.wait()

    def in_one_node(self) -> Any:
        async def refund(state: Orders) -> Orders:
            interrupt("Refund 7?")
            await self.pay()
            interrupt("Refund 8?")
            return {"refunded": [7, 8]}

        return StateGraph(Orders).add_node("refund", refund).add_edge(START, "refund").compile()

    def in_nodes(self) -> Any:
        async def ask(state: Orders) -> Orders:
            interrupt("Refund 7?")
            return {}

        async def pay(state: Orders) -> Orders:
            await self.pay()
            return {"refunded": [7]}

        async def ask_again(state: Orders) -> Orders:
            interrupt("Refund 8?")
            return {"refunded": [8]}

        nodes = {"ask": ask, "pay": pay, "ask_again": ask_again}
        builder = StateGraph(Orders)
        for name, node in nodes.items():
            builder.add_node(name, node)
        for before, after in zip([START, *nodes], nodes, strict=False):
            builder.add_edge(before, after)
        return builder.compile()

    def as_function(self) -> Any:
        async def refund(input: Any, run: RunContext) -> dict[str, Any]:
            run.interrupt("Refund 7?")
            await self.pay()
            run.interrupt("Refund 8?")
            return {"refunded": [7, 8]}

        return refund


async def answered(served: Any, agent: Refunds, thread_id: str, checkpoint_id: str | None = None) -> Any:
    """The run that brings the first yes and is at work between the questions."""
    if checkpoint_id is None:
        await served.client.runs.wait(thread_id, "refunds", input={}, if_not_exists="create")
    run = await served.client.runs.create(thread_id, "refunds", command=YES, checkpoint_id=checkpoint_id)
    await agent.busy.wait()
    return run


def questions(state: Any) -> list[Any]:
    return [each["value"] for each in state["interrupts"]]


@pytest.mark.parametrize("kind", ["in_one_node", "in_nodes", "as_function"])
async def test_a_second_yes_to_one_question_is_none_to_the_next(serve_agents: Any, kind: str) -> None:
    agent = Refunds()
    async with serve_agents({"refunds": getattr(agent, kind)()}) as served:
        runs, thread_id = served.client.runs, new_id()
        first = await answered(served, agent, thread_id)
        again = await runs.create(thread_id, "refunds", command=YES)
        agent.go_on.set()
        await runs.join(thread_id, first["run_id"])
        await runs.join(thread_id, again["run_id"])
        ended = await runs.get(thread_id, again["run_id"])
        state = await served.client.threads.get_state(thread_id)
        thread = await served.client.threads.get(thread_id)
        done = await runs.wait(thread_id, "refunds", command=YES)

    assert (ended["status"], thread["status"], questions(state)) == ("error", "interrupted", ["Refund 8?"])
    assert done["refunded"] == [7, 8]


@pytest.mark.parametrize("is_newest", [True, False], ids=["newest", "older"])
async def test_a_second_yes_to_the_question_of_a_checkpoint_is_none_to_the_next(
    serve_agents: Any, is_newest: bool
) -> None:
    agent = Refunds()
    async with serve_agents({"refunds": agent.in_one_node()}) as served:
        runs, threads, thread_id = served.client.runs, served.client.threads, new_id()
        await runs.wait(thread_id, "refunds", input={}, if_not_exists="create")
        seen = (await threads.get_state(thread_id))["checkpoint"]["checkpoint_id"]
        if not is_newest:
            await threads.update_state(thread_id, {"refunded": [6]}, as_node="__start__")
        first = await answered(served, agent, thread_id, seen)
        again = await runs.create(thread_id, "refunds", command=YES, checkpoint_id=seen)
        agent.go_on.set()
        await runs.join(thread_id, first["run_id"])
        await runs.join(thread_id, again["run_id"])
        ended = await runs.get(thread_id, again["run_id"])
        state = await threads.get_state(thread_id, checkpoint_id=seen)
        done = await runs.wait(thread_id, "refunds", command=YES, checkpoint_id=seen)

    assert (ended["status"], questions(state)) == ("error", ["Refund 8?"])
    assert done["refunded"] == [7, 8]


class Approvals:
    """Asks once: as a function, or in a graph beside a slower node, directly or from an inner graph."""

    def as_function(self) -> Any:
        async def approve(input: Any, run: RunContext) -> dict[str, Any]:
            return {"answers": [run.interrupt("Sure?")]}

        return approve

    def in_a_graph(self) -> Any:
        return self._beside(self._ask).compile()

    def inside(self) -> Any:
        return self._beside(StateGraph(Answers).add_node("ask", self._ask).add_edge(START, "ask").compile()).compile()

    def _beside(self, ask: Any) -> Any:
        builder = StateGraph(Answers).add_node("asks", ask).add_node("slow", self._slow)
        return builder.add_edge(START, "asks").add_edge(START, "slow")

    async def _ask(self, state: Answers) -> Answers:
        return {"answers": [interrupt("Sure?")]}

    async def _slow(self, state: Answers) -> Answers:
        await asyncio.sleep(0.2)  # meanwhile the other node asks
        return {"answers": ["slow"]}


@pytest.mark.parametrize("mode", ["values", "updates"])
@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("as_function", {}),
        ("in_a_graph", {}),
        ("in_a_graph", {"durability": "exit"}),
        ("inside", {"durability": "exit", "stream_subgraphs": True}),
    ],
)
async def test_who_answers_as_soon_as_the_stream_asks_has_answered(
    serve_agents: Any, kind: str, asked: Any, mode: Any
) -> None:
    async with serve_agents({"approve": getattr(Approvals(), kind)()}) as served:
        runs, thread_id, said = served.client.runs, new_id(), []
        stream = runs.stream(thread_id, "approve", input={}, if_not_exists="create", stream_mode=mode, **asked)
        async with aclosing(stream) as parts:
            async for part in parts:
                said.append(part.data)
                if "__interrupt__" in part.data:
                    break
        done = await runs.wait(thread_id, "approve", command=YES)

    assert [each["value"] for each in said[-1]["__interrupt__"]] == ["Sure?"]
    assert "yes" in done["answers"]
    if mode == "values" and kind != "as_function" and "stream_subgraphs" not in asked:
        assert said[-1]["answers"] == ["slow"]  # the result of the node beside it


@pytest.mark.parametrize("kind", ["in_nodes", "as_function"])
async def test_an_answer_to_a_question_that_was_not_asked_yet_is_none(serve_agents: Any, kind: str) -> None:
    agent = Refunds()
    async with serve_agents({"refunds": getattr(agent, kind)()}, max_running=1) as served:
        runs, thread_id = served.client.runs, new_id()
        await answered(served, agent, new_id())  # this run keeps the only place from the others
        asks = await runs.create(thread_id, "refunds", input={}, if_not_exists="create")
        early = await runs.create(thread_id, "refunds", command=YES)
        agent.go_on.set()
        await runs.join(thread_id, asks["run_id"])
        await runs.join(thread_id, early["run_id"])
        ended = await runs.get(thread_id, early["run_id"])
        state = await served.client.threads.get_state(thread_id)

    assert (ended["status"], questions(state)) == ("error", ["Refund 7?"])


async def test_what_was_asked_for_is_shown_without_the_mark_of_an_answer_that_waited(serve_agents: Any) -> None:
    agent = Refunds()
    async with serve_agents({"refunds": agent.as_function()}, max_running=1) as served:
        runs, thread_id, other = served.client.runs, new_id(), new_id()
        await runs.wait(thread_id, "refunds", input={}, if_not_exists="create")
        (question,) = (await served.client.threads.get_state(thread_id))["interrupts"]
        await runs.create(thread_id, "refunds", command=YES)
        await agent.busy.wait()
        second = await runs.create(thread_id, "refunds", command=YES)
        await runs.create(other, "refunds", input={}, if_not_exists="create")
        early = await runs.create(other, "refunds", command=YES)
        asked = [await served.app.store.request_of(run["run_id"]) for run in (second, early)]
        shown = []
        for run in (second, early):
            listed = await runs.list(run["thread_id"], select=["run_id", "kwargs"])
            got = await runs.get(run["thread_id"], run["run_id"])
            record = await served.client.http.get(f"/runs/{run['run_id']}")
            assert {"run_id": run["run_id"], "kwargs": got["kwargs"]} in listed
            assert got["kwargs"]["command"] == record["request"]["command"]
            shown.append(got["kwargs"]["command"])
        agent.go_on.set()

    kept = [request["command"]["resume"] for request in asked]
    assert kept == [{question["id"]: "yes"}, {NO_QUESTION: "yes"}]
    assert shown == [{"resume": {question["id"]: "yes"}}, YES]


async def test_what_stops_without_a_question_goes_on_with_whatever_it_is_answered(serve_agents: Any) -> None:
    agent = Refunds()
    agent.go_on.set()
    async with serve_agents({"refunds": agent.in_nodes()}) as served:
        runs, thread_id = served.client.runs, new_id()
        await runs.wait(thread_id, "refunds", input={}, if_not_exists="create")
        await runs.wait(thread_id, "refunds", command=YES, interrupt_before=["pay"])
        stopped = await served.client.threads.get_state(thread_id)
        await runs.wait(thread_id, "refunds", command=YES)
        state = await served.client.threads.get_state(thread_id)

    assert (stopped["next"], questions(stopped)) == (["pay"], [])
    assert questions(state) == ["Refund 8?"]


async def test_of_two_who_let_a_graph_go_on_at_once_neither_answers_what_it_asks_then(serve_agents: Any) -> None:
    agent, saver = Refunds(), ShownToTwo()
    graph = agent.in_one_node().builder.compile(checkpointer=saver, interrupt_before=["refund"])
    async with serve_agents({"refunds": graph}) as served:
        runs, thread_id = served.client.runs, new_id()
        await runs.wait(thread_id, "refunds", input={}, if_not_exists="create")
        saver.two = asyncio.Barrier(2)
        both = await asyncio.gather(*(runs.create(thread_id, "refunds", command=YES) for _ in range(2)))
        for run in both:
            await runs.join(thread_id, run["run_id"])
        ended = [(await runs.get(thread_id, run["run_id"]))["status"] for run in both]
        state = await served.client.threads.get_state(thread_id)

    assert sorted(ended) == ["error", "success"]
    assert questions(state) == ["Refund 7?"]


@pytest.mark.parametrize("beside", [{}, {"refunded": [1]}], ids=["nothing", "the state"])
@pytest.mark.parametrize("kind", ["in_nodes", "as_function"])
async def test_pages_answer_with_an_input_beside_the_command(serve_agents: Any, kind: str, beside: Any) -> None:
    agent = Refunds()
    agent.go_on.set()
    asked = {"assistant_id": "refunds", "input": beside, "command": YES}
    async with serve_agents({"refunds": getattr(agent, kind)()}) as served:
        runs, thread_id = served.client.runs, new_id()
        await runs.wait(thread_id, "refunds", input={}, if_not_exists="create")
        await runs.wait(thread_id, **asked)
        second = await served.client.threads.get_state(thread_id)
        start = {"id": 1, "method": "run.start", "params": asked}
        started = await served.client.http.post(f"/threads/{thread_id}/commands", json=start)
        done = await runs.join(thread_id, started["result"]["run_id"])

    assert questions(second) == ["Refund 8?"]
    assert done["refunded"] == [7, 8]


async def test_a_command_may_say_the_name_that_javascript_gives_it(serve_agents: Any) -> None:
    agent = Refunds()
    agent.go_on.set()
    async with serve_agents({"refunds": agent.in_nodes()}) as served:
        runs, thread_id = served.client.runs, new_id()
        await runs.wait(thread_id, "refunds", input={}, if_not_exists="create")
        command = {"lg_name": "Command", "resume": "yes", "goto": []}
        started = await served.client.http.post(
            f"/threads/{thread_id}/runs", json={"assistant_id": "refunds", "command": command}
        )
        done = await runs.join(thread_id, started["run_id"])

    assert done["refunded"] == [7]


async def test_an_empty_input_beside_a_command_that_says_nothing_is_what_a_run_gets(serve_agents: Any) -> None:
    async def echo(input: Any) -> dict[str, Any]:
        return {"given": input}

    async with serve_agents({"echo": echo}) as served:
        done = await served.client.runs.wait(None, "echo", input={}, command={"goto": None, "update": []})

    assert done["given"] == {}
