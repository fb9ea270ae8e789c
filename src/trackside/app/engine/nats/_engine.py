"""The engine on NATS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from trackside.app.engine.nats._announcing import Announcer
from trackside.app.engine.nats._connection import Connection
from trackside.app.engine.nats._errors import EngineOptionError
from trackside.app.engine.nats._jetstream import JetStream
from trackside.app.engine.nats._messages import Counts
from trackside.app.engine.nats._names import is_token
from trackside.app.engine.nats._offers import NatsOffers
from trackside.app.engine.nats._options import Access, NatsOptions
from trackside.app.engine.nats._stops import Stops
from trackside.app.engine.nats._wire import NatsWire
from trackside.app.engine.ports import EngineStats, EngineStatus
from trackside.app.storage.fleet import ReadyRun

__all__ = ["NatsEngine"]

_CLOSE_SECONDS: Final = 2.0


class NatsEngine:
    """An `Engine`: NATS, with JetStream. Opened by `open_nats`."""

    name: str = "nats"

    def __init__(self, options: NatsOptions, access: Access) -> None:
        names, jetstream = options.names, JetStream(options)
        lead = options.role == "server"
        self._options = options
        self._jetstream = jetstream
        self._counts = Counts()
        self._connection = Connection(options, access)
        self.on_lost = self._connection.on_lost
        self._announcer = Announcer(self._connection, jetstream, names, self._counts, lead=lead)
        self._announcer.offer_again = self._offer_again
        self._stops = Stops(self._connection, self._announcer, names, self._counts, lead=lead)
        self._offers: list[NatsOffers] = []
        self._leaving: set[asyncio.Task[None]] = set()
        self.live = NatsWire(self._connection, jetstream, names, self._counts, lead=lead)
        self._closed = False

    def start(self) -> None:
        """Begin to connect; nobody waits for it."""
        for part in (self._announcer, self._stops, self.live):
            self._connection.add(part)
        self._connection.start()

    def announce(self, ready: Sequence[ReadyRun]) -> None:
        """Tell the pools of these runs."""
        self._announcer.announce(ready)

    def ask_to_stop(self, worker_id: str, run_id: str) -> None:
        """Tell the worker that somebody wants the run to stop."""
        self._stops.ask_to_stop(worker_id, run_id)

    def note_gone(self, worker_id: str) -> None:
        """NATS has noticed: its connection is gone."""

    @asynccontextmanager
    async def join(
        self, worker_id: str, pools: Sequence[str], *, on_stop: Callable[[str], object]
    ) -> AsyncGenerator[NatsOffers]:
        """Be offered runs of these pools. Nobody else is told of what the worker has after that until it has answered.

        Raises:
            EngineOptionError: a pool's name cannot be part of a subject.
        """
        for pool in pools:
            if not is_token(pool):
                why = f"{pool!r:.80} is not the name of a pool: up to 64 letters, digits, _ and -"
                raise EngineOptionError(option="pools", why=why)
        self._stops.hear(worker_id, on_stop)
        offers = NatsOffers(
            pools,
            connection=self._connection,
            jetstream=self._jetstream,
            names=self._options.names,
            counts=self._counts,
            ack_wait=self._options.ack_wait,
        )
        self._offers.append(offers)
        self._connection.add(offers)
        try:
            yield offers
        finally:
            await offers.leave()
            leaving = asyncio.create_task(self._see_off(offers), name="trackside-nats-leaving")
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
            if not offers.is_owing:
                await asyncio.wait({leaving})

    def status(self) -> EngineStatus:
        """Whether it moves anything now."""
        return self._connection.status()

    def stats(self) -> EngineStats:
        """What it has done so far."""
        return self._counts.stats(self._connection.reconnects)

    async def tidy(self) -> None:
        """Nothing gets old that NATS does not remove by itself."""

    async def aclose(self) -> None:
        """Send what waits to be sent, for a moment, and let go."""
        if self._closed:
            return
        self._closed = True
        for leaving in self._leaving:
            leaving.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        link = self._connection.link
        if link is not None and link.is_up:
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._announcer.drained()
                    await link.flushed(_CLOSE_SECONDS)
            except (TimeoutError, ConnectionError):
                pass
        await self._connection.aclose()

    async def _see_off(self, offers: NatsOffers) -> None:
        """Keep saying that somebody is at what a worker that has left still has, until that is answered."""
        await offers.until_answered()
        self._offers.remove(offers)
        await self._connection.remove(offers)

    def _offer_again(self, run_id: str) -> bool:
        return sum(offers.offer_again(run_id) for offers in self._offers) > 0
