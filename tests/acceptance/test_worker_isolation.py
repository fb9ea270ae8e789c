"""`trackside worker --isolation process`: one worker to everybody else, whose runs have processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import isolated_agents
import pytest
from asked_server import ask, begin, status_of
from forking import Forkery
from postgres_server import PostgresServer
from trackside_server import PATIENCE, TracksideProcess, TracksideServer, wait_until

from trackside.app.engine.local.programs import free_ports

type Run = Callable[..., subprocess.CompletedProcess[str]]

AGENTS = """
import asyncio
import os
import time

async def echo(input):
    return {"said": "before", "pid": os.getpid()}

async def until_told(input, run):
    at_it = f"at-it-{input['name']}"
    with open(f"{at_it}.new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{at_it}.new", at_it)
    while not os.path.exists("go"):
        await asyncio.sleep(0.02)
    return {"done": True}

async def blocks(input, run):
    open(f"at-it-{input['name']}", "w").close()
    time.sleep(3600)
"""
SETTINGS = f"""
[agents]
echo = "agents.py:echo"
until_told = "agents.py:until_told"
blocks = "agents.py:blocks"
tells = "{isolated_agents.__file__}:tells"

[engine]
url = "postgres"
lease = "2s"

[worker]
isolation = "process"
concurrency = 2
"""
OBSERVED = """
[[observers]]
type = "metrics"

[[observers]]
type = "told.py:Told"
name = "told"
delivery = "durable"
"""
NOWHERE = "postgresql://trackside:sesame@127.0.0.1:1/trackside"
A_SIGN_SOON = "5s"
"""A lease with frequent signs of life: with each of them a worker says what it does, and hears what is asked of it."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agents.py").write_text(AGENTS, encoding="utf-8")
    (tmp_path / "trackside.toml").write_text(SETTINGS, encoding="utf-8")
    return tmp_path


@pytest.fixture
def server(folder: Path, postgres_with_tables: str, forkery: Forkery) -> Iterator[TracksideServer]:
    with TracksideServer(folder, database=postgres_with_tables, forkery=forkery) as one:
        yield one


def working(
    folder: Path, database: str, *, lease: str = "1m", drain: str = "1h", forkery: Forkery | None = None
) -> TracksideProcess:
    arguments = ["worker", "--json", "--database", database, "--port", "0", "--drain", drain]
    env = {"NOTIFY_SOCKET": "/nowhere", "TRACKSIDE_ENGINE_LEASE": lease}
    return TracksideProcess(folder, arguments, name="worker", env=env, forkery=forkery)


@pytest.fixture
def lease() -> str:
    """How long the worker may be silent before its runs count as lost: longer than a busy machine stops anybody."""
    return "1m"


@pytest.fixture
def worker(
    server: TracksideServer, postgres_with_tables: str, lease: str, forkery: Forkery
) -> Iterator[TracksideProcess]:
    with working(server.folder, postgres_with_tables, lease=lease, forkery=forkery) as one:
        yield one


def workers(here: Run, database: str) -> list[dict[str, Any]]:
    """The workers as a program sees them."""
    done = here("workers", "--json", "--database", database)
    assert done.returncode == 0, done.stderr
    return [one for line in done.stdout.splitlines() if (one := json.loads(line))["kind"] == "worker"]


def default_pool(server: TracksideServer) -> dict[str, Any]:
    """What the server knows about the pool."""
    pools = httpx.get(f"{server.url}/queue", timeout=PATIENCE).json()["pools"]
    (pool,) = [one for one in pools if one["pool"] == "default"]
    return pool


def said(worker: TracksideProcess) -> list[str]:
    """The events of its log."""
    return [json.loads(line)["event"] for line in worker.log.splitlines()]


def test_a_run_has_a_process_that_shares_nothing_with_its_worker(
    server: TracksideServer, postgres_with_tables: str
) -> None:
    with working(server.folder, postgres_with_tables) as worker:  # not forked: it has only what it starts with itself
        has = ask(server, "tells")
        shared = opened_by(worker) & set(has["opened"])

    assert has["pid"] not in {worker.pid, os.getpid()}
    assert has["session"] == has["pid"]
    assert has["stdin"] == "/dev/null"
    assert not {one for one in shared if one.startswith(("socket:", "pipe:"))}
    assert (int(has["ignored"], 16) & ~(1 << signal.SIGPIPE - 1) & ~(1 << 24), int(has["blocked"], 16)) == (0, 0)
    assert not {"_TRACKSIDE_ISOLATED", "NOTIFY_SOCKET"} & {*has["environ"]}


def opened_by(worker: TracksideProcess) -> set[str]:
    """What a process has open besides its standard streams."""
    found = set()
    for descriptor in Path(f"/proc/{worker.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it may be closed by now
            if int(descriptor.name) > 2:
                found.add(str(descriptor.readlink()))
    return found


def test_its_processes_execute_no_more_runs_of_an_agent_than_one_worker_may(
    server: TracksideServer, postgres_with_tables: str, forkery: Forkery
) -> None:
    with (server.folder / "trackside.toml").open("a", encoding="utf-8") as settings:
        settings.write("\n[limits.until_told]\nmax_running = 1\n")
    with working(server.folder, postgres_with_tables, forkery=forkery):
        first = begin(server, "first")
        body = {"assistant_id": "until_told", "input": {"name": "second"}, "on_completion": "keep"}
        asked = httpx.post(f"{server.url}/runs", json=body, timeout=PATIENCE).raise_for_status()
        second = str(asked.json()["run_id"])

        assert ask(server, "echo")["said"] == "before"  # the other process has a place for other agents
        assert (status_of(server, first), status_of(server, second)) == ("running", "pending")
        (server.folder / "go").touch()
        wait_until(lambda: status_of(server, second) == "success", "it is executed when the first has ended")


@pytest.mark.parametrize("lease", [A_SIGN_SOON])
def test_places_are_counted_once_and_the_worker_answers_for_all(
    here: Run, server: TracksideServer, worker: TracksideProcess, postgres_with_tables: str
) -> None:
    begin(server, "one")
    wait_until(lambda: len(workers(here, postgres_with_tables)) == 3, "both processes are there")
    # A place that looks for work also counts as taken for a moment.
    wait_until(
        lambda: [one["running"] for one in supervisors(here, postgres_with_tables)] == [1], "it says what it executes"
    )
    wait_until(lambda: default_pool(server)["running"] == 1, "the server says it")
    (supervisor,) = supervisors(here, postgres_with_tables)
    pool = default_pool(server)

    assert worker.ready["isolation"] == "process"
    assert supervisor["worker_id"] == worker.ready["worker_id"]
    assert (supervisor["capacity"], supervisor["address"]) == (2, worker.ready["url"])
    assert (pool["workers"], pool["places"]) == (1, 2)
    assert httpx.get(f"{server.url}/queue", timeout=PATIENCE).json()["unserved"] == []
    with httpx.Client(base_url=worker.ready["url"], timeout=PATIENCE) as health:
        assert health.get("/live").json() == {"status": "live"}
        assert health.get("/ready").status_code == 200
    assert worker.ready["url"] not in {
        one["address"] for one in workers(here, postgres_with_tables) if one["isolated_in"]
    }


def test_the_worker_tells_what_its_processes_do_for_the_fleet(
    folder: Path, postgres_with_tables: str, forkery: Forkery
) -> None:
    (folder / "told.py").write_text("class Told:\n    async def on_event(self, event): ...\n", encoding="utf-8")
    (folder / "trackside.toml").write_text(SETTINGS + OBSERVED, encoding="utf-8")
    wanted = {
        *(f'trackside_duty_held{{duty="{duty}"}} 1.0' for duty in ("scheduler", "reaper", "sweeper")),
        'trackside_queue_places{pool="default"} 2.0',
        'trackside_queue_workers{pool="default"} 1.0',
        'trackside_subscription_active{subscription="told"} 1.0',
    }
    with working(folder, postgres_with_tables, forkery=forkery) as worker:  # it is alone: no server holds a duty
        told = f"{worker.ready['url']}/metrics"
        wait_until(lambda: wanted <= {*httpx.get(told, timeout=PATIENCE).text.splitlines()}, "it tells all of that")


def test_the_port_of_metrics_is_the_worker_s_and_none_of_its_processes(
    folder: Path, postgres_with_tables: str, forkery: Forkery
) -> None:
    [port] = free_ports(1)
    (folder / "trackside.toml").write_text(f'{SETTINGS}[[observers]]\ntype = "metrics"\nport = {port}\n', "utf-8")
    with working(folder, postgres_with_tables, forkery=forkery):
        told = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE).text

    assert "trackside_worker_places 2.0" in told.splitlines()


def supervisors(here: Run, database: str) -> list[dict[str, Any]]:
    return [one for one in workers(here, database) if one["isolated_in"] is None]


@pytest.mark.parametrize(
    ("how", "limit", "lease"),
    [("signal", "up to 3600 s", "1m"), ("command", "however long that takes", A_SIGN_SOON)],
)
def test_it_drains_as_one(
    how: str, limit: str, here: Run, server: TracksideServer, worker: TracksideProcess, postgres_with_tables: str
) -> None:
    run_id = begin(server, "drained")
    wait_until(
        lambda: len(workers(here, postgres_with_tables)) == 3, "both processes are there"
    )  # none is ended while it begins
    if how == "signal":
        worker.signal(signal.SIGTERM)
    else:
        asked = here("workers", "drain", worker.ready["worker_id"], "--yes", "--database", postgres_with_tables)
        assert asked.returncode == 0, asked.stderr
    wait_until(lambda: f"waiting for 1 run, {limit}" in worker.log, "it waits")
    (server.folder / "go").touch()

    assert worker.wait() == 0
    assert status_of(server, run_id) == "success"
    assert [one for one in said(worker) if one in {"stopping", "stopped"}] == ["stopping", "stopped"]
    assert workers(here, postgres_with_tables) == []


def test_the_second_signal_cancels_what_runs_also_in_a_process_that_hears_both_at_once(
    server: TracksideServer, worker: TracksideProcess
) -> None:
    run_id = begin(server, "second")
    pid = int((server.folder / "at-it-second").read_text("ascii"))
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: "(stopped)" in status_file(pid), "it stands still")  # else it may receive the next signal first
    for says in ("waiting for 1 run", "stopping quickly"):
        worker.signal(signal.SIGTERM)
        wait_until(lambda says=says: says in worker.log, says)
    wait_until(lambda: pending_signals(pid) >= {signal.SIGTERM, signal.SIGINT}, "it has been told twice")
    os.kill(pid, signal.SIGCONT)

    assert worker.wait() == 0
    assert status_of(server, run_id) == "cancelled"


def pending_signals(pid: int) -> set[int]:
    """The signals that a process has been sent but has not yet handled."""
    (mask,) = [int(line.split()[1], 16) for line in status_file(pid).splitlines() if line.startswith("ShdPnd")]
    return {number for number in signal.Signals if mask >> number - 1 & 1}


def status_file(pid: int) -> str:
    """What the operating system says about a process."""
    return Path(f"/proc/{pid}/status").read_text("ascii")


@pytest.mark.parametrize("lease", [A_SIGN_SOON])
def test_the_third_signal_ends_all_at_once_also_what_is_busy(server: TracksideServer, worker: TracksideProcess) -> None:
    run_id = begin(server, "third", "blocks")
    for says in ("waiting for 1 run", "stopping quickly"):
        worker.signal(signal.SIGTERM)
        wait_until(lambda says=says: says in worker.log, says)
    worker.signal(signal.SIGTERM)

    assert worker.wait() == 130
    wait_until(lambda: status_of(server, run_id) == "error", "somebody ends it")


def test_it_ends_though_the_database_waits_for_a_standby_that_is_gone(
    folder: Path, own_postgres_server: PostgresServer, forkery: Forkery
) -> None:
    postgres, database = own_postgres_server, own_postgres_server.create_database("runs")
    hurried = '[runs]\nshutdown_grace = "1s"\n\n[database]\nspool = "spool"\n'
    (folder / "trackside.toml").write_text(f"{SETTINGS}\n{hurried}", encoding="utf-8")

    with working(folder, database, drain="0s", forkery=forkery) as worker, postgres.without_standby():
        postgres.wait_for_waiting_commit("trackside")
        worker.signal(signal.SIGTERM)

        assert worker.wait() == 0


@pytest.mark.parametrize("lease", [A_SIGN_SOON])
def test_the_place_of_a_process_that_leaves_has_another_one_soon(
    here: Run, server: TracksideServer, worker: TracksideProcess, postgres_with_tables: str
) -> None:
    """Even if it was drained; and a process that cannot begin is reported, and tried again."""
    wait_until(lambda: len(workers(here, postgres_with_tables)) == 3, "both processes are there")
    (server.folder / "agents.py").rename(server.folder / "away.py")
    leaves = next(one for one in workers(here, postgres_with_tables) if one["isolated_in"])
    here("workers", "drain", leaves["worker_id"], "--yes", "--database", postgres_with_tables)
    wait_until(
        lambda: "exited with code 2 before it could take runs; the next one is tried in 1 s" in worker.log, "why"
    )
    assert ask(server, "echo")["said"] == "before"
    (server.folder / "away.py").rename(server.folder / "agents.py")
    wait_until(lambda: len(workers(here, postgres_with_tables)) == 3, "there are two processes again")
    assert leaves["worker_id"] not in {one["worker_id"] for one in workers(here, postgres_with_tables)}


def test_it_begins_anew_with_what_its_agents_are_by_then(server: TracksideServer, worker: TracksideProcess) -> None:
    (server.folder / "agents.py").write_text(AGENTS.replace("before", "after"), encoding="utf-8")
    pid = worker.pid
    worker.signal(signal.SIGHUP)
    worker.wait_until_ready()

    assert (worker.pid, ask(server, "echo")["said"]) == (pid, "after")


@pytest.mark.parametrize("is_stopped", [False, True])
def test_it_begins_anew_when_its_runs_have_ended_unless_it_is_told_to_stop(
    server: TracksideServer, postgres_with_tables: str, forkery: Forkery, is_stopped: bool
) -> None:
    with working(server.folder, postgres_with_tables, drain="0s", forkery=forkery) as worker:
        run_id, pid = begin(server, "anew"), worker.pid
        worker.signal(signal.SIGHUP)
        wait_until(lambda: "waiting for 1 run, however long that takes" in worker.log, "it waits")
        if is_stopped:
            worker.signal(signal.SIGTERM)
            assert worker.wait() == 0
            assert status_of(server, run_id) == "cancelled"
        else:
            (server.folder / "go").touch()
            worker.wait_until_ready()
            assert (status_of(server, run_id), worker.pid) == ("success", pid)


def test_ctrl_c_in_its_terminal_drains_it_once(
    terminal: Any, server: TracksideServer, postgres_with_tables: str
) -> None:
    shown = terminal("worker", "--memory-limit", "1GB", "--database", postgres_with_tables)
    shown.wait_for("Ctrl-C lets its runs end, and stops it")
    run_id = begin(server, "typed")
    shown.press(b"\x03")
    shown.wait_for("waiting for 1 run")
    (server.folder / "go").touch()

    assert shown.wait() == 0
    assert status_of(server, run_id) == "success"
    assert "at once   2, each in a process of at most 1,024 MiB" in shown.text
    assert shown.text.count("stopping") == 1
    assert shown.text.count("stopped") == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raise RuntimeError('boom')", "importing agents.py raised RuntimeError: boom"),
        ("async def other(input): ...", "agents.py has no echo; it has other"),
        ("import os\nos._exit(7)", "the agent's process exited with code 7 before it could take runs"),
    ],
)
def test_agents_that_cannot_be_loaded_are_said_once(
    text: str, says: str, trackside: Run, folder: Path, postgres_with_tables: str
) -> None:
    (folder / "agents.py").write_text(text, encoding="utf-8")
    done = trackside("worker", "--database", postgres_with_tables)

    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert says in line


def test_a_limit_of_memory_that_is_too_small_to_load_the_agents_is_said(
    trackside: Run, folder: Path, postgres_with_tables: str
) -> None:
    (folder / "agents.py").write_text("import time\ntime.sleep(60)", encoding="utf-8")
    done = trackside("worker", "--memory-limit", "16MiB", "--database", postgres_with_tables)

    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "the agent's process used more than its memory limit of 16 MiB before it could take runs" in done.stderr


def test_a_limit_of_memory_without_processes_is_refused(trackside: Run, folder: Path) -> None:
    done = trackside("worker", "--isolation", "none", "--memory-limit", "1GB", "--database", NOWHERE)

    assert done.returncode == 2
    assert "--memory-limit: runs that share the worker's process share its memory" in done.stderr
