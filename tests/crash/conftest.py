"""What all tests that kill share: the address of a database, of each kind, with our tables and nothing in them."""

import shutil
from pathlib import Path

import pytest
from dialects import BOTH


@pytest.fixture(params=BOTH)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        path = tmp_path / "runs.db"
        shutil.copy(request.getfixturevalue("sqlite_with_tables"), path)
        return f"sqlite:///{path}"
    address: str = request.getfixturevalue("own_postgres_with_tables")
    return address
