"""Follows the log of a server: its stream of events, which resumes where it was whenever it is cut."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, override

from trackside.app.cli.records.protocol import HearOutage
from trackside.app.cli.records.remote_connection import Connection, ServerAwayError, ServerFailedError
from trackside.app.cli.records.remote_wire import LogEvent, stored_event
from trackside.app.storage import StoredEvent

_SILENCE: Final = 60.0  # seconds without a heartbeat after which a connection counts as lost
_MOST_WAITING: Final = 2_000  # events that are read ahead of the caller
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds between two tries to reach a server that is away


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """An event of a stream: `name` is its kind, "" if it has none."""

    id: str
    name: str
    data: bytes


class EventParser:
    """Takes the bytes of a `text/event-stream` as they come, and returns the events that are complete.

    Lines end with CR LF or LF. Other characters that Python calls line ends may be in JSON texts, but end no line here.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._id = self._name = ""
        self._data: list[bytes] = []
        self._has_id = False

    def take(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """The events that this chunk completes, including one without data, which only carries its id."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in (ended.removesuffix(b"\r") for ended in lines):
            if line:
                self._field(line)
            elif self._data or self._has_id:
                yield ServerSentEvent(self._id, self._name, b"\n".join(self._data))
                self._name, self._data, self._has_id = "", [], False

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._name = value.decode(errors="replace")
        elif name == b"id":
            self._id, self._has_id = value.decode(errors="replace"), True


class RemoteFollower(AsyncIterator[StoredEvent]):
    """The events of a server's log after a position, one after another, without end.

    While the server is away, it tries again with growing pauses; it raises the errors that it cannot recover from. It
    reads only as long as its connection is open.
    """

    def __init__(
        self, connection: Connection, after: int, query: Mapping[str, Any], on_outage: HearOutage | None
    ) -> None:
        self._connection = connection
        self._position = after
        self._query = query
        self._on_outage = on_outage
        self._ended = False
        self._failures = 0  # in a row
        self._events: deque[StoredEvent] = deque()
        self._awake, self._room = asyncio.Event(), asyncio.Event()
        self._reading = connection.own(self._read(), name="trackside-cli-follow")
        self._reading.add_done_callback(lambda _: self._awake.set())

    def end(self) -> None:
        """Stop the iteration, and read no more."""
        self._ended = True
        self._reading.cancel()
        self._awake.set()

    @override
    async def __anext__(self) -> StoredEvent:
        """The next event.

        Raises:
            RemoteError: the server refuses it.
        """
        while not self._events and not self._ended:
            if self._reading.done():
                self._reading.result()
                break
            self._awake.clear()
            await self._awake.wait()
        if self._ended or not self._events:
            raise StopAsyncIteration
        stored = self._events.popleft()
        if len(self._events) < _MOST_WAITING:
            self._room.set()
        return stored

    async def _read(self) -> None:
        while True:
            try:
                await self._read_connection()
            except (ServerAwayError, ServerFailedError) as exc:
                self._failures += 1
                if self._failures == 1 and self._on_outage is not None:
                    self._on_outage(exc)
            await asyncio.sleep(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failures, 8)))

    async def _read_connection(self) -> None:
        """Take the events of one connection, until it is cut."""
        connection, parser = self._connection, EventParser()
        query = {**self._query, "after": self._position}
        async with connection.stream("GET", "events/stream", query, silence=_SILENCE) as chunks:
            async for chunk in chunks:
                self._failures = 0
                for said in parser.take(chunk):
                    if said.data:
                        self._events.append(stored_event(connection.decode(said.data, LogEvent)))
                    if said.id.isdecimal():
                        self._position = max(self._position, int(said.id))
                self._awake.set()
                while len(self._events) >= _MOST_WAITING:
                    self._room.clear()
                    await self._room.wait()
