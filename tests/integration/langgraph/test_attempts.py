"""Another attempt at a run goes on from the last checkpoint of the one before, if that left one and was not through."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Send
from tests.integration.langgraph.failing_steps import FullSaver, State, Steps, retried

from trackside import RunStatus


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
