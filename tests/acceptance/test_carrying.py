"""What the PostgreSQL tutorial carries from one server to another is there at the end, however often it is carried."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from blocks import DOCS, blocks_of
from forking import Forkery
from langgraph_sdk import get_sync_client
from trackside_server import TracksideServer

PAGE = DOCS / "tutorials/from-sqlite-to-a-fleet.md"
GRAPH = """
from operator import add
from typing import Annotated, Literal, TypedDict
from langgraph.graph import END, StateGraph
from langgraph.types import interrupt

class Asked(TypedDict):
    question: str

class State(Asked, total=False):
    said: Annotated[list, add]
    customer: str
    checked: bool

def begin(state):
    return {}

def answer(state):
    return {"said": ["answer"], "customer": "acme"}

def check(state):
    return {"said": [interrupt("ok?")], "checked": True}

def comes_next(state) -> Literal["check", "__end__"]:
    return "check" if state["question"] == "sure?" and state["said"][-1] == "answer" else END

def comes_behind_check(state) -> Literal["answer", "__end__"]:
    return END if state["checked"] else "answer"

builder = StateGraph(State, input_schema=Asked)
builder.add_node("begin", begin)
builder.add_node("answer", answer)
builder.add_node("check", check)
builder.set_entry_point("begin")
builder.add_edge("begin", "answer")
builder.add_conditional_edges("answer", comes_next)
builder.add_conditional_edges("check", comes_behind_check)
graph = builder.compile()

builder = StateGraph(State)
builder.add_node("check", check)
builder.set_entry_point("check")
builder.add_conditional_edges("check", lambda state: END if state["checked"] else "check", ["check", END])
deciding = builder.compile()
"""
CAPITALS = "6F1D0C9E-0B57-4D0E-9F0A-1B2C3D4E5F61"
"""An id that macOS makes: no client's request can name a thread by it."""
CUT_OFF = """
from langgraph_sdk._sync.threads import SyncThreadsClient

update_state = SyncThreadsClient.update_state

def update_state_and_end(*given, **named):
    update_state(*given, **named)
    raise SystemExit("cut off")

SyncThreadsClient.update_state = update_state_and_end
"""
SETTINGS = '[agents]\ndiary = "agents.py:diary"\ngraph = "graph.py:graph"\ndeciding = "graph.py:deciding"\n'


WHOLE = {"question": "why?", "said": ["answer"], "customer": "acme"}
"""What a thread of the graph remembers after this question."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for block in blocks_of(PAGE):
        if block.file in ("agents.py", "carry.py"):
            (tmp_path / block.file).write_text(block.text)
    (tmp_path / "graph.py").write_text(GRAPH)
    return tmp_path


def carry(folder: Path, old: str, new: str, *, before: str = "") -> str:
    program = (folder / "carry.py").read_text().replace("http://127.0.0.1:2024", old)
    program = before + program.replace("http://127.0.0.1:8080", new)
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.stderr == ("cut off\n" if done.returncode else "")
    return done.stdout


def carry_in_parts(folder: Path, old: str, new: str) -> str:
    """Carry, and be cut off after each change of a thread's state."""
    while not (said := carry(folder, old, new, before=CUT_OFF)):
        pass
    return said


def test_threads_are_carried_whole_and_once(
    folder: Path, forkery: Forkery, here: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (folder / "trackside.toml").write_text(SETTINGS)
    before, after = (f"sqlite:///{folder / name}" for name in ("before.db", "after.db"))
    for thread_id in ("notes", CAPITALS):
        assert here("run", "diary", '{"say": "hello"}', "--thread", thread_id, "-d", before).returncode == 0
    (folder / "old").mkdir()
    (folder / "new").mkdir()
    settings = SETTINGS.replace('"agents', f'"{folder}/agents').replace('"graph.py', f'"{folder}/graph.py')
    with (
        TracksideServer(folder / "old", database=before, settings=settings, forkery=forkery) as old,
        get_sync_client(url=old.url) as client,
    ):
        runs = {
            "diary": ("diary", {"say": "one"}),
            "graph": ("graph", {"question": "why?"}),
            "asks": ("graph", {"question": "sure?"}),
            "cannot be": ("deciding", {"question": "sure?"}),
        }
        threads = {
            name: client.threads.create(metadata={"customer": "acme", "name": name}, ttl=60)["thread_id"]
            for name in (*runs, "without a run")
        }
        for name, (agent, asked) in runs.items():
            client.runs.wait(threads[name], agent, input=asked)
        assert here("export", "log.jsonl", "-d", before).returncode == 0
        assert here("import", "log.jsonl", "-d", after).returncode == 0

        said = f"carried 4 but not notes {CAPITALS} {threads['cannot be']}\n"
        with (
            TracksideServer(folder / "new", database=after, settings=settings, forkery=forkery) as new,
            get_sync_client(url=new.url) as moved,
        ):
            assert carry_in_parts(folder, old.url, new.url) == said
            assert moved.threads.get_state(threads["graph"])["values"] == WHOLE
            assert moved.threads.get_state(threads["graph"])["next"] == []
            assert moved.threads.count(status="idle") == 6
            moved.runs.wait(threads["diary"], "diary", input={"say": "two"})
            moved.runs.wait(threads["graph"], "graph", input={"question": "sure?"})
            assert carry(folder, old.url, new.url) == said
            assert moved.threads.get_state(threads["graph"])["next"] == ["check"], "it asks there"

            of_customer = moved.threads.search(metadata={"customer": "acme"})
            found = {thread["metadata"]["name"]: thread for thread in of_customer}

    assert {name: thread["thread_id"] for name, thread in found.items()} == threads
    assert {name: thread["values"] for name, thread in found.items() if thread["values"]} == {
        "diary": {"entries": ["one", "two"]},
        "graph": {**WHOLE, "question": "sure?", "said": ["answer", "answer"]},
        "asks": {**WHOLE, "question": "sure?"},
    }
    assert {thread["ttl"]["ttl_minutes"] for thread in found.values()} == {60}
