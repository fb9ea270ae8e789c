"""Another attempt at a run that brought an answer: the answer is given again only where it was not used up."""

import asyncio
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from tests.integration.langgraph.failing_steps import FullSaver, State, Steps, retried

from trackside import RunStatus


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
    """Accepts nothing more once its process is gone."""

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
    """Two nodes that ask side by side, and then add what they were told; the second fails a number of times."""

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
        """The ids of its questions, by the questions."""
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


class Cleaning:
    """Asks, and fails once after the answers: in the node that asked twice, or in the next node of an inner graph."""

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
