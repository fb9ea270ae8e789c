"""What all tests that kill have in common: the address of an empty database, of each kind."""

from pathlib import Path

import pytest


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'runs.db'}"
    address: str = request.getfixturevalue("postgres_url")
    return address
