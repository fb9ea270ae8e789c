"""`trackside serve`: it starts, says so, answers LangGraph's clients, and stops when it is told to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_sync_client
from trackside_server import PATIENCE, TracksideServer

from trackside.harness.ids import is_uuid

UNUSED = {
    "agents",
    "aiohttp",
    "alembic",
    "asyncpg",
    "httpx",
    "jwt",
    "langchain_core",
    "langgraph",
    "langgraph_sdk",
    "limits",
    "openai",
    "opentelemetry",
    "prometheus_client",
    "pydantic_ai",
}

AGENTS = """
import sys

async def echo(input, run):
    print("said by an agent")
    return {"echo": input}

async def modules(input):
    return {"modules": sorted({name.partition(".")[0] for name in sys.modules})}
"""


FORGETFUL = """
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

builder = StateGraph(MessagesState).add_node("say", lambda state: {"messages": []}).add_edge(START, "say")
graph = builder.compile(checkpointer=InMemorySaver())
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


def test_a_server_of_functions_loads_no_framework_and_nothing_that_is_not_used(folder: Path) -> None:
    with TracksideServer(folder, "agents.py:modules") as server:
        server.terminate()
        server.restart()  # at the first start it made a database, with Alembic
        with get_sync_client(url=server.url, api_key=None) as client:
            found = client.runs.wait(None, "modules", input=1)

    assert isinstance(found, dict)
    assert "uvloop" in found["modules"]
    assert UNUSED & set(found["modules"]) == set()


def test_what_happens_is_said_as_json_where_nobody_sits(folder: Path) -> None:
    with TracksideServer(folder, "agents.py:echo") as server:
        assert server.terminate() == 0

    ready, *_, last = [json.loads(line) for line in server.log.splitlines()]
    assert (ready["event"], ready["url"], ready["agents"]) == ("ready", server.url, ["echo"])
    assert last["event"] == "stopped"


def test_a_person_sees_where_it_answers_and_stops_it_with_ctrl_c(folder: Path, terminal: Callable[..., Any]) -> None:
    shown = terminal("serve", "agents.py:echo", "--port", "0")
    shown.wait_for("Ctrl-C stops it")
    shown.press(b"\x03")

    assert shown.wait() == 0
    assert re.search(r"answers at http://127\.0\.0\.1:\d+", shown.text)
    assert re.search(r"API       http://127\.0\.0\.1:\d+/docs", shown.text)
    assert "agents    echo" in shown.text


def test_requests_are_logged_without_what_may_be_secret(folder: Path) -> None:
    with (
        TracksideServer(folder, "agents.py:echo") as server,
        get_sync_client(url=server.url, api_key="the-secret-key") as client,
    ):
        client.runs.wait(None, "echo", input={"password": "hunter2"}, on_completion="keep")
        httpx.get(f"{server.url}/events?after=0&token=sesame", timeout=PATIENCE)
        httpx.get(f"{server.url}/runs/00000000-0000-4000-8000-000000000000", timeout=PATIENCE)
        assert server.terminate() == 0

    said = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    lines = [line for line in said if line["event"] == "request"]
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("POST", "/runs/wait", 200),
        ("GET", "/events", 422),
        ("GET", "/runs/{run_id}", 404),
    ]
    assert is_uuid(lines[0]["run_id"])
    assert lines[2]["run_id"] == "00000000-0000-4000-8000-000000000000"
    assert all(line["ms"] > 0 and line["bytes"] > 0 for line in lines)
    assert not any(secret in server.log for secret in ("the-secret-key", "hunter2", "sesame"))


def test_requests_are_not_logged_where_nobody_wants_it(folder: Path) -> None:
    with TracksideServer(folder, "agents.py:echo", settings="[server]\nlog = false\n") as server:
        httpx.get(f"{server.url}/ok", timeout=PATIENCE)
        assert server.terminate() == 0

    assert [json.loads(line)["event"] for line in server.log.splitlines()] == ["ready", "stopping", "stopped"]


def test_a_graph_that_forgets_is_warned_of_as_the_server_starts(folder: Path) -> None:
    (folder / "graph.py").write_text(FORGETFUL, encoding="utf-8")
    with TracksideServer(folder, settings='[agents]\nchat = "graph.py:graph"\n') as server:
        assert server.terminate() == 0

    lines = [json.loads(line) for line in server.log.splitlines()]
    why = "this graph's own checkpointer forgets when the program ends; compile it without one"
    assert [line["event"] for line in lines if line["level"] == "warning"] == [f"agents.chat: {why}"]


def test_a_run_that_fails_leaves_a_line_that_says_where(folder: Path) -> None:
    (folder / "bad.py").write_text('async def bad(input):\n    raise RuntimeError("no luck")\n', encoding="utf-8")
    with TracksideServer(folder, "bad.py:bad") as server:
        asked = {"assistant_id": "bad", "input": 1}
        failed = httpx.post(f"{server.url}/runs/wait", json=asked, timeout=PATIENCE).json()
        assert server.terminate() == 0
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    (said,) = [line for line in lines if "failed" in line["event"]]
    assert said["level"] == "warning"
    assert "of agent 'bad' failed: RuntimeError: no luck (bad.py:2); see `trackside runs " in said["event"]
    assert failed["__error__"]["error"] == "RuntimeError"
