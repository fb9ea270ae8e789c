"""`trackside worker` beside a server, as processes on PostgreSQL: it executes, drains by signal or command, begins anew."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from asked_server import ask, begin, status_of
from forking import Forkery
from trackside_server import PATIENCE, TracksideProcess, TracksideServer, wait_until

type Run = Callable[..., subprocess.CompletedProcess[str]]

AGENTS = """
import asyncio
import os

async def echo(input):
    return {{"said": "{word}", "pid": os.getpid()}}

async def until_told(input, run):
    open(f"at-it-{{input['name']}}", "w").close()
    while not os.path.exists("go"):
        await asyncio.sleep(0.02)
    return {{"done": True}}
"""
SETTINGS = """
[agents]
echo = "agents.py:echo"
until_told = "agents.py:until_told"

[engine]
url = "postgres"
lease = "2s"

[[observers]]
type = "metrics"
"""


A_SIGN_SOON = "5s"
"""A lease with frequent signs of life: with each of them a worker says what it does, and hears what is asked of it."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "before")
    (tmp_path / "trackside.toml").write_text(SETTINGS, encoding="utf-8")
    return tmp_path


def write(folder: Path, word: str) -> None:
    (folder / "agents.py").write_text(AGENTS.format(word=word), encoding="utf-8")


@pytest.fixture
def server(folder: Path, postgres_with_tables: str, forkery: Forkery) -> Iterator[TracksideServer]:
    with TracksideServer(folder, database=postgres_with_tables, forkery=forkery) as one:
        yield one


def working(folder: Path, database: str, *options: str, lease: str = "1m") -> TracksideProcess:
    arguments = ["worker", "--json", "--database", database, *options]
    return TracksideProcess(folder, arguments, name="worker", env={"TRACKSIDE_ENGINE_LEASE": lease})


@pytest.fixture
def lease() -> str:
    """How long the worker may be silent before its runs count as lost: longer than a busy machine stops anybody."""
    return "1m"


@pytest.fixture
def worker(server: TracksideServer, postgres_with_tables: str, lease: str) -> Iterator[TracksideProcess]:
    with working(server.folder, postgres_with_tables, "--port", "0", "--drain", "1h", lease=lease) as one:
        yield one


def test_a_worker_executes_what_a_server_lets_in_and_says_how_it_is(
    server: TracksideServer, worker: TracksideProcess
) -> None:
    answer = ask(server, "echo")

    assert answer == {"said": "before", "pid": worker.pid}
    assert worker.ready["pid"] == worker.pid
    assert (worker.ready["engine"], worker.ready["pools"], worker.ready["concurrency"]) == ("postgres", ["default"], 16)
    with httpx.Client(base_url=worker.ready["url"], timeout=PATIENCE) as health:
        assert health.get("/live").json() == {"status": "live"}
        ready = health.get("/ready")
        assert (ready.status_code, ready.json()["reasons"]) == (200, [])
        assert 'trackside_runs_total{agent="echo"' in health.get("/metrics").text
        assert health.get("/runs").status_code == 404
        assert health.post("/live").status_code == 405
    assert server.ready["engine"] == "postgres"


def test_a_server_says_that_nobody_executes_and_when_somebody_comes(
    server: TracksideServer, postgres_with_tables: str
) -> None:
    server.wait_until_said("no live worker serves echo, until_told, so runs wait")

    with working(server.folder, postgres_with_tables):
        server.wait_until_said("a worker serves echo, until_told now")


def test_the_first_signal_lets_runs_end_and_takes_no_more(
    here: Run, server: TracksideServer, worker: TracksideProcess, postgres_with_tables: str
) -> None:
    run_id = begin(server, "first")

    with httpx.Client(base_url=worker.ready["url"], timeout=PATIENCE) as health:
        assert health.get("/ready").status_code == 200
        worker.signal(signal.SIGTERM)
        wait_until(lambda: health.get("/ready").status_code == 503, "it says that it leaves")
        assert health.get("/ready").json()["reasons"][0]["check"] == "closing"
        wait_until(lambda: workers(here, postgres_with_tables)[0]["draining"], "others hear of it")
        later = start(server, "echo")
        assert status_of(server, later) == "pending"
        (server.folder / "go").touch()

    assert worker.wait() == 0
    assert (status_of(server, run_id), status_of(server, later)) == ("success", "pending")
    assert "waiting for 1 run, up to 3600 s" in worker.log
    assert '"event":"stopped"' in worker.log.replace(" ", "")


def start(server: TracksideServer, agent: str) -> str:
    body = {"assistant_id": agent, "input": {}, "on_completion": "keep"}
    return str(httpx.post(f"{server.url}/runs", json=body, timeout=PATIENCE).raise_for_status().json()["run_id"])


def test_the_second_signal_does_not_wait_for_runs(server: TracksideServer, worker: TracksideProcess) -> None:
    run_id = begin(server, "second")

    worker.signal(signal.SIGTERM)
    wait_until(lambda: "waiting for 1 run" in worker.log, "it waits")
    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0
    assert status_of(server, run_id) == "cancelled"


@pytest.mark.parametrize("lease", [A_SIGN_SOON])
def test_the_third_signal_leaves_at_once_and_others_end_what_it_had(
    server: TracksideServer, worker: TracksideProcess
) -> None:
    run_id = begin(server, "third")

    worker.signal(signal.SIGSTOP)  # so that all three are there when it goes on
    for number in (signal.SIGTERM, signal.SIGINT):
        worker.signal(number)
    worker.signal(signal.SIGCONT)
    wait_until(lambda: "stopping quickly" in worker.log or worker.has_ended, "it hears of both")
    if not worker.has_ended:
        worker.signal(signal.SIGTERM)

    assert worker.wait() in {0, 130}
    wait_until(lambda: status_of(server, run_id) in {"cancelled", "error"}, "somebody ends it")


@pytest.mark.parametrize("lease", [A_SIGN_SOON])
def test_a_worker_that_is_drained_by_command_ends_as_by_the_signal(
    here: Run, piped: Any, server: TracksideServer, worker: TracksideProcess, postgres_with_tables: str
) -> None:
    run_id = begin(server, "drained")
    (listed,) = workers(here, postgres_with_tables)
    assert listed["address"] == worker.ready["url"]
    asked = here("workers", "drain", listed["name"], "--yes", "--database", postgres_with_tables)
    wait_until(lambda: "waiting for 1 run" in worker.log, "it hears of it")
    (draining,) = workers(here, postgres_with_tables)
    waiting = piped("workers", "drain", listed["worker_id"][:12], "--yes", "--wait", "--database", postgres_with_tables)
    assert waiting.stderr.readline() == "Waiting until its runs are over; Ctrl-C stops waiting.\n"
    (server.folder / "go").touch()
    left, failure = waiting.communicate(timeout=PATIENCE)

    assert (asked.returncode, waiting.returncode) == (0, 0), (asked.stderr, failure)
    assert asked.stdout == f"{listed['name']} takes no more runs, and ends when its current runs are over.\n"
    assert left == f"{listed['name']} has left.\n"
    assert (listed["draining"], draining["draining"]) == (False, True)
    assert worker.wait() == 0
    assert status_of(server, run_id) == "success"
    assert "somebody is draining this worker" in worker.log
    assert workers(here, postgres_with_tables) == []


def workers(here: Run, database: str) -> list[dict[str, Any]]:
    """The workers as a program sees them."""
    done = here("workers", "--json", "--database", database)
    assert done.returncode == 0, done.stderr
    return [one for line in done.stdout.splitlines() if (one := json.loads(line))["kind"] == "worker"]


def test_a_worker_begins_anew_with_what_its_agents_are_by_then(
    server: TracksideServer, worker: TracksideProcess
) -> None:
    before = ask(server, "echo")
    write(server.folder, "after")
    url, pid = worker.ready["url"], worker.pid

    worker.signal(signal.SIGHUP)
    worker.wait_until_ready()

    assert (before["said"], ask(server, "echo")) == ("before", {"said": "after", "pid": pid})
    assert worker.ready["url"] == url
    assert httpx.get(f"{url}/ready", timeout=PATIENCE).status_code == 200


def test_a_worker_that_begins_anew_lets_its_runs_end_however_long_that_takes(
    server: TracksideServer, postgres_with_tables: str
) -> None:
    with working(server.folder, postgres_with_tables, "--drain", "0s") as worker:
        run_id, pid = begin(server, "anew"), worker.pid
        worker.signal(signal.SIGHUP)
        wait_until(lambda: "waiting for 1 run, however long that takes" in worker.log, "it waits")
        (server.folder / "go").touch()
        worker.wait_until_ready()

        assert (status_of(server, run_id), worker.pid) == ("success", pid)


def test_a_worker_that_is_to_begin_anew_and_is_told_to_stop_waits_as_long_as_it_is_to_and_ends(
    server: TracksideServer, postgres_with_tables: str
) -> None:
    with working(server.folder, postgres_with_tables, "--drain", "0s") as worker:
        run_id = begin(server, "stopped")
        worker.signal(signal.SIGHUP)
        wait_until(lambda: "waiting for 1 run, however long that takes" in worker.log, "it waits")
        worker.signal(signal.SIGTERM)

        assert worker.wait() == 0
        assert status_of(server, run_id) == "cancelled"


def test_a_worker_that_begins_anew_has_the_variables_that_the_project_says_by_then(
    server: TracksideServer, worker: TracksideProcess, postgres_with_tables: str
) -> None:
    folder = server.folder
    said = 'import os\n\nasync def echo(input):\n    return {"said": os.environ.get("WORD")}\n'
    (folder / "agents.py").write_text(f"{said}\nuntil_told = echo\n", encoding="utf-8")
    (folder / "langgraph.json").write_text('{"env": ".env"}', encoding="utf-8")

    answers = []
    for line in ("WORD=first", "WORD=second"):
        (folder / ".env").write_text(line, encoding="utf-8")
        worker.signal(signal.SIGHUP)
        worker.wait_until_ready()
        answers.append(ask(server, "echo")["said"])

    assert answers == ["first", "second"]


def test_what_cannot_be_loaded_is_said_and_the_worker_goes_on(
    server: TracksideServer, worker: TracksideProcess
) -> None:
    (server.folder / "agents.py").write_text("raise RuntimeError('not so')", encoding="utf-8")

    worker.signal(signal.SIGHUP)
    wait_until(lambda: "does not restart, and goes on as before" in worker.log, "it says why")

    assert "not so" in worker.log
    assert ask(server, "echo")["said"] == "before"


def test_a_person_sees_what_the_worker_is(terminal: Any, server: TracksideServer, postgres_with_tables: str) -> None:
    shown = terminal(
        "worker", "echo", "--pool", "gpu", "--pool", "default", "-c", "3", "--database", postgres_with_tables
    )
    shown.wait_for("Ctrl-C lets its runs end, and stops it")

    assert ask(server, "echo")["said"] == "before"
    shown.press(b"\x03")
    assert shown.wait() == 0
    text = shown.text
    assert "executes runs as worker " in text
    assert "engine    postgres" in text
    assert "pools     gpu, default" in text
    assert "at once   3" in text
    assert "stopped" in text
