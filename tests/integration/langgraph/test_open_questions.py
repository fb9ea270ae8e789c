"""Threads whose runs were cancelled: they report that they wait for an answer if, and only if, the graph still asks."""

import asyncio
import operator
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from trackside import RunStatus


class State(TypedDict, total=False):
    notes: Annotated[list[str], operator.add]


class Desk:
    """A graph that asks, and waits for ever when it comes to an answer or an input that is `wait`."""

    def __init__(self) -> None:
        self.waits = asyncio.Event()
        builder = StateGraph(State).add_node("ask", self.ask).add_edge(START, "ask")
        self.graph = builder.compile(checkpointer=InMemorySaver())

    async def ask(self, state: State) -> State:
        if state["notes"][-1] == "wait":
            await self.wait()
        answer = interrupt("how many?")
        if answer == "wait":
            await self.wait()
        return {"notes": [answer]}

    async def wait(self) -> None:
        self.waits.set()
        await asyncio.Event().wait()

    async def cancelled(self, stage: Any, given: Any = None, **spec: Any) -> Any:
        handle = await stage.start(self.graph, given, thread_id="t", **spec)
        await self.waits.wait()
        await handle.cancel(action="interrupt")
        outcome = await stage.outcome(handle)
        assert outcome.status is RunStatus.cancelled
        return outcome.events[-1].payload["status"]


async def test_a_thread_waits_on_for_an_answer_whose_run_was_cancelled_while_it_used_one(stage: Any) -> None:
    desk = Desk()
    asked = await stage.play(desk.graph, {"notes": ["one"]}, thread_id="t")
    (question,) = asked.interrupts
    assert await desk.cancelled(stage, command={"resume": {question["id"]: "wait"}}) == "interrupted"


async def test_a_thread_is_idle_whose_question_was_overtaken_by_a_run_that_was_cancelled(stage: Any) -> None:
    desk = Desk()
    await stage.play(desk.graph, {"notes": ["one"]}, thread_id="t")
    assert await desk.cancelled(stage, {"notes": ["wait"]}) == "idle"


async def test_a_thread_waits_for_an_answer_to_what_a_cancelled_run_had_asked_already(stage: Any) -> None:
    desk = Desk()

    async def asks(state: State) -> State:
        return {"notes": [interrupt("?")]}

    async def waits(state: State) -> State:
        await desk.wait()
        return {}

    builder = StateGraph(State).add_node(asks).add_node(waits).add_edge(START, "asks").add_edge(START, "waits")
    desk.graph = builder.compile(checkpointer=InMemorySaver())
    assert await desk.cancelled(stage, {"notes": []}) == "interrupted"


async def test_an_end_is_told_also_where_nobody_can_say_whether_the_graph_still_asks(stage: Any) -> None:
    class Lost(InMemorySaver):
        gone = False

        async def aget_tuple(self, config: Any) -> Any:
            if self.gone:
                raise ConnectionError("the database has gone")
            return await super().aget_tuple(config)

    desk = Desk()
    saver = Lost()
    desk.graph.checkpointer = saver
    handle = await stage.start(desk.graph, {"notes": ["wait"]}, thread_id="t")
    await desk.waits.wait()
    saver.gone = True
    await handle.cancel(action="interrupt")
    assert (await stage.outcome(handle)).events[-1].payload["status"] == "idle"
