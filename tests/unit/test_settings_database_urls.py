"""Addresses of databases that are nearly right: one clear line has the one that works, and no password."""

import os
import re
from pathlib import Path

import pytest

from trackside.app.settings import SettingsError, load_settings
from trackside.app.storage._databases.backends import backend_at

A_FILE, A_SERVER = "a file is written ", "a database of PostgreSQL is written "
GENERIC = "postgresql://USER@HOST/NAME"
ADDRESS = re.compile(r"(?:sqlite|postgresql)://\S*[^\s.,;]")


def refusal_of(written: str, folder: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings({"database.url": written}, environ={}, folder=folder)
    return str(caught.value)


@pytest.mark.parametrize(
    ("written", "advice"),
    [
        ("runs.db", "sqlite:///runs.db"),
        ("./runs.db", "sqlite:///./runs.db"),
        ("data//runs.db", "sqlite:///data//runs.db"),
        ("/data/runs.db", "sqlite:////data/runs.db"),
        ("~nobody-here/runs.db", "sqlite:///~nobody-here/runs.db"),
        ("data/", "sqlite:///data/FILE"),
        ("/", "sqlite:////FILE"),
        ("C:runs.db", "sqlite:///C:runs.db"),
        ("localhost/db", "sqlite:///localhost/db"),
        ("", "sqlite:///FILE"),
        ("sqlite:", "sqlite:///FILE"),
        ("sqlite:runs.db", "sqlite:///runs.db"),
        ("SQLite:/data/runs.db", "sqlite:////data/runs.db"),
        ("sqlite://runs.db", "sqlite:///runs.db"),
        ("SQLITE://runs.db", "sqlite:///runs.db"),
        ("sqlite://./runs.db", "sqlite:///./runs.db"),
        ("sqlite//runs.db", "sqlite:///runs.db"),
        ("sqlite3:///runs.db", "sqlite:///runs.db"),
        ("sqlite+aiosqlite:///runs.db?mode=ro", "sqlite:///runs.db"),
        ("sqlite+aiosqlite:////data/runs.db", "sqlite:////data/runs.db"),
        ("jdbc:sqlite:runs.db", "sqlite:///runs.db"),
        ("file:runs.db", "sqlite:///runs.db"),
        ("file:///data/runs.db", "sqlite:////data/runs.db"),
        ("sqlite:me:hush@host/db", "sqlite:///FILE"),
        ("sqlite://me:hush@host/db", "sqlite:///FILE"),
        ("runs\0.db", "sqlite:///FILE"),
        ('"sqlite:///runs.db"', "sqlite:///runs.db"),
        ("postgres:", GENERIC),
        ("postgresql:runs", GENERIC),
        ("postgres:host/db", "postgresql://host/db"),
        ("Postgres:/host/db", "postgresql://host/db"),
        ("postgresql//me@host:5433/db", "postgresql://me@host:5433/db"),
        ("postgresql:me:hush@host/db", "postgresql://me:PASSWORD@host/db"),
        ("postgresql:me:hu@sh@host/db", "postgresql://me:PASSWORD@host/db"),
        ("postgresql:me:hu/sh@host/db", GENERIC),
        ("postgresql+asyncpg:host/db?sslmode=require", "postgresql://host/db?sslmode=require"),
        ("pg://me:hush@host/db?password=hush", "postgresql://me:PASSWORD@host/db?password=PASSWORD"),
        ("jdbc:postgresql://host/db?user=me&password=hush&ssl=true", "postgresql://me:PASSWORD@host/db"),
        ("jdbc:postgresql://host:5433/db", "postgresql://host:5433/db"),
        ("me:hush@localhost/db", "postgresql://me:PASSWORD@localhost/db"),
        ("localhost:5432/db", "postgresql://localhost:5432/db"),
        ("host=h dbname=d password='hush hush'", GENERIC),
        (" postgresql://me:hush@host/db\n", "postgresql://me:PASSWORD@host/db"),
    ],
)
def test_what_is_nearly_an_address_is_answered_with_the_one_that_works(
    tmp_path: Path, written: str, advice: str
) -> None:
    said = refusal_of(written, tmp_path)

    kind = A_FILE if advice.startswith("sqlite") else A_SERVER
    assert said.startswith("--database: ")
    assert said.endswith(f"; {kind}{advice}.")
    assert "hush" not in said
    assert_is_accepted(advice, tmp_path)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("mysql://me:hush@host/db", "'mysql://me:…@host/db' is not supported: a database is an SQLite file or one"),
        ("mysql+pymysql://h/d?user=me&password=hush", "is not supported"),
        ("MariaDB://host/db", "is not supported"),
        ("mysql:me:hu@sh@host/db", "is not supported"),
        ("jdbc:sqlserver://host;user=me;password=hush", "is not supported"),
        ("http://localhost:2024", "is not supported"),
        ("sqlite://", "is in memory"),
        ("sqlite:///:memory:", "is in memory"),
        (":memory:", "is in memory"),
    ],
)
def test_what_cannot_be_used_is_plainly_refused(tmp_path: Path, written: str, says: str) -> None:
    said = refusal_of(written, tmp_path)

    assert says in said
    assert "hush" not in said
    addresses = ADDRESS.findall(said.partition(says)[2])
    assert "sqlite:///FILE" in addresses
    for address in addresses:
        assert_is_accepted(address, tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="it is a path there")
@pytest.mark.parametrize("written", ["C:\\data\\runs.db", "c:/runs.db", "sqlite:C:\\runs.db", "sqlite://C:/runs.db"])
def test_a_path_of_windows_is_no_file_elsewhere(tmp_path: Path, written: str) -> None:
    said = refusal_of(written, tmp_path)

    assert said.endswith("is a path of Windows, which this machine does not run; a file is written sqlite:///FILE.")


def test_the_home_folder_is_written_out_as_no_shell_does_inside_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")

    for written in ("~/runs.db", "sqlite:~/runs.db", "sqlite://~/runs.db"):
        assert refusal_of(written, tmp_path).endswith("a file is written sqlite:////home/me/runs.db.")


@pytest.mark.parametrize("written", ["SQLITE:///runs.db", "Postgresql+AsyncPG://host/db", "postgres:///db"])
def test_capitals_and_drivers_do_not_matter(tmp_path: Path, written: str) -> None:
    assert_is_accepted(written, tmp_path)


def assert_is_accepted(address: str, folder: Path) -> None:
    """By the settings, and by the store that they are for."""
    settings = load_settings({"database.url": address}, environ={}, folder=folder)
    backend_at(settings.database_url, synchronous="FULL", busy_timeout=1)
