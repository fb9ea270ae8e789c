"""A server killed under load and started again on the same database: every acknowledged run is known, and ends."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from dialects import BOTH
from forking import Forkery
from langgraph_sdk import get_sync_client
from trackside_server import PATIENCE, TracksideServer

AGENTS = """
import asyncio
import os

async def works(input, run):
    for number in range(20):
        run.send({"number": number})
        await asyncio.sleep(0.02)
    return {"worked": input}

async def until_told(input, run):
    while not os.path.exists("go"):
        run.send({"still": "here"})
        await asyncio.sleep(0.02)
    return {"worked": input}

async def endless(input, run):
    await asyncio.Event().wait()
"""
BEFORE_THE_KILL = 25  # acknowledged runs
ENDED = {"success", "error", "timeout", "interrupted"}
KEPT = {"assistant_id": "works", "input": {}, "on_completion": "keep"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agents.py").write_text(AGENTS, encoding="utf-8")
    return tmp_path


@pytest.fixture(params=BOTH)
def database(request: pytest.FixtureRequest) -> str:
    return "sqlite:///runs.db" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


class Load:
    """Clients that start runs until the server is gone, and note which of them were acknowledged."""

    def __init__(self, url: str, clients: int = 4) -> None:
        self.acknowledged: list[str] = []
        self.enough = threading.Event()
        self._url = url
        self._threads = [threading.Thread(target=self._start_runs, daemon=True) for _ in range(clients)]
        for one in self._threads:
            one.start()

    def _start_runs(self) -> None:
        with httpx.Client(base_url=self._url, timeout=PATIENCE) as client:
            while True:
                try:
                    answer = client.post("/runs", json=KEPT)
                except httpx.HTTPError:
                    return
                self.acknowledged.append(answer.raise_for_status().headers["content-location"])
                if len(self.acknowledged) >= BEFORE_THE_KILL:
                    self.enough.set()

    def wait(self) -> None:
        for one in self._threads:
            one.join(PATIENCE)


def test_every_run_that_was_acknowledged_is_known_after_a_kill_and_none_is_stuck(
    folder: Path, database: str, forkery: Forkery
) -> None:
    with TracksideServer(folder, "agents.py:works", database=database, forkery=forkery) as server:
        load = Load(server.url)
        assert load.enough.wait(PATIENCE)
        server.kill()
        load.wait()

        server.restart()
        with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
            statuses = [end_of(client, place) for place in load.acknowledged]

    assert len(statuses) >= BEFORE_THE_KILL
    assert set(statuses) <= ENDED


def end_of(client: httpx.Client, place: str) -> str:
    """How a run ended, once it has."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        answer = client.get(place)
        status = answer.raise_for_status().json()["status"]
        if status in ENDED:
            return str(status)
    raise AssertionError(f"{place} is stuck: {answer.text}")


def test_who_follows_a_run_whose_server_is_killed_gets_its_end_from_the_next_one(
    folder: Path, database: str, forkery: Forkery
) -> None:
    """LangGraph's client reconnects by itself, with the id of the last event that it has."""
    with (
        TracksideServer(folder, "agents.py:until_told", database=database, forkery=forkery) as server,
        get_sync_client(url=server.url, api_key=None) as client,
    ):
        thread = client.threads.create()["thread_id"]
        run = client.runs.create(thread, "until_told", stream_mode="custom", stream_resumable=True)["run_id"]
        events: list[str] = []
        for part in client.runs.join_stream(thread, run):
            events.append(part.event)
            if len(events) == 3:
                server.kill()
                server.restart()
        status = client.runs.get(thread, run)["status"]

    assert status == "error"
    assert events[-1] == "error"


def test_who_asks_the_next_server_for_a_run_whose_thread_has_gone_with_it_gets_what_it_gave(
    folder: Path, database: str, forkery: Forkery
) -> None:
    with TracksideServer(folder, "agents.py:works", "agents.py:endless", database=database, forkery=forkery) as server:
        with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
            ended = client.post("/runs", json={"assistant_id": "works", "input": {}}).json()
            end_of_stream(client, ended)
            lost = client.post("/runs", json={"assistant_id": "endless"}).json()
            while client.get(place_of(lost)).json()["status"] == "pending":
                pass  # the next server would execute a run that had not begun
        server.kill()

        server.restart()
        with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
            assert b"event: error" in end_of_stream(client, lost)
            assert b'"status":"success"' in end_of_stream(client, ended)
            failed, worked = (client.get(f"{place_of(run)}/join").json() for run in (lost, ended))

    assert failed["__error__"]["error"] == "worker_lost"
    assert worked == {"worked": {}}


def place_of(run: dict[str, Any]) -> str:
    return f"/threads/{run['thread_id']}/runs/{run['run_id']}"


def end_of_stream(client: httpx.Client, run: dict[str, Any]) -> bytes:
    """The last thing that a run's stream says."""
    body = client.get(f"{place_of(run)}/stream").raise_for_status().content
    return body.rstrip(b"\r\n").rpartition(b"\r\n\r\n")[2]


def test_a_run_that_may_be_tried_again_is_after_a_kill(folder: Path, database: str, forkery: Forkery) -> None:
    settings = "[limits]\nmax_attempts = 2\n"
    with (
        TracksideServer(
            folder, "agents.py:until_told", database=database, settings=settings, forkery=forkery
        ) as server,
        get_sync_client(url=server.url, api_key=None) as client,
    ):
        thread = client.threads.create()["thread_id"]
        run = client.runs.create(thread, "until_told", input={"up": "to two"})["run_id"]
        next(part for part in client.runs.join_stream(thread, run, stream_mode="custom") if part.event == "custom")
        server.kill()

        (folder / "go").touch()
        server.restart()
        with httpx.Client(base_url=server.url, timeout=PATIENCE) as again:
            end_of(again, f"/threads/{thread}/runs/{run}")
            values = last_values(again, thread)
            statuses = [one["status"] for one in again.get(f"/threads/{thread}/runs").json()]

    assert values == {"worked": {"up": "to two"}}
    assert sorted(statuses) == ["error", "success"]


def last_values(client: httpx.Client, thread: str) -> Any:
    """What the thread has at the end, once none of its runs is active."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        found = client.get(f"/threads/{thread}").raise_for_status().json()
        if found["status"] == "idle":
            return found["values"]
    raise AssertionError(f"the thread stays as it is: {found}")
