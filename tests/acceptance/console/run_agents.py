"""Agents whose runs a page shows while they go on: they send something, and wait until the test has seen it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, TypedDict

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

from trackside import RunContext, current_run

MARKUP = '<img src=x onerror="document.title=\'run\'"><script>document.title="run"</script>'


async def until(name: str) -> None:
    """Wait for a file that the test makes."""
    while not Path(name).exists():
        await asyncio.sleep(0.02)


async def speaks(input: Any, run: RunContext) -> Any:
    """Streams words of two callers, and parts, and ends when it may."""
    for word in ["Once ", "upon ", MARKUP, " a time"]:
        run.send(
            [{"id": "m1", "type": "AIMessageChunk", "content": word}, {"langgraph_node": "teller"}],
            mode="messages-tuple",
        )
    run.send({"chapter": MARKUP})
    run.send(
        [{"id": "m2", "type": "AIMessageChunk", "content": "I doubt it."}, {"langgraph_node": "critic"}],
        mode="messages-tuple",
    )
    await until("go-on")
    run.send(
        [{"id": "m1", "type": "AIMessageChunk", "content": ", the end."}, {"langgraph_node": "teller"}],
        mode="messages-tuple",
    )
    await until("end")
    return {"messages": [{"type": "ai", "content": "Once upon a time, the end."}]}


async def tells_more(input: Any, run: RunContext) -> Any:
    """Streams more lines than a page shows at once, and twice as many again when it may."""
    for told in ("first", "second", "third"):
        for number in range(100):
            run.send({told: number})
        await until(told)


async def delegates(input: Any, run: RunContext) -> Any:
    """Has another agent speak, as adapters of frameworks tell of that."""
    piece = [{"id": "m1", "type": "AIMessageChunk", "content": "hello there"}, {"agent": "researcher"}]
    for mode in run.stream_modes:
        run.send(piece, mode, namespace=("researcher:1",))
    await asyncio.sleep(0)


async def talk(state: MessagesState) -> dict[str, Any]:
    """Say something word by word."""
    model = GenericFakeChatModel(messages=iter([AIMessage("hello there")]))
    return {"messages": [await model.ainvoke(state["messages"])]}


inside = StateGraph(MessagesState).add_node("talk", talk).add_edge(START, "talk").compile()
nested = StateGraph(MessagesState).add_node("inside", inside).add_edge(START, "inside").compile()


async def huge(input: Any, run: RunContext) -> Any:
    """Gives back 2 MB: as much more and its stream would keep nothing that was said before."""
    run.send({"parts": "y" * 100_000})
    return {"text": "x" * 2_000_000}


async def chooses(input: Any, run: RunContext) -> Any:
    """Asks with answers to choose from, then for a text."""
    if run.resume is None:
        run.interrupt({"question": f"Which colour? {MARKUP}", "options": ["red", MARKUP]})
    return {"chosen": run.resume}


async def wants_text(input: Any, run: RunContext) -> Any:
    """Asks for a text."""
    if run.resume is None:
        run.interrupt("What is your name")
    await asyncio.sleep(0)
    return {"name": run.resume}


class Two(TypedDict, total=False):
    """What the graph keeps."""

    left: Any
    right: Any


def left(state: Two) -> Two:
    """Ask the one thing."""
    return {"left": interrupt("Is the left one right?")}


def right(state: Two) -> Two:
    """Ask the other."""
    return {"right": interrupt({"question": "How many?"})}


builder = StateGraph(Two)
builder.add_node("left", left)
builder.add_node("right", right)
builder.add_edge(START, "left")
builder.add_edge(START, "right")
builder.add_edge("left", END)
builder.add_edge("right", END)
two = builder.compile()


class Count(TypedDict, total=False):
    """What the graph counts."""

    log: list[str]


def note(state: Count) -> Count:
    """Note that it ran, and on which run."""
    run = current_run()
    assert run is not None
    return {"log": [*state.get("log", []), f"ran {len(state.get('log', []))}"]}


counting = StateGraph(Count)
counting.add_node("note", note)
counting.add_edge(START, "note")
counting.add_edge("note", END)
counts = counting.compile()
