"""Which addresses and options can open a store, decided without touching the disk."""

from pathlib import Path

import pytest

from trackside.app.storage import WriteLimits
from trackside.app.storage._databases.sqlite.connections import SqliteDatabase
from trackside.app.storage.errors import DatabaseUrlError, StoreOptionError


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///runs.db", "runs.db"),
        ("sqlite:///data/runs.db", "data/runs.db"),
        ("sqlite:////var/lib/runs.db", "/var/lib/runs.db"),
        ("sqlite:///with space % and #.db", "with space % and #.db"),
    ],
)
def test_an_address_names_a_file(url: str, path: str) -> None:
    assert SqliteDatabase.from_url(url).path == Path(path)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("runs.db", "no sqlite://"),
        ("sqlite:runs.db", "no sqlite://"),
        ("", "no sqlite://"),
        ("sqlite://", "memory"),
        ("sqlite:///", "memory"),
        ("sqlite:///:memory:", "memory"),
        ("sqlite://runs.db", "host"),
        ("sqlite:///runs.db?mode=ro", "options"),
        ("mysql://localhost/x", "an SQLite file or a PostgreSQL database"),
        ("sqlite:///\ud800.db", "half characters"),
        (7, "not a text"),
    ],
)
def test_another_address_is_refused_and_told_how_to_write_one(url: str, why: str) -> None:
    with pytest.raises(DatabaseUrlError, match=why) as refused:
        SqliteDatabase.from_url(url)

    assert "sqlite:///relative/path.db" in str(refused.value)
    assert refused.value.fault == "caller"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@host/runs",
        "mysql://me:some@secret@host/runs",
        "mysql://host/runs?user=me&password=secret",
        "sqlite://me:secret@host/runs",
        "me:secret@host/runs",
    ],
)
def test_a_password_is_not_repeated(url: str) -> None:
    with pytest.raises(DatabaseUrlError) as refused:
        SqliteDatabase.from_url(url)

    assert "secret" not in str(refused.value)
    assert "secret" not in repr(refused.value.details)


@pytest.mark.parametrize(
    "option",
    [
        {"synchronous": "OFF"},
        {"synchronous": "full"},
        {"busy_timeout": -1},
        {"busy_timeout": "5"},
        {"busy_timeout": 1e9},
    ],
)
def test_an_option_that_does_not_fit_is_named(option: dict) -> None:
    with pytest.raises(StoreOptionError, match=next(iter(option))):
        SqliteDatabase.from_url("sqlite:///runs.db", **option)


@pytest.mark.parametrize(
    "limit", [{"batch_count": 0}, {"batch_bytes": -1}, {"waiting_count": True}, {"waiting_bytes": 1.5}]
)
def test_a_limit_that_does_not_fit_is_named(limit: dict) -> None:
    with pytest.raises(StoreOptionError, match=next(iter(limit))):
        WriteLimits(**limit)
