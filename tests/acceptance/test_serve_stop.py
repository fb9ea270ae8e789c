"""What becomes of streams, waiting clients and runs when `trackside serve` is told to stop."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from asked_server import ask
from postgres_server import PostgresServer
from trackside_server import PATIENCE, TracksideServer

AGENTS = """
import asyncio
import os
import threading

async def endless(input, run):
    while True:
        run.send({"still": "here"})
        await asyncio.sleep(0.05)

async def until_told(input, run):
    run.send({"at": "it"})
    while not os.path.exists("go"):
        await asyncio.sleep(0.02)
    return {"done": True}

async def leaves(input):
    has_begun = threading.Event()

    def go_on():
        has_begun.set()
        threading.Event().wait()

    left = asyncio.create_task(asyncio.to_thread(go_on))
    while not has_begun.is_set():
        await asyncio.sleep(0.01)
    left.cancel()
    await asyncio.wait([left])
    return {"left": True}
"""
SETTINGS = '[runs]\nshutdown_grace = "{grace}"\nmax_running = 2\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agents.py").write_text(AGENTS, encoding="utf-8")
    return tmp_path


def serving(folder: Path, grace: str, *agents: str) -> TracksideServer:
    return TracksideServer(folder, *(f"agents.py:{name}" for name in agents), settings=SETTINGS.format(grace=grace))


class Stream:
    """A run that a client streams in a thread of its own."""

    def __init__(self, server: TracksideServer, agent: str) -> None:
        self.lines: list[str] = []
        self.failure: BaseException | None = None
        self.has_begun = threading.Event()
        body = {"assistant_id": agent, "input": {}, "stream_mode": ["custom", "values"], "on_completion": "keep"}
        self._thread = threading.Thread(target=self._read, args=(f"{server.url}/runs/stream", body), daemon=True)
        self._thread.start()
        assert self.has_begun.wait(PATIENCE), "the stream did not begin"

    def _read(self, url: str, body: dict[str, Any]) -> None:
        try:
            with httpx.stream("POST", url, json=body, timeout=PATIENCE) as answer:
                for line in answer.iter_lines():
                    self.lines.append(line)
                    if line == "event: custom":
                        self.has_begun.set()
        except httpx.HTTPError as exc:
            self.failure = exc

    def wait(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the stream does not end"

    @property
    def events(self) -> list[str]:
        return [line.removeprefix("event: ") for line in self.lines if line.startswith("event: ")]


@pytest.fixture
def server(folder: Path, request: pytest.FixtureRequest) -> Iterator[TracksideServer]:
    with serving(folder, *request.param) as one:
        yield one


@pytest.mark.parametrize("server", [("30s", "until_told")], indirect=True)
def test_a_run_that_ends_in_time_is_streamed_to_its_end(server: TracksideServer) -> None:
    stream = Stream(server, "until_told")
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        assert client.get("/health/ready").status_code == 200
        server.signal(signal.SIGTERM)
        unready = unready_answer(client)
    with pytest.raises(httpx.ConnectError):  # a server that ends leaves nobody waiting
        httpx.get(f"{server.url}/ok", timeout=PATIENCE)
    (server.folder / "go").touch()

    assert server.wait() == 0
    stream.wait()
    assert stream.failure is None
    assert 'data: {"done":true}' in stream.lines
    assert unready.headers["connection"] == "close"
    assert unready.json()["reasons"] == [{"check": "closing", "why": "it stops"}]
    assert "waiting for 1 run" in server.log


def unready_answer(client: httpx.Client) -> httpx.Response:
    """The first answer that says so, on the open connection."""
    while (answer := client.get("/health/ready")).status_code == 200:
        pass
    assert answer.status_code == 503
    return answer


@pytest.mark.parametrize("server", [("100ms", "endless")], indirect=True)
def test_a_run_that_goes_on_is_cancelled_and_its_stream_ends(server: TracksideServer) -> None:
    stream = Stream(server, "endless")

    assert server.terminate() == 0
    stream.wait()
    assert stream.failure is None
    assert ended_as(server.folder) == ["shutdown"]


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system cannot hold a process")
@pytest.mark.parametrize("server", [("100ms", "endless")], indirect=True)
def test_who_has_connected_before_the_signal_is_answered(server: TracksideServer) -> None:
    address = httpx.URL(server.url)
    with contextlib.ExitStack() as stack:
        server.signal(signal.SIGSTOP)  # like a moment in which something blocks its event loop
        clients = []
        for _ in range(20):
            client = stack.enter_context(socket.create_connection((address.host, address.port), timeout=PATIENCE))
            client.sendall(b"POST /threads HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
            clients.append(client)
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGCONT)
        answers = [client.recv(1_000).partition(b"\r\n")[0] for client in clients]

    assert answers == [b"HTTP/1.1 200 OK"] * 20
    assert server.wait() == 0


@pytest.mark.parametrize("server", [("1h", "endless")], indirect=True)
def test_a_second_signal_does_not_wait_for_runs(server: TracksideServer) -> None:
    stream = Stream(server, "endless")

    server.signal(signal.SIGINT)
    server.wait_until_said("waiting for 1 run, up to 3600 s")
    server.signal(signal.SIGINT)

    assert server.wait() == 0
    stream.wait()
    assert ended_as(server.folder) == ["shutdown"]


@pytest.mark.parametrize("server", [("1h", "leaves")], indirect=True)
def test_a_thread_that_a_run_has_left_behind_is_waited_for_with_a_word_and_not_after_a_second_signal(
    server: TracksideServer,
) -> None:
    assert ask(server, "leaves") == {"left": True}

    server.signal(signal.SIGTERM)
    server.wait_until_said("waiting for 1 thread of the agent or an observer")
    server.signal(signal.SIGTERM)

    assert server.wait() == 0


@pytest.mark.parametrize("server", [("100ms", "endless")], indirect=True)
def test_a_client_that_follows_the_log_is_let_go(server: TracksideServer) -> None:
    with httpx.stream("GET", f"{server.url}/events/stream", timeout=PATIENCE) as log:
        assert log.status_code == 200
        server.signal(signal.SIGTERM)

        for _ in log.iter_lines():
            pass  # to a proper end, on which httpx insists

    assert server.wait() == 0


def test_the_ends_of_runs_are_kept_if_the_database_waits_for_a_standby_that_is_gone(
    folder: Path, own_postgres_server: PostgresServer
) -> None:
    postgres = own_postgres_server
    server = TracksideServer(
        folder,
        "agents.py:until_told",
        database=postgres.create_database("runs"),
        settings=SETTINGS.format(grace="1s") + '[database]\nspool = "spool"\n',
    )
    with server:
        stream = Stream(server, "until_told")
        with postgres.without_standby():
            (folder / "go").touch()
            postgres.wait_for_waiting_commit("trackside")
            assert server.terminate() == 0
        stream.wait()
        assert [*(folder / "spool").rglob("*.jsonl")]
        server.start()
        assert server.terminate() == 0
    ends = "SELECT event_type FROM events WHERE event_type IN ('run_completed', 'run_failed', 'run_cancelled')"
    assert postgres.execute(ends, database="runs") == [("run_failed",)]  # its thread does not remember it
    assert postgres.execute("SELECT status, error_type FROM runs", database="runs") == [
        ("error", "ThreadNotSavedError")
    ]


def ended_as(folder: Path) -> list[str]:
    """How the runs in the database were cancelled."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(folder / "runs.db")) as database:
        rows = database.execute("SELECT payload FROM events WHERE event_type = 'run_cancelled'").fetchall()
    return [json.loads(payload)["cancel_mode"] for (payload,) in rows]
