"""LangGraph's JavaScript clients as they are published, installed once for all tests, and Node scripts that use them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "tests" / "javascript"
PACKAGES: Final = FOLDER / "node_modules"
LOCK: Final = FOLDER / "package-lock.json"

_STAMP: Final = PACKAGES / ".made-of"
_NEEDS: Final = 20  # the version of Node that the packages ask for
_PATIENCE: Final = 150.0  # seconds


def node() -> str:
    """The Node that runs them, with the locked packages in place; the test is skipped where no Node is installed."""
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None:
        pytest.skip("Node.js (https://nodejs.org) and its npm are not installed")
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    if int(said.strip().lstrip("v").partition(".")[0]) < _NEEDS:
        pytest.skip(f"Node.js {_NEEDS} or newer is needed, this is {said.strip()}")
    _install()
    return found


def _install() -> None:
    """Install what the lock file says, unless that has been done; one process at a time."""
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    (ROOT / ".tools").mkdir(exist_ok=True)
    with (ROOT / ".tools" / "javascript.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if _STAMP.exists() and _STAMP.read_text(encoding="ascii") == wanted:
            return
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
        done = subprocess.run(
            command,
            cwd=FOLDER,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"npm ci ends with {done.returncode}:\n{done.stdout}{done.stderr}")
        _STAMP.write_text(wanted, encoding="ascii")


def run_tests(script: str, *, url: str, seconds: float = _PATIENCE, **environment: str) -> None:
    """Run a script of node:test in `tests/javascript` against a server, with additional environment variables.

    Raises:
        AssertionError: one of its tests failed; the message says what Node printed.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(("LANG", "TRACKSIDE_"))}
    command = [node(), "--test", "--test-reporter=spec", script]
    with subprocess.Popen(
        command,
        cwd=FOLDER,
        env={**own, "SERVER": url, "NO_COLOR": "1", "NODE_ENV": "development", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # Node runs the script in a separate process
            output, _ = process.communicate()
            raise AssertionError(f"{script} hangs:\n{output}") from None
    assert process.returncode == 0, f"{script} ends with {process.returncode}:\n{output}"
    assert "ℹ fail 0" in output, output
