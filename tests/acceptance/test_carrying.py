"""What the tutorial about PostgreSQL carries from one server to another is there in the end, however often that is done."""

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
from typing import Annotated, TypedDict
from langgraph.graph import StateGraph

class State(TypedDict):
    said: Annotated[list, add]

builder = StateGraph(State)
builder.add_node("answer", lambda state: {"said": ["answer"]})
builder.set_entry_point("answer")
graph = builder.compile()
"""
CAPITALS = "6F1D0C9E-0B57-4D0E-9F0A-1B2C3D4E5F61"
"""An id that macOS makes: no request of a client names a thread by it."""
SETTINGS = '[agents]\ndiary = "agents.py:diary"\ngraph = "graph.py:graph"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for block in blocks_of(PAGE):
        if block.file in ("agents.py", "carry.py"):
            (tmp_path / block.file).write_text(block.text)
    (tmp_path / "graph.py").write_text(GRAPH)
    return tmp_path


def carry(folder: Path, old: str, new: str) -> str:
    program = (folder / "carry.py").read_text().replace("http://127.0.0.1:2024", old)
    program = program.replace("http://127.0.0.1:8080", new)
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


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
        asks = {"diary": {"say": "one"}, "graph": {"said": ["question"]}}
        threads = {
            name: client.threads.create(metadata={"customer": "acme", "name": name}, ttl=60)["thread_id"]
            for name in (*asks, "without a run")
        }
        for agent, asked in asks.items():
            client.runs.wait(threads[agent], agent, input=asked)
        assert here("export", "log.jsonl", "-d", before).returncode == 0
        assert here("import", "log.jsonl", "-d", after).returncode == 0

        with (
            TracksideServer(folder / "new", database=after, settings=settings, forkery=forkery) as new,
            get_sync_client(url=new.url) as moved,
        ):
            assert carry(folder, old.url, new.url) == f"carried 3 but not notes {CAPITALS}\n"
            assert moved.threads.get_state(threads["graph"])["next"] == []
            assert moved.threads.count(status="idle") == 5
            moved.runs.wait(threads["diary"], "diary", input={"say": "two"})
            assert carry(folder, old.url, new.url) == f"carried 3 but not notes {CAPITALS}\n"

            of_customer = moved.threads.search(metadata={"customer": "acme"})
            found = {thread["metadata"]["name"]: thread for thread in of_customer}

    assert {name: thread["thread_id"] for name, thread in found.items()} == threads
    assert {name: thread["values"] for name, thread in found.items() if thread["values"]} == {
        "diary": {"entries": ["one", "two"]},
        "graph": {"said": ["question", "answer"]},
    }
    assert {thread["ttl"]["ttl_minutes"] for thread in found.values()} == {60}
