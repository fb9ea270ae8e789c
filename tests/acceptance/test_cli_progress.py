"""Bars on a terminal, on standard error alone; none of them in a pipe; and what Ctrl-C reports of what was done."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from trackside.app.storage import Store
from trackside.testing import make_run

type Run = Callable[..., subprocess.CompletedProcess[str]]

RUNS = 40


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "trackside.db"

    async def fill() -> None:
        async with Store.open(f"sqlite:///{path}") as store:
            for number in range(RUNS):
                await store.append(make_run(f"run-{number:03}", thread_id=f"thread-{number:03}"))

    asyncio.run(fill())
    return path


@pytest.fixture
def database(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(filled, tmp_path / "trackside.db"))


def test_bars_are_shown_while_it_goes_on_and_are_gone_in_the_end(terminal: Any, database: Path) -> None:
    out = terminal("export", "runs.jsonl.gz", columns=120)
    assert out.wait() == 0
    assert f"{RUNS * 5} events" in out.text.partition("Exported")[0]
    assert out.lines == [f"Exported {RUNS * 5} events of the log up to position {RUNS * 5} to runs.jsonl.gz."]

    back = terminal("import", "runs.jsonl.gz", "-d", "sqlite:///other.db", columns=120)
    assert back.wait() == 0
    assert "Importing" in back.text
    assert "100%" in back.text
    assert back.lines == [
        f"Imported {RUNS * 5} events at the positions that they had; 0 events of the file were there already."
    ]

    away = terminal("prune", "--older-than", "0d", "--yes", columns=120)
    assert away.wait() == 0
    assert "Removing" in away.text
    assert f"{RUNS} runs" in away.text.partition("Removed")[0]
    assert away.lines == [f"Removed {RUNS} runs with {RUNS * 5} events, and {RUNS} threads."]


def test_a_bar_is_on_standard_error_alone(terminal: Any, database: Path, tmp_path: Path) -> None:
    shown = terminal("prune", "--older-than", "0d", "--yes", "--json")
    assert shown.wait() == 0
    assert json.loads(shown.lines[-1])["runs"] == RUNS


def test_in_a_pipe_there_is_no_bar(trackside: Run, database: Path) -> None:
    done = [
        trackside("export", "runs.jsonl"),
        trackside("import", "runs.jsonl", "-d", "sqlite:///other.db"),
        trackside("prune", "--older-than", "0d", "--yes"),
        trackside("db", "upgrade"),
    ]
    assert [one.returncode for one in done] == [0, 0, 0, 0]
    assert [one.stderr for one in done[1:]] == ["", "", ""]
    assert done[0].stderr.count("\n") == 1
    assert all("\x1b" not in one.stdout + one.stderr for one in done)


@pytest.mark.parametrize(
    ("command", "shown", "said"),
    [
        (
            ("prune", "--older-than", "0d", "--yes"),
            "Removing",
            "Broken off: 0 runs removed, and the rest is as it was; the same command continues.",
        ),
        (
            ("import", "runs.jsonl"),
            "Importing",
            "Broken off: 0 events of the file are in the database; the same command continues with the rest.",
        ),
    ],
)
def test_ctrl_c_says_what_was_done_and_how_to_go_on(
    terminal: Any, here: Run, database: Path, command: tuple[str, ...], shown: str, said: str
) -> None:
    here("export", "runs.jsonl")
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # so that it is running, and gets nowhere
        one = terminal(*command, columns=120)
        one.wait_for(shown)
        one.press(b"\x03")
        one.wait_for_more(1)
        other.execute("ROLLBACK")
        assert one.wait() == 130
    assert one.lines[-1].removeprefix("^C") == said
    assert b"\x1b[?25h" in one.output, "the cursor comes back"
