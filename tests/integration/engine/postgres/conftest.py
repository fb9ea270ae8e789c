"""Engines on one PostgreSQL database, each with its own store, as if in separate processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from typing import Any

import pytest
from raw_postgres import RawConnection

from trackside.app.engine import Offer
from trackside.app.engine.postgres import PostgresEngine, _directory, open_postgres
from trackside.app.engine.postgres._offers import PostgresOffers
from trackside.app.storage import Store


class Worker:
    """A worker with some places that runs nothing: it keeps what it is offered until a test lets it go."""

    def __init__(self, engine: PostgresEngine, offers: PostgresOffers, places: int) -> None:
        self.engine = engine
        self.offers = offers
        self.offered: list[str | None] = []
        self.passed_on: list[int] = []
        """For each run that the worker was offered, how often others had been offered it before."""
        self._free = places
        self._room = asyncio.Event()
        self._room.set()
        self.offers.note_free(places)

    @property
    def runs(self) -> list[str]:
        return [run_id for run_id in self.offered if run_id is not None]

    @property
    def looks(self) -> int:
        return self.offered.count(None)

    async def work(self) -> None:
        while True:
            await self._room.wait()
            offer = await self.offers.next()
            self.offered.append(offer.run_id)
            if offer.run_id is not None:
                self.passed_on.append(offer.passed_on)
            self.take(offer)
            await asyncio.sleep(0)

    def take(self, offer: Offer) -> None:
        """Act as a worker whose looks find nothing and whose runs go on for ever."""
        if offer.run_id is None:
            free = self._free
            self.occupy(free)
            self.let_go(free)
        else:
            self.occupy(1)
        offer.done()

    def occupy(self, places: int) -> None:
        self._free -= places
        self._note()

    def let_go(self, places: int) -> None:
        self._free += places
        self._note()

    def _note(self) -> None:
        self.offers.note_free(self._free)
        (self._room.set if self._free > 0 else self._room.clear)()

    async def until_idle(self, looks: int = 1) -> None:
        """Wait until the worker has looked, and others have heard that it has room."""
        async with asyncio.timeout(60):
            while self.looks < looks or not self.offers._said.has_room or self.engine._bus.waiting:
                await asyncio.sleep(0.001)


class Fleet:
    """Makes engines that share a database, and workers on them."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self.url = url
        self.stack = stack
        self.stored: Sequence[Any] = ()
        """What the database says of the workers."""
        self.reads = 0
        self.stops: list[tuple[str, str]] = []

    async def engine(self, url: str | None = None) -> PostgresEngine:
        store = await self.stack.enter_async_context(Store.open(self.url if url is None else url))
        return await self.stack.enter_async_context(open_postgres(store, read_workers=self._read))

    async def worker(self, engine: PostgresEngine, name: str, *pools: str, places: int = 1) -> Worker:
        return await self.stack.enter_async_context(self.working(engine, name, *pools, places=places))

    @asynccontextmanager
    async def working(self, engine: PostgresEngine, name: str, *pools: str, places: int = 1) -> AsyncIterator[Worker]:
        stop = lambda run_id: self.stops.append((name, run_id))
        async with engine.join(name, pools or ("default",), on_stop=stop) as offers:
            assert isinstance(offers, PostgresOffers)
            worker = Worker(engine, offers, places)
            working = asyncio.create_task(worker.work())
            try:
                yield worker
            finally:
                working.cancel()
                await asyncio.wait([working])
            assert working.cancelled()

    async def heard_by(self, *engines: PostgresEngine) -> None:
        """Wait until these processes have heard everything sent by now."""
        for engine in engines:
            heard = asyncio.Event()
            channel = f"heard_by_{id(engine)}"
            gap = asyncio.Event()
            hear = lambda _, heard=heard: heard.set()
            engine._bus.listen(channel, hear, on_gap=gap.set)
            await gap.wait()
            for teller in engines:
                heard.clear()
                teller._bus.notify(channel)
                async with asyncio.timeout(60):
                    await heard.wait()
            engine._bus.unlisten(channel, hear)

    async def _read(self) -> Sequence[Any]:
        self.reads += 1
        return self.stored


async def until(holds: Callable[[], Any]) -> None:
    """Wait until something has happened elsewhere."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.001)


async def end_sessions(database: RawConnection) -> None:
    """Cut all connections to a database except this one."""
    ended = await asyncio.to_thread(
        database.execute,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid != pg_backend_pid()",
    )
    assert ended


@pytest.fixture
def database(postgres_with_tables: str) -> Iterator[RawConnection]:
    """A connection that is not the product's."""
    with closing(RawConnection(postgres_with_tables)) as connection:
        yield connection


@pytest.fixture
async def fleet(
    postgres_with_tables: str, database: RawConnection, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Fleet]:
    # What a worker said counts however long ago that was, also if the database has not got it.
    monkeypatch.setattr(_directory, "_FRESH", 3_600.0)
    async with AsyncExitStack() as stack:
        yield Fleet(postgres_with_tables, stack)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("trackside-")]
