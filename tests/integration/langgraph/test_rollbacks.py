"""Runs that are rolled back: the thread is as it was before, with its questions."""

import asyncio
import operator
import secrets
from typing import Annotated, Any, TypedDict

import numpy as np
import pytest
from langchain_core.messages import AIMessage, AnyMessage
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.base import CipherProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import _messages_delta_reducer
from langgraph.types import interrupt
from tests.integration.langgraph.waiting_graphs import State, cancelled, graph_of, in_parallel, step, wait

from trackside import RunStatus, current_run


class Masked(CipherProtocol):
    """Encrypts as ciphers do: never twice to the same bytes."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        mask = secrets.randbelow(255) + 1
        return "mask", bytes([mask, *(byte ^ mask for byte in plaintext)])

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        return bytes(byte ^ ciphertext[0] for byte in ciphertext[1:])


async def state_of(graph: Any, thread_id: str = "t") -> Any:
    """The thread's state, without the ids of its checkpoint and tasks."""
    state = await graph.aget_state({"configurable": {"thread_id": thread_id}})
    tasks = [(task.name, task.path, task.result, [asked.value for asked in task.interrupts]) for task in state.tasks]
    return state.values, state.next, tasks, [asked.value for asked in state.interrupts]


async def test_a_rollback_puts_the_thread_back_to_the_checkpoint_before(stage: Any, saver: Any) -> None:
    wants_to_wait = []

    async def maybe_wait(state: State) -> State:
        return await wait(state) if wants_to_wait else {"notes": ["done"]}

    graph = graph_of(step, maybe_wait, checkpointer=saver)
    await stage.play(graph, {"notes": ["first"]}, thread_id="t")
    before = await state_of(graph)
    checkpoint = (await graph.aget_state({"configurable": {"thread_id": "t"}})).config["configurable"]["checkpoint_id"]

    wants_to_wait.append(True)
    outcome = await cancelled(
        stage, graph, {"notes": ["second"]}, action="rollback", thread_id="t", stream_mode="custom"
    )
    assert outcome.status is RunStatus.cancelled
    assert outcome.end["pre_run_checkpoint_id"] == checkpoint
    assert await state_of(graph) == before == ({"notes": ["first", "step", "done"]}, (), [], [])

    wants_to_wait.clear()
    await stage.play(graph, {"notes": ["third"]}, thread_id="t")
    assert (await state_of(graph))[0] == {"notes": ["first", "step", "done", "third", "step", "done"]}


@pytest.mark.parametrize("knew_before", [True, False])
async def test_a_rollback_makes_graphs_inside_forget_the_run(stage: Any, saver: Any, knew_before: bool) -> None:
    class Memory(TypedDict, total=False):
        notes: list[Any]
        memory: Annotated[list[Any], operator.add]

    async def remember(state: Memory) -> Memory:
        return {"memory": state["notes"][-1:]}

    async def tell(state: Memory) -> Memory:
        return {"notes": [state["memory"]]}

    inner = StateGraph(Memory).add_sequence([remember, tell]).add_edge(START, "remember").compile(checkpointer=True)

    async def maybe_wait(state: State) -> State:
        return await wait(state) if "secret" in state["notes"] else {}

    async def is_for_inner(state: State) -> str:
        return "maybe_wait" if state["notes"][-1] == "skip" else "inner"

    builder = StateGraph(State).add_node("inner", inner).add_node("maybe_wait", maybe_wait)
    builder.add_conditional_edges(START, is_for_inner, ["inner", "maybe_wait"]).add_edge("inner", "maybe_wait")
    graph = builder.compile(checkpointer=saver)
    await stage.play(graph, {"notes": ["first" if knew_before else "skip"]}, thread_id="t")
    for _ in range(2):
        await cancelled(stage, graph, {"notes": ["secret"]}, action="rollback", thread_id="t", stream_mode="custom")
    outcome = await stage.play(graph, {"notes": ["third"]}, thread_id="t")
    assert outcome.status is RunStatus.success
    assert outcome.values["notes"][-1] == (["first", "third"] if knew_before else ["third"])


async def test_two_rollbacks_in_a_row_come_to_the_same_state(stage: Any, saver: Any) -> None:
    graph = graph_of(step, checkpointer=saver)
    await stage.play(graph, {"notes": ["first"]}, thread_id="t")
    before = await state_of(graph)
    waits = graph_of(step, wait, checkpointer=saver)
    for _ in range(2):
        await cancelled(stage, waits, {"notes": ["more"]}, action="rollback", thread_id="t", stream_mode="custom")
        assert await state_of(graph) == before


async def test_a_rollback_of_a_threads_first_run_leaves_no_thread(stage: Any, saver: Any) -> None:
    graph = graph_of(step, wait, checkpointer=saver)
    outcome = await cancelled(stage, graph, {"notes": []}, action="rollback", thread_id="t", stream_mode="custom")
    assert "pre_run_checkpoint_id" not in outcome.end
    assert [checkpoint async for checkpoint in saver.alist({"configurable": {"thread_id": "t"}})] == []


async def test_a_rollback_without_a_checkpointer_has_nothing_to_do(stage: Any) -> None:
    outcome = await cancelled(stage, graph_of(wait), {"notes": []}, action="rollback", stream_mode="custom")
    assert outcome.status is RunStatus.cancelled


def question_beside_work(saver: Any, done: list[str]) -> Any:
    """A step in which one node asks twice and another works; then a node that waits."""

    async def ask(state: State) -> State:
        return {"notes": [interrupt("first?"), interrupt("second?")]}

    async def work(state: State) -> State:
        done.append("worked")
        return {"notes": ["worked"]}

    builder = StateGraph(State).add_node("ask", ask).add_node("work", work).add_node("wait", wait)
    builder.add_edge(START, "ask").add_edge(START, "work").add_edge(["ask", "work"], "wait")
    return builder.compile(checkpointer=saver)


async def test_a_rollback_of_a_resumed_run_asks_again_and_keeps_the_work_beside_it(stage: Any, saver: Any) -> None:
    done: list[str] = []
    graph = question_beside_work(saver, done)
    await stage.play(graph, {"notes": []}, thread_id="t")
    await stage.play(graph, thread_id="t", command={"resume": "one"})
    before = await state_of(graph)
    assert before[3] == ["second?"]

    answered = {"command": {"resume": "two"}, "thread_id": "t", "stream_mode": "custom"}
    await cancelled(stage, graph, action="rollback", **answered)
    assert await state_of(graph) == before

    again = await cancelled(stage, graph, **answered)
    assert again.status is RunStatus.cancelled
    assert (await state_of(graph))[0] == {"notes": ["one", "two", "worked"]}
    assert done == ["worked"]


async def test_a_rollback_of_a_run_that_stopped_within_the_resumed_step_takes_its_answer_back(
    stage: Any, saver: Any
) -> None:
    async def ask(state: State) -> State:
        answer = interrupt("?")
        await wait(state)
        return {"notes": [answer]}

    graph = graph_of(ask, checkpointer=saver)
    await stage.play(graph, {"notes": []}, thread_id="t")
    before = await state_of(graph)
    answered = {"command": {"resume": "hasty"}, "thread_id": "t", "stream_mode": "custom"}
    await cancelled(stage, graph, action="rollback", **answered)
    assert await state_of(graph) == before
    saved = await saver.aget_tuple({"configurable": {"thread_id": "t"}})
    assert "hasty" not in str(saved.pending_writes)


@pytest.mark.parametrize("is_answered", [True, False])
async def test_a_rollback_takes_back_a_run_beside_values_that_cannot_be_compared(
    stage: Any, saver: Any, is_answered: bool
) -> None:
    saver.serde = EncryptedSerializer(Masked(), saver.serde)

    async def ask(state: State) -> State:
        answer = interrupt("?")
        if answer in {"hasty", "kept"}:
            await wait(state)
        return {"notes": [answer]}

    async def embed(state: State) -> State:
        return {"notes": [np.array([1.0, 2.0])]}

    graph = in_parallel(ask, embed, checkpointer=saver)
    asked = await stage.play(graph, {"notes": []}, thread_id="t")
    kept: dict[str, Any] = {"thread_id": "t", "stream_mode": "custom"}
    if not is_answered:
        await cancelled(stage, graph, command={"resume": "kept"}, **kept)
    before = await graph.aget_state({"configurable": {"thread_id": "t"}})
    if is_answered:
        kept["command"] = {"resume": "hasty"}
    undone = await cancelled(stage, graph, action="rollback", **kept)
    assert (undone.status, undone.result.error) == (RunStatus.cancelled, None)
    after = await graph.aget_state({"configurable": {"thread_id": "t"}})
    assert (after.config == before.config) is not is_answered  # a run that changed nothing leaves the thread as it is
    assert after.next == before.next == ("ask",)

    outcome = await stage.play(graph, thread_id="t", command={"resume": {asked.interrupts[0]["id"]: "slow"}})
    assert (outcome.status, outcome.values["notes"][0]) == (RunStatus.success, "slow")
    assert outcome.values["notes"][1:] == [[1.0, 2.0]]


async def test_a_rollback_of_an_answer_leaves_the_question_of_a_graph_inside(stage: Any, saver: Any) -> None:
    did, is_waiting = [], asyncio.Event()

    async def book(state: State) -> State:
        did.append("booked")
        return {}

    async def ask(state: State) -> State:
        if (answer := interrupt("?")) == "hasty":
            is_waiting.set()
            await asyncio.Event().wait()
        return {"notes": [answer]}

    inner = StateGraph(State).add_sequence([book, ask]).add_edge(START, "book").compile()
    graph = StateGraph(State).add_node("inner", inner).add_edge(START, "inner").compile(checkpointer=saver)
    await stage.play(graph, {"notes": []}, thread_id="t")
    [question] = (await graph.aget_state({"configurable": {"thread_id": "t"}})).interrupts
    handle = await stage.start(graph, thread_id="t", command={"resume": {question.id: "hasty"}})
    await is_waiting.wait()
    await handle.cancel(action="rollback")
    assert (await stage.outcome(handle)).status is RunStatus.cancelled

    resumed = await stage.play(graph, thread_id="t", command={"resume": {question.id: "two"}})
    assert resumed.status is RunStatus.success, resumed.result.error
    assert did == ["booked"]


async def test_a_rollback_of_a_run_that_passed_over_a_question_asks_it_again(stage: Any, saver: Any) -> None:
    async def ask(state: State) -> State:
        if "wait" in state["notes"]:
            return await wait(state)
        return {"notes": [interrupt("?")]}

    graph = graph_of(ask, checkpointer=saver)
    await stage.play(graph, {"notes": ["one"]}, thread_id="t")
    before = await state_of(graph)
    await cancelled(stage, graph, {"notes": ["wait"]}, action="rollback", thread_id="t", stream_mode="custom")
    assert await state_of(graph) == before
    resumed = await stage.play(graph, thread_id="t", command={"resume": "two"})
    assert resumed.values == {"notes": ["one", "two"]}


@pytest.mark.parametrize("rollbacks", [1, 2])
async def test_questions_are_answered_by_the_ids_that_they_were_announced_with_also_after_rollbacks(
    stage: Any, saver: Any, rollbacks: int
) -> None:
    def asking(question: str) -> Any:
        async def ask(state: State) -> State:
            answer = interrupt(question)
            return await wait(state) if answer == "wait" else {"notes": [f"{question} {answer}"]}

        return ask

    builder = StateGraph(State).add_node("one", asking("one?")).add_node("two", asking("two?"))
    graph = builder.add_edge(START, "one").add_edge(START, "two").compile(checkpointer=saver)
    asked = await stage.play(graph, {"notes": []}, thread_id="t")
    hasty = {"resume": {question["id"]: "wait" for question in asked.interrupts}}
    for _ in range(rollbacks):
        undone = await cancelled(stage, graph, command=hasty, action="rollback", thread_id="t", stream_mode="custom")
        assert undone.events[-1].payload["status"] == "interrupted", "the thread waits for answers again"
    answers = {question["id"]: f"is {question['value']}" for question in asked.interrupts}
    done = await stage.play(graph, thread_id="t", command={"resume": answers})
    assert done.status is RunStatus.success, done.result.error
    assert sorted(done.values["notes"]) == ["one? is one?", "two? is two?"]


@pytest.mark.parametrize("goto", ["ask", {"node": "ask", "input": {}}], ids=["node", "node with an input"])
async def test_a_question_asked_where_a_command_has_gone_is_answered_after_a_rollback(
    stage: Any, saver: Any, goto: Any
) -> None:
    async def ask(state: State) -> State:
        answer = interrupt("?")
        return await wait(state) if answer == "hasty" else {"notes": [answer]}

    async def go_on(state: State) -> State:
        return {}

    builder = StateGraph(State).add_node(go_on).add_node(ask).add_edge(START, "go_on")
    graph = builder.compile(checkpointer=saver)
    await stage.play(graph, {"notes": ["one"]}, thread_id="t")
    asked = await stage.play(graph, thread_id="t", command={"goto": goto, "update": {"notes": ["asked"]}})
    (question,) = asked.interrupts
    hasty = {"command": {"resume": "hasty"}, "thread_id": "t", "stream_mode": "custom"}
    undone = await cancelled(stage, graph, action="rollback", **hasty)
    assert undone.events[-1].payload["status"] == "interrupted"
    done = await stage.play(graph, thread_id="t", command={"resume": {question["id"]: "two"}})
    assert done.status is RunStatus.success, done.result.error
    assert done.values == {"notes": ["one", "asked", "two"]}


async def test_a_rollback_takes_back_messages_that_are_kept_as_deltas(stage: Any, saver: Any) -> None:
    class Delta(TypedDict):
        messages: Annotated[list[AnyMessage], DeltaChannel(_messages_delta_reducer)]

    async def reply(state: Delta) -> dict[str, Any]:
        if "wait" in state["messages"][-1].text:
            await wait({})
        return {"messages": [AIMessage("reply")]}

    graph = StateGraph(Delta).add_node("reply", reply).add_edge(START, "reply").compile(checkpointer=saver)
    await stage.play(graph, "one", thread_id="t")
    await cancelled(stage, graph, "please wait", action="rollback", thread_id="t", stream_mode="custom")
    outcome = await stage.play(graph, "two", thread_id="t")
    assert [message["content"] for message in outcome.values["messages"]] == ["one", "reply", "two", "reply"]


async def test_a_rollback_counts_the_usage_all_the_same(stage: Any) -> None:
    async def spend(state: MessagesState) -> dict[str, Any]:
        run = current_run()
        assert run is not None
        run.record_usage("m", input_tokens=5, output_tokens=1)
        return {"messages": [AIMessage("spent")]}

    builder = StateGraph(MessagesState).add_node("spend", spend).add_node("wait", wait)
    graph = builder.add_edge(START, "spend").add_edge("spend", "wait").compile(checkpointer=InMemorySaver())
    outcome = await cancelled(stage, graph, "go", action="rollback", thread_id="t", stream_mode="custom")
    assert outcome.usage["total_tokens"] == 6
    assert outcome.usage["last_ai_message"] == "spent"
