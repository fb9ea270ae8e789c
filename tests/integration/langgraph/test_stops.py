"""What lets a graph go on past a stop between two steps is for that stop, and answers no question asked afterwards."""

import asyncio
import operator
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from tests.contract.ways_to_run import required, virtual
from tests.integration.langgraph.savers import ShownToTwo

from trackside import RunManager, RunResult, RunSpec, RunStatus, current_run
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.testing import RecordingObserver, VirtualClock

GO_ON: dict[str, Any] = {"thread_id": "t", "command": {"resume": True}}


class State(TypedDict, total=False):
    notes: Annotated[list[Any], operator.add]


async def plan(state: State) -> State:
    return {"notes": ["planned"]}


async def pay(state: State) -> State:
    return {"notes": [interrupt("Pay?")]}


async def plain_pay(state: State) -> State:
    run = current_run()
    assert run is not None
    return {"notes": [run.resume]}


def paying(saver: Any, pay: Any = pay, **compiled: Any) -> Any:
    """Plans, stops, and pays."""
    builder = StateGraph(State).add_sequence([("plan", plan), ("pay", pay)]).add_edge(START, "plan")
    return builder.compile(checkpointer=saver, **({"interrupt_before": ["pay"]} | compiled))


async def asked(graph: Any) -> list[Any]:
    state = await graph.aget_state({"configurable": {"thread_id": "t"}})
    return [question.value for question in state.interrupts]


async def played(manager: RunManager, **spec: Any) -> RunResult:
    return await (await manager.start(RunSpec("paying", **spec))).result()


@virtual
async def test_what_lets_a_graph_go_on_later_is_none_to_the_question_that_is_asked_by_then() -> None:
    graph = paying(InMemorySaver())
    async with RunManager({"paying": graph}, clock=VirtualClock(), shutdown_grace=10_000.0) as manager:
        await played(manager, input={}, thread_id="t")
        late = await manager.start(RunSpec("paying", after_seconds=60, **GO_ON))
        assert (await played(manager, **GO_ON)).status is RunStatus.interrupted
        refused = await late.result()

    assert (refused.status, "and not for an answer to" in str(refused.error)) == (RunStatus.error, True)
    assert await asked(graph) == ["Pay?"]


@virtual
async def test_what_lets_a_graph_go_on_later_does_so_where_nobody_else_has() -> None:
    async with RunManager({"paying": paying(InMemorySaver(), plain_pay)}, clock=VirtualClock()) as manager:
        await played(manager, input={}, thread_id="t")
        late = await manager.start(RunSpec("paying", after_seconds=60, **GO_ON))
        assert (await late.result()).output == {"notes": ["planned", True]}


@virtual
async def test_what_lets_a_graph_go_on_later_is_for_no_other_stop() -> None:
    graph = paying(InMemorySaver(), interrupt_before="*")
    async with RunManager({"paying": graph}, clock=VirtualClock(), shutdown_grace=10_000.0) as manager:
        await played(manager, input={}, thread_id="t")
        late = await manager.start(RunSpec("paying", after_seconds=60, **GO_ON))
        await played(manager, **GO_ON)
        refused = await late.result()

    assert (refused.status, "waits for nobody's answer" in str(refused.error)) == (RunStatus.error, True)
    assert await asked(graph) == []


@pytest.mark.parametrize("has_run", [False, True], ids=["new", "idle"])
def test_an_answer_for_later_that_came_when_nothing_was_open_is_none_to_what_is_asked_by_then(has_run: bool) -> None:
    @virtual
    async def story() -> None:
        graph, ends = paying(InMemorySaver(), interrupt_before=[]), paying(InMemorySaver(), plan, interrupt_before=[])
        ends.checkpointer = graph.checkpointer
        agents = {"paying": graph, "ends": ends}
        async with RunManager(agents, clock=VirtualClock(), shutdown_grace=10_000.0) as manager:
            if has_run:
                await (await manager.start(RunSpec("ends", {}, thread_id="t"))).result()
            late = await manager.start(RunSpec("paying", after_seconds=60, **GO_ON))
            await played(manager, input={}, thread_id="t")
            refused = await late.result()

        assert (refused.status, "what was open when it came" in str(refused.error)) == (RunStatus.error, True)
        assert await asked(graph) == ["Pay?"]

    story()


async def test_of_two_who_let_a_graph_go_on_at_once_one_does_and_the_other_answers_nothing(stage: Any) -> None:
    graph = paying(saver := ShownToTwo())
    await stage.play(graph, {}, thread_id="t")
    saver.two = asyncio.Barrier(2)
    handles = await asyncio.gather(*(stage.start(graph, **GO_ON) for _ in range(2)))
    ends = [await stage.outcome(handle) for handle in handles]

    assert sorted(str(end.status) for end in ends) == ["error", "interrupted"]
    assert [end.end["error_type"] for end in ends if end.status is RunStatus.error] == ["UnknownQuestionError"]
    assert await asked(graph) == ["Pay?"]


async def test_another_attempt_at_a_run_that_lets_a_graph_go_on_asks_what_that_has_asked(tmp_path: Path) -> None:
    closes, ended, runs = asyncio.Event(), asyncio.Event(), list[Any]()

    async def pay(state: State) -> State:
        runs.append(current_run())
        return {"notes": [interrupt("Pay?")]}

    graph = paying(InMemorySaver(), pay)

    @asynccontextmanager
    async def make(config: Any) -> AsyncIterator[Any]:
        yield graph
        if runs and not closes.is_set():
            closes.set()
            while not runs[0].cancelled:
                await asyncio.sleep(0)

    async def on_end(event: Any) -> None:
        if event.event_type == "run_completed":
            ended.set()

    async with Store.open(f"sqlite:///{tmp_path / 'runs.db'}") as store:

        def manager_of(*observers: Any) -> RunManager:
            observed = [required(StorageObserver(store)), *observers]
            coordinator = store.coordinator()
            return RunManager({"paying": make}, observers=observed, coordinator=coordinator, shutdown_grace=0)

        async with manager_of() as manager:
            await played(manager, input={}, thread_id="t")
            await manager.start(RunSpec("paying", run_id="first", max_attempts=2, **GO_ON))
            await closes.wait()
        async with manager_of(seen := RecordingObserver(), on_end):
            await asyncio.wait_for(ended.wait(), 30)
        first, (again,) = await store.run("first"), await store.retries_of("first")

    assert (first is not None and first.status) == RunStatus.cancelled
    ends = [event for event in seen.events if event.run_id == again and event.event_type == "run_completed"]
    assert [question["value"] for event in ends for question in event.payload["interrupts"]] == ["Pay?"]
    assert await asked(graph) == ["Pay?"]


async def test_what_lets_a_graph_go_on_says_past_which_stop_if_it_likes(stage: Any, saver: Any) -> None:
    graph = paying(saver, plain_pay, interrupt_before="*")
    first, second = [(await stage.play(graph, given, thread_id="t")).interrupts[0]["id"] for given in ({}, None)]
    wrong = await stage.play(graph, thread_id="t", command={"resume": {first: "yes"}})
    right = await stage.play(graph, thread_id="t", command={"resume": {second: "yes"}}, strict_resume=True)

    assert wrong.end["error_type"] == "UnknownQuestionError"
    assert (right.values, right.humans) == ({"notes": ["planned", "yes"]}, [])


@pytest.mark.parametrize("goto", ["inner", {"node": "inner", "input": {"notes": []}}], ids=["name", "sent"])
async def test_a_graph_inside_to_which_a_command_goes_stops_as_by_an_edge(stage: Any, saver: Any, goto: Any) -> None:
    inner = paying(None, plain_pay)
    builder = StateGraph(State).add_node("plan", plan).add_node("inner", inner).add_edge(START, "plan")
    graph = builder.compile(checkpointer=saver)
    await stage.play(graph, {"notes": []}, thread_id="t")
    stopped = await stage.play(graph, thread_id="t", command={"goto": goto})
    (stop,) = stopped.interrupts
    assert (stopped.status, stop["value"], stop["next"]) == (RunStatus.interrupted, None, ["inner"])
    outcome = await stage.play(graph, thread_id="t", command={"resume": {stop["id"]: "go on"}})
    assert (outcome.status, outcome.interrupts) == (RunStatus.success, [])
    assert outcome.values["notes"][-2:] == ["planned", "go on"]


async def test_a_graph_whose_state_was_changed_since_is_at_another_stop(stage: Any, saver: Any) -> None:
    graph = paying(saver, plain_pay)
    paused = await stage.play(graph, {}, thread_id="t")
    await graph.aupdate_state({"configurable": {"thread_id": "t"}}, {"notes": ["changed"]}, as_node="plan")
    stop = paused.interrupts[0]["id"]
    wrong = await stage.play(graph, thread_id="t", command={"resume": {stop: True}})
    right = await stage.play(graph, **GO_ON)

    assert wrong.end["error_type"] == "UnknownQuestionError"
    assert right.values == {"notes": ["planned", "changed", True]}


@pytest.mark.parametrize("rollbacks", [1, 2])
async def test_a_stop_that_a_rollback_has_brought_back_is_the_same(stage: Any, saver: Any, rollbacks: int) -> None:
    busy, free = asyncio.Event(), asyncio.Event()
    free.set()

    async def plan(state: State) -> State:
        busy.set()
        await free.wait()
        return {"notes": ["planned"]}

    builder = StateGraph(State).add_sequence([("plan", plan), ("pay", plain_pay)]).add_edge(START, "plan")
    graph = builder.compile(checkpointer=saver, interrupt_before=["pay"])
    stop = (await stage.play(graph, {}, thread_id="t")).interrupts[0]["id"]
    free.clear()
    for _ in range(rollbacks):
        busy.clear()
        run = await stage.start(graph, {"notes": ["anew"]}, thread_id="t")
        await busy.wait()
        await run.cancel(action="rollback")
        await run.result()
    done = await stage.play(graph, thread_id="t", command={"resume": {stop: True}})

    assert done.values == {"notes": ["planned", True]}


async def test_a_rollback_takes_back_the_nodes_that_have_finished_behind_a_stop(stage: Any, saver: Any) -> None:
    busy, free = asyncio.Event(), asyncio.Event()

    async def check(state: State) -> State:
        return {"notes": ["checked"]}

    async def slow_pay(state: State) -> State:
        busy.set()
        await free.wait()
        return {"notes": ["paid"]}

    nodes = [("plan", plan), ("check", check), ("pay", slow_pay)]
    builder = StateGraph(State).add_sequence(nodes).add_edge(START, "plan")
    graph = builder.compile(checkpointer=saver, interrupt_before=["check"])
    await stage.play(graph, {}, thread_id="t")
    run = await stage.start(graph, **GO_ON)
    await busy.wait()
    await run.cancel(action="rollback")
    await run.result()
    state = await graph.aget_state({"configurable": {"thread_id": "t"}})
    free.set()
    done = await stage.play(graph, **GO_ON)

    assert (state.next, state.values) == (("check",), {"notes": ["planned"]})
    assert done.values == {"notes": ["planned", "checked", "paid"]}


@pytest.mark.parametrize("multitask", ["interrupt", "rollback"])
async def test_what_displaces_a_run_goes_on_where_that_leaves_the_graph(stage: Any, saver: Any, multitask: str) -> None:
    busy = asyncio.Event()

    async def slow_pay(state: State) -> State:
        if not busy.is_set():
            busy.set()
            await asyncio.Event().wait()
        return {"notes": ["paid"]}

    graph = paying(saver, slow_pay)
    await stage.play(graph, {}, thread_id="t")
    displaced = await stage.start(graph, **GO_ON)
    await busy.wait()
    done = await stage.play(graph, multitask=multitask, **GO_ON)

    assert (await displaced.result()).status is RunStatus.cancelled
    assert done.values == {"notes": ["planned", "paid"]}
