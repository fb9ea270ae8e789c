"""What pages that follow a thread by version 2 of the protocol are told of answers: taken, refused, and given in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from tests.integration.server.test_server_answers import YES, Refunds, answered
from tests.integration.server.test_server_protocol import command, ends, events_until, of

from trackside import RunContext
from trackside.harness.ids import new_id

DIALECTS = ("sqlite",)
WATCH = ["lifecycle", "input"]


async def open_question(served: Any, thread_id: str) -> str:
    (question,) = (await served.client.threads.get_state(thread_id))["interrupts"]
    return str(question["id"])


def end_of(run: Any) -> Callable[[Any], bool]:
    return lambda event: ends(event) and event["params"]["data"]["run_id"] == run["run_id"]


@pytest.mark.parametrize("kind", ["in_nodes", "as_function"])
async def test_a_second_answer_to_one_question_takes_the_next_one_off_no_page(serve_agents: Any, kind: str) -> None:
    agent = Refunds()
    async with serve_agents({"refunds": getattr(agent, kind)()}) as served:
        runs, thread_id = served.client.runs, new_id()
        first = await answered(served, agent, thread_id)
        async with served.client.threads.stream(thread_id, assistant_id="refunds") as thread:
            second = await runs.create(thread_id, "refunds", command=YES)
            agent.go_on.set()
            events = await events_until(thread, end_of(second), WATCH, since=0)
            done = await runs.create(thread_id, "refunds", command=YES)
            later = await events_until(thread, end_of(done), WATCH, since=events[-1]["seq"])

    asked = [said["interrupt_id"] for said in of(events, "input.requested")]
    assert first["run_id"] != second["run_id"]
    assert len(asked) == 2, "each question was asked once"
    assert of(events, "input.answered") == [{"interrupt_ids": asked[:1]}]
    assert of(later, "input.answered") == [{"interrupt_ids": asked[1:]}]
    assert of(later, "input.requested") == []


@pytest.mark.parametrize("kind", ["in_nodes", "as_function"])
async def test_the_end_of_a_strict_answer_to_what_is_not_open_says_what_is(serve_agents: Any, kind: str) -> None:
    agent = Refunds()
    agent.go_on.set()
    async with serve_agents({"refunds": getattr(agent, kind)()}) as served:
        runs, thread_id = served.client.runs, new_id()
        await runs.wait(thread_id, "refunds", input={}, if_not_exists="create")
        first = await open_question(served, thread_id)
        await runs.wait(thread_id, "refunds", command={"resume": {first: "yes"}})
        second = await open_question(served, thread_id)
        async with served.client.threads.stream(thread_id, assistant_id="refunds") as thread:
            answers = {"interrupt_id": first, "response": "yes"}
            refused = await command(served, thread_id, "input.respond", **answers)
            run = (await command(served, thread_id, "input.respond", **answers, strict_resume=True))["result"]
            *_, failed = await events_until(thread, end_of(run), WATCH, since=0)
        thread_after = await served.client.threads.get(thread_id)

    says = failed["params"]["data"]
    assert (says["reason"], says["interrupt_ids"], says["pending_ids"]) == ("not_pending", [first], [second])
    assert says["error"].startswith("UnknownInterruptError: ")
    assert refused["error"] == "no_such_interrupt"
    assert thread_after["status"] == "interrupted"


class Amounts(TypedDict, total=False):
    paid: int


class Amount(TypedDict):
    n: int


def wants_a_number() -> Any:
    async def pay(state: Amounts) -> Amounts:
        return {"paid": interrupt("How much?", response_schema=Amount)["n"]}

    return StateGraph(Amounts).add_node("pay", pay).add_edge(START, "pay").compile()


class Pays:
    """Fails of an input and of one answer, and takes until it is stopped for another."""

    def __init__(self) -> None:
        self.busy = asyncio.Event()

    async def __call__(self, input: Any, run: RunContext) -> dict[str, Any]:
        if input:
            raise ValueError("it cannot begin anew")
        answer = run.interrupt("How much?")
        if answer == "nothing":
            raise ValueError("that is not enough")
        if answer == "later":
            self.busy.set()
            await asyncio.Event().wait()
        return {"paid": answer}


@pytest.mark.parametrize("how", ["unfit", "failed", "cancelled", "overtaken"])
async def test_a_question_that_is_open_though_a_run_brought_its_answer_is_asked_again(
    serve_agents: Any, how: str
) -> None:
    pays = Pays()
    async with serve_agents({"pays": wants_a_number() if how == "unfit" else pays}) as served:
        runs, thread_id = served.client.runs, new_id()
        await runs.wait(thread_id, "pays", input={}, if_not_exists="create")
        question = await open_question(served, thread_id)
        async with served.client.threads.stream(thread_id, assistant_id="pays") as thread:
            before = await events_until(thread, lambda event: ends(event, "interrupted"), WATCH, since=0)
            if how == "overtaken":
                await runs.create(thread_id, "pays", input={"begin": "anew"})
            else:
                brings = {"unfit": {"n": "many"}, "failed": "nothing", "cancelled": "later"}[how]
                run = await runs.create(thread_id, "pays", command={"resume": {question: brings}})
                if how == "cancelled":
                    await pays.busy.wait()
                    await runs.cancel(thread_id, run["run_id"])
            events = await events_until(
                thread, lambda event: event["method"] == "input.requested", WATCH, since=before[-1]["seq"]
            )
            done = await runs.create(thread_id, "pays", command={"resume": {question: {"n": 7}}})
            later = await events_until(thread, end_of(done), WATCH, since=events[-1]["seq"])

    failed, asked = events[-2:]
    assert ends(failed, "failed")
    assert asked["params"]["data"] == of(before, "input.requested")[0]
    assert [event["method"] for event in later] == ["lifecycle", "input.answered", "lifecycle"]
