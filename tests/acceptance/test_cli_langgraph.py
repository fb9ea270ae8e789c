"""The command line on a LangGraph graph that has no checkpointer of its own: the database remembers its threads."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Trackside = Callable[..., "subprocess.CompletedProcess[str]"]
OpenTerminal = Callable[..., Any]

GRAPH = """
import asyncio
import threading
from typing import Annotated, TypedDict

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
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

def publish(state):
    return RunnableLambda(upload).invoke(state)

def upload(state):
    raise LookupError("no such site")

async def stall(state):
    loop = asyncio.get_running_loop()
    time = loop.time
    loop.time = lambda: time() + 3_600  # it has taken an hour by now
    await asyncio.Event().wait()

def graph_that(last):
    builder = StateGraph(State).add_node(think).add_node("last", last)
    return builder.add_edge(START, "think").add_edge("think", "last").add_edge("last", END).compile()

def twice(state):
    return {"title": f"{interrupt('Who?')}"}

def also(state):
    return {"messages": [AIMessage(f"about {interrupt('What?')}")]}

both = (
    StateGraph(State)
    .add_node(twice)
    .add_node(also)
    .add_edge(START, "twice")
    .add_edge(START, "also")
    .compile()
)
forgetful = StateGraph(State).add_node(also).add_edge(START, "also").compile(checkpointer=InMemorySaver())

failing = graph_that(publish)
slow = graph_that(stall)
talking = graph_that(lambda state: {"title": "Talked"})

class Question(TypedDict):
    topic: str
    depth: int

wide = StateGraph(State)
everyone = threading.Barrier(40)  # asyncio has 32 threads at most, six on two cores
for number in range(everyone.parties):
    wide.add_node(f"node-{number}", lambda state: [everyone.wait(30)] and None).add_edge(START, f"node-{number}")

asking = StateGraph(Question).add_node("dig", lambda state: {"depth": 1}).add_edge(START, "dig").compile()

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


def test_as_many_plain_functions_wait_at_once_as_a_graph_has_nodes(here: Trackside) -> None:
    ran = here("run", "graph.py:wide", "Go")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_of_a_graph_that_forgets_is_warned_before_it_is_served(here: Trackside, tmp_path: Path) -> None:
    (tmp_path / "trackside.toml").write_text('[agents]\nforgets = "graph.py:forgetful"\nkeeps = "graph.py:graph"\n')
    why = "this graph's own checkpointer forgets when the program ends; compile it without one"

    checked = here("serve", "--check")
    examined = here("doctor", "--json")

    assert checked.returncode == 0
    assert [line for line in checked.stderr.splitlines() if "warning" in line] == [f"warning: agents.forgets: {why}"]
    (found,) = [finding for line in examined.stdout.splitlines() if (finding := json.loads(line))["severity"] != "note"]
    assert (found["severity"], found["where"]) == ("warning", "trackside.toml, agents.forgets")
    assert found["what"] == why
    assert examined.returncode == 1


def test_an_imported_question_is_not_answered_where_nobody_remembers_it(here: Trackside) -> None:
    here("run", "graph.py:graph", "What about trains?", "--thread", "t-1")
    here("export", "log.jsonl")
    here("import", "log.jsonl", "-d", "sqlite:///other.db")

    lost = here("resume", "t-1", "yes", "-d", "sqlite:///other.db")

    assert lost.returncode == 2
    assert (lost.stdout, lost.stderr.count("\n")) == ("", 1)
    assert lost.stderr.startswith("error: Thread 't-1' does not wait for an answer, nor remember what it asked: ")
    assert len(here("runs", "--json", "-d", "sqlite:///other.db").stdout.splitlines()) == 1
    assert here("resume", "t-1", "yes").returncode == 0


def test_an_answer_that_does_not_fit_leaves_the_questions_open(here: Trackside) -> None:
    asked = here("run", "graph.py:both", "hello", "--thread", "t-1")
    command = shlex.split(asked.stdout.splitlines()[-1])
    wrong = here("resume", "t-1", "yes")
    shown = here("threads", "t-1")
    right = here(*command[1:])

    assert (asked.returncode, wrong.returncode, right.returncode) == (75, 2, 0)
    assert "Who?" in shown.stdout
    assert "What?" in shown.stdout
    assert "about ANSWER" in right.stdout


def test_a_graph_that_forgets_is_not_said_to_wait(here: Trackside) -> None:
    asked = here("run", "graph.py:forgetful", "hello", "--thread", "t-1")
    answered = here("resume", "t-1", "yes")

    assert asked.returncode == 75
    assert "trackside resume" not in asked.stdout
    said = "this graph's own checkpointer forgets when the program ends; compile it without one."
    assert asked.stdout.splitlines()[-1] == f"It cannot be answered: {said}"
    assert answered.returncode == 2
    assert answered.stderr == f"error: graph.py:forgetful cannot take an answer: {said} [forgetful-agent]\n"
    assert len(here("runs", "--json").stdout.splitlines()) == 1, "no run was started for nothing"


@pytest.mark.parametrize(
    ("arguments", "code", "end"),
    [
        (["graph"], 75, '? waiting      {"question": "Publish?"}'),
        (["failing"], 1, "✗ failed       LookupError: no such site"),
        (["slow", "--timeout", "1h"], 124, "✗ timed out    the run took longer than its timeout of 3600 s"),
        (["talking"], 0, "✓ completed"),
    ],
    ids=["paused", "failed", "timed out", "completed"],
)
def test_however_a_graph_ends_its_state_is_not_shown(
    here: Trackside, arguments: list[str], code: int, end: str
) -> None:
    name, *options = arguments

    done = here("run", f"graph.py:{name}", "What about trains?", *options)

    assert done.returncode == code, done.stderr
    assert end in done.stdout
    assert "= output" not in done.stdout
    assert done.stdout.count("Trains run on rails.") == 1


def test_a_failing_graph_shows_the_frames_of_its_nodes_and_the_event_has_all(here: Trackside) -> None:
    done = here("run", "graph.py:failing", "What about trains?")

    frames = [line.split('"')[1] for line in done.stdout.splitlines() if line.lstrip().startswith("File ")]
    assert [Path(frame).name for frame in frames] == ["graph.py", "graph.py"]
    assert done.stdout.count("LookupError: no such site") == 1
    (failed,) = here("events", "--type", "run_failed", "--json").stdout.splitlines()
    assert "langgraph" in json.loads(failed)["payload"]["traceback"]


def test_on_a_terminal_the_streamed_answer_is_there_once(terminal: OpenTerminal) -> None:
    shown = terminal("run", "graph.py:graph", "What about trains?")

    assert shown.wait() == 75
    assert [line.split()[1:] for line in shown.lines].count(["◇", "think", "Trains", "run", "on", "rails."]) == 1


def test_a_missing_package_is_named_with_what_to_install(trackside: Trackside, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text('import sys\nsys.modules["langgraph.checkpoint.sqlite.aio"] = None\n')

    chosen = {"TRACKSIDE_CHECKPOINTS_SAVER": "langgraph", "PYTHONPATH": str(tmp_path)}
    done = trackside("run", "graph.py:graph", "hello", shell='exec "$0" "$@"', **chosen)

    assert done.returncode == 2
    needs = """checkpoints.saver = "langgraph" needs langgraph-checkpoint-sqlite, which is not installed"""
    assert f"{needs}: pip install 'trackside[langgraph-sqlite]'" in done.stderr


def test_a_text_for_a_graph_without_messages_is_answered_with_the_keys_it_takes(here: Trackside) -> None:
    text = here("run", "graph.py:asking", "trains")
    keys = here("run", "graph.py:asking", '{"topic": "trains"}')

    assert text.returncode == 2
    assert text.stderr == (
        'error: INPUT: this graph takes an object with topic, depth, not text; write \'{"topic": "…"}\'.\n'
    )
    assert keys.returncode == 0, keys.stdout
