"""Processes to kill, databases of both kinds for them, and what looks into those."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from crash_children import Children


@pytest.fixture(scope="module")
def nursery() -> Iterator[Children]:
    with closing(Children()) as children:
        yield children


@pytest.fixture
def children(nursery: Children) -> Children:
    nursery.begin_anew()
    return nursery


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'runs.db'}"
    address: str = request.getfixturevalue("postgres_url")
    return address
