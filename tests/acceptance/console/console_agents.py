"""Agents of all tempers, for a console to show."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt

from trackside import RunContext


async def talks(input: Any, run: RunContext) -> Any:
    """Says something word by word, with the usage of a model."""
    run.set_title("A fox, at length")
    for word in ["The", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog"]:
        run.send({"word": word})
        await asyncio.sleep(0.02)
    run.record_usage("gpt-5-mini", input_tokens=1_200, output_tokens=90, cache_read_tokens=800)
    return {"messages": [{"type": "ai", "content": "The quick brown fox jumps over the lazy dog."}]}


async def fails(input: Any, run: RunContext) -> Any:
    """Fails as agents do: some way in, for a reason of its tool's."""
    run.record_tool_call("read_file")
    raise FileNotFoundError("there is no file prices.csv")


async def asks(input: Any, run: RunContext) -> Any:
    """Wants to know something of a human."""
    if run.resume is None:
        run.interrupt({"question": "May I send the mail?", "to": "ada@example.org"})
    return {"sent": run.resume}


async def says_odd_things(input: Any, run: RunContext) -> Any:
    """Streams messages, and gives one back, that no framework would make."""
    look = {"id": "c1", "name": "look"}
    for said in (
        None,
        [None, {}],
        {"type": "ai", "content": "alone"},
        [{"id": "m1", "type": "ai", "content": [None, "in ", {"text": "parts"}], "tool_calls": [None, look]}, {}],
        [{"id": "m2", "type": "ai", "content": "with one call", "tool_calls": look}, {}],
    ):
        run.send(said, mode="messages-tuple")
    run.send(None, mode="updates")
    return {"messages": [{"type": "ai", "content": [None, "kept"]}]}


async def asks_when_told(input: Any, run: RunContext) -> Any:
    """Asks once a file is there."""
    while run.resume is None and not Path("ask").exists():
        await asyncio.sleep(0.02)
    return await asks(input, run)


async def waits(input: Any, run: RunContext) -> Any:
    """Goes on until it is cancelled."""
    while True:
        run.send({"still": "here"})
        await asyncio.sleep(0.2)


async def patient(input: Any, run: RunContext) -> Any:
    """Counts until a file is there, and in its first attempt for ever."""
    for number in itertools.count():
        if run.attempt > 1 and Path("go").exists():
            return {"came with attempt": run.attempt}
        run.send({"attempt": run.attempt, "number": number})
        await asyncio.sleep(0.02)


async def works(input: Any, run: RunContext) -> Any:
    """Calls two models and two tools, one after the other."""
    for step in range(2):
        run.record_tool_call(f"search_{step}")
        await asyncio.sleep(0.03)
        run.record_usage("gpt-5", input_tokens=500, output_tokens=100, caller="researcher")
    run.record_usage("gpt-5-mini", input_tokens=50, output_tokens=10)
    return {"found": ["a", "b"]}


async def costs(input: Any, run: RunContext) -> Any:
    """Costs as many dollars as it is told."""
    run.record_usage("gpt-5", input_tokens=1, output_tokens=1, cost_usd=input)
    return {"spent": input}


class State(TypedDict, total=False):
    """What the graph keeps."""

    messages: Annotated[list[Any], add_messages]
    approved: bool


def plan(state: State) -> State:
    """Say what will be done."""
    return {"messages": [AIMessage("I will look it up, if I may.")]}


def approve(state: State) -> State:
    """Ask whether it may be done."""
    return {"approved": bool(interrupt({"question": "Shall I go on?"}))}


def answer(state: State) -> State:
    """Do it."""
    return {"messages": [AIMessage("It is done." if state.get("approved") else "Then I will not.")]}


builder = StateGraph(State)
for node in (plan, approve, answer):
    builder.add_node(node.__name__, node)
builder.add_edge(START, "plan")
builder.add_edge("plan", "approve")
builder.add_edge("approve", "answer")
builder.add_edge("answer", END)
graph = builder.compile()
