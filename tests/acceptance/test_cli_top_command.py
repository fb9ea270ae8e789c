"""The command `trackside top`: on a terminal, at a database and at a server, and where it cannot be shown."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from forking import Forkery
from trackside_server import TracksideServer

from trackside.app.cli.commands import parser
from trackside.app.cli.records.protocol import Home
from trackside.app.cli.records.stored import StoredRecords
from trackside.app.cli.top.screen import TopApp
from trackside.app.storage import Store
from trackside.app.storage.errors import OlderDatabaseError
from trackside.testing import make_run

type Run = Callable[..., subprocess.CompletedProcess[str]]

AGENTS = """
import asyncio

async def sleep(input):
    await asyncio.Event().wait()

async def fail(input):
    raise ValueError("no such card")
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'trackside.db'}"


def test_a_server_is_watched_through_an_outage(terminal: Any, tmp_path: Path, forkery: Forkery) -> None:
    (tmp_path / "agents.py").write_text(AGENTS, encoding="utf-8")
    with TracksideServer(tmp_path, "agents.py:sleep", "agents.py:fail", forkery=forkery) as server:
        first = begin(server, "sleep")
        shown = terminal("top", "--url", server.url, columns=140)
        shown.wait_for(first[:18])
        server.kill()
        shown.wait_for(f"No server answers at {server.url}")
        seen = len(shown.text)
        server.restart()
        second = begin(server, "fail")
        shown.wait_for(second[:18])
        assert "fail" in shown.text[seen:]
        shown.press(b"q")
        assert shown.wait() == 0


def begin(server: TracksideServer, agent: str) -> str:
    """Start a run of a new thread; its id."""
    answer = httpx.post(f"{server.url}/runs", json={"assistant_id": agent, "input": "hello"})
    answer.raise_for_status()
    return str(answer.json()["run_id"])


def test_in_a_pipe_it_says_what_to_use_instead(trackside: Run) -> None:
    refused = trackside("top")
    assert refused.returncode == 2
    assert "it needs a terminal" in refused.stderr


def test_without_textual_it_says_how_to_get_it(trackside: Run, tmp_path: Path) -> None:
    blocked = tmp_path / "site" / "sitecustomize.py"
    blocked.parent.mkdir()
    blocked.write_text(
        "import importlib.util as u\nf = u.find_spec\nu.find_spec = lambda n, p=None: None if n == 'textual' else f(n, p)\n"
    )
    refused = trackside("top", shell='exec "$0" "$@"', PYTHONPATH=str(blocked.parent))
    assert refused.returncode == 2
    assert (
        refused.stderr
        == "error: top cannot be shown: Textual is not installed; pip install 'trackside[top]' does it. [top-not-shown]\n"
    )


def test_on_a_terminal_it_cancels_a_run_of_another_process(
    terminal: Any, piped: Any, here: Run, tmp_path: Path
) -> None:
    (tmp_path / "agents.py").write_text(AGENTS, encoding="utf-8")
    asyncio.run(_record(f"sqlite:///{tmp_path / 'trackside.db'}"))
    running = piped("run", "agents.py:sleep", "hello")
    while '"running"' not in here("runs", "--json", "--status", "running").stdout:
        assert running.poll() is None
    one = terminal("top", columns=140)
    one.wait_for("agents.py:sleep")
    one.press(b"c")
    one.wait_for("Cancel run")
    one.press(b"y")
    assert running.wait(60) == 130
    one.press(b"q")
    assert one.wait() == 0
    assert b"\x1b[?1049l" in one.output, "the screen is as it was before"


def test_a_screen_that_fails_is_an_error_to_the_shell(monkeypatch: pytest.MonkeyPatch, here: Run, url: str) -> None:
    def fail(app: TopApp) -> None:
        raise LookupError("nothing can be drawn")

    monkeypatch.setattr("textual.constants.DRIVER", "textual.drivers.headless_driver:HeadlessDriver")
    monkeypatch.setattr(TopApp, "on_mount", fail)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    asyncio.run(_record(url))
    failed = here("top", "--dark")
    assert failed.returncode == 1
    assert "nothing can be drawn" in failed.stderr


class Old(StoredRecords):
    """Records of an older version, for somebody who may only read."""

    async def run(self, run_id: str) -> Any:
        raise OlderDatabaseError(database="trackside.db", found=1, known=2)


async def test_commands_that_it_suggests_name_the_database_that_was_typed(url: str) -> None:
    assert parser  # which makes itself known to what suggests commands
    async with Store.open(url) as store:
        await store.append(make_run("run-1")[:1])
        top = TopApp(Old(store, Home(url, f" --database {url}")))
        async with top.run_test(size=(140, 40)) as pilot:
            for key, suggested in (("r", "trackside retry run-1"), ("enter", "trackside db upgrade")):
                while not any(suggested in note.message for note in top._notifications):
                    await pilot.press(key)
                    await pilot.pause(0.02)
                notes = [note.message for note in top._notifications if suggested in note.message]
                assert f"{suggested} --database {url}" in notes[0]


async def _record(url: str) -> None:
    async with Store.open(url) as store:
        await store.append(make_run())
