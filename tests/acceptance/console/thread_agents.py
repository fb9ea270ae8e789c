"""Agents whose threads and graphs are worth a look: a model that streams and calls tools, two questions at once, much
data, and what nobody should believe.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt

from trackside import RunContext

SCRIPT = "<script>window.hurt = 1</script><img src=x onerror='window.hurt = 1'>\u202e\u200babc"
LARGE = 5_000_000


class Chat(TypedDict, total=False):
    """What a conversation keeps."""

    messages: Annotated[list[Any], add_messages]
    looked_up: bool


def look_up(state: Chat) -> Literal["model", "tools"]:
    """Whether something has to be looked up first."""
    return "model" if state.get("looked_up") else "tools"


def tools(state: Chat) -> Chat:
    """Look the weather up."""
    call = {"id": "c1", "name": "weather", "args": {"place": "Oslo"}}
    asked = AIMessage("", tool_calls=[call])
    return {"messages": [asked, ToolMessage("rain, 7 °C", tool_call_id="c1", name="weather")], "looked_up": True}


async def model(state: Chat) -> Chat:
    """Say it, letter by letter."""
    said = FakeListChatModel(responses=["It rains in Oslo."], sleep=0.01)
    return {"messages": [await said.ainvoke(state["messages"])]}


async def babble(state: Chat) -> Chat:
    """Talk for a long time."""
    said = FakeListChatModel(responses=["and so on " * 5_000], sleep=0.02)
    return {"messages": [await said.ainvoke(state["messages"])]}


def _chat() -> Any:
    builder = StateGraph(Chat)
    builder.add_node("model", model)
    builder.add_node("tools", tools)
    builder.add_conditional_edges(START, look_up)
    builder.add_edge("tools", "model")
    builder.add_edge("model", END)
    return builder.compile()


def _babbles() -> Any:
    builder = StateGraph(Chat)
    builder.add_node("babble", babble)
    builder.add_edge(START, "babble")
    builder.add_edge("babble", END)
    return builder.compile()


class Form(TypedDict, total=False):
    """What two people are asked at once."""

    name: str
    age: Any


def ask_name(state: Form) -> Form:
    """Ask one."""
    return {"name": interrupt("What is your name?")}


def ask_age(state: Form) -> Form:
    """Ask the other."""
    return {"age": interrupt({"question": "How old are you?"})}


def _form() -> Any:
    builder = StateGraph(Form)
    for node in (ask_name, ask_age):
        builder.add_node(node.__name__, node)
        builder.add_edge(START, node.__name__)
        builder.add_edge(node.__name__, END)
    return builder.compile()


chat, babbles, form = _chat(), _babbles(), _form()


class Much(TypedDict, total=False):
    """Five megabytes, and many rows."""

    text: str
    rows: list[dict[str, int]]


def fill(state: Much) -> Much:
    """Remember much."""
    return {"text": "x" * LARGE, "rows": [{"number": number} for number in range(20_000)]}


def change(state: Much) -> Much:
    """Change what comes late in it."""
    return {"text": "x" * (LARGE - 1) + "!", "rows": [{"number": -row["number"]} for row in state["rows"]]}


def _much() -> Any:
    builder = StateGraph(Much)
    builder.add_sequence([fill, change])
    builder.add_edge(START, "fill")
    return builder.compile()


huge = _much()


async def decides(input: Any, run: RunContext) -> Any:
    """Wants two actions to be approved, as LangChain's agents ask for it, and does them when a file is there."""
    if run.resume is None:
        requests = [{"name": "send_mail", "args": {"to": "ada"}}, {"name": "delete_file", "args": {}}]
        allowed = input.get("allowed") if isinstance(input, dict) else None
        configs = [{"action_name": one["name"], "allowed_decisions": allowed} for one in requests if allowed]
        run.interrupt({"action_requests": requests[:1] if allowed else requests, "review_configs": configs})
    while isinstance(input, dict) and "until" in input and not Path(input["until"]).exists():
        await asyncio.sleep(0.02)
    return {"decided": run.resume}


async def counts(input: Any, run: RunContext) -> Any:
    """Takes JSON, and says how far it is."""
    for number in range(3):
        run.send({"number": number})
        await asyncio.sleep(0.01)
    return {"counted": 3, "of": input}


async def hostile(input: Any, run: RunContext) -> Any:
    """Says what a page should show, and not do."""
    run.set_title(SCRIPT)
    run.send({SCRIPT: SCRIPT})
    if isinstance(input, dict) and input.get("fail"):
        raise RuntimeError(SCRIPT)
    if run.resume is None:
        run.interrupt({"question": SCRIPT, SCRIPT: SCRIPT})
    call = {"id": SCRIPT, "name": SCRIPT, "args": {SCRIPT: SCRIPT}}
    return {
        "messages": [
            {"type": "human", "content": SCRIPT, "name": SCRIPT},
            {"type": "ai", "content": SCRIPT, "tool_calls": [call]},
            {"type": "tool", "content": SCRIPT, "tool_call_id": SCRIPT},
            {"type": SCRIPT, "content": [{"type": SCRIPT}, {"type": "text", "text": SCRIPT}]},
        ],
        SCRIPT: {SCRIPT: SCRIPT},
    }
