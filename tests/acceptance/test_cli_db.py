"""Databases looked after, what is wrong with them, and files that are none: from the command line."""

import asyncio
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from aged_runs import OTHER, record, recorded_in, rows

from trackside.app.storage import maintenance

type Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded_in(tmp_path_factory.mktemp("recorded"))


@pytest.fixture(autouse=True)
def database(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(recorded, tmp_path / "trackside.db"))


@pytest.mark.parametrize(
    "command",
    [
        ["runs"],
        ["prune", "--older-than=0d", "--yes"],
        ["db", "check"],
        ["db", "current"],
        ["db", "upgrade"],
        ["db", "compact"],
    ],
    ids=" ".join,
)
def test_a_file_that_is_no_database_is_named_with_who_chose_it(here: Run, database: Path, command: list[str]) -> None:
    database.write_bytes(b"no database at all" * 1_000)

    said = here(*command, "--database=sqlite:///trackside.db")

    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith("error: --database: trackside.db is not an SQLite database")


def test_a_database_that_is_locked_is_not_blamed_on_its_address(
    here: Run, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "BUSY_TIMEOUT", 0.0)
    with closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN IMMEDIATE")
        said = here("db", "compact", "--database=sqlite:///trackside.db")

    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr.startswith("error: The database trackside.db stayed locked by another process")


def test_the_version_of_the_tables(here: Run, database: Path, tmp_path: Path) -> None:
    (version,) = rows(database, "SELECT version_num FROM alembic_version")[0]

    assert here("db", "current").stdout == f"{version} (up to date)\n"
    assert here("db", "upgrade").stdout == f"Nothing to do: the tables are of version {version}.\n"
    assert here("db", "upgrade", OTHER).stdout == f"Made the tables, of version {version}.\n"
    assert json.loads(here("db", "current", OTHER, "--json").stdout) == {"found": version, "known": version}
    missing = here("db", "current", "--database=sqlite:///none.db")
    assert (missing.returncode, missing.stderr.startswith("error: nothing recorded at")) == (2, True)


def test_programs_read_from_which_version_the_tables_were_brought_to_which(here: Run, database: Path) -> None:
    (known,) = rows(database, "SELECT version_num FROM alembic_version")[0]
    made = {"found": None, "known": known, "steps": 1}

    assert json.loads(here("db", "upgrade", OTHER, "--dry-run", "--json").stdout) == made
    assert json.loads(here("db", "upgrade", OTHER, "--json").stdout) == made
    done = {"found": known, "known": known, "steps": 0}
    assert json.loads(here("db", "upgrade", OTHER, "--json").stdout) == done
    assert json.loads(here("db", "upgrade", OTHER, "--dry-run", "--json").stdout) == done


def test_the_version_of_newer_tables_is_shown_beside_ours(here: Run, database: Path) -> None:
    (version,) = rows(database, "SELECT version_num FROM alembic_version")[0]
    with closing(sqlite3.connect(database)) as open_database, open_database:
        open_database.execute("UPDATE alembic_version SET version_num = '9999'")

    said, told = here("db", "current"), here("db", "current", "--json")

    expected = f"9999 (this Trackside works with {version}; a newer one made them: upgrade Trackside)\n"
    assert (said.returncode, said.stdout) == (0, expected)
    assert json.loads(told.stdout) == {"found": "9999", "known": version}
    refused, foretold = here("db", "upgrade", "--yes"), here("db", "upgrade", "--dry-run")
    assert "written by a newer version of Trackside (schema 9999" in foretold.stderr
    assert (foretold.returncode, foretold.stdout, foretold.stderr) == (2, "", refused.stderr)


def test_space_is_given_back(here: Run, database: Path) -> None:
    asyncio.run(record(f"sqlite:///{database}", runs=200, ago=timedelta(days=40)))
    before = database.stat().st_size
    here("prune", "--older-than", "30d", "--yes")

    assert database.stat().st_size == before
    said = json.loads(here("db", "compact", "--json").stdout)
    assert said == {"bytes_before": before, "bytes_after": database.stat().st_size}
    assert database.stat().st_size < before / 2
    assert here("db", "compact").stdout == "Done.\n"
    assert here("db", "check", "--all").stdout == "All is well.\n"
    assert here("db", "compact", "--database=sqlite:///none.db").returncode == 2


def test_what_is_wrong_with_a_database_is_told_by_lines_and_exit_code(here: Run, database: Path) -> None:
    assert (here("db", "check").returncode, here("db", "check", "--json").stdout) == (0, "")
    with closing(sqlite3.connect(database)) as open_database, open_database:
        open_database.execute("UPDATE counters SET value = 1 WHERE name = 'position'")

    said, told = here("db", "check"), here("db", "check", "--json")

    assert (said.returncode, told.returncode) == (1, 1)
    assert said.stdout == "counters: the last position given is 1, and an event has 10\n"
    assert json.loads(told.stdout) == {"where": "counters", "what": "the last position given is 1, and an event has 10"}
