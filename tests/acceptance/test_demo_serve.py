"""`./scripts/demo serve` as a user types it: runs of all kinds come, some wait for an answer, nothing is left over."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from left_processes import processes_left

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0  # seconds after which something that does not come counts as hanging
KINDS = {"success", "error", "timeout", "cancelled", "interrupted"}


def asked(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return json.loads(answer.read())


def children(pid: int) -> list[int]:
    """The processes that any thread of a process has started."""
    found = [path.read_text("ascii").split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for of_thread in found for child in of_thread]


def has_all(url: str) -> bool:
    """Whether there are runs of all kinds, and events that nobody took."""
    kinds = {run["status"] for run in asked(f"{url}/runs?limit=200")}
    return kinds >= KINDS and asked(f"{url}/subscriptions")[0]["parked"] > 0


def demo(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "LANGSMITH_"))}
    return subprocess.Popen(
        [ROOT / "scripts" / "demo", "serve", *arguments],
        cwd=folder,
        env={**kept, "NO_COLOR": "1", "COLUMNS": "120", "PYTHONUNBUFFERED": "1", "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.timeout(240)
def test_runs_of_all_kinds_keep_coming_until_it_is_told_to_stop(tmp_path: Path) -> None:
    process = demo(tmp_path, "--port", "0", "--every", "0.5")
    try:
        assert process.stdout is not None
        while not (found := re.search(r"console   (http://127\.0\.0\.1:\d+)", line := process.stdout.readline())):
            assert line, process.communicate()
        url = found[1]
        with urllib.request.urlopen(f"{url}/events/stream?after=0", timeout=PATIENCE) as events:
            while not has_all(url):
                assert next(events)
        assert any(run["cost_usd"] for run in asked(f"{url}/runs?limit=200"))
    finally:
        process.terminate()
        _, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (0, "")
    assert processes_left(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("trackside-demo-serve")) != []


def test_a_server_that_is_gone_is_said(tmp_path: Path) -> None:
    process = demo(tmp_path, "--port", "0", "--every", "0.5")
    try:
        assert process.stdout is not None
        while "database" not in process.stdout.readline():
            assert process.poll() is None
        (server,) = [pid for pid in children(process.pid) if b"serve" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(server, signal.SIGKILL)
        _, complaints = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert complaints.startswith("demo: the server has ended by itself")
    assert "Traceback" not in complaints


def test_what_makes_no_sense_is_said(tmp_path: Path) -> None:
    for arguments, says in (
        (["--port", "70000"], "demo: --port is a number up to 65535, and not 70000\n"),
        (["--every", "0"], "demo: --every is more than nothing, and not 0\n"),
        (["--database", "mysql://x"], "demo: the server did not start: "),
    ):
        process = demo(tmp_path, *arguments)
        _, complaints = process.communicate(timeout=PATIENCE)
        assert process.returncode == 2
        assert complaints.startswith(says)
        assert "Traceback" not in complaints
