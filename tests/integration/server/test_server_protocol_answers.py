"""What pages that follow a thread by version 2 of the protocol hear of answers: taken, refused, and given in vain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypedDict

import httpx
import pytest
from agents import Agent as OpenAIAgent
from agents import function_tool
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import Tool
from tests.integration.openai_agents.scripted_model import Calls, ScriptedModel
from tests.integration.pydantic_ai.models import answers as model_answers
from tests.integration.pydantic_ai.models import call as tool_call
from tests.integration.server.conftest import serve
from tests.integration.server.protocol_agents import Held
from tests.integration.server.test_server_answers import YES, Refunds, answered
from tests.integration.server.test_server_protocol import command, ends, events_until, interrupted, of
from tests.integration.server.thread_agents import asking, asking_graph

from trackside import RunContext
from trackside.app.server.protocol import thread_events
from trackside.app.server.thread_states import StatesOfThread
from trackside.app.settings import ServerSettings
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


def refund(order: int) -> str:
    return f"refunded {order}"


def refunds_in_nodes() -> Any:
    agent = Refunds()
    agent.go_on.set()
    return agent.in_nodes()


def refunds_as_function() -> Any:
    agent = Refunds()
    agent.go_on.set()
    return agent.as_function()


def refunds_of_pydantic_ai() -> Any:
    calls = [tool_call("refund", f"call_{order}", order=order) for order in (7, 8)]
    return PydanticAgent(model_answers([calls[0]], [calls[1]], "done"), tools=[Tool(refund, requires_approval=True)])


def refunds_of_openai() -> Any:
    model = ScriptedModel(*(Calls("refund", {"order": order}, id=f"call_{order}") for order in (7, 8)), "done")
    return OpenAIAgent("refunds", model=model, tools=[function_tool(refund, needs_approval=True)])


@pytest.mark.parametrize(
    "make",
    [refunds_in_nodes, refunds_as_function, refunds_of_pydantic_ai, refunds_of_openai],
    ids=lambda make: make.__name__,
)
async def test_the_end_of_a_strict_answer_to_what_is_not_open_says_what_is(serve_agents: Any, make: Any) -> None:
    async with serve_agents({"refunds": make()}) as served:
        runs, thread_id = served.client.runs, new_id()
        await runs.wait(
            thread_id, "refunds", input="two orders" if make is refunds_of_openai else {}, if_not_exists="create"
        )
        first = await open_question(served, thread_id)
        await runs.wait(thread_id, "refunds", command={"resume": {first: True}})
        second = await open_question(served, thread_id)
        async with served.client.threads.stream(thread_id, assistant_id="refunds") as thread:

            async def respond(question: str, **said: Any) -> Any:
                return await command(served, thread_id, "input.respond", interrupt_id=question, response=True, **said)

            async def strictly_refused(question: str, *open_ids: str) -> None:
                run = (await respond(question, strict_resume=True))["result"]
                *_, failed = await events_until(thread, end_of(run), WATCH, since=0)
                says = failed["params"]["data"]
                assert says["error"].startswith("UnknownInterruptError: ")
                assert (says["reason"], says["interrupt_ids"]) == ("not_pending", [question])
                assert says["pending_ids"] == [*open_ids]

            assert (await respond(first))["error"] == "no_such_interrupt"
            await strictly_refused(first, second)
            await strictly_refused("call_of_another_thread", second)
            assert (await served.client.threads.get(thread_id))["status"] == "interrupted"

            last = (await respond(second, strict_resume=True))["result"]
            await events_until(thread, end_of(last), WATCH, since=0)
            assert (await runs.get(thread_id, last["run_id"]))["status"] == "success"
            await strictly_refused(second)


class Amounts(TypedDict, total=False):
    paid: int


class Amount(TypedDict):
    n: int


def wants_a_number() -> Any:
    async def pay(state: Amounts) -> Amounts:
        return {"paid": interrupt("How much?", response_schema=Amount)["n"]}

    return StateGraph(Amounts).add_node("pay", pay).add_edge(START, "pay").compile()


class Pays:
    """Fails with an input and with one answer; with another answer, it takes until it is stopped."""

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


@pytest.mark.parametrize("begins_anew", [False, True])
@pytest.mark.parametrize("how", ["unfit", "failed", "cancelled"])
async def test_a_question_that_was_answered_in_vain_is_open_for_who_opens_the_thread_anew(
    database_url: str, how: str, begins_anew: bool
) -> None:
    pays = Pays()
    agents = {"pays": wants_a_number() if how == "unfit" else pays}

    @asynccontextmanager
    async def opened(served: Any) -> AsyncIterator[Any]:
        async with served.client.threads.stream(thread_id, assistant_id="pays") as thread:
            await interrupted(thread)
            assert [asked["interrupt_id"] for asked in thread.interrupts] == [question]
            yield thread

    async with serve(agents, database_url) as served:
        runs, thread_id = served.client.runs, new_id()
        await runs.wait(thread_id, "pays", input={}, if_not_exists="create")
        question = await open_question(served, thread_id)
        async with opened(served) as thread:
            run = await thread.run.respond({"unfit": {"n": "many"}, "failed": "nothing", "cancelled": "later"}[how])
            if how == "cancelled":
                await pays.busy.wait()
                await runs.cancel(thread_id, run["run_id"])
            await runs.join(thread_id, run["run_id"])
        if not begins_anew:
            async with opened(served), opened(served) as again:
                read = await events_until(again, lambda event: event["method"] == "input.requested", ["input"])
                assert [event["method"] for event in read] == ["input.requested"]
                await again.run.respond({"n": 7})
                assert (await again.output)["paid"] in (7, {"n": 7})
    if begins_anew:
        async with serve(agents, database_url) as served, opened(served), opened(served) as again:
            await again.run.respond({"n": 7})
            assert (await again.output)["paid"] in (7, {"n": 7})


@pytest.mark.parametrize("how", ["unfit", "failed", "cancelled", "overtaken"])
async def test_a_question_of_before_the_server_began_is_open_for_who_opens_the_thread_behind_a_failure(
    database_url: str, how: str
) -> None:
    pays = Pays()
    agents = {"pays": wants_a_number() if how == "unfit" else pays}
    thread_id = new_id()
    async with serve(agents, database_url) as served:
        await served.client.runs.wait(thread_id, "pays", input={}, if_not_exists="create")
    async with serve(agents, database_url) as served:
        runs = served.client.runs
        question = await open_question(served, thread_id)
        brings: dict[str, Any] = {
            "command": {"resume": {"unfit": {"n": "many"}, "failed": "nothing"}.get(how, "later")}
        }
        if how == "overtaken":
            brings = {"input": {"begin": "anew"}}
        run = await runs.create(thread_id, "pays", **brings)
        if how == "cancelled":
            await pays.busy.wait()
            await runs.cancel(thread_id, run["run_id"])
        await runs.join(thread_id, run["run_id"])
        assert await open_question(served, thread_id) == question
        for channels in (["lifecycle", "input", "values"], WATCH):
            async with served.client.threads.stream(thread_id, assistant_id="pays") as thread:
                read = await events_until(thread, lambda event: event["method"] == "input.requested", channels)
                assert [asked["interrupt_id"] for asked in of(read, "input.requested")] == [question]


async def test_a_stream_begins_though_what_is_open_cannot_be_seen(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pays = Pays()

    async def hangs(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    async with serve({"pays": pays}, database_url) as served, httpx.AsyncClient(base_url=served.url) as http:
        runs, thread_id = served.client.runs, new_id()
        await runs.wait(thread_id, "pays", input={}, if_not_exists="create")
        opens = partial(http.stream, "POST", f"/threads/{thread_id}/stream/events", json={"channels": WATCH})
        async with opens() as first:
            assert first.status_code == 200
        await runs.wait(thread_id, "pays", command={"resume": "nothing"}, raise_error=False)
        monkeypatch.setattr(thread_events, "_LOOK_FIRST", 0.01)
        monkeypatch.setattr(StatesOfThread, "state", hangs)
        async with opens() as again:
            assert again.status_code == 200


@pytest.mark.parametrize("has_asked", [True, False])
async def test_that_a_failed_run_may_have_left_something_open_is_in_the_log_only_where_something_was_asked(
    database_url: str, has_asked: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_events, "_LOOK_FIRST", 60.0)
    thread_id = new_id()

    def opens(served: Any) -> Any:
        return httpx.AsyncClient(base_url=served.url).stream(
            "POST", f"/threads/{thread_id}/stream/events", json={"channels": ["lifecycle", "input", "values"]}
        )

    def quiet(_: Any) -> None:
        """Is served here, as another agent than the thread's."""

    async with serve({"pays": Pays(), "quiet": quiet}, database_url) as served:
        runs = served.client.runs
        if has_asked:
            await runs.wait(thread_id, "pays", input={}, if_not_exists="create")
            async with opens(served) as first:
                assert first.status_code == 200
            await runs.wait(thread_id, "pays", command={"resume": "nothing"}, raise_error=False)
            agents: Any = served.app.manager.agents
            del agents["pays"]
            async with opens(served) as again:  # this one begins after a look at the thread
                assert again.status_code == 200
        else:
            await runs.wait(thread_id, "pays", input={"begin": "anew"}, if_not_exists="create", raise_error=False)
    if not has_asked:
        async with serve({"quiet": quiet}, database_url) as served:
            async with opens(served) as first:
                lines = first.aiter_lines()
                while '"event":"failed"' not in await anext(lines):
                    pass
            async with opens(served) as again:
                assert again.status_code == 200
    said = [record.levelname for record in caplog.records if "has left open is not announced" in record.message]
    assert said == (["WARNING"] if has_asked else [])


async def test_who_looks_what_is_open_hears_what_comes_meanwhile_and_keeps_nobody_waiting(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: asyncio.Queue[asyncio.Event] = asyncio.Queue()  # one event per hanging look, set when it is given up

    async def hangs(*_: Any, **__: Any) -> Any:
        given_up = asyncio.Event()
        looks.put_nowait(given_up)
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    def quiet(_: Any) -> None:
        """Nothing comes of it."""

    async def comes(lines: AsyncIterator[str], what: str) -> None:
        async for line in lines:
            if what in line:
                return
        pytest.fail(f"the stream is over without {what}")

    agents = {"pays": Pays(), "quiet": quiet}
    settings = {"server": ServerSettings(heartbeat=0.05)}
    async with serve(agents, database_url, **settings) as served, httpx.AsyncClient(base_url=served.url) as http:
        runs, thread_id = served.client.runs, new_id()
        await runs.wait(thread_id, "pays", input={}, if_not_exists="create")
        opens = partial(http.stream, "POST", f"/threads/{thread_id}/stream/events", json={"channels": WATCH})
        async with opens() as first:
            assert first.status_code == 200
        await runs.wait(thread_id, "pays", command={"resume": "nothing"}, raise_error=False)
        monkeypatch.setattr(thread_events, "_LOOK_FIRST", 0.01)
        monkeypatch.setattr(StatesOfThread, "state", hangs)
        async with asyncio.timeout(60):
            async with opens() as stream:
                # It begins without: the first look, if it got as far as hanging, was given up; another hangs beside it.
                while (beside := await looks.get()).is_set():
                    pass
                lines = stream.aiter_lines()
                await comes(lines, ": heartbeat")
                await runs.create(thread_id, "quiet", input={})
                await comes(lines, '"event":"completed"')
                monkeypatch.setattr(thread_events, "_LOOK_FIRST", 600.0)
                async with opens() as other:
                    assert other.status_code == 200
                assert looks.empty()
                assert not beside.is_set()
            await beside.wait()  # until it is given up, since the client has gone


def asks_again() -> Callable[[Any], bool]:
    """Whether an event asks a question that was asked before; for one look at a thread."""
    asked = set[str]()

    def is_it(event: Any) -> bool:
        if event["method"] != "input.requested":
            return False
        question = event["params"]["data"]["interrupt_id"]
        again = question in asked
        asked.add(question)
        return again

    return is_it


async def heard(thread: Any, event: Any) -> None:
    """Wait until the client has heard of this event; the client announces this to nobody."""
    async with asyncio.timeout(60):
        while (thread._lifecycle_cursor or 0) < event["seq"]:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("agent", [asking_graph(), asking], ids=["graph", "function"])
async def test_a_question_whose_answer_was_cancelled_before_it_began_can_be_answered(
    serve_agents: Any, agent: Any
) -> None:
    held = Held()
    async with (
        serve_agents({"asks": agent, "held": held}, max_running=1) as served,
        served.client.threads.stream(assistant_id="asks") as thread,
    ):
        await thread.run.start(input={"log": []})
        await interrupted(thread)
        asked = list(thread.interrupts)
        await served.client.runs.create(None, "held", input={})
        await held.begun.wait()
        in_vain = await thread.run.respond("this is taken back")
        await served.client.runs.cancel(thread.thread_id, in_vain["run_id"], wait=True)
        events = await events_until(thread, asks_again())
        async with served.client.threads.stream(thread.thread_id, assistant_id="asks") as page:
            for each in (thread, page):
                await heard(each, events[-1])
                assert (each.interrupted, each.interrupts) == (True, asked)
            held.let_go.set()
            answer = await page.run.respond("because")
            await served.client.runs.join(thread.thread_id, answer["run_id"])
        assert (await served.client.threads.get(thread.thread_id))["status"] == "idle"
