"""Databases that have our tables but are empty, for the conformance kit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from dialects import BOTH


@pytest.fixture(params=BOTH)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        path = tmp_path / "runs.db"
        shutil.copy(request.getfixturevalue("sqlite_with_tables"), path)
        yield f"sqlite:///{path}"
    else:
        yield request.getfixturevalue("postgres_with_tables")
