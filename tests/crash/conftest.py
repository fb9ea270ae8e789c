"""What all tests that kill share: the address of a database, of each kind, with our tables and nothing in them."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        path = tmp_path / "runs.db"
        shutil.copy(request.getfixturevalue("sqlite_with_tables"), path)
        return f"sqlite:///{path}"
    address: str = request.getfixturevalue("own_postgres_with_tables")
    return address
