"""The log as server-sent events: each reader follows the store, and each event is encoded once, however many read it.

A reader is a cursor in the store, and what its connection has not taken yet, which the server bounds; nothing waits for
the reader anywhere else. A reader that is behind reads pages of its own. One that takes nothing at all for a while is
disconnected: it comes back with the id of the last event that it has, and misses none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from trackside.app.event_json import encode
from trackside.app.server.outlet import HEADERS, Departure
from trackside.app.server.responses import Receive, Scope, Send, encoded_headers
from trackside.app.server.wire.log import event_on_wire
from trackside.app.storage import Follower, StoredEvent
from trackside.app.storage.errors import StorageError

logger = logging.getLogger("trackside.server")


class EventFrames:
    """The latest events as readers get them, so that each is encoded once.

    Args:
        count: how many are kept at most.
        size: how many bytes they may take at most.
    """

    def __init__(self, *, count: int = 1_024, size: int = 8 * 1_048_576) -> None:
        self._count = count
        self._most = size
        self._size = 0
        self._frames: dict[tuple[int, str], bytes] = {}

    def of(self, stored: StoredEvent) -> bytes:
        """The whole server-sent event. Its id is the event's position."""
        key = stored.position, stored.event.event_id  # a database that loses commits reuses positions
        frame = self._frames.get(key)
        if frame is not None:
            return frame
        frame = b"id: %d\r\nevent: %b\r\ndata: %b\r\n\r\n" % (
            stored.position,
            stored.event.event_type.value.encode(),
            encode(event_on_wire(stored)),
        )
        self._frames[key] = frame
        self._size += len(frame)
        while len(self._frames) > self._count or (self._size > self._most and len(self._frames) > 1):
            self._size -= len(self._frames.pop(next(iter(self._frames))))
        return frame


@dataclass(slots=True, kw_only=True)
class LogEvents:
    """The answer that follows the log until the client goes, or the store is closed.

    First, and with every heartbeat, it says its position alone: that is no event, but it is where a client that has
    seen no event since resumes. A comment says that the database is away for now.
    """

    follower: Follower
    frames: EventFrames
    heartbeat: float
    patience: float
    """Seconds after which a reader that takes nothing is disconnected."""
    headers: Mapping[str, str] = field(default_factory=dict)
    beat: bytes = b": heartbeat\r\n"
    """What a heartbeat says, before the position."""
    _sending: asyncio.Lock = field(default_factory=asyncio.Lock)
    _said: int = 0
    """How many times something was sent, by which the heartbeat knows whether anything was since it last looked."""
    _outage: StorageError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.follower.on_outage = self._on_outage
        headers = [*HEADERS, *encoded_headers(self.headers)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send(send, self._place())
        departure = Departure(receive)
        tasks = {
            asyncio.create_task(self._write(send), name="trackside-log-write"),
            asyncio.create_task(self._beat(send), name="trackside-log-heartbeat"),
            departure.watching,
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.follower.end()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, send: Send) -> None:
        try:
            async for stored in self.follower:
                await self._send(send, self.frames.of(stored))
            last = b": the server closes\r\n\r\n"
        except StorageError as exc:
            logger.error("a reader of the log had to be disconnected: %s", exc)  # noqa: TRY400  # the sentence says it all
            last = b": the log cannot be read\r\n\r\n"
        await self._send(send, last, more=False)

    async def _beat(self, send: Send) -> None:
        """Say that the connection is alive whenever nothing else was said."""
        while True:
            said = self._said
            await asyncio.sleep(self.heartbeat)
            if self._said == said and not self._sending.locked():
                outage, self._outage = self._outage, None
                note = b"" if outage is None else b": the log cannot be read for now\r\n"
                await self._send(send, note + self.beat + self._place())

    async def _send(self, send: Send, frame: bytes, *, more: bool = True) -> None:
        async with self._sending:
            try:
                async with asyncio.timeout(self.patience):
                    await send({"type": "http.response.body", "body": frame, "more_body": more})
            except TimeoutError:
                logger.warning("a reader of the log took nothing for %g s and was disconnected", self.patience)
                raise
            self._said += 1

    def _place(self) -> bytes:
        return b"id: %d\r\n\r\n" % self.follower.position

    def _on_outage(self, failure: StorageError) -> None:
        self._outage = failure
