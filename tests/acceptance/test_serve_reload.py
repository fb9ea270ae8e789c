"""SIGHUP: a server begins anew in its place and turns nobody away meanwhile; or goes on, if it could not begin."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from asked_server import ask
from trackside_server import PATIENCE, TracksideServer

AGENT = """
import asyncio
import os
import sys

async def said(input, run):
    if input.get("waits"):
        print("it has begun", file=sys.stderr, flush=True)
        while not os.path.exists("go"):
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.01)
    return {{"said": "{word}"}}
"""
LEAVING = """
import asyncio
import threading

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
    return {{"said": "{word}"}}
"""
"""An agent that abandons a function, which goes on in a thread of the event loop's and never ends."""
WANDERING = """
import os

async def wanders(input):
    os.makedirs("elsewhere", exist_ok=True)
    os.chdir("elsewhere")
    return {{"said": "{word}"}}
"""
"""An agent that goes to another folder, and takes the whole process along."""
CLIENTS = 4
PROJECT = """
import os

if os.environ.get("NEEDED") != "{word}":
    raise LookupError("what is needed is not here")
os.environ.setdefault("OF_AN_AGENT", "{word}")

async def variables(input):
    return {{name: os.environ.get(name) for name in ("WORD", "ONCE", "OF_AN_AGENT", "OF_THE_SHELL")}}
"""


def write(folder: Path, word: str) -> None:
    (folder / "agents.py").write_text(AGENT.format(word=word), encoding="utf-8")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TracksideServer]:
    write(tmp_path, "before")
    with TracksideServer(tmp_path, "agents.py:said") as one:
        yield one


class Asking:
    """A client that asks again and again on the connections that it has, and tries nothing twice."""

    def __init__(self, url: str, until: str) -> None:
        self.answers: list[str] = []
        self.failures: list[str] = []
        self.stop = threading.Event()
        self._url = url
        self._until = until
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        body = {"assistant_id": "said", "input": {}}
        with httpx.Client(base_url=self._url, timeout=PATIENCE, transport=httpx.HTTPTransport(retries=0)) as client:
            while not self.stop.is_set() and self._until not in self.answers:
                try:
                    answer = client.post("/runs/wait", json=body)
                    self.answers.append(answer.raise_for_status().json()["said"])
                except (httpx.HTTPError, KeyError) as exc:
                    self.failures.append(repr(exc))

    def wait(self) -> None:
        self._thread.join(PATIENCE)
        self.stop.set()
        assert not self._thread.is_alive(), "it was never answered by what came after"


def test_no_request_fails_while_a_server_under_load_begins_anew(server: TracksideServer) -> None:
    pid = server.pid
    asking = [Asking(server.url, until="after") for _ in range(CLIENTS)]
    write(server.folder, "after")

    server.signal(signal.SIGHUP)
    server.wait_until_ready()
    for one in asking:
        one.wait()

    assert [one.failures for one in asking] == [[]] * CLIENTS
    assert all(one.answers[-1] == "after" for one in asking)
    assert (server.pid, server.ready["pid"]) == (pid, pid)
    assert server.terminate() == 0


def test_a_server_that_begins_anew_has_the_variables_that_the_project_says_by_then(tmp_path: Path) -> None:
    def write_project(word: str, *more: str) -> None:
        (tmp_path / "agents.py").write_text(PROJECT.format(word=word), encoding="utf-8")
        lines = [f"WORD={word}", f"NEEDED={word}", f"OF_THE_SHELL={word}", *more]
        (tmp_path / ".env").write_text("\n".join(lines), encoding="utf-8")

    (tmp_path / "langgraph.json").write_text('{"env": ".env"}', encoding="utf-8")
    write_project("before", "ONCE=here", "TRACKSIDE_RUNS_MAX_RUNNING=7")
    with TracksideServer(tmp_path, "agents.py:variables", env={"OF_THE_SHELL": "stays"}) as server:
        before = ask(server, "variables"), max_running(server)
        write_project("after", "TRACKSIDE_RUNS_MAX_RUNNING=9")
        server.signal(signal.SIGHUP)
        server.wait_until_ready()
        after = ask(server, "variables"), max_running(server)

    assert before == ({"WORD": "before", "ONCE": "here", "OF_AN_AGENT": "before", "OF_THE_SHELL": "stays"}, 7)
    assert after == ({"WORD": "after", "ONCE": None, "OF_AN_AGENT": "after", "OF_THE_SHELL": "stays"}, 9)


def max_running(server: TracksideServer) -> int:
    settings = httpx.get(f"{server.url}/system", timeout=PATIENCE).raise_for_status().json()["settings"]
    return int(settings["runs.max_running"]["value"])


def test_what_cannot_be_loaded_is_said_and_the_server_goes_on_as_before(server: TracksideServer) -> None:
    (server.folder / "agents.py").write_text("import nowhere\n", encoding="utf-8")

    server.signal(signal.SIGHUP)
    server.wait_until_said("does not restart, and goes on as before")
    asked = {"assistant_id": "said", "input": {}}
    answer = httpx.post(f"{server.url}/runs/wait", json=asked, timeout=PATIENCE)

    assert answer.json() == {"said": "before"}
    assert "No module named 'nowhere'" in server.log


def test_sockets_for_others_are_not_taken_over_by_a_server_that_asks_nobody_who_he_is(tmp_path: Path) -> None:
    """Where it listens does not change with the settings: the new process would refuse to serve there, and be gone."""
    write(tmp_path, "before")
    (tmp_path / "trackside.toml").write_text('[server]\nhost = "0.0.0.0"\nauth = "keys"\n', encoding="utf-8")
    with TracksideServer(tmp_path, "agents.py:said") as server:
        settings = '[server]\nhost = "127.0.0.1"\nauth = "none"\n'
        (tmp_path / "trackside.toml").write_text(settings, encoding="utf-8")
        server.signal(signal.SIGHUP)
        server.wait_until_said("does not restart, and goes on as before")

        assert "a server at 0.0.0.0 is open to others" in server.log
        assert httpx.get(f"http://127.0.0.1:{server.port}/health/ready", timeout=PATIENCE).status_code == 200


def test_a_syntax_error_is_said_with_its_place(server: TracksideServer) -> None:
    (server.folder / "agents.py").write_text("import asyncio\n\nasync def said(input) return\n", encoding="utf-8")

    server.signal(signal.SIGHUP)
    server.wait_until_said("does not restart, and goes on as before")

    assert "(agents.py, line 3)" in server.log


def test_who_waits_for_a_run_is_answered_before_the_server_begins_anew_and_then_by_the_new_one(
    server: TracksideServer,
) -> None:
    answers: list[str] = []

    def ask_twice() -> None:
        with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
            for waits in (True, False):
                body = {"assistant_id": "said", "input": {"waits": waits}}
                answers.append(client.post("/runs/wait", json=body).raise_for_status().json()["said"])

    waiting = threading.Thread(target=ask_twice)
    waiting.start()
    server.wait_until_said("it has begun")
    write(server.folder, "after")

    server.signal(signal.SIGHUP)
    server.wait_until_said("waiting for 1 run")
    (server.folder / "go").touch()
    server.wait_until_ready()
    waiting.join()

    assert answers == ["before", "after"]


def test_a_server_begins_anew_while_a_thread_of_a_run_that_has_ended_goes_on(tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text(LEAVING.format(word="before"), encoding="utf-8")
    with TracksideServer(tmp_path, "agents.py:leaves") as server:
        before = ask(server, "leaves")
        (tmp_path / "agents.py").write_text(LEAVING.format(word="after"), encoding="utf-8")

        server.signal(signal.SIGHUP)
        server.wait_until_ready()

        assert (before, ask(server, "leaves")) == ({"said": "before"}, {"said": "after"})


def test_a_server_begins_anew_in_the_folder_where_it_was_started(tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text(WANDERING.format(word="before"), encoding="utf-8")
    with TracksideServer(tmp_path, "agents.py:wanders") as server:
        before = ask(server, "wanders")
        (tmp_path / "agents.py").write_text(WANDERING.format(word="after"), encoding="utf-8")

        server.signal(signal.SIGHUP)
        server.wait_until_ready()

        assert (before, ask(server, "wanders")) == ({"said": "before"}, {"said": "after"})
    assert [path.name for path in tmp_path.rglob("runs.db")] == ["runs.db"]
