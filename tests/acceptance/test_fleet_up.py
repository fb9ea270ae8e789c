"""`trackside fleet up` as a user types it: a fleet that answers, keeps itself up, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk import get_sync_client
from left_processes import is_there

type Run = Callable[..., subprocess.CompletedProcess[str]]
type OpenTerminal = Callable[..., Any]

PATIENCE = 90.0  # seconds after which something that does not come counts as hanging
AGENTS = """
import asyncio
import os

async def chat(input, run):
    run.send({"number": 0})
    while input.get("until") and not os.path.exists(input["until"]):
        run.send({"number": 1})
        await asyncio.sleep(0.02)
    return {"said": input["text"].upper()}
"""


class Fleet:
    """`trackside fleet up --json`, and the lines that it writes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._unread = b""

    def until(self, fits: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """Read on until a line fits."""
        deadline = time.monotonic() + PATIENCE
        while not fits(line := self._next(deadline)):
            pass
        return line

    def until_happened(self, process: str, what: str) -> None:
        """Read on until a line says this of a process."""
        self.until(lambda line: line.get("happened", {}).get("process") == process and what in line["happened"]["what"])

    def end(self) -> int:
        """Tell it to stop, and read to the end; gives its exit code."""
        self.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        while self._has_more(deadline):
            self._next(deadline)
        return self.process.wait(PATIENCE)

    def _next(self, deadline: float) -> dict[str, Any]:
        if not self._has_more(deadline):
            raise AssertionError(
                f"it has ended: {self.lines[-3:]} {self.process.stderr and self.process.stderr.read()}"
            )
        text, _, self._unread = self._unread.partition(b"\n")
        self.lines.append(json.loads(text))
        return self.lines[-1]

    def _has_more(self, deadline: float) -> bool:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise AssertionError(f"nothing happens any more: {self.lines[-3:]}")
                if not (more := os.read(self.process.stdout.fileno(), 65_536)):
                    return False
                self._unread += more
        return True


@pytest.fixture
def fleet(piped: Any, tmp_path: Path) -> Callable[..., Fleet]:
    """Starts fleets."""
    (tmp_path / "agents.py").write_text(AGENTS, encoding="utf-8")
    return lambda *options: Fleet(piped("fleet", "up", "agents.py:chat", "--json", *options))


def until_gone(pids: set[int]) -> None:
    deadline = time.monotonic() + PATIENCE
    while any(map(is_there, pids)):
        assert time.monotonic() < deadline, pids
        time.sleep(0.02)


@pytest.mark.parametrize("engine", ["nats", "postgres"])
def test_a_fleet_answers_at_each_server_and_leaves_nothing_behind(fleet: Any, engine: str) -> None:
    one = fleet("--workers", "1", "--engine", engine)
    up = one.until(lambda line: "up" in line)["up"]
    names = [process["name"] for process in up["processes"]]
    stores = ["postgres", "nats"] if engine == "nats" else ["postgres"]
    assert names == [*stores, "server-1", "server-2", "worker-1"]
    for number, url in enumerate(up["urls"]):
        with get_sync_client(url=url, api_key=None) as client:
            answer: Any = client.runs.wait(None, "chat", input={"text": f"hello {number}"})
            assert answer == {"said": f"HELLO {number}"}
    one.until(lambda line: line.get("now", {}).get("ended") == {"success": 2})
    assert one.end() == 0
    ended = [line["happened"]["process"] for line in one.lines if line.get("happened", {}).get("what") == "stopped"]
    assert ended[0] == "worker-1", "who executes ends first, while servers tell of it"
    assert set(ended[1:3]) == {"server-1", "server-2"}
    assert ended[3:] == list(reversed(stores))
    until_gone({process["pid"] for process in up["processes"]})


def test_workers_take_the_runs_of_every_agent_also_of_those_that_have_a_pool_of_their_own(
    piped: Any, tmp_path: Path
) -> None:
    (tmp_path / "agents.py").write_text(AGENTS, encoding="utf-8")
    settings = '[agents]\nchat = "agents.py:chat"\nrender = "agents.py:chat"\n[pools]\nrender = "gpu"\n'
    (tmp_path / "trackside.toml").write_text(settings, encoding="utf-8")
    one = Fleet(piped("fleet", "up", "--json", "--workers", "1", "--servers", "1", "--engine", "postgres"))
    up = one.until(lambda line: "up" in line)["up"]
    with get_sync_client(url=up["urls"][0], api_key=None, timeout=PATIENCE) as client:
        for agent in ("chat", "render"):
            assert client.runs.wait(None, agent, input={"text": agent}) == {"said": agent.upper()}
    assert one.end() == 0


def test_a_fleet_that_asks_for_keys_says_how_to_make_one(piped: Any, tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text(AGENTS, encoding="utf-8")
    (tmp_path / "trackside.toml").write_text('[server]\nauth = "keys"\n', encoding="utf-8")
    process = piped("fleet", "up", "agents.py:chat", "--workers", "1", "--servers", "1", "--engine", "postgres")
    said = ""
    while "Ctrl-C lets runs end" not in said:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        said += line
    (command,) = re.findall(r"  keys +(.*)", said)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    made = subprocess.run(
        command, shell=True, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True
    )
    (url,) = re.findall(r"  servers +(\S+)", said)
    with get_sync_client(url=url, api_key=made.stdout.strip(), timeout=PATIENCE) as client:
        assert client.runs.wait(None, "chat", input={"text": "hello"}) == {"said": "HELLO"}
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0


def test_a_process_that_is_killed_is_started_again_and_that_is_said(fleet: Any) -> None:
    one = fleet("--workers", "1", "--engine", "postgres")
    up = one.until(lambda line: "up" in line)["up"]
    for process in up["processes"][1:]:
        os.kill(process["pid"], signal.SIGKILL)
        one.until_happened(process["name"], "was killed by SIGKILL")
    back = one.until(
        lambda line: [each["restarts"] for each in line.get("now", {}).get("processes", ())] == [0, 1, 1, 1]
    )
    assert [each["port"] for each in back["now"]["processes"]] == [each["port"] for each in up["processes"]]
    one.until(lambda line: all(each["state"] == "up" for each in line.get("now", {}).get("processes", [{"state": ""}])))
    with get_sync_client(url=up["urls"][1], api_key=None) as client:
        assert client.runs.wait(None, "chat", input={"text": "again"}) == {"said": "AGAIN"}
    assert one.end() == 0


def test_runs_that_have_begun_end_before_the_fleet_does(fleet: Any, tmp_path: Path) -> None:
    one = fleet("--workers", "1", "--servers", "1", "--engine", "postgres")
    (url,) = one.until(lambda line: "up" in line)["up"]["urls"]
    with get_sync_client(url=url, api_key=None) as client:
        thread_id = client.threads.create()["thread_id"]
        asked = {"text": "slow", "until": str(tmp_path / "go")}
        run = client.runs.create(thread_id, "chat", input=asked, stream_mode="custom")
        parts = client.runs.join_stream(thread_id, run["run_id"])
        while next(parts).event != "custom":
            pass
        one.process.send_signal(signal.SIGTERM)
        one.until(lambda line: line.get("now", {}).get("processes", [{}])[-1].get("state") == "stopping")
        (tmp_path / "go").touch()
        events = [part.event for part in parts]
    assert events[-1] == "end"
    assert one.process.wait(PATIENCE) == 0


def test_nothing_is_left_of_a_fleet_that_is_killed(fleet: Any) -> None:
    one = fleet("--workers", "1", "--servers", "1")
    up = one.until(lambda line: "up" in line)["up"]
    one.process.kill()
    until_gone({process["pid"] for process in up["processes"]})


@pytest.mark.long
def test_data_is_kept_in_a_folder_whose_name_is_not_utf8(fleet: Any) -> None:
    with tempfile.TemporaryDirectory(prefix=os.fsdecode(b"trackside-fleet-\xe9-")) as name:
        Path(name).chmod(0o711)  # PostgreSQL runs as another user when we are root

        one = fleet("--data", name, "--workers", "1", "--servers", "1")
        up = one.until(lambda line: "up" in line)["up"]
        with get_sync_client(url=up["urls"][0], api_key=None) as client:
            answer: Any = client.runs.wait(None, "chat", input={"text": "hello"})

        assert answer == {"said": "HELLO"}
        assert one.end() == 0
        assert (Path(name) / "nats" / "store").is_dir()


@pytest.mark.long
def test_data_that_is_kept_is_there_the_next_time(fleet: Any) -> None:
    with tempfile.TemporaryDirectory(prefix="trackside-fleet-") as name:
        Path(name).chmod(0o711)  # PostgreSQL runs as another user when we are root
        options = ("--data", name, "--workers", "1", "--servers", "1", "--engine", "postgres")
        for times in (1, 2):
            one = fleet(*options)
            (url,) = one.until(lambda line: "up" in line)["up"]["urls"]
            with get_sync_client(url=url, api_key=None) as client:
                client.runs.wait(
                    "00000000-0000-4000-8000-000000000001", "chat", input={"text": "x"}, if_not_exists="create"
                )
                assert len(client.runs.list("00000000-0000-4000-8000-000000000001")) == times
            assert one.end() == 0
        assert {path.name for path in Path(name).iterdir()} >= {"postgres", "server-1.log", "worker-1.log"}


def test_the_screen_shows_each_process_and_ctrl_c_ends_all(terminal: OpenTerminal, tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text(AGENTS, encoding="utf-8")
    shown = terminal("fleet", "up", "agents.py:chat", "-n", "1", "--servers", "1", columns=80)
    shown.wait_for("Ctrl-C lets runs end")
    assert "client.runs.wait(None, 'chat', input={…})" in shown.text
    for name in ("postgres", "nats", "server-1", "worker-1"):
        while not re.search(rf"{name} +\S+ (up|starting) ", shown.text):
            shown.wait_for_more(1)
    while not (up := re.findall(r"worker-1 +▸ up +(\d+)", shown.text)):
        shown.wait_for_more(1)
    pid = up[-1]
    os.kill(int(pid), signal.SIGKILL)
    shown.wait_for("worker-1 was killed by SIGKILL")
    shown.wait_for("worker-1 is up again")
    shown.press(b"\x03")
    assert shown.wait() == 0
    assert any("stopped" in line and "server-1" in line for line in shown.lines)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("-n", "0"), 2, "'0' is not a whole number from 1 up"),
        (("-n", "1000"), 2, "--workers: 1,000 are too many for one machine"),
        (("--servers", "100"), 2, "--servers: 100 are too many"),
        (("--port", "65535"), 2, "ports go up to 65,535"),
        (("--engine", "kafka"), 2, "is not one of 'nats', 'postgres'"),
        (("--url", "http://127.0.0.1:1"), 2, "it starts servers of its own"),
        (("--data", "agents.py"), 2, "agents.py cannot be the data folder of a fleet: "),
        (("agents.py:missing",), 1, "server-1 does not start: agents.missing = agents.py:missing is no agent"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(
    arguments: tuple[str, ...], code: int, said: str, trackside: Run, tmp_path: Path
) -> None:
    (tmp_path / "agents.py").write_text(AGENTS, encoding="utf-8")
    agents = () if "agents.py:missing" in arguments else ("agents.py:chat",)
    done = trackside("fleet", "up", *agents, *arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_without_agents_there_is_no_fleet(trackside: Run) -> None:
    done = trackside("fleet", "up")
    assert done.returncode == 2
    assert "there is no agent to serve" in done.stderr
