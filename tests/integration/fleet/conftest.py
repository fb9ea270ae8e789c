"""Fleets in this process, on each engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from fleet_here import FleetHere, fleet_here
from nats_server import NatsServer

type HaveFleet = Callable[..., AbstractAsyncContextManager[FleetHere]]


@pytest.fixture(scope="session")
def nats_of_fleets() -> Iterator[NatsServer]:
    """A NATS server for the tests that neither stop nor change it."""
    with NatsServer() as server:
        yield server


@pytest.fixture(params=["postgres", "nats"])
def have_fleet(request: pytest.FixtureRequest, postgres_with_tables: str) -> HaveFleet:
    """Opens a fleet with these agents: `async with have_fleet({"chat": graph}) as fleet`."""
    engine = "postgres" if request.param == "postgres" else request.getfixturevalue("nats_of_fleets").url

    def of(agents: dict[str, Any], **more: Any) -> AbstractAsyncContextManager[FleetHere]:
        return fleet_here(agents, postgres_with_tables, engine, **more)

    return of
