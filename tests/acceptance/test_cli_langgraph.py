"""The command line on a LangGraph graph that has no checkpointer of its own: the database remembers its threads."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Trackside = Callable[..., "subprocess.CompletedProcess[str]"]
OpenTerminal = Callable[..., Any]

GRAPH = """
from typing import Annotated, TypedDict

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt

class State(TypedDict):
    messages: Annotated[list, add_messages]
    title: str

async def think(state):
    model = GenericFakeChatModel(messages=iter([AIMessage("Trains run on rails.")]))
    return {"messages": [await model.ainvoke(state["messages"])], "title": "On trains"}

def approve(state):
    answer = interrupt({"question": "Publish?"})
    return {"messages": [AIMessage(f"{len(state['messages'])} messages, and the human says {answer}")]}

graph = (
    StateGraph(State)
    .add_node(think)
    .add_node(approve)
    .add_edge(START, "think")
    .add_edge("think", "approve")
    .add_edge("approve", END)
    .compile()
)
"""


@pytest.fixture(autouse=True)
def graph(tmp_path: Path) -> None:
    (tmp_path / "graph.py").write_text(GRAPH)


def test_a_graph_streams_waits_and_goes_on_in_another_process(trackside: Trackside, here: Trackside) -> None:
    asked = trackside("run", "graph.py:graph", "What about trains?", "--thread", "t-1", "--stream", "updates")
    answered = trackside("resume", "t-1", '{"approved": true}')
    again = trackside("run", "graph.py:graph", "And now?", "--thread", "t-1", "--json")

    assert asked.returncode == 75, asked.stderr
    assert "◆ human        What about trains?" in asked.stdout
    assert asked.stdout.count("◇ think        Trains run on rails.\n") == 1
    assert '· updates      {"think": ' in asked.stdout
    assert '? waiting      {"question": "Publish?"}' in asked.stdout
    assert answered.returncode == 0, answered.stderr
    assert "2 messages, and the human says {'approved': True}" in answered.stdout
    assert again.returncode == 75, "the thread remembers, so the graph asks again with what was said before"
    statuses = [json.loads(line)["status"] for line in here("runs", "--json").stdout.splitlines()]
    assert statuses == ["interrupted", "success", "interrupted"]
    (thread,) = [json.loads(line) for line in here("threads", "--json").stdout.splitlines()]
    assert thread["title"] == "On trains"


def test_on_a_terminal_the_streamed_answer_is_there_once(terminal: OpenTerminal) -> None:
    shown = terminal("run", "graph.py:graph", "What about trains?")

    assert shown.wait() == 75
    assert [line.split()[1:] for line in shown.lines].count(["◇", "think", "Trains", "run", "on", "rails."]) == 1


def test_a_missing_package_is_named_with_what_to_install(trackside: Trackside, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text('import sys\nsys.modules["langgraph.checkpoint.sqlite.aio"] = None\n')

    done = trackside("run", "graph.py:graph", "hello", PYTHONPATH=str(tmp_path))

    assert done.returncode == 2
    assert (
        "needs langgraph-checkpoint-sqlite, which is not installed: pip install 'trackside[langgraph]'" in done.stderr
    )
