"""The engine as a whole, on the bus of a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Final

from trackside.app.engine.ports import EngineStats, EngineStatus, Offers
from trackside.app.engine.postgres._dispatch import Counts, Dispatch, ReadWorkers
from trackside.app.engine.postgres._notices import Room
from trackside.app.engine.postgres._offers import PostgresOffers
from trackside.app.engine.postgres._wire import PostgresWire
from trackside.app.storage import Store
from trackside.app.storage.fleet import ReadyRun
from trackside.app.streams.wire import LiveWire

_BEGIN: Final = 2.0  # seconds for which whoever opens the engine waits for its connection


class PostgresEngine:
    """Moves work between processes that share a PostgreSQL database, through one connection of each."""

    name = "postgres"

    def __init__(self, store: Store, read_workers: ReadWorkers) -> None:
        self._bus = store.bus()
        self.on_lost = self._bus.on_lost
        self._counts = Counts()
        self._dispatch = Dispatch(self._bus, read_workers, self._counts)
        self._left: dict[str, PostgresOffers] = {}
        """The offers of workers that have left and may still execute runs, by the worker."""
        self._closed = False
        self._wire = PostgresWire(self._bus, store.live_parts())
        self.live: LiveWire = self._wire

    async def begin(self) -> None:
        """Connect; while the database is away, this goes on in the background."""
        connected = asyncio.Event()
        self._bus.on_connected.append(connected.set)
        self._dispatch.begin()
        self._wire.begin()
        with suppress(TimeoutError):
            async with asyncio.timeout(_BEGIN):
                while not self._bus.status.connected:
                    connected.clear()
                    await connected.wait()
        self._bus.on_connected.remove(connected.set)

    def announce(self, ready: Sequence[ReadyRun]) -> None:
        """Tell workers of the runs' pools."""
        self._dispatch.announce(ready)

    def ask_to_stop(self, worker_id: str, run_id: str) -> None:
        """Tell the worker."""
        if not self._closed:
            self._dispatch.stop(worker_id, run_id)

    def note_gone(self, worker_id: str) -> None:
        """Tell everybody: some may think that it has room."""
        if not self._closed:
            self._dispatch.say(Room(worker_id, (), 0, gone=True))

    def join(
        self, worker_id: str, pools: Sequence[str], *, on_stop: Callable[[str], object]
    ) -> AbstractAsyncContextManager[Offers]:
        """Be offered runs."""
        offers = PostgresOffers(worker_id, pools, self._bus, self._dispatch, self._counts, on_stop)
        return self._joined(worker_id, offers)

    @asynccontextmanager
    async def _joined(self, worker_id: str, offers: PostgresOffers) -> AsyncGenerator[Offers]:
        if (before := self._left.pop(worker_id, None)) is not None:
            before.close()
        offers.begin()
        try:
            yield offers
        finally:
            offers.leave()
            self._left[worker_id] = offers

    def status(self) -> EngineStatus:
        """Whether there is a connection."""
        if self._closed:
            return EngineStatus(connected=False, why="it is closed")
        now = self._bus.status
        return EngineStatus(connected=now.connected, why=now.why, since=now.since)

    def stats(self) -> EngineStats:
        """What it has done so far."""
        counts, live = self._counts, self._wire
        return EngineStats(
            announced_total=counts.announced,
            announce_failures_total=counts.announce_failures,
            offers_total=counts.offers,
            redelivered_total=counts.redelivered,
            stops_sent_total=counts.stops_sent,
            stops_heard_total=counts.stops_heard,
            messages_said_total=live.said_total,
            messages_heard_total=live.heard_total,
            messages_refused_total=live.refused_total,
            reconnects_total=max(0, self._bus.connections_total - 1),
        )

    async def tidy(self) -> None:
        """Remove the live output of some minutes ago."""
        await self._wire.remove_old()

    async def aclose(self) -> None:
        """Send what waits to be sent, for a moment; the store has the connection."""
        self._closed = True
        for offers in self._left.values():
            offers.close()
        await self._dispatch.aclose()
        await self._wire.aclose()


@asynccontextmanager
async def open_postgres(store: Store, *, read_workers: ReadWorkers | None = None) -> AsyncGenerator[PostgresEngine]:
    """An engine for processes that share a store in PostgreSQL, for the length of an `async with` within that of the store.

    Args:
        store: the store whose bus carries everything.
        read_workers: reads which workers there are; by default those in the store.

    Raises:
        NoBusError: the store is not in PostgreSQL.
    """
    engine = PostgresEngine(store, store.fleet.workers if read_workers is None else read_workers)
    try:
        await engine.begin()
        yield engine
    finally:
        await engine.aclose()
