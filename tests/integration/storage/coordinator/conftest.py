"""Two workers on one store: each with its own store, coordinator and manager, as in two processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import pytest
from tests.integration.runs.stage import Agents, within_patience
from tests.integration.storage.first_look import first_look
from tests.property.queue_hands import ForgetfulSession, Hand
from told_events import told

from trackside import ObserverBinding, RunHandle, RunManager, RunSpec
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.app.storage.coordinator import StoredCoordinator
from trackside.harness.types import LifecycleEventType

NEVER = 3_600.0
"""A lease that nobody renews during a test: it ends when the test says so."""


@dataclass
class Worker:
    """What one process has."""

    store: Store
    manager: RunManager
    coordinator: StoredCoordinator

    async def start(self, input: Any = None, **options: Any) -> RunHandle:
        return await self.manager.start(RunSpec("work", input, **options))

    async def until_ended(self, run_id: str) -> None:
        """Wait until the log has the end of a run."""
        ends = {LifecycleEventType.RUN_COMPLETED, LifecycleEventType.RUN_FAILED, LifecycleEventType.RUN_CANCELLED}
        async with asyncio.timeout(20):
            async for _ in self.store.follow(run_id=run_id, types=ends):
                return

    async def told(self, thread_id: str) -> list[str]:
        """What the log says of a thread, in words."""
        return await told(self.store, thread_id)


def required(store: Store) -> list[Any]:
    """What a worker binds: storage, as required."""
    return [ObserverBinding(StorageObserver(store), required=True)]


def take_for_dead(database: Any, worker_id: str) -> None:
    """End the lease of a worker."""
    database.execute(f"UPDATE workers SET lease_until = 0 WHERE worker_id = '{worker_id}'")


@pytest.fixture
def agents() -> Agents:
    return Agents()


@pytest.fixture
async def worker(url: str, agents: Agents) -> AsyncIterator[Any]:
    """Makes workers that have looked once; those that a test does not close are closed at the end."""
    async with AsyncExitStack() as stack:

        @asynccontextmanager
        async def make(
            lease_seconds: float = NEVER, *, bind: Callable[[Store], list[Any]] = required, **options: Any
        ) -> AsyncIterator[Worker]:
            async with Store.open(url) as store:
                coordinator = store.coordinator(lease_seconds=lease_seconds)
                has_looked = first_look(coordinator)
                async with RunManager(
                    {"work": agents.work},
                    observers=bind(store),
                    coordinator=coordinator,
                    shutdown_grace=0.0,
                    **options,
                ) as manager:
                    await within_patience(has_looked.wait())
                    yield Worker(store, manager, coordinator)

        async def enter(**options: Any) -> Worker:
            return await stack.enter_async_context(make(**options))

        enter.make = make  # type: ignore[attr-defined]
        yield enter


@pytest.fixture
def hand(store: Store) -> Iterator[Callable[[], Hand]]:
    """Makes workers on one store, which know of each other only what the database says."""
    session = ForgetfulSession(store._writer._session)
    store._writer._session = cast("Any", session)
    hands: list[Hand] = []

    def make() -> Hand:
        hands.append(Hand(store, session))
        return hands[-1]

    yield make
    for each in hands:
        if each.coordinator._enrolment._heart is not None:
            each.coordinator._enrolment._heart.stop()
