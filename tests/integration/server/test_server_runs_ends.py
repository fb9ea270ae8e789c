"""Every way to wait for runs and to follow them, through the SDK's clients, and what is heard at their end."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any, TypedDict

import httpx
import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from langgraph_sdk.errors import UnprocessableEntityError
from log_check import look_into
from tests.integration.server.run_agents import Gate, asking, echo, failing, gate_agent, new_thread, parts_of

from trackside import RunContext
from trackside.app.server.routes import run_joins
from trackside.app.storage import Store


class Answered(TypedDict, total=False):
    answered: str


def asking_graph() -> Any:
    def ask(state: Answered) -> Answered:
        return {"answered": interrupt({"question": "sure?"})}

    return StateGraph(Answered).add_node("ask", ask).add_edge(START, "ask").compile()


async def test_a_run_in_the_background_is_there_at_once_and_can_be_joined(serve_agents: Any) -> None:
    gate = Gate()
    async with serve_agents({"gate": gate_agent(gate)}) as served:
        runs = served.client.runs
        thread_id = await new_thread(served)
        run = await runs.create(thread_id, "gate", input={"n": 1}, metadata={"by": "test"})
        assert run["status"] == "pending"
        assert run["thread_id"] == thread_id
        assert run["metadata"] == {"by": "test"}
        assert run["multitask_strategy"] == "enqueue"
        assert run["kwargs"]["input"] == {"n": 1}
        await gate.started.wait()
        assert (await runs.get(thread_id, run["run_id"]))["status"] == "running"
        joining = asyncio.create_task(runs.join(thread_id, run["run_id"]))
        gate.open.set()
        assert await joining == {"gate": "passed", "given": {"n": 1}}
        known = await runs.get(thread_id, run["run_id"])
        assert known["status"] == "success"
        assert known["kwargs"]["input"] == {"n": 1}
        assert await runs.join(thread_id, run["run_id"]) == {"gate": "passed", "given": {"n": 1}}


async def test_an_answer_that_waits_asks_proxies_to_pass_on_what_there_is_of_it(serve_agents: Any) -> None:
    gate = Gate()
    async with serve_agents({"gate": gate_agent(gate)}) as served, httpx.AsyncClient(base_url=served.url) as http:
        async with http.stream("POST", "/runs/wait", json={"assistant_id": "gate", "input": {}}) as waits:
            assert waits.headers["x-accel-buffering"] == "no"
            gate.open.set()
            await waits.aread()
        assert waits.headers["content-type"] == "application/json"
        assert waits.json() == {"gate": "passed", "given": {}}


async def test_what_came_to_nothing_is_an_object_which_clients_look_into(serve_agents: Any) -> None:
    gate = Gate()

    async def quiet(input: Any) -> None: ...

    async def saying_nothing(input: Any, run: RunContext) -> None:
        run.send(None, "values")

    agents = {"quiet": quiet, "saying": saying_nothing, "gate": gate_agent(gate)}
    async with serve_agents(agents) as served:
        runs = served.client.runs
        thread_id = await new_thread(served)
        for agent in ("quiet", "saying"):
            assert await runs.wait(None, agent, input={}) == {}
            assert await runs.wait(thread_id, agent, input={}) == {}
            (run, *_) = await runs.list(thread_id)
            assert await runs.join(thread_id, run["run_id"]) == {}
        waited = asyncio.create_task(runs.wait(thread_id, "gate"))
        await gate.started.wait()
        (run, *_) = await runs.list(thread_id)
        await runs.cancel(thread_id, run["run_id"])
        assert await waited == {}


async def test_a_failed_wait_is_no_failed_request(serve_agents: Any) -> None:
    async with serve_agents({"failing": failing}) as served:
        runs = served.client.runs
        thread_id = await new_thread(served)
        with pytest.raises(Exception, match="ValueError: it cannot be done"):
            await runs.wait(thread_id, "failing")
        failure = {"__error__": {"error": "ValueError", "message": "it cannot be done"}}
        assert await runs.wait(thread_id, "failing", raise_error=False) == failure
        (run, _) = await runs.list(thread_id)
        assert run["status"] == "error"
        assert await runs.join(thread_id, run["run_id"]) == failure


async def test_who_waits_for_a_run_that_others_have_ended_hears_as_what(serve_agents: Any, database_url: str) -> None:
    """The process stood still, say: another took it for dead, and nothing of the run's end was said here."""
    gate = Gate()
    async with serve_agents({"gate": gate}) as served:
        waiting = asyncio.create_task(served.client.runs.wait(None, "gate", input={}, raise_error=False))
        await gate.started.wait()
        async with Store.open(database_url) as store:
            while not waiting.done():
                await asyncio.to_thread(take_all_for_dead, database_url)
                await store.fleet.reap("somebody")  # unless it has said something meanwhile
        answer = await waiting
    assert answer["__error__"]["error"] == "worker_lost"
    assert "given no sign of life" in answer["__error__"]["message"]


def take_all_for_dead(url: str) -> None:
    with look_into(url) as database:
        database.execute("UPDATE workers SET lease_until = 0")


async def test_a_run_that_asks_ends_with_its_question_and_the_answer_goes_on(serve_agents: Any) -> None:
    async with serve_agents({"asking": asking}) as served:
        runs = served.client.runs
        thread_id = await new_thread(served)
        values = await runs.wait(thread_id, "asking", input={})
        (question,) = values["__interrupt__"]
        assert question["value"] == {"question": "sure?"}
        (run,) = await runs.list(thread_id)
        assert run["status"] == "success"
        assert (await runs.join(thread_id, run["run_id"]))["__interrupt__"] == [question]
        assert await runs.wait(thread_id, "asking", command={"resume": "yes"}) == {"answered": "yes"}


async def test_an_answer_that_fits_no_question_fails_its_run_as_clients_know_it_that_ask_for_that(
    serve_agents: Any,
) -> None:
    async with serve_agents({"asking": asking, "graph": asking_graph()}) as served:
        runs = served.client.runs

        async def failure(thread_id: str, agent: str, answer: Any, **strict: Any) -> Any:
            body = await runs.wait(thread_id, agent, command={"resume": answer}, raise_error=False, **strict)
            return body["__error__"]["error"]

        for agent in ("asking", "graph"):
            thread_id = await new_thread(served)
            asked = await runs.wait(thread_id, agent, input={})
            answer = {asked["__interrupt__"][0]["id"]: "yes"}
            unfit = {str(uuid.uuid4()): "yes"}
            assert await failure(thread_id, agent, unfit, strict_resume=True) == "UnknownInterruptError"
            assert await failure(thread_id, agent, unfit) == "UnknownQuestionError"
            with pytest.raises(UnprocessableEntityError, match="strict_resume = false is not supported"):
                await runs.create(thread_id, agent, command={"resume": answer}, strict_resume=False)
            assert (await served.client.threads.get(thread_id))["status"] == "interrupted"

            done = await runs.wait(thread_id, agent, command={"resume": answer}, strict_resume=True)
            assert done == {"answered": "yes"}
            assert await failure(thread_id, agent, answer, strict_resume=True) == "UnknownInterruptError"
            assert await failure(thread_id, agent, answer) == "NotPausedError"


async def test_a_run_that_is_due_later_can_be_joined_now(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served:
        runs = served.client.runs
        thread_id = await new_thread(served)
        run = await runs.create(thread_id, "echo", after_seconds=1)
        assert run["status"] == "pending"
        joining = asyncio.create_task(runs.join(thread_id, run["run_id"]))
        parts = await parts_of(runs.join_stream(thread_id, run["run_id"]))
        assert [event for event, _ in parts] == ["metadata", "values", "end"]
        assert await joining == {"given": None, "attempt": 1}


async def test_who_waits_for_a_run_that_a_closing_server_leaves_to_others_is_to_ask_again(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_joins, "AT_ONCE", 60.0)  # so that the answer has not begun when the server closes
    async with serve_agents({"echo": echo}) as served, httpx.AsyncClient(base_url=served.url) as http:
        thread_id = await new_thread(served)
        run = await served.client.runs.create(thread_id, "echo", after_seconds=3_600)
        joining = asyncio.create_task(http.get(f"/threads/{thread_id}/runs/{run['run_id']}/join"))
        while not served.app.manager._runs.get(run["run_id"]).outcome._waiters:
            await asyncio.sleep(0.01)
        await served.app.manager.aclose(grace=0)
        answer = await joining

    assert (answer.status_code, answer.json()["code"]) == (503, "closed")
