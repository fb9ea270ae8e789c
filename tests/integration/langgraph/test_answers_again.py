"""An answer reaches the question it was given to, and no other, even if its node has failed since it took one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import langgraph.pregel._algo
import langgraph.types
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel
from tests.contract.ways_to_run import required
from tests.integration.langgraph.asking_graphs import Desk, State, asked, graph_of

from trackside import RunManager, RunSpec, RunStatus, current_run
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store

WHERE = ["node", "inside", "inside-twice", "called", "keeping", "function"]


class Approval(BaseModel):
    approved: bool


@pytest.mark.parametrize("where", WHERE)
async def test_a_later_answer_to_a_question_takes_the_place_of_the_earlier(stage: Any, saver: Any, where: str) -> None:
    desk = Desk(fails_to_look=1, fails_to_delete=2)
    graph = graph_of(saver, where, desk.clean)
    await stage.play(graph, {"notes": []}, thread_id="t")
    outcomes = [
        await stage.play(graph, thread_id="t", command={"resume": answer})
        for answer in ("look", "look not", "delete", "delete not", "wait")
    ]
    assert [str(outcome.status) for outcome in outcomes] == ["error", "interrupted", "error", "error", "success"]
    assert [human["content"] for human in outcomes[1].humans] == ["look not"]
    assert asked(outcomes[1]) == ["delete?"]
    assert desk.told == ["look", *["look not"] * 2, "delete", "look not", "delete not", "look not", "wait"]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("is_retry", [True, False])
async def test_an_answer_that_is_given_again_does_not_answer_what_the_node_asks_next(
    stage: Any, saver: Any, where: str, is_retry: bool
) -> None:
    desk = Desk(fails_to_look=2)
    graph = graph_of(saver, where, desk.clean)
    paused = await stage.play(graph, {"notes": []}, thread_id="t")
    command = {"resume": {paused.interrupts[0]["id"]: "yes"}}
    outcome = await stage.play(graph, thread_id="t", command=command)
    for attempt in (2, 3):
        again = {"attempt": attempt, "retry_of": outcome.result.run_id} if is_retry else {}
        outcome = await stage.play(graph, thread_id="t", command=command, **again)
    assert asked(outcome) == ["delete?"], outcome.result.error
    assert desk.told == ["yes"] * 3


async def test_a_node_that_was_cancelled_behind_an_answer_is_given_the_next_one(stage: Any, saver: Any) -> None:
    told, waits = list[str](), asyncio.Event()

    async def pay(state: State) -> State:
        told.append(interrupt("pay?"))
        if told == ["yes"]:
            waits.set()
            await asyncio.Event().wait()
        return {"notes": told[-1:]}

    graph = graph_of(saver, "inside", pay)
    await stage.play(graph, {"notes": []}, thread_id="t")
    handle = await stage.start(graph, thread_id="t", command={"resume": "yes"})
    await waits.wait()
    await handle.cancel()
    await handle.result()
    outcome = await stage.play(graph, thread_id="t", command={"resume": "no"})
    assert (outcome.values, told) == ({"notes": ["no"]}, ["yes", "no"])


async def test_a_rollback_brings_back_the_answer_that_its_run_took_the_place_of(stage: Any, saver: Any) -> None:
    told, waits = list[str](), asyncio.Event()

    async def pay(state: State) -> State:
        told.append(interrupt("pay?"))
        if told == ["yes"]:
            raise ConnectionError("the bank is away")
        if told[-1] == "no":
            waits.set()
            await asyncio.Event().wait()
        return {"notes": told[-1:]}

    graph = graph_of(saver, "node", pay)
    await stage.play(graph, {"notes": []}, thread_id="t")
    await stage.play(graph, thread_id="t", command={"resume": "yes"})
    handle = await stage.start(graph, thread_id="t", command={"resume": "no"})
    await waits.wait()
    await handle.cancel(action="rollback")
    await handle.result()
    outcome = await stage.play(graph, thread_id="t")
    assert outcome.values == {"notes": ["yes"]}


@pytest.mark.parametrize("where", WHERE)
async def test_an_answer_that_does_not_fit_leaves_its_node_the_one_that_it_keeps(
    stage: Any, saver: Any, where: str
) -> None:
    failures = [ConnectionError("the bank is away")]

    async def pay(state: State) -> State:
        answer = interrupt("pay?", response_schema=Approval)
        if failures:
            raise failures.pop()
        return {"notes": [answer.approved]}

    graph = graph_of(saver, where, pay)
    await stage.play(graph, {"notes": []}, thread_id="t")
    await stage.play(graph, thread_id="t", command={"resume": {"approved": True}})
    wrong = await stage.play(graph, thread_id="t", command={"resume": "maybe"})
    done = await stage.play(graph, thread_id="t")

    assert (wrong.end["error_type"], done.result.output) == ("InvalidSpecError", {"notes": [True]})


class Shop(BaseModel):
    name: str = ""


@pytest.mark.parametrize(
    "wrong", [{"context": {"name": []}}, {"interrupt_before": ["nowhere"]}], ids=["context", "stop"]
)
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("modes", [["values"], ["values", "events"]], ids=["plain", "events"])
async def test_a_run_that_is_refused_before_it_begins_leaves_a_node_the_answer_that_it_keeps(
    stage: Any, saver: Any, wrong: dict[str, Any], where: str, modes: list[str]
) -> None:
    failures = [ConnectionError("the bank is away")]

    async def pay(state: State) -> State:
        answer = interrupt("pay?")
        if failures:
            raise failures.pop()
        return {"notes": [answer]}

    def make(config: RunnableConfig) -> Any:  # a function that makes graphs offers no graph to check a run against
        graph = graph_of(saver, where, pay)
        graph.context_schema = Shop
        return graph

    await stage.play(make, {"notes": []}, thread_id="t")
    await stage.play(make, thread_id="t", command={"resume": "yes"})
    refused = await stage.play(make, thread_id="t", command={"resume": "no"}, stream_mode=modes, **wrong)
    done = await stage.play(make, thread_id="t")

    assert refused.status is RunStatus.error
    assert (done.status, done.result.output) == (RunStatus.success, {"notes": ["yes"]})


async def test_of_two_answers_the_one_that_fits_is_kept_where_the_other_is_refused(stage: Any, saver: Any) -> None:
    told, failures = list[Any](), [ConnectionError("gone")]
    is_answered, has_told = asyncio.Event(), asyncio.Event()

    async def ship(state: State) -> State:
        where = interrupt("where?")
        if failures:
            raise failures.pop()
        told.append(where)
        has_told.set()
        return {"notes": [interrupt("when?")]}

    async def pay(state: State) -> State:
        if is_answered.is_set():
            await has_told.wait()
        return {"notes": [interrupt("pay?", response_schema=Approval).approved]}

    builder = StateGraph(State).add_node(ship).add_node(pay).add_edge(START, "ship").add_edge(START, "pay")
    graph = builder.compile(checkpointer=saver)
    ids = {each["value"]: each["id"] for each in (await stage.play(graph, {"notes": []}, thread_id="t")).interrupts}
    await stage.play(graph, thread_id="t", command={"resume": {ids["where?"]: "here"}})
    is_answered.set()
    both = {ids["where?"]: "there", ids["pay?"]: "maybe"}
    wrong = await stage.play(graph, thread_id="t", command={"resume": both})
    await stage.play(graph, thread_id="t")

    assert (wrong.end["error_type"], told) == ("InvalidSpecError", ["there", "there"])


async def test_an_attempt_with_an_answer_behind_which_its_node_has_asked_again_asks_that(
    stage: Any, saver: Any
) -> None:
    desk = Desk()
    graph = graph_of(saver, "inside", desk.clean)
    paused = await stage.play(graph, {"notes": []}, thread_id="t")
    command = {"resume": {paused.interrupts[0]["id"]: "yes"}}
    lost = await stage.play(graph, thread_id="t", command=command)
    outcome = await stage.play(graph, thread_id="t", command=command, attempt=2, retry_of=lost.result.run_id)
    assert (asked(lost), asked(outcome), outcome.humans) == (["delete?"], ["delete?"], [])


async def test_a_run_that_is_shut_down_as_its_node_has_asked_again_asks_that_in_the_next_process(
    tmp_path: Path,
) -> None:
    closes, runs = asyncio.Event(), list[Any]()

    async def interview(state: State) -> State:
        runs.append(current_run())
        return {"notes": [interrupt("one?"), interrupt("two?")]}

    graph = graph_of(InMemorySaver(), "node", interview)

    @asynccontextmanager
    async def make(config: Any) -> AsyncIterator[Any]:
        yield graph
        if len(runs) == 2 and not closes.is_set():
            closes.set()
            while not runs[1].cancelled:
                await asyncio.sleep(0)

    async with Store.open(f"sqlite:///{tmp_path / 'runs.db'}") as store:

        def manager_of() -> RunManager:
            observers, coordinator = [required(StorageObserver(store))], store.coordinator()
            return RunManager({"asks": make}, observers=observers, coordinator=coordinator, shutdown_grace=0)

        async with manager_of() as manager:
            await (await manager.start(RunSpec("asks", {}, thread_id="t"))).result()
            spec = RunSpec("asks", run_id="first", thread_id="t", max_attempts=2, command={"resume": "1"})
            await manager.start(spec)
            await closes.wait()
        async with manager_of():
            (again,) = await store.retries_of("first")
            end = await anext(aiter(store.follow(run_id=again, types=("run_completed", "run_failed"))))
        first = await store.run("first")

    assert first is not None
    assert first.status is RunStatus.cancelled
    assert [question["value"] for question in end.event.payload["interrupts"]] == ["two?"]


async def test_a_second_question_that_an_older_langgraph_has_asked_leaves_the_first_its_answer(
    stage: Any, saver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older LangGraph gives all questions of a node the id of the first, and a thread may wait at such a one."""
    of_question = langgraph.types._interrupt_id

    async def form(state: State) -> State:
        return {"notes": [interrupt("name?"), interrupt("age?")]}

    graph = graph_of(saver, "node", form)
    with monkeypatch.context() as older:
        for module in (langgraph.types, langgraph.pregel._algo):
            older.setattr(module, "_interrupt_id", lambda namespace, answered: of_question(namespace, 0))
        await stage.play(graph, {"notes": []}, thread_id="t")
        await stage.play(graph, thread_id="t", command={"resume": "Ann"})

    done = await stage.play(graph, thread_id="t", command={"resume": "42"})

    assert done.result.output == {"notes": ["Ann", "42"]}
