"""The assistant at the desk: a model, its tools, and a librarian who is asked before a book leaves the house."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.runtime import get_runtime
from langgraph.types import interrupt

from lending.books import find
from lending.model import OfflineModel


@dataclass
class Visitor:
    """Who stands at the desk; clients say it as the run's context."""

    name: str = "a visitor"


def name_of(visitor: Visitor | None) -> str:
    """What to call somebody, even when the client has not said who it is."""
    return (visitor or Visitor()).name


@tool
async def look_up(title: str) -> str:
    """Say where a book is."""
    book = find(title)
    return f"{book.title} by {book.author} stands on shelf {book.shelf}." if book else f"There is no {title} here."


@tool
async def lend(title: str) -> str:
    """Lend a book to the visitor."""
    runtime = get_runtime(Visitor)
    visitor = name_of(runtime.context)
    answer = interrupt({"question": f"Lend {title} to {visitor}?", "title": title})
    if answer != "yes":
        return f"The librarian would rather not lend {title}."
    weeks = int(os.environ["LENDING_WEEKS"])
    assert runtime.store is not None  # the server has one
    await runtime.store.aput(("loans", visitor), title, {"weeks": weeks})
    return f"{title} is yours for {weeks} weeks, {visitor}."


tools = [look_up, lend]
model = OfflineModel().bind_tools(tools)


async def think(state: MessagesState) -> dict[str, list[BaseMessage]]:
    """Answer, or call a tool."""
    return {"messages": [await model.ainvoke(state["messages"])]}


builder: StateGraph[Any, Any, Any, Any] = StateGraph(MessagesState, context_schema=Visitor)
builder.add_node("think", think)
builder.add_node("tools", ToolNode(tools))
builder.add_edge(START, "think")
builder.add_conditional_edges("think", tools_condition)
builder.add_edge("tools", "think")
graph = builder.compile()
