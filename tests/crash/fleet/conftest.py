"""A database server that fleets may restart, both engines, and fleets of real processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from fleet import Fleet
from forking import Forkery
from postgres_server import PostgresServer

type OpenFleet = Callable[..., Any]
"""Starts a fleet, as `Fleet` says, which ends with the test."""


@pytest.fixture(scope="session")
def fleet_postgres() -> Iterator[PostgresServer]:
    """A server for the databases of fleets, which have many connections; only this process uses it, and may restart it."""
    with PostgresServer(fsync=False, settings={"max_connections": "300"}) as server:
        yield server


@pytest.fixture(params=["nats", pytest.param("postgres", marks=pytest.mark.long)])
def engine(request: pytest.FixtureRequest) -> str:
    """What moves the work; that it makes no difference to what is lost, which is nothing, the long run shows."""
    return str(request.param)


@pytest.fixture
async def open_fleet(fleet_postgres: PostgresServer, tmp_path: Path, forkery: Forkery) -> AsyncIterator[OpenFleet]:
    async with AsyncExitStack() as stack:

        async def open_(**options: Any) -> Fleet:
            return await stack.enter_async_context(Fleet(tmp_path, fleet_postgres, forkery=forkery, **options))

        yield open_
