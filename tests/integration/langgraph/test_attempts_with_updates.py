"""What a command changes beside the answer that it brings is changed once, however often its run is tried."""

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from trackside import RunStatus

APPROVED: dict[str, Any] = {"notes": ["approved"]}
COMMANDS: dict[str, tuple[bool, dict[str, Any]]] = {
    "at a stop": (False, {"update": APPROVED}),
    "at a stop, as pairs": (False, {"update": [["notes", ["approved"]]]}),
    "past a stop": (False, {"resume": True, "update": APPROVED}),
    "to a node": (False, {"goto": [{"node": "note", "input": {"notes": ["approved"]}}]}),
    "with an answer": (True, {"resume": True, "update": APPROVED}),
}


class State(TypedDict, total=False):
    notes: Annotated[list[str], operator.add]


async def note(sent: State) -> State:
    return sent


class Paying:
    """A graph that stops before it pays, or asks; paying fails a number of times."""

    def __init__(self, saver: Any, *, asks: bool, fails: int = 0) -> None:
        self.asks, self.fails = asks, fails
        builder = StateGraph(State).add_node("plan", self.plan).add_node("pay", self.pay).add_node("note", note)
        builder.add_edge(START, "plan").add_edge("plan", "pay")
        self.graph = builder.compile(checkpointer=saver, interrupt_before=[] if asks else ["pay"])

    async def plan(self, state: State) -> State:
        return {"notes": ["planned"]}

    async def pay(self, state: State) -> State:
        if self.asks:
            interrupt("Pay?")
        if self.fails:
            self.fails -= 1
            raise ConnectionError("gone")
        return {"notes": ["paid"]}


@pytest.mark.parametrize(("asks", "command"), COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("durability", [None, "exit"])
async def test_attempts_make_no_update_again(
    stage: Any, saver: Any, asks: bool, command: dict[str, Any], durability: str | None
) -> None:
    graph = Paying(saver, asks=asks, fails=2).graph
    await stage.play(graph, {"notes": []}, thread_id="t")
    attempt = await stage.play(graph, thread_id="t", command=command, durability=durability)
    assert attempt.status is RunStatus.error
    for number in (2, 3):
        of = attempt.result.run_id
        attempt = await stage.play(
            graph, thread_id="t", command=command, durability=durability, attempt=number, retry_of=of
        )
    state = await graph.aget_state({"configurable": {"thread_id": "t"}})

    assert (attempt.status, state.next) == (RunStatus.success, ())
    assert sorted(state.values["notes"]) == ["approved", "paid", "planned"]


@pytest.mark.parametrize(("asks", "command"), COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("lost", [1, 2])
async def test_attempts_make_the_update_of_one_that_was_lost_before_its_graph_was_called(
    stage: Any, saver: Any, asks: bool, command: dict[str, Any], lost: int
) -> None:
    async def cancel_lost(event: Any) -> None:
        if event.event_type == "run_started" and event.payload.get("attempt", 1) == lost:
            await stage.manager.cancel(event.run_id)

    graph = Paying(saver, asks=asks, fails=lost - 1).graph
    stop = (await stage.play(graph, {"notes": []}, thread_id="t")).interrupts[0]["id"]
    if "resume" in command:
        command = command | {"resume": {stop: True}}
    stage.manager.observers.add(cancel_lost, required=True)
    attempts = [await stage.play(graph, thread_id="t", command=command)]
    for number in (2, 3):
        if attempts[-1].status is not RunStatus.success:
            of = attempts[-1].result.run_id
            attempts.append(await stage.play(graph, thread_id="t", command=command, attempt=number, retry_of=of))
    state = await graph.aget_state({"configurable": {"thread_id": "t"}})

    assert [attempt.status for attempt in attempts[-2:]] == [RunStatus.cancelled, RunStatus.success]
    assert sorted(state.values["notes"]) == ["approved", "paid", "planned"]


async def test_an_update_of_another_run_is_none_of_an_attempt(stage: Any, saver: Any) -> None:
    graph = Paying(saver, asks=False, fails=2).graph
    await stage.play(graph, {"notes": []}, thread_id="t")
    command = {"update": APPROVED}
    runs = [await stage.play(graph, thread_id="t", command=command) for _ in range(2)]
    done = await stage.play(graph, thread_id="t", command=command, attempt=2, retry_of=runs[1].result.run_id)

    assert done.values == {"notes": ["planned", "approved", "approved", "paid"]}


async def test_a_message_in_an_update_is_announced_once(stage: Any, saver: Any) -> None:
    fails = [ConnectionError("gone")]

    async def plan(state: MessagesState) -> dict[str, Any]:
        return {}

    async def answer(state: MessagesState) -> dict[str, Any]:
        if fails:
            raise fails.pop()
        return {"messages": [{"role": "assistant", "content": "well"}]}

    builder = StateGraph(MessagesState).add_sequence([("plan", plan), ("answer", answer)]).add_edge(START, "plan")
    graph = builder.compile(checkpointer=saver, interrupt_before=["answer"])
    await stage.play(graph, "hi", thread_id="t")
    command = {"update": {"messages": [{"role": "user", "content": "and quickly"}]}}
    failed = await stage.play(graph, thread_id="t", command=command)
    done = await stage.play(graph, thread_id="t", command=command, attempt=2, retry_of=failed.result.run_id)

    assert [message["content"] for message in done.values["messages"]] == ["hi", "and quickly", "well"]
    assert ([human["content"] for human in failed.humans], done.humans) == (["and quickly"], [])
