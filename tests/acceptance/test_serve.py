"""`trackside serve`: it starts, says so, answers LangGraph's clients, and stops when it is told to."""

from __future__ import annotations

from pathlib import Path

import pytest
from langgraph_sdk import get_sync_client
from trackside_server import TracksideServer

AGENTS = """
import asyncio

async def echo(input, run):
    print("said by an agent")
    return {"echo": input}

async def endless(input, run):
    while True:
        run.send({"still": "here"})
        await asyncio.sleep(0.05)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agents.py").write_text(AGENTS, encoding="utf-8")
    return tmp_path


def test_a_server_answers_when_it_says_so_and_stops_when_it_is_told_to(folder: Path) -> None:
    with TracksideServer(folder, "agents.py:echo") as server:
        with get_sync_client(url=server.url, api_key=None) as client:
            assert client.runs.wait(None, "echo", input={"up": "to three"}) == {"echo": {"up": "to three"}}

        assert server.terminate() == 0

    assert server.ready["agents"] == ["echo"]
    assert server.ready["port"] == int(server.url.rpartition(":")[2])


def test_a_killed_server_is_started_again_where_it_was(folder: Path) -> None:
    with TracksideServer(folder, "agents.py:echo") as server:
        before = server.url
        server.kill()
        server.restart()

        assert server.url == before
        with get_sync_client(url=server.url, api_key=None) as client:
            assert client.runs.wait(None, "echo", input=1) == {"echo": 1}
