"""NATS servers, shared or one per test that stops its server, and engines that are closed at the end."""

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest
from nats_engines import Open, opening
from nats_server import NatsServer


@pytest.fixture(scope="session")
def shared_nats() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest.fixture
def own_nats() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest.fixture
async def open_engine() -> AsyncIterator[Open]:
    async with opening() as open_one:
        yield open_one


@pytest.fixture
def fleet() -> str:
    """A prefix that no other test uses."""
    return f"t{uuid4().hex[:8]}"
