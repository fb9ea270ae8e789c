"""Another attempt at a run goes on from the last checkpoint of the one before, if that has left one and was not through."""

import asyncio
import operator
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Send, interrupt

from trackside import RunStatus


class State(TypedDict, total=False):
    notes: Annotated[list[Any], operator.add]


class Steps:
    """Nodes that count how often they are executed; one of them fails so many times."""

    def __init__(self, fails: int = 1) -> None:
        self.fails = fails
        self.executed: list[str] = []

    async def first(self, state: State) -> State:
        self.executed.append("first")
        return {"notes": ["first"]}

    async def second(self, state: State) -> State:
        self.executed.append("second")
        if self.fails:
            self.fails -= 1
            raise ConnectionError("gone")
        return {"notes": ["second"]}

    def graph(self, saver: Any = None) -> Any:
        builder = StateGraph(State).add_sequence([("first", self.first), ("second", self.second)])
        return builder.add_edge(START, "first").compile(checkpointer=saver)


async def retried(stage: Any, graph: Any, of: Any, input: Any = None, **spec: Any) -> Any:
    return await stage.play(graph, input, thread_id="t", attempt=2, retry_of=of.result.run_id, **spec)


async def test_nodes_that_have_finished_are_not_executed_again(stage: Any, saver: Any) -> None:
    graph = (steps := Steps()).graph(saver)
    lost = await stage.play(graph, {"notes": ["given"]}, thread_id="t")
    outcome = await retried(stage, graph, lost, {"notes": ["given"]})
    assert outcome.status is RunStatus.success
    assert outcome.values == {"notes": ["given", "first", "second"]}
    assert steps.executed == ["first", "second", "second"]


async def test_an_attempt_that_leaves_no_checkpoint_leaves_the_one_it_went_on_from(stage: Any, saver: Any) -> None:
    graph = (steps := Steps(fails=3)).graph(saver)
    attempt = await stage.play(graph, {"notes": ["given"]}, thread_id="t")
    for _ in range(3):
        attempt = await retried(stage, graph, attempt, {"notes": ["given"]})
    assert attempt.values == {"notes": ["given", "first", "second"]}
    assert steps.executed == ["first", *["second"] * 4]


async def test_an_attempt_that_was_lost_before_its_graph_was_called_leaves_what_it_would_have_gone_on_from(
    stage: Any, saver: Any
) -> None:
    async def cancel_second(event: Any) -> None:
        if event.payload.get("attempt") == 2:
            await stage.manager.cancel(event.run_id)

    graph, given = (steps := Steps()).graph(saver), {"notes": ["given"]}
    stage.manager.observers.add(cancel_second, required=True)
    second = await retried(stage, graph, await stage.play(graph, given, thread_id="t"), given)
    assert (second.status, steps.executed) == (RunStatus.cancelled, ["first", "second"])

    third = await stage.play(graph, given, thread_id="t", attempt=3, retry_of=second.result.run_id)

    assert third.values == {"notes": ["given", "first", "second"]}
    assert steps.executed == ["first", "second", "second"]


class FullSaver(InMemorySaver):
    """Takes results of nodes, and after so many checkpoints no more of those."""

    def __init__(self, takes: int) -> None:
        super().__init__()
        self.takes = takes

    async def aput(self, *args: Any) -> Any:
        self.takes -= 1
        if self.takes == -1:
            raise ConnectionError("gone")
        return await super().aput(*args)


async def test_results_that_are_in_no_checkpoint_yet_are_not_made_again(stage: Any) -> None:
    graph = (steps := Steps(fails=0)).graph(FullSaver(takes=3))
    lost = await stage.play(graph, {"notes": ["given"]}, thread_id="t")

    outcome = await retried(stage, graph, lost, {"notes": ["given"]})

    assert (lost.status, outcome.status) == (RunStatus.error, RunStatus.success)
    assert outcome.values == {"notes": ["given", "first", "second"]}
    assert steps.executed == ["first", "second"]


async def test_a_run_that_is_no_attempt_begins_with_its_input(stage: Any, saver: Any) -> None:
    graph = Steps().graph(saver)
    await stage.play(graph, {"notes": ["given"]}, thread_id="t")
    outcome = await stage.play(graph, {"notes": ["new"]}, thread_id="t")
    assert outcome.values == {"notes": ["given", "first", "new", "first", "second"]}


@pytest.mark.parametrize("durability", ["exit", None])
async def test_an_attempt_without_anything_to_go_on_from_begins_again(stage: Any, durability: str | None) -> None:
    steps = Steps()
    graph = steps.graph(InMemorySaver() if durability else None)
    lost = await stage.play(graph, {"notes": ["given"]}, thread_id="other", durability=durability)
    outcome = await retried(stage, graph, lost, {"notes": ["given"]})
    assert outcome.values == {"notes": ["given", "first", "second"]}
    assert steps.executed == ["first", "second"] * 2


async def test_an_attempt_after_another_run_of_the_thread_begins_again(stage: Any, saver: Any) -> None:
    graph = Steps(fails=2).graph(saver)
    lost = await stage.play(graph, {"notes": ["given"]}, thread_id="t")
    await stage.play(graph, {"notes": ["another"]}, thread_id="t")
    outcome = await retried(stage, graph, lost, {"notes": ["given"]})
    assert outcome.values == {"notes": ["given", "first", "another", "first", "given", "first", "second"]}


async def test_messages_that_the_thread_has_are_not_announced_again(stage: Any) -> None:
    fails = [ConnectionError("gone")]

    async def answer(state: Any) -> dict[str, Any]:
        if fails:
            raise fails.pop()
        return {"messages": [{"role": "assistant", "content": "well"}]}

    builder = StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer")
    graph = builder.compile(checkpointer=InMemorySaver())
    lost = await stage.play(graph, "hello", thread_id="t")
    outcome = await retried(stage, graph, lost, "hello")
    assert [human["content"] for human in lost.humans] == ["hello"]
    assert outcome.humans == []
    assert [message["content"] for message in outcome.values["messages"]] == ["hello", "well"]
    assert outcome.usage["last_ai_message"] == "well"


async def test_an_answer_that_was_used_up_is_not_asked_for_again(stage: Any, saver: Any) -> None:
    steps = Steps()

    async def ask(state: State) -> State:
        return {"notes": [interrupt("how many?")]}

    builder = StateGraph(State).add_sequence([("ask", ask), ("second", steps.second)])
    graph = builder.add_edge(START, "ask").compile(checkpointer=saver)
    await stage.play(graph, {"notes": []}, thread_id="t")
    lost = await stage.play(graph, thread_id="t", command={"resume": 3})
    outcome = await retried(stage, graph, lost, command={"resume": 3})
    assert outcome.status is RunStatus.success
    assert outcome.values == {"notes": [3, "second"]}
    assert outcome.humans == []


async def test_an_answer_whose_question_is_still_open_is_given_again(stage: Any, saver: Any) -> None:
    async def ask(state: State) -> State:
        return {"notes": [interrupt("how many?")]}

    graph = StateGraph(State).add_node("ask", ask).add_edge(START, "ask").compile(checkpointer=saver)
    await stage.play(graph, {"notes": []}, thread_id="t")
    never_ran = await stage.play(graph, thread_id="elsewhere", command={"resume": 3})
    outcome = await retried(stage, graph, never_ran, command={"resume": 3})
    assert outcome.values == {"notes": [3]}
    assert [human["content"] for human in outcome.humans] == ["3"]


async def test_an_answer_whose_result_is_in_no_checkpoint_yet_counts(stage: Any) -> None:
    executed = []

    async def ask(state: State) -> State:
        answer = interrupt("how many?")
        executed.append(answer)
        return {"notes": [answer]}

    saver = FullSaver(takes=2)
    graph = StateGraph(State).add_node("ask", ask).add_edge(START, "ask").compile(checkpointer=saver)
    await stage.play(graph, {"notes": []}, thread_id="t")
    lost = await stage.play(graph, thread_id="t", command={"resume": 3})
    outcome = await retried(stage, graph, lost, command={"resume": 3})
    assert (lost.status, outcome.status) == (RunStatus.error, RunStatus.success), outcome.result.error
    assert outcome.values == {"notes": [3]}
    assert executed == [3]


class Mortal(InMemorySaver):
    """Takes nothing any more once its process is gone."""

    gone = False

    async def aput(self, config: Any, *rest: Any) -> Any:
        return config if self.gone else await super().aput(config, *rest)

    async def aput_writes(self, *args: Any) -> None:
        if not self.gone:
            await super().aput_writes(*args)


async def test_an_answer_that_a_graph_inside_has_saved_before_the_one_around_it_counts_in_all_attempts(
    stage: Any,
) -> None:
    dies = 2

    async def ask(state: State) -> State:
        return {"notes": [interrupt("how many?")]}

    async def work(state: State) -> State:
        saver.gone = dies > 0
        return {"notes": ["worked"]}

    saver = Mortal()
    inner = StateGraph(State).add_node("ask", ask).add_edge(START, "ask").compile(checkpointer=True)
    builder = StateGraph(State).add_node("inner", inner).add_node("work", work)
    graph = builder.add_edge(START, "inner").add_edge("inner", "work").compile(checkpointer=saver)
    await stage.play(graph, {"notes": []}, thread_id="t", durability="exit")
    [question] = (await graph.aget_state({"configurable": {"thread_id": "t"}})).interrupts
    answer = {"command": {"resume": {question.id: 3}}, "durability": "exit"}
    outcome = await stage.play(graph, thread_id="t", **answer)
    while dies:
        dies -= 1
        saver.gone = False
        outcome = await retried(stage, graph, outcome, **answer)
    assert outcome.status is RunStatus.success, outcome.result.error
    assert outcome.values == {"notes": [3, "worked"]}


class Inquiry:
    """Two nodes that ask beside each other, and then add what they were told; the second fails so many times."""

    def __init__(self, saver: Any, fails: int = 1) -> None:
        self.fails = fails
        self.told: list[str] = []
        self.first_is_done = asyncio.Event()
        builder = StateGraph(State).add_node("first", self.first).add_node("second", self.second)
        self.graph = builder.add_edge(START, "first").add_edge(START, "second").compile(checkpointer=saver)

    async def first(self, state: State) -> State:
        self.told.append(interrupt("one?"))
        self.first_is_done.set()
        return {"notes": self.told[-1:]}

    async def second(self, state: State) -> State:
        self.told.append(interrupt("two?"))
        await self.first_is_done.wait()
        if self.fails:
            self.fails -= 1
            raise ConnectionError("gone")
        return {"notes": self.told[-1:]}

    async def asked(self, stage: Any) -> dict[str, str]:
        """The ids of its questions, by these."""
        asks = await stage.play(self.graph, {"notes": []}, thread_id="t")
        return {asked["value"]: asked["id"] for asked in asks.interrupts}


async def test_of_several_answers_those_that_are_used_up_are_not_given_again(stage: Any, saver: Any) -> None:
    inquiry = Inquiry(saver, fails=2)
    ids = await inquiry.asked(stage)
    command = {"resume": {ids["one?"]: "1", ids["two?"]: "2"}}

    attempt = await stage.play(inquiry.graph, thread_id="t", command=command, durability="sync")
    for _ in range(2):
        attempt = await retried(stage, inquiry.graph, attempt, command=command, durability="sync")

    assert attempt.status is RunStatus.success, attempt.result.error
    assert attempt.values == {"notes": ["1", "2"]}
    assert sorted(inquiry.told) == ["1", "2", "2", "2"]
    assert [human["content"] for human in attempt.humans] == ["2"]


async def test_an_attempt_whose_answers_are_all_used_up_asks_what_is_open_beside_them(stage: Any, saver: Any) -> None:
    inquiry = Inquiry(saver)
    ids = await inquiry.asked(stage)
    command = {"resume": {ids["one?"]: "1"}}
    lost = await stage.play(inquiry.graph, thread_id="t", command=command)

    outcome = await retried(stage, inquiry.graph, lost, command=command)

    assert [asked["value"] for asked in outcome.interrupts] == ["two?"]
    assert (outcome.humans, inquiry.told) == ([], ["1"])


async def test_an_attempt_with_an_answer_to_what_nobody_has_asked_is_refused_as_the_one_before(stage: Any) -> None:
    inquiry = Inquiry(InMemorySaver())
    await inquiry.asked(stage)
    command = {"resume": {"0" * 32: "1"}}
    refused = await stage.play(inquiry.graph, thread_id="t", command=command)
    outcome = await retried(stage, inquiry.graph, refused, command=command)
    assert (refused.status, outcome.status) == (RunStatus.error, RunStatus.error)
    assert inquiry.told == []


async def test_an_answer_is_not_given_to_a_question_that_came_after_it(stage: Any, saver: Any) -> None:
    async def first(state: State) -> State:
        return {"notes": [interrupt("may I look?")]}

    async def then(state: State) -> State:
        return {"notes": [interrupt("may I delete it?")]}

    builder = StateGraph(State).add_sequence([("first", first), ("then", then)])
    graph = builder.add_edge(START, "first").compile(checkpointer=saver)
    await stage.play(graph, {"notes": []}, thread_id="t")
    lost = await stage.play(graph, thread_id="t", command={"resume": "yes"})
    outcome = await retried(stage, graph, lost, command={"resume": "yes"})
    assert outcome.status is RunStatus.interrupted
    assert [asked["value"] for asked in outcome.interrupts] == ["may I delete it?"]


async def test_tasks_beside_the_one_that_failed_are_not_executed_again(stage: Any, saver: Any) -> None:
    executed: list[str] = []
    fails = [ConnectionError("gone")]
    others_done = asyncio.Event()

    async def worker(state: dict[str, Any]) -> State:
        executed.append(state["topic"])
        if state["topic"] == "bad" and fails:
            await others_done.wait()
            raise fails.pop()
        others_done.set()
        return {"notes": [state["topic"]]}

    topics = [Send("worker", {"topic": topic}) for topic in ("good", "bad")]
    builder = StateGraph(State).add_node("worker", worker).add_conditional_edges(START, lambda _: topics, ["worker"])
    graph = builder.compile(checkpointer=saver)
    lost = await stage.play(graph, {"notes": []}, thread_id="t", durability="sync")
    outcome = await retried(stage, graph, lost, {"notes": []})
    assert outcome.values == {"notes": ["good", "bad"]}
    assert executed == ["good", "bad", "bad"]


async def test_tasks_of_the_functional_api_that_have_finished_are_not_executed_again(stage: Any, saver: Any) -> None:
    executed: list[str] = []
    fails = [ConnectionError("gone")]

    @task
    async def look(text: str) -> str:
        executed.append(text)
        if text == "there" and fails:
            raise fails.pop()
        return f"looked {text}"

    @entrypoint(checkpointer=saver)
    async def flow(given: list[Any], *, previous: list[Any] | None = None) -> list[Any]:
        seen = [await look("here"), await look("there")]
        return [*(previous or ()), *given, *(AIMessage(text, id=text) for text in seen)]

    lost = await stage.play(flow, [HumanMessage("look", id="h")], thread_id="t")
    outcome = await retried(stage, flow, lost, [HumanMessage("look", id="h")])
    assert outcome.status is RunStatus.success
    assert executed == ["here", "there", "there"]
    assert outcome.usage["message_count"] == 2, "the human message is the lost run's"


KILLED = """
import asyncio, operator, os, sys
from typing import Annotated, TypedDict
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from trackside import RunManager, RunSpec

class State(TypedDict, total=False):
    notes: Annotated[list, operator.add]

async def first(state):
    return {"notes": [f"first in {os.environ['TURN']}"]}

async def second(state):
    asked = interrupt("how many?")
    if os.environ["TURN"] == "killed":
        os._exit(9)
    return {"notes": [f"{asked} in {os.environ['TURN']}"]}

async def main(spec):
    async with AsyncSqliteSaver.from_conn_string("threads.db") as saver:
        builder = StateGraph(State).add_sequence([("first", first), ("second", second)])
        graph = builder.add_edge(START, "first").compile(checkpointer=saver)
        async with RunManager({"graph": graph}) as manager:
            handle = await manager.start(RunSpec("graph", thread_id="t", **spec))
            print((await handle.result()).status)
        print((await graph.aget_state({"configurable": {"thread_id": "t"}})).values["notes"])

asyncio.run(main(eval(sys.argv[1])))
"""


def test_an_attempt_goes_on_where_a_process_was_killed(tmp_path: Path) -> None:
    def played(turn: str, **spec: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, repr(spec)]
        return subprocess.run(
            command, cwd=tmp_path, env={"TURN": turn}, capture_output=True, text=True, check=False, timeout=60
        )

    answer = {"command": {"resume": 3}}
    assert played("start", input={"notes": []}).stdout.splitlines()[0] == "interrupted"
    assert played("killed", run_id="lost", **answer).returncode == 9
    retried = played("retry", attempt=2, retry_of="lost", **answer)
    assert retried.stdout.splitlines() == ["success", "['first in start', '3 in retry']"], retried.stderr


async def from_before_second(graph: Any) -> dict[str, Any]:
    """The config of a run that begins at the oldest checkpoint before `second`."""
    states = [state async for state in graph.aget_state_history({"configurable": {"thread_id": "t"}})]
    before = [state for state in states if state.next == ("second",)][-1]
    return {"configurable": {"checkpoint_id": before.config["configurable"]["checkpoint_id"]}}


async def test_an_attempt_at_a_run_from_a_checkpoint_goes_on_from_what_that_has_left(stage: Any, saver: Any) -> None:
    graph = (steps := Steps(fails=0)).graph(saver)
    await stage.play(graph, {"notes": ["one"]}, thread_id="t")
    config = await from_before_second(graph)
    await stage.play(graph, {"notes": ["two"]}, thread_id="t")
    steps.fails, steps.executed = 1, []

    lost = await stage.play(graph, {"notes": ["other"]}, thread_id="t", config=config)
    outcome = await retried(stage, graph, lost, {"notes": ["other"]}, config=config)

    assert outcome.status is RunStatus.success
    assert steps.executed == ["first", "second", "second"]
    assert outcome.values["notes"].count("two") == 0
    assert outcome.values["notes"][-3:] == ["other", "first", "second"]


async def test_an_attempt_at_a_run_from_a_checkpoint_begins_there_again_if_that_has_left_nothing(
    stage: Any, saver: Any
) -> None:
    graph = (steps := Steps(fails=0)).graph(saver)
    await stage.play(graph, {"notes": ["one"]}, thread_id="t")
    config = await from_before_second(graph)
    await stage.play(graph, {"notes": ["two"]}, thread_id="t")
    steps.executed = []

    outcome = await stage.play(graph, None, thread_id="t", config=config, attempt=2, retry_of="lost before it began")

    assert steps.executed == ["second"]
    assert outcome.values == {"notes": ["one", "first", "second"]}


class Cleaning:
    """Asks, and fails behind that once: behind its second question, or inside another graph in the node after that."""

    def __init__(self, saver: Any, *, is_inside: bool) -> None:
        self.told: list[Any] = []
        self.fails = 1
        builder = StateGraph(State)
        if is_inside:
            inner = StateGraph(State).add_sequence([("ask", self.ask), ("delete", self.delete)]).add_edge(START, "ask")
            builder.add_node("clean", inner.compile())
        else:
            builder.add_node("clean", self.clean)
        self.graph = builder.add_edge(START, "clean").compile(checkpointer=saver)

    async def ask(self, state: State) -> State:
        return {"notes": [interrupt("sure?")]}

    async def delete(self, state: State) -> State:
        if self.fails:
            self.fails -= 1
            raise ConnectionError("gone")
        self.told += state["notes"]
        return {}

    async def clean(self, state: State) -> State:
        asked: State = {"notes": [interrupt("which?"), interrupt("sure?")]}
        await self.delete(asked)
        return asked


@pytest.mark.parametrize("is_inside", [False, True])
async def test_an_answer_that_was_refused_as_another_was_given_is_refused_again(
    stage: Any, saver: Any, is_inside: bool
) -> None:
    cleaning = Cleaning(saver, is_inside=is_inside)
    given = paused = await stage.play(cleaning.graph, {"notes": []}, thread_id="t")
    while given.interrupts:
        given = await stage.play(cleaning.graph, thread_id="t", command={"resume": "yes"})
    late = {"resume": {paused.interrupts[0]["id"]: "no"}}

    attempts = [await stage.play(cleaning.graph, thread_id="t", command=late)]
    attempts += [await retried(stage, cleaning.graph, attempts[0], command=late)]

    assert [attempt.end["error_type"] for attempt in attempts] == ["UnknownQuestionError"] * 2
    assert cleaning.told == []


async def test_a_refused_go_on_past_a_stop_is_refused_again_once_the_graph_has_asked(stage: Any, saver: Any) -> None:
    told, fails = list[Any](), [ConnectionError("gone")]

    async def pay(state: State) -> State:
        answer = interrupt("how much?")
        if fails:
            raise fails.pop()
        told.append(answer)
        return {}

    builder = StateGraph(State).add_node("pay", pay).add_edge(START, "pay")
    graph = builder.compile(checkpointer=saver, interrupt_before=["pay"])
    (stop,) = (await stage.play(graph, {"notes": []}, thread_id="t")).interrupts
    go_on = {"resume": {stop["id"]: True}}
    for answer in (go_on, {"resume": 3}):
        await stage.play(graph, thread_id="t", command=answer)

    attempts = [await stage.play(graph, thread_id="t", command=go_on)]
    attempts += [await retried(stage, graph, attempts[0], command=go_on)]

    assert [attempt.end["error_type"] for attempt in attempts] == ["UnknownQuestionError"] * 2
    assert told == []
