"""Processes to kill, databases of both kinds for them, and what looks into those."""

from collections.abc import Iterator
from contextlib import closing

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
