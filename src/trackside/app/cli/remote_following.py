"""Follows the log of a server: its stream of events, taken up again where it was whenever it is cut."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, override

from trackside.app.cli.records import HearOutage
from trackside.app.cli.remote_connection import Connection, ServerAwayError, ServerFailedError
from trackside.app.cli.remote_wire import LogEvent, stored_event
from trackside.app.storage import StoredEvent

_SILENCE: Final = 60.0  # seconds without a heartbeat after which a connection counts as lost
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds between two tries to reach a server that is away


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One of a stream: `name` is its kind, "" where it has none."""

    id: str
    name: str
    data: bytes


class EventParser:
    """Takes the bytes of a `text/event-stream` as they come, and gives the events that are complete.

    Lines end with CR LF or LF. Texts in JSON may have what Python calls line ends, and these end no line here.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._id = self._name = ""
        self._data: list[bytes] = []
        self._has_id = False

    def take(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """The events that this chunk completes; one without data, which only says its id, too."""
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
    """The events of a server's log behind a position, one after another, without end.

    While the server is away it tries again, with growing pauses; what it cannot get over is raised.
    """

    def __init__(
        self, connection: Connection, after: int, query: Mapping[str, Any], on_outage: HearOutage | None
    ) -> None:
        self._connection = connection
        self._position = after
        self._query = query
        self._on_outage = on_outage
        self._ended = asyncio.Event()
        self._page: deque[StoredEvent] = deque()
        self._pages = self._all()

    def end(self) -> None:
        """Have the iteration stop."""
        self._ended.set()

    @override
    async def __anext__(self) -> StoredEvent:
        """The next event.

        Raises:
            RemoteError: the server refuses it.
        """
        while not self._page and not self._ended.is_set():
            await self._read()
        if self._ended.is_set():
            raise StopAsyncIteration
        return self._page.popleft()

    async def _read(self) -> None:
        """Wait for events, or for the end."""
        coming = asyncio.ensure_future(anext(self._pages))
        ended = asyncio.create_task(self._ended.wait(), name="trackside-cli-follow-end")
        try:
            await asyncio.wait({coming, ended}, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                self._page.extend(coming.result())
        finally:
            coming.cancel()
            ended.cancel()
            await asyncio.gather(coming, ended, return_exceptions=True)

    async def _all(self) -> AsyncGenerator[list[StoredEvent]]:
        failures = 0
        while True:
            try:
                async for page in self._connected():
                    failures = 0
                    yield page
            except (ServerAwayError, ServerFailedError) as exc:
                if not failures and self._on_outage is not None:
                    self._on_outage(exc)
                failures += 1
            await asyncio.sleep(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(failures, 8)))

    async def _connected(self) -> AsyncGenerator[list[StoredEvent]]:
        """The events of one connection, until it is cut."""
        connection, parser = self._connection, EventParser()
        query = {**self._query, "after": self._position}
        async with connection.stream("GET", "events/stream", query, silence=_SILENCE) as chunks:
            async for chunk in chunks:
                page: list[StoredEvent] = []
                for said in parser.take(chunk):
                    if said.data:
                        page.append(stored_event(connection.decode(said.data, LogEvent)))
                    if said.id.isdecimal():
                        self._position = max(self._position, int(said.id))
                if page:
                    yield page
