"""Another attempt at a run passes no breakpoint that the one before had reached: nobody has let it go on."""

import asyncio
import operator
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Send, interrupt

from trackside import ObserverBinding, RunManager, RunSpec, RunStatus, current_run
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store


class State(TypedDict, total=False):
    notes: Annotated[list[str], operator.add]


class Payment:
    """Nodes that note what they do; paying fails a number of times."""

    def __init__(self, fails: int = 0) -> None:
        self.fails = fails
        self.executed: list[str] = []

    async def plan(self, state: State) -> State:
        self.executed.append("plan")
        return {"notes": ["planned"]}

    async def pay(self, state: State) -> State:
        self.executed.append("pay")
        if self.fails:
            self.fails -= 1
            raise ConnectionError("gone")
        return {"notes": ["paid"]}

    def sequence(self, **compiled: Any) -> Any:
        builder = StateGraph(State).add_sequence([("plan", self.plan), ("pay", self.pay)])
        return builder.add_edge(START, "plan").compile(**compiled)

    def sent(self, **compiled: Any) -> Any:
        """The same graph, with each node sent to by `Send`."""
        builder = StateGraph(State).add_node("plan", self.plan).add_node("pay", self.pay)
        builder.add_conditional_edges(START, lambda _: [Send("plan", {})], ["plan"])
        return builder.add_conditional_edges("plan", lambda _: [Send("pay", {})], ["pay"]).compile(**compiled)


def around(inside: Any, saver: Any) -> Any:
    """A graph that has another graph as its node."""
    return StateGraph(State).add_node("inside", inside).add_edge(START, "inside").compile(checkpointer=saver)


BEFORE, AFTER = {"interrupt_before": ["pay"]}, {"interrupt_after": ["plan"]}
KEPT_AT_ITS_END = {"durability": "exit"}
STOPS: dict[str, tuple[Callable[[Payment, Any], Any], dict[str, Any]]] = {
    "before": (lambda payment, saver: payment.sequence(checkpointer=saver), BEFORE),
    "before any": (lambda payment, saver: payment.sequence(checkpointer=saver), {"interrupt_before": "*"}),
    "before, kept": (lambda payment, saver: payment.sequence(checkpointer=saver), BEFORE | KEPT_AT_ITS_END),
    "before, compiled": (lambda payment, saver: payment.sequence(checkpointer=saver, **BEFORE), {}),
    "before, inside": (lambda payment, saver: around(payment.sequence(**BEFORE), saver), {}),
    "before, sent": (lambda payment, saver: payment.sent(checkpointer=saver), BEFORE),
    "after": (lambda payment, saver: payment.sequence(checkpointer=saver), AFTER),
    "after any": (lambda payment, saver: payment.sequence(checkpointer=saver), {"interrupt_after": "*"}),
    "after, kept": (lambda payment, saver: payment.sequence(checkpointer=saver), AFTER | KEPT_AT_ITS_END),
    "after, inside": (lambda payment, saver: around(payment.sequence(**AFTER), saver), {}),
    "after, sent": (lambda payment, saver: payment.sent(checkpointer=saver), AFTER),
    "after, sent inside": (lambda payment, saver: around(payment.sent(**AFTER), saver), {}),
}


async def retried(stage: Any, graph: Any, of: Any, input: Any = None, **spec: Any) -> Any:
    return await stage.play(graph, input, thread_id="t", attempt=2, retry_of=of.result.run_id, **spec)


@pytest.mark.parametrize(("graph_of", "spec"), STOPS.values(), ids=STOPS)
async def test_attempts_stop_where_the_first_one_has_until_somebody_lets_the_graph_go_on(
    stage: Any, graph_of: Callable[[Payment, Any], Any], spec: dict[str, Any]
) -> None:
    graph = graph_of(payment := Payment(), InMemorySaver())
    await stage.play(graph, {"notes": ["before"]}, thread_id="t")
    first = await stage.play(graph, {"notes": ["given"]}, thread_id="t", **spec)
    so_far = list(payment.executed)

    second = await retried(stage, graph, first, {"notes": ["given"]}, **spec)
    third = await retried(stage, graph, second, {"notes": ["given"]}, **spec)

    assert [attempt.status for attempt in (first, second, third)] == [RunStatus.interrupted] * 3
    assert first.interrupts == second.interrupts == third.interrupts
    assert payment.executed == so_far
    assert third.values == (await graph.aget_state({"configurable": {"thread_id": "t"}})).values

    await stage.play(graph, thread_id="t", command={"resume": True}, **spec)
    assert payment.executed == [*so_far, "plan" if spec.get("interrupt_before") == "*" else "pay"]


async def test_attempts_stay_at_a_stop_whatever_keeps_the_thread(stage: Any, saver: Any) -> None:
    graph = around((payment := Payment()).sequence(**BEFORE), saver)
    attempt = await stage.play(graph, {"notes": []}, thread_id="t")
    for _ in range(2):
        attempt = await retried(stage, graph, attempt, {"notes": []})
    assert (attempt.status, payment.executed) == (RunStatus.interrupted, ["plan"])


async def test_an_attempt_at_a_run_that_lets_the_graph_go_on_lets_it_go_on(stage: Any, saver: Any) -> None:
    graph = (payment := Payment(fails=2)).sequence(checkpointer=saver)
    await stage.play(graph, {"notes": []}, thread_id="t", **BEFORE)
    attempt = await stage.play(graph, thread_id="t", command={"resume": True}, **BEFORE)
    for _ in range(2):
        attempt = await retried(stage, graph, attempt, command={"resume": True}, **BEFORE)
    assert attempt.status is RunStatus.success
    assert payment.executed == ["plan", "pay", "pay", "pay"]


async def test_an_attempt_at_a_run_that_goes_on_from_an_old_stop_lets_it_go_on(stage: Any, saver: Any) -> None:
    graph = (payment := Payment()).sequence(checkpointer=saver)
    (stop,) = (await stage.play(graph, {"notes": []}, thread_id="t", **BEFORE)).interrupts
    await stage.play(graph, thread_id="t", command={"resume": True})
    payment.fails = 1
    config = {"configurable": {"checkpoint_id": stop["id"]}}

    lost = await stage.play(graph, thread_id="t", config=config, **BEFORE)
    outcome = await retried(stage, graph, lost, config=config, **BEFORE)

    assert (lost.status, outcome.status) == (RunStatus.error, RunStatus.success)
    assert payment.executed == ["plan", "pay", "pay", "pay"]


@pytest.mark.parametrize("go_on", [{"command": {"resume": True}}, {}], ids=["by a command", "without one"])
@pytest.mark.parametrize("is_inside", [False, True], ids=["", "inside"])
async def test_an_attempt_at_a_run_that_has_come_from_one_stop_to_the_next_stays_there(
    stage: Any, go_on: dict[str, Any], is_inside: bool
) -> None:
    payment, saver = Payment(), InMemorySaver()
    graph = payment.sequence(checkpointer=None if is_inside else saver, interrupt_before="*")
    graph = around(graph, saver) if is_inside else graph
    await stage.play(graph, {"notes": []}, thread_id="t")
    second_stop = await stage.play(graph, thread_id="t", **go_on)
    outcome = await retried(stage, graph, second_stop, **go_on)
    assert outcome.status is RunStatus.interrupted
    assert payment.executed == ["plan"]


async def test_another_attempt_at_a_run_that_was_refused_at_a_stop_is_refused_there_too(stage: Any, saver: Any) -> None:
    graph = (payment := Payment()).sequence(checkpointer=saver, interrupt_before="*")
    (before_plan,) = (await stage.play(graph, {"notes": []}, thread_id="t")).interrupts
    past_it: dict[str, Any] = {"command": {"resume": {before_plan["id"]: True}}}
    await stage.play(graph, thread_id="t", **past_it)
    refused = await stage.play(graph, thread_id="t", **past_it)
    again = await retried(stage, graph, refused, **past_it)

    assert [attempt.end["error_type"] for attempt in (refused, again)] == ["UnknownQuestionError"] * 2
    assert payment.executed == ["plan"]


async def test_an_attempt_stays_at_the_stop_beside_a_question_and_asks_it(stage: Any, saver: Any) -> None:
    async def ask(state: State) -> State:
        return {"notes": [interrupt("how much?")]}

    payment = Payment()
    builder = StateGraph(State).add_node("inside", payment.sequence(**BEFORE)).add_node("ask", ask)
    graph = builder.add_edge(START, "inside").add_edge(START, "ask").compile(checkpointer=saver)
    first = await stage.play(graph, {"notes": []}, thread_id="t")
    outcome = await retried(stage, graph, first, {"notes": []})
    assert [asked["value"] for asked in outcome.interrupts] == ["how much?"]
    assert payment.executed == ["plan"]


async def test_an_attempt_at_a_run_that_stopped_after_its_last_node_begins_again(stage: Any, saver: Any) -> None:
    graph = (payment := Payment()).sequence(checkpointer=saver)
    through = await stage.play(graph, {"notes": []}, thread_id="t", interrupt_after=["pay"])
    outcome = await retried(stage, graph, through, {"notes": []}, interrupt_after=["pay"])
    assert (through.status, outcome.status) == (RunStatus.success, RunStatus.success)
    assert payment.executed == ["plan", "pay"] * 2


async def test_a_run_that_is_shut_down_while_it_closes_at_a_stop_stays_there_in_the_next_process(
    tmp_path: Path,
) -> None:
    payment, saver, closing = Payment(), InMemorySaver(), asyncio.Event()

    @asynccontextmanager
    async def graph_of(config: Any) -> AsyncIterator[Any]:
        yield payment.sequence(checkpointer=saver, **BEFORE)
        closing.set()
        while (run := current_run()).attempt == 1 and not run.cancelled:
            await asyncio.sleep(0)

    async with Store.open(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        parts: dict[str, Any] = {
            "observers": [ObserverBinding(StorageObserver(store), required=True)],
            "coordinator": store.coordinator(),
        }
        async with RunManager({"pay": graph_of}, shutdown_grace=0, **parts) as manager:
            await manager.start(RunSpec("pay", {"notes": []}, run_id="first", thread_id="t", max_attempts=2))
            await closing.wait()
        assert (await store.run("first")).status is RunStatus.cancelled
        async with RunManager({"pay": graph_of}, **parts):
            (again,) = await store.retries_of("first")
            async for _ in store.follow(run_id=again, types="run_completed"):
                break
            ended = await store.run(again)

    assert (ended.attempt, ended.status) == (2, RunStatus.interrupted)
    assert payment.executed == ["plan"]
