"""Our own coordinators keep the coordinator contract."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest
from trusting import trust_leases_from_its_start

from trackside.app.storage import Store
from trackside.app.storage.coordinator import StoredCoordinator
from trackside.harness import RunLifecycleEvent
from trackside.harness.memory import MemoryCoordinator
from trackside.harness.ports import RunCoordinator
from trackside.testing import CoordinatorContract, Coordinators, VirtualClock

LEASE = 60.0  # seconds: no machine stands still for so long that a process that is there loses its runs
ROUNDS = 0.3  # seconds between two looks for processes that have gone, as often as with short leases


class TestMemoryCoordinator(CoordinatorContract):
    virtual_time = True

    @pytest.fixture
    async def coordinators(self) -> Coordinators:
        clock = VirtualClock()
        return Coordinators(lambda: MemoryCoordinator(clock=clock), clock=clock)


class StoredCoordinators(Coordinators):
    """Each as in a process of its own: with its own store on the same database."""

    def __init__(self, url: str) -> None:
        super().__init__(self._open_store)
        self.url = url
        self.stores: dict[RunCoordinator, Store] = {}

    @asynccontextmanager
    async def _open_store(self) -> AsyncGenerator[StoredCoordinator]:
        async with Store.open(self.url) as store:
            coordinator = store.coordinator(lease_seconds=LEASE)
            coordinator._upkeep._period = ROUNDS
            trust_leases_from_its_start(coordinator._enrolment)
            self.stores[coordinator] = store
            yield coordinator

    async def announce(self, coordinator: RunCoordinator, events: Sequence[RunLifecycleEvent]) -> None:
        await self.stores[coordinator].append(events)

    async def kill(self, coordinator: RunCoordinator) -> None:
        assert isinstance(coordinator, StoredCoordinator)
        enrolment = coordinator._enrolment
        assert enrolment._heart is not None
        enrolment._heart.stop()
        coordinator._upkeep.stop()
        enrolment._lease = 0.0
        await enrolment._writer.write(enrolment._registration())  # behind the signs of life that are on their way
        enrolment._heart = None  # so that it does not say goodbye when its store is closed

    async def told(self, run_id: str) -> list[RunLifecycleEvent]:
        store = next(reversed(self.stores.values()))
        return [stored.event for stored in await store.events(run_id=run_id)]


class TestStoredCoordinator(CoordinatorContract):
    durable = True
    shared = True
    delay = 0.05

    @pytest.fixture
    async def coordinators(self, database_url: str) -> Coordinators:
        return StoredCoordinators(database_url)
