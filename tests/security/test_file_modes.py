"""Files on disk are for their user alone, even under a umask that keeps nothing from anybody; others are reported."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

EXECUTABLE = Path(sys.executable).with_name("trackside")

WRITES = """
import asyncio, json, os, stat
from pathlib import Path
from trackside.app.spool import Spool
from trackside.app.storage import Store
from trackside.testing import make_run

def modes(folder):
    found = {}
    for path in Path(folder).rglob("*"):
        found[path.name] = oct(stat.S_IMODE(path.stat().st_mode))
    return found

async def main():
    async with Store.open("sqlite:///runs.db") as store:
        await store.append(make_run())
        print(json.dumps(modes(".")))

asyncio.run(main())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody can reach, unlike pytest's own folders."""
    with tempfile.TemporaryDirectory(prefix="trackside-modes-") as made:
        path = Path(made)
        path.chmod(0o755)
        yield path


MAIN = "import sys; from trackside.app.cli import main; [main(words.split()) for words in sys.argv[1:]]"
"""Runs several commands in one process, which takes a tenth of the time."""


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("TRACKSIDE_")}
    return subprocess.run(words, cwd=folder, env=own, umask=0, capture_output=True, text=True, timeout=60, check=False)


def modes_in(folder: Path) -> dict[str, int]:
    found = (path for path in folder.rglob("*") if "__pycache__" not in path.parts and path.suffix != ".py")
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in found}


def test_a_database_and_what_is_kept_beside_it_are_for_their_user_alone(folder: Path) -> None:
    """Checked while the database is open, since there are more files then."""
    said = command(folder, sys.executable, "-c", WRITES)
    assert said.returncode == 0, said.stderr
    assert set(json.loads(said.stdout).items()) == {
        ("runs.db", "0o600"),
        ("runs.db-wal", "0o600"),
        ("runs.db-shm", "0o600"),
    }
    assert modes_in(folder) == {"runs.db": 0o600}


def test_whatever_commands_make_is_for_their_user_alone(folder: Path) -> None:
    (folder / "agents.py").write_text("async def echo(input):\n    return input\n")
    done = command(
        folder,
        sys.executable,
        "-c",
        MAIN,
        "run agents.py:echo hello",
        "export runs.jsonl",
        "export runs.jsonl.gz",
        "import runs.jsonl --database sqlite:///copy.db",
        "db compact",
        "auth create laptop",
    )
    assert "error" not in done.stderr, done.stderr
    modes = modes_in(folder)
    assert {"trackside.db", "copy.db", "runs.jsonl", "runs.jsonl.gz"} <= set(modes)
    assert set(modes.values()) == {0o600}


def test_a_file_keeps_the_mode_that_somebody_has_given_it(folder: Path) -> None:
    """A group may share a file."""
    (folder / "runs.db").touch()
    (folder / "runs.db").chmod(0o660)
    said = command(folder, sys.executable, "-c", WRITES)
    assert set(json.loads(said.stdout).values()) == {"0o660"}


def doctor(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return command(folder, str(EXECUTABLE), "doctor", *options)


def test_what_others_may_read_is_said_with_what_to_do(folder: Path, sqlite_with_tables: Path) -> None:
    spool = folder / "trackside.db-spool"
    spool.mkdir(mode=0o755)
    (spool / "refused.jsonl").write_text("")
    (folder / "trackside.db").write_bytes(sqlite_with_tables.read_bytes())
    for path in (folder / "trackside.db", spool / "refused.jsonl"):
        path.chmod(0o644)

    (found,) = [json.loads(line) for line in doctor(folder, "--json").stdout.splitlines()]

    assert found["severity"] == "warning"
    assert found["what"] == "every user of this machine may read in it what runs were asked and what they answered"
    assert found["where"] == str(folder / "trackside.db")
    mends = found["fix"].partition("`")[2].rstrip("`")
    subprocess.run(["sh", "-c", mends], check=True)
    assert set(modes_in(folder).values()) == {0o755, 0o640}
    assert doctor(folder).returncode == 0


def test_what_sqlite_keeps_beside_a_database_is_looked_at_where_a_link_to_it_leads(
    folder: Path, sqlite_with_tables: Path
) -> None:
    place = folder / "elsewhere"
    place.mkdir(mode=0o755)
    database = place / "runs.db"
    database.write_bytes(sqlite_with_tables.read_bytes())
    database.chmod(0o600)
    (place / "runs.db-journal").touch(mode=0o644)
    (folder / "trackside.db").symlink_to(database)

    (found,) = [json.loads(line) for line in doctor(folder, "--json").stdout.splitlines()]

    assert found["where"] == str(place / "runs.db-journal")


def test_of_a_folder_in_the_place_of_the_database_no_mode_is_complained_of(folder: Path) -> None:
    (folder / "trackside.db").mkdir(mode=0o755)

    (found,) = [json.loads(line) for line in doctor(folder, "--json").stdout.splitlines()]

    assert "it is a folder" in found["what"]


def test_what_nobody_else_can_get_to_is_not_complained_of(folder: Path, sqlite_with_tables: Path) -> None:
    (folder / "trackside.db").write_bytes(sqlite_with_tables.read_bytes())
    (folder / "trackside.db").chmod(0o644)
    folder.chmod(0o700)
    assert doctor(folder).returncode == 0
