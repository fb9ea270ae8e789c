"""Our own store, and the observer that writes into it, keep their contracts."""

from collections.abc import AsyncIterator

import pytest
from tests.contract.memory_log import Disk, MemoryLog

from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.testing import ObserverContract, StoreContract, Stores


class TestStore(StoreContract):
    durable = True
    shared = True
    rows = True
    follows = True

    @pytest.fixture
    def stores(self, database_url: str) -> Stores:
        return Stores(lambda: Store.open(database_url))


class TestMemoryLog(StoreContract):
    """Not ours to ship: it shows that the contract asks for nothing that only a database can do."""

    virtual_time = True
    durable = True
    shared = True
    rows = True
    follows = True

    @pytest.fixture
    async def stores(self) -> Stores:
        disk = Disk()
        return Stores(lambda: MemoryLog(disk))


class TestStorageObserver(ObserverContract):
    complete = True
    idempotent = True

    @pytest.fixture
    async def observer(self, database_url: str) -> AsyncIterator[StorageObserver]:
        async with Store.open(database_url) as self.store:
            yield StorageObserver(self.store)

    async def effects(self, observer: StorageObserver) -> list[str]:
        return [stored.event.event_id for stored in await self.store.events()]
