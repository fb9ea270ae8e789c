"""What many runs, many clients and clients that vanish or stand still leave in a server: nothing."""

from __future__ import annotations

import json
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from trackside_server import TracksideServer

pytestmark = pytest.mark.long

PATIENCE = 120.0
MEGABYTE = 1_000_000
AGENTS = """
import asyncio
import operator
from typing import Annotated, TypedDict

from langgraph.graph import START, StateGraph

async def echo(input, run):
    run.send({"heard": input})
    return {"heard": input}

async def shouts(input, run):
    for number in range(1_000):
        run.send({"text": "x" * 100_000, "number": number})
        await asyncio.sleep(0.001)

async def counts(input, run):
    for number in range(100):
        run.send({"number": number})
        await asyncio.sleep(0.1)

class Turns(TypedDict):
    tokens: Annotated[list, operator.add]

async def note(state):
    return {"tokens": ["x"]}

graph = StateGraph(Turns)
graph.add_node("note", note)
graph.add_edge(START, "note")
graph = graph.compile()
"""
SETTINGS = """
[agents]
echo = "agents.py:echo"
shouts = "agents.py:shouts"
counts = "agents.py:counts"
graph = "agents.py:graph"

[server]
heartbeat = "1s"
max_streams = 1_000
log = false
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TracksideServer]:
    (tmp_path / "agents.py").write_text(AGENTS, encoding="utf-8")
    with TracksideServer(tmp_path, settings=SETTINGS) as server:
        yield server
        assert server.terminate() == 0


def descriptors(server: TracksideServer) -> int:
    return len([*Path(f"/proc/{server.pid}/fd").iterdir()])


def sockets(server: TracksideServer) -> int:
    """How many descriptors are clients'; a file of the database is opened when it is needed, and stays open."""
    found = 0
    for descriptor in Path(f"/proc/{server.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found += descriptor.readlink().name.startswith("socket:")
    return found


def threads(server: TracksideServer) -> int:
    return len([*Path(f"/proc/{server.pid}/task").iterdir()])


def until(holds: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until this holds: only looking shows what another process gives back."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@contextmanager
def connected(server: TracksideServer, number: int, request: bytes = b"") -> Iterator[list[socket.socket]]:
    """Clients on bare sockets that have asked for something and read nothing yet."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, number + 500), hard))
    try:
        with ExitStack() as stack:
            clients = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(number)]
            for client in clients:
                client.sendall(request)
            yield clients
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def asks(server: TracksideServer, body: dict[str, Any], path: str = "/runs/wait") -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=body, timeout=PATIENCE).raise_for_status()


def run_many(server: TracksideServer, agent: str, number: int) -> None:
    """Start runs of each kind: waited for and followed, with a thread of their own and without."""

    def run() -> None:
        with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
            asked = {"assistant_id": agent, "input": {"tokens": []}}
            for _ in range(number // 12):
                thread = client.post("/threads", json={}).raise_for_status().json()["thread_id"]
                client.post(f"/threads/{thread}/runs/wait", json=asked).raise_for_status()
                client.post("/runs/stream", json={**asked, "stream_resumable": True}).raise_for_status()
                client.post("/runs/wait", json=asked).raise_for_status()

    clients = [threading.Thread(target=run) for _ in range(4)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


@pytest.mark.parametrize("agent", ["echo", "graph"])
def test_ten_thousand_runs_leave_nothing(agent: str, server: TracksideServer) -> None:
    run_many(server, agent, 3_000)  # until what is kept of ended runs is full
    before = server.memory(), descriptors(server), threads(server)
    run_many(server, agent, 7_000)
    after = server.memory(), descriptors(server), threads(server)

    print(agent, before, after)
    assert after[0] - before[0] < 24 * MEGABYTE  # pages of the database that its connections keep
    assert abs(after[1] - before[1]) < 12
    assert abs(after[2] - before[2]) < 8


def test_clients_that_vanish_leave_nothing_and_the_others_get_the_end(server: TracksideServer) -> None:
    asked = {"assistant_id": "counts", "stream_mode": "custom", "on_completion": "keep"}
    run = asks(server, asked, "/runs").json()
    before = descriptors(server)
    path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/stream"
    with connected(server, 500, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()) as clients:
        until(lambda: descriptors(server) >= before + 500)
        for number, client in enumerate(clients[:350]):
            if number % 2:  # without saying that it goes
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        until(lambda: descriptors(server) < before + 170)
        for client in clients[350:]:
            client.settimeout(PATIENCE)
            said = b""
            while b"event: end" not in said:
                piece = client.recv(65_536)
                assert piece, said[-200:]
                said += piece
            assert said.count(b'"number"') == 100
    until(lambda: descriptors(server) < before + 12)


def test_clients_that_say_nothing_keep_nobody_from_being_answered_and_are_let_go(server: TracksideServer) -> None:
    before = descriptors(server)
    with connected(server, 1_500), connected(server, 500, b"POST /runs HTTP/1.1\r\nContent-Length: 9\r\n\r\nno"):
        for _ in range(20):
            asks(server, {"assistant_id": "echo"})
        until(lambda: descriptors(server) < before + 20)


def test_clients_that_do_not_read_what_a_loud_run_says_are_let_go_with_what_was_kept_for_them(
    server: TracksideServer,
) -> None:
    before, memory = sockets(server), server.memory()
    body = json.dumps({"assistant_id": "shouts", "stream_mode": ["custom"], "stream_resumable": True}).encode()
    head = (
        b"POST /runs/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    with connected(server, 5, head % len(body) + body):
        until(lambda: sockets(server) >= before + 5)
        for _ in range(50):
            asks(server, {"assistant_id": "echo"})
        assert server.memory() - memory < 150 * MEGABYTE
        until(lambda: sockets(server) <= before)
    assert server.memory() - memory < 150 * MEGABYTE
