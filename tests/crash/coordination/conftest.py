"""Processes to kill, databases of both kinds for them, and what looks into those databases."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from crash_children import Children


@pytest.fixture(scope="session")
def nursery() -> Iterator[Children]:
    """The process that forks children. Its imports, done once, take longer than most of the tests that use it."""
    with closing(Children()) as children:
        yield children


@pytest.fixture
def children(nursery: Children) -> Iterator[Children]:
    nursery.begin_anew()
    yield nursery
    nursery.kill_all()
