"""Agents that put, wherever they may say something, text that would do harm to a page that did not escape it."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, ToolMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt

from trackside import RunContext

ATTACKS = (
    "<script>window.wasHit=1</script>",
    "<img class=planted src=x onerror=window.wasHit=1>",
    '"><svg class=planted onload=window.wasHit=1>',
    "'><b class=planted>'",
    '" autofocus onfocus="window.wasHit=1" class="planted',
    "</textarea></title></pre></script><script>window.wasHit=1</script>",
    "<!-- ",
    "javascript:window.wasHit=1",
    "{{ 7919 * 7907 }} {% raw %} ${7919*7907} #{7919*7907}",
    "[a](javascript:window.wasHit=1) ![b](http://evil.example/x.png) http://evil.example/y",
    "<div class=planted data-hx-get=/ui data-hx-trigger=load hx-on:load=window.wasHit=1>",
    "&lt;b class=planted&gt; &amp;amp;",
    "\u202egnirts\u202c \u2066x\u2069 \u200bzero\u200dwidth\ufeff",
    "line\r\nline\ttab \x1b[31mred\x07",
)


def hostile(field: str, most: int = 100_000) -> str:
    """A text for a field; each names its field, so that tests can look for it on pages."""
    return f"[{field}] {' '.join(ATTACKS)}"[:most]


def short(field: str, attack: int = 1) -> str:
    """A text for a field that takes little."""
    return f"[{field}]{ATTACKS[attack]}"


HostileError = type("Hostile<b class=planted>Error", (Exception,), {})


async def says(input: Any, run: RunContext) -> Any:
    """Says it in titles, messages, names and results. <b class=planted>"""
    run.set_title(hostile("title"))
    run.send({hostile("sent"): hostile("sent")})
    messages = [
        {"type": "human", "id": short("message id"), "content": hostile("human")},
        {
            "type": "ai",
            "content": [{"type": "text", "text": hostile("ai")}, {"type": short("part type"), "url": "javascript:1"}],
            "name": short("ai name"),
            "tool_calls": [{"name": short("tool"), "id": short("call id"), "args": {hostile("arg"): hostile("arg")}}],
        },
        {"type": "tool", "name": short("tool"), "tool_call_id": short("call id"), "content": hostile("tool result")},
    ]
    for message in messages:
        run.message(message)
    run.record_usage(short("model"), input_tokens=10, output_tokens=1, caller=short("caller"))
    run.record_tool_call(short("called tool"), caller=short("caller"))
    return {"messages": messages, hostile("result key"): hostile("result")}


async def fails(input: Any, run: RunContext) -> Any:
    """Fails with it."""
    raise HostileError(hostile("error"))


async def asks(input: Any, run: RunContext) -> Any:
    """Asks it."""
    if run.resume is None:
        run.interrupt({"question": hostile("question"), "options": [short("option")], hostile("key"): hostile("value")})
    return {"answered": run.resume}


class State(TypedDict, total=False):
    """What the graph keeps."""

    messages: Annotated[list[Any], add_messages]
    notes: dict[str, Any]


def plan(state: State) -> Any:
    """Say it in messages of a model."""
    call = {"name": short("graph tool"), "args": {"a": hostile("graph arg")}, "id": "c1"}
    result = ToolMessage(hostile("graph result"), tool_call_id="c1", name=short("graph tool"))
    notes = {hostile("state key"): hostile("state value")}
    return {"messages": [AIMessage(hostile("graph ai"), tool_calls=[call]), result], "notes": notes}


def approve(state: State) -> Any:
    """Ask it."""
    action = {
        "name": short("action"),
        "args": {"a": hostile("action arg")},
        "description": hostile("action description"),
    }
    review = {"action_name": short("action"), "allowed_decisions": ["approve", "edit", "reject", short("decision")]}
    interrupt({"action_requests": [action], "review_configs": [review]})
    return {}


NODE = "plan<img class=planted src=x onerror=window.wasHit=1>"
builder = StateGraph(State)
builder.add_node(NODE, plan)
builder.add_node("approve", approve)
builder.add_edge(START, NODE)
builder.add_edge(NODE, "approve")
builder.add_edge("approve", END)
graph = builder.compile()
