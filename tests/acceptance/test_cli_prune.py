"""Old runs removed for good, and threads that are gone forgotten: from the command line."""

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
from aged_runs import record, recorded_in, rows

from trackside.app.storage import Store

type Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded_in(tmp_path_factory.mktemp("recorded"))


@pytest.fixture(autouse=True)
def database(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(recorded, tmp_path / "trackside.db"))


def test_prune_without_a_terminal_removes_only_what_was_agreed_to(here: Run, database: Path) -> None:
    asked = here("prune", "--older-than", "30d")
    dry = here("prune", "--older-than", "30d", "--dry-run")
    assert (asked.returncode, asked.stdout) == (2, "")
    assert asked.stderr == (
        "error: --yes: nobody is here to confirm it; 3 runs with 6 events, and 3 threads would be removed for good.\n"
    )
    assert (dry.returncode, dry.stdout) == (0, "Would remove 3 runs with 6 events, and 3 threads.\n")
    assert rows(database, "SELECT count(*) FROM runs") == [(5,)]

    done = here("prune", "--older-than", "30d", "--yes")
    again = here("prune", "--older-than", "30d", "--yes")

    assert (done.returncode, done.stdout) == (0, "Removed 3 runs with 6 events, and 3 threads.\n")
    assert (again.returncode, again.stdout) == (0, "There is nothing to remove.\n")
    assert rows(database, "SELECT count(*) FROM runs") == [(2,)]
    assert here("db", "check", "--all").stdout == "All is well.\n"


def test_prune_says_what_it_kept_and_for_whom(here: Run, database: Path) -> None:
    with closing(sqlite3.connect(database)) as open_database, open_database:
        names = "name, filter, cursor, on_failure, state, created_at, updated_at, token, failures"
        row = "'hook', '{}', 3, 'block', 'active', '2026', '2026', 0, 0"
        open_database.execute(f"INSERT INTO subscriptions ({names}) VALUES ({row})")

    done = here("prune", "--older-than", "30d", "--yes")
    told = here("prune", "--older-than", "0d", "--dry-run", "--json")

    assert done.stdout == (
        "Removed 1 run with 2 events, and 1 thread.\nKept 2 runs that subscription 'hook' has not finished with.\n"
    )
    report = {"runs": 0, "events": 0, "threads": 0, "kept_for": {"hook": 4}, "kept_waiting": 0}
    assert json.loads(told.stdout) == report


def traces_of(path: Path, word: str) -> list[str]:
    """The tables that have the word in some row."""
    tables = [name for (name,) in rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")]
    return [name for name in tables if any(word in repr(row) for row in rows(path, f'SELECT * FROM "{name}"'))]


def test_a_thread_that_is_deleted_is_forgotten_where_no_server_is(here: Run, database: Path, tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text("async def note(text, run): return {'heard': text}\n")
    assert here("run", "agents.py:note", "I am Ada", "--thread", "visit").returncode == 0
    assert "thread_states" in traces_of(database, "I am Ada")

    assert here("delete", "thread", "visit", "--yes").returncode == 0
    assert "thread_states" not in traces_of(database, "I am Ada")
    pruned = here("prune", "--older-than", "0d", "--thread", "visit", "--yes")

    assert pruned.stdout == "Removed 1 run with 5 events, and 1 thread.\n"
    assert traces_of(database, "I am Ada") == traces_of(database, "visit") == []


def test_a_prune_forgets_threads_that_were_deleted_before(here: Run, database: Path, tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text("async def note(text, run): return {'heard': text}\n")
    assert here("run", "agents.py:note", "I am Ada", "--thread", "visit").returncode == 0

    async def delete() -> None:
        async with Store.open(f"sqlite:///{database}") as store:
            await store.threads_of(None).remove("visit")

    asyncio.run(delete())
    assert here("prune", "--older-than", "30d", "--yes").returncode == 0
    assert "thread_states" not in traces_of(database, "I am Ada")
    assert here("prune", "--older-than", "0d", "--yes").returncode == 0
    assert traces_of(database, "I am Ada") == traces_of(database, "visit") == []


@pytest.mark.parametrize("asked", [True, False])
def test_a_thread_whose_time_is_over_and_that_nobody_swept_is_cleared_away_by_a_prune(
    here: Run, database: Path, tmp_path: Path, *, asked: bool
) -> None:
    (tmp_path / "agents.py").write_text("async def ask(text, run): return {'answer': run.interrupt('Sure?')}\n")

    async def make() -> None:
        async with Store.open(f"sqlite:///{database}") as store:
            await store.threads_of(None).create("visit", ttl_minutes=60)

    def run() -> str:
        return here("run", "agents.py:ask", "I am Ada", "--thread", "visit").stderr

    asyncio.run(make())
    if asked:
        run()
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE threads SET expires_at = '2020-01-01T00:00:00.000000Z' WHERE thread_id = 'visit'")
    assert "There is no thread 'visit'" in run()

    assert here("prune", "--older-than", "0d", "--thread", "visit", "--yes").returncode == 0
    assert traces_of(database, "visit") == []
    assert "There is no thread 'visit'" not in run()
    assert rows(database, "SELECT status FROM runs WHERE thread_id = 'visit'") == [("interrupted",)]


def test_a_prune_that_has_no_run_to_ask_about_forgets_threads_whose_time_is_over(
    terminal: Any, here: Run, database: Path, tmp_path: Path
) -> None:
    (tmp_path / "agents.py").write_text("async def note(text, run): return {'heard': text}\n")
    assert here("run", "agents.py:note", "I am Ada", "--thread", "visit").returncode == 0
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE threads SET expires_at = '2020-01-01T00:00:00.000000Z' WHERE thread_id = 'visit'")

    assert here("prune", "--older-than", "3000d", "--dry-run").stdout == "There is nothing to remove.\n"
    assert "thread_states" in traces_of(database, "I am Ada")
    one = terminal("prune", "--older-than", "3000d")
    assert one.wait() == 0
    assert one.text.strip() == "There is nothing to remove."
    assert "thread_states" not in traces_of(database, "I am Ada")
    assert rows(database, "SELECT count(*) FROM runs WHERE thread_id = 'visit'") == [(1,)]


@pytest.mark.parametrize(("answer", "left", "code"), [(b"y\r", 2, 0), (b"no\r", 5, 130), (b"\r", 5, 130)])
def test_prune_asks_on_a_terminal(terminal, database: Path, answer: bytes, left: int, code: int) -> None:
    one = terminal("prune", "--older-than", "30d", columns=120)
    one.wait_for("for good? [y/N]")
    one.press(answer)

    assert one.wait() == code
    assert rows(database, "SELECT count(*) FROM runs") == [(left,)]


async def test_what_has_ended_since_prune_asked_stays(terminal: Any, database: Path) -> None:
    one = terminal("prune", "--older-than", "0d", columns=120)
    await asyncio.to_thread(one.wait_for, "Remove 5 runs with 10 events, and 5 threads")
    await record(f"sqlite:///{database}", runs=4)
    one.press(b"y\r")

    assert await asyncio.to_thread(one.wait) == 0
    assert "Removed 5 runs with 10 events, and 5 threads." in one.text
    assert rows(database, "SELECT count(*) FROM runs") == [(4,)]


@pytest.mark.parametrize("age", ["30", "soon", "-3d", "99999999999999w"])
def test_an_age_that_is_none(here: Run, age: str) -> None:
    said = here("prune", f"--older-than={age}", "--yes")

    assert (said.returncode, said.stdout) == (2, "")
    assert "--older-than: " in said.stderr


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--older-than", "0d", "--status", "running"], "--status: only runs that have ended are removed"),
        (["--older-than", "9999999d"], "--older-than: '9999999d' is longer ago than the year 1"),
    ],
)
def test_what_cannot_be_removed_is_said_as_it_was_typed(here: Run, options: list[str], what: str) -> None:
    said = here("prune", *options, "--yes")

    assert (said.returncode, said.stdout, said.stderr) == (2, "", f"error: {what}.\n")
