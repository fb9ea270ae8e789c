"""A graph that leaves behind what LangGraph cannot show: two nodes that ran side by side have written to one key."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph


class Talk(MessagesState):
    topic: str


def clashing() -> Any:
    """A graph whose two nodes both write one key, in the same step, if they hear `clash`."""

    def left(state: Talk) -> dict[str, Any]:
        return {"topic": "left", "messages": [AIMessage(f"reply {len(state['messages'])}")]}

    def right(state: Talk) -> dict[str, Any]:
        return {"topic": "right"} if state["messages"][-1].content == "clash" else {}

    builder = StateGraph(Talk).add_node("left", left).add_node("right", right)
    return builder.add_edge(START, "left").add_edge(START, "right").compile()
