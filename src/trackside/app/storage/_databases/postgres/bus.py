"""PostgreSQL: the one connection on which a process hears and sends notices (LISTEN and NOTIFY), for all that needs it.

A NOTIFY inside a transaction that writes would halve what can be appended: all transactions that contain one commit one
after another. So notices are sent by themselves, and those that come while a statement is on its way go together in the
next one. A notice may be lost, with the process or the connection; so listeners look now and then without having been
told.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from trackside.app.storage._databases.postgres.connections import PostgresDatabase, load_driver
from trackside.app.storage.errors import ConnectionLostError, StorageError
from trackside.harness.errors import ClosedError

if TYPE_CHECKING:
    import asyncpg

logger = logging.getLogger("trackside.storage")

COMMITS: Final = "trackside_commits"
"""The one channel that all schemas of a database share: hearing of a commit for nothing only costs one more look."""
MAX_PAYLOAD: Final = 7_999
"""Bytes that PostgreSQL takes in one notice."""

_MAX_CHANNEL: Final = 54  # bytes; PostgreSQL takes 63, and each schema adds 9 of its own
_NOTIFY: Final = "SELECT pg_notify(channel, payload) FROM unnest($1::text[], $2::text[]) AS said (channel, payload)"
_PATIENCE: Final = 5.0  # seconds that a statement may take
_SILENCE: Final = 10.0  # seconds without a statement after which a connection is asked whether it is still one
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0  # seconds between two tries to connect

type Hear = Callable[[str], object]
type Call = Callable[[], object]
type Notice = tuple[str, str]
"""A channel and a payload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BusLimits:
    """How much may wait to be sent, and how much of it goes in one statement."""

    waiting: int = 10_000
    waiting_bytes: int = 8 * 1_048_576
    together: int = 500


@dataclass(frozen=True, slots=True)
class BusStatus:
    """Whether notices come and go now; if not, why and since when."""

    connected: bool
    why: str | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Listener:
    hears_own: bool
    on_gap: Call | None


class PostgresBus:
    """Sends notices to other processes on the same database, and hears theirs.

    The connection is made when it is first needed, and made anew when it is lost. A bus belongs to the event loop in
    which it is first used.
    """

    def __init__(self, database: PostgresDatabase, *, limits: BusLimits | None = None) -> None:
        load_driver()  # here and not on the loop
        self._database = database
        self._limits = BusLimits() if limits is None else limits
        self._listeners: dict[str, dict[Hear, _Listener]] = {}
        self._heard: dict[str, Callable[..., None]] = {}
        """What the current connection listens to, and what it calls."""
        self._waiting: dict[Notice, None] = {}
        self._bytes = 0
        self._sending: Sequence[Notice] = ()
        self._connection: asyncpg.Connection | None = None
        self._suffix = ""
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._pausing = self._closed = False
        self._status = BusStatus(connected=False, why="nobody has needed it yet")
        self._cause: str | None = None
        """Why there is no connection, as a part of a sentence."""
        self.on_connected: list[Call] = []
        """Called when a connection was made."""
        self.on_lost: list[Call] = []
        """Called when the connection is lost, and whenever another one could not be made."""
        self.on_sent: list[Callable[[Sequence[Notice]], object]] = []
        """Called with the notices that were sent together."""
        self.sent_total = 0
        """Notices that were sent."""
        self.dropped_total = 0
        """Notices for which there was no room, or that the database refused."""
        self.connections_total = 0

    @property
    def status(self) -> BusStatus:
        """Whether it is connected; may be called from any thread."""
        return self._status

    @property
    def waiting(self) -> int:
        """How many notices have not been sent yet."""
        return len(self._waiting) + len(self._sending)

    def listen(self, channel: str, hear: Hear, *, own: bool = True, on_gap: Call | None = None) -> None:
        """Call `hear` on the loop with the payload of each notice on a channel.

        Args:
            channel: the channel's name within the schema of the store.
            hear: the function to call; it must not wait and must not raise.
            own: whether it also hears what this process sends.
            on_gap: called when it begins to hear, at first and on each new connection: it has missed what was sent
                before.

        Raises:
            ValueError: there can be no such channel.
        """
        _check(channel, "")
        if self._closed:
            return
        self._listeners.setdefault(channel, {})[hear] = _Listener(own, on_gap)
        if channel in self._heard and on_gap is not None:
            asyncio.get_running_loop().call_soon(on_gap)
        self._attend()

    def unlisten(self, channel: str, hear: Hear) -> None:
        """Stop calling this function for this channel. May be called again."""
        if (listeners := self._listeners.get(channel)) and listeners.pop(hear, None) and not listeners:
            del self._listeners[channel]
            self._wake.set()

    def notify(self, channel: str, payload: str = "", *, anew: bool = False) -> bool:
        """Send a notice soon, without waiting; one that waits already is not sent twice. False: there is no room for
        it.

        While there is no connection, the notice is kept until there is one.

        Args:
            channel: the channel's name within the schema of the store.
            payload: what the notice says.
            anew: whether one that waits already is sent behind what came since: of several that contradict each other,
                the last one counts.

        Raises:
            ValueError: PostgreSQL does not take this channel or this payload.
        """
        size = _check(channel, payload)
        if self._closed:
            return False
        if (channel, payload) not in self._waiting:
            if self.waiting >= self._limits.waiting or self._bytes + size > self._limits.waiting_bytes:
                self.dropped_total += 1
                return False
            self._waiting[channel, payload] = None
            self._bytes += size
        elif anew:
            self._waiting[channel, payload] = self._waiting.pop((channel, payload))
        self._attend()
        return True

    async def fetch(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement in between, as a transaction of its own, and fetch its rows. A crash of the server may undo it.

        Raises:
            ConnectionLostError: there is no connection, or it was lost; whether anything was changed is not known.
            StorageError: the database refused it.
            ClosedError: the store is closed.
        """
        async with self._turn:
            if (connection := self._connection) is None or connection.is_closed():
                if self._closed:
                    raise ClosedError(what="store")
                self._note_ended(connection)  # the driver tells it a moment later: until then it would seem connected
                why = self._cause or self._status.why or "the connection was lost"
                raise ConnectionLostError(database=str(self._database), why=why)
            return await self._fetch(connection, statement, *values)

    def name_of(self, channel: str) -> str:
        """What PostgreSQL calls a channel, known once there was a connection: each schema has channels of its own."""
        return channel if channel == COMMITS else channel + self._suffix

    def _attend(self) -> None:
        """Somebody listens, or has something to say: see to it that there is a connection."""
        self._wake.set()
        if self._task is None and not self._closed:
            # Not in the context of whoever happens to be the first: it listens for others, too (I21).
            self._task = asyncio.create_task(self._keep_connected(), name="trackside-bus", context=Context())

    async def _keep_connected(self) -> None:
        pause, has_warned = _FIRST_PAUSE, False
        while True:
            why = "the connection was lost"
            try:
                async with self._connected() as connection:
                    pause, has_warned = _FIRST_PAUSE, False
                    await self._serve(connection)
            except Exception as exc:  # whatever it is, listeners are told to look, and another connection is tried
                error = exc if isinstance(exc, StorageError) else self._database.unreachable(exc)
                why = str(error or exc)
                self._cause = str(getattr(error, "why", "")) or None
                if not has_warned:
                    has_warned = True
                    defect = exc if error is None else None
                    logger.warning("what other processes announce is noticed late for now: %s", why, exc_info=defect)
            if self._closed:
                return
            self._note_lost(why)
            self._pausing = True
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))  # not all processes at the same moment
            self._pausing = False
            pause = min(2 * pause, _LONGEST_PAUSE)

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[asyncpg.Connection]:
        # Losing a notice when the server crashes does no harm: its connections are lost, too.
        # A standby sends no notices, and lets nobody listen to them.
        connection = await self._database.connect_primary(synchronous_commit="off")
        try:
            connection.add_termination_listener(self._note_ended)
            ((schema,),) = await self._fetch(connection, "SELECT coalesce(current_schema(), '')::text")
            self._suffix = "_" + sha256(schema.encode()).hexdigest()[:8]
            await self._follow_listeners(connection)
            self._connection = connection
            self.connections_total += 1
            self._status, self._cause = BusStatus(connected=True), None
            _tell(self.on_connected)
            yield connection
        finally:
            self._connection = None
            self._heard = {}
            connection.terminate()

    async def _serve(self, connection: asyncpg.Connection) -> None:
        """Listen to what is asked for and send what waits, until the connection is lost or there is nothing more to come."""
        while not connection.is_closed():
            self._wake.clear()
            await self._follow_listeners(connection)
            if self._waiting:
                await self._send(connection)
            elif self._closed:
                return
            elif not self._wake.is_set():
                try:
                    async with asyncio.timeout(_SILENCE):
                        await self._wake.wait()
                except TimeoutError:
                    async with self._turn:
                        await self._fetch(connection, "SELECT 1")

    async def _follow_listeners(self, connection: asyncpg.Connection) -> None:
        """Listen to the channels that somebody wants to hear, and to no other."""
        for channel in [*self._listeners.keys() - self._heard.keys()]:
            hear = self._hearing(channel, connection.get_server_pid())
            async with self._turn, asyncio.timeout(_PATIENCE):
                await connection.add_listener(self.name_of(channel), hear)
            self._heard[channel] = hear
            _tell([listener.on_gap for listener in self._listeners.get(channel, {}).values() if listener.on_gap])
        for channel in [*self._heard.keys() - self._listeners.keys()]:
            hear = self._heard.pop(channel)
            async with self._turn, asyncio.timeout(_PATIENCE):
                await connection.remove_listener(self.name_of(channel), hear)

    def _hearing(self, channel: str, own: int) -> Callable[..., None]:
        def hear(_: object, sender: int, name: str, payload: object) -> None:
            if self._heard.get(channel) is not hear:
                return  # listening begins with the gap, after which what has come this early is found
            for hearer, listener in [*self._listeners.get(channel, {}).items()]:
                if sender != own or listener.hears_own:
                    hearer(str(payload))

        return hear

    async def _send(self, connection: asyncpg.Connection) -> None:
        """Send some of what waits, in one statement."""
        batch = self._sending = [notice for notice, _ in zip(self._waiting, range(self._limits.together), strict=False)]
        for notice in batch:
            del self._waiting[notice]  # the same notice once more is about something new
        try:
            async with self._turn:
                names = [self.name_of(channel) for channel, _ in batch]
                await self._fetch(connection, _NOTIFY, names, [payload for _, payload in batch])
        except BaseException as exc:
            self._sending = ()
            if connection.is_closed() or not isinstance(exc, StorageError):
                self._forget([notice for notice in batch if notice in self._waiting])
                self._waiting = dict.fromkeys(batch) | self._waiting
                raise
            # The server would not take them at another time either, or its own queue is full and nobody hears anything.
            self.dropped_total += len(batch)
            logger.warning("%d notices were not sent: %s", len(batch), exc)
        else:
            self._sending = ()
            self.sent_total += len(batch)
            for hear in [*self.on_sent]:
                hear(batch)
        self._forget(batch)

    def _forget(self, notices: Sequence[Notice]) -> None:
        self._bytes -= sum(_size(*notice) for notice in notices)

    async def _fetch(self, connection: asyncpg.Connection, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            return [tuple(row) for row in await connection.fetch(statement, *values, timeout=_PATIENCE)]
        except Exception as exc:
            if isinstance(exc, TimeoutError):
                connection.terminate()  # what does not answer in time may never answer again
            if connection.is_closed():
                self._note_ended(connection)
            if (error := self._database.translate(exc)) is None:
                raise
            raise error from exc

    def _note_ended(self, connection: object) -> None:
        """Note that a connection has ended, and another one is not made yet."""
        self._wake.set()
        if connection is self._connection and self._status.connected and not self._closed:
            self._note_lost("the connection was lost")

    def _note_lost(self, why: str) -> None:
        since = None if self._status.connected else self._status.since
        self._status = BusStatus(connected=False, why=why, since=since or datetime.now(UTC))
        _tell(self.on_lost)

    async def aclose(self) -> None:
        """Send what waits to be sent, for a moment, and let go of the connection. May be called again."""
        self._closed = True
        self._listeners.clear()
        if (task := self._task) is not None:
            self._wake.set()
            if self.waiting and not self._pausing:
                await asyncio.wait([task], timeout=_PATIENCE)
            task.cancel()
            await asyncio.wait([task])
        self._status = BusStatus(connected=False, why="it is closed")


def _check(channel: str, payload: str) -> int:
    """How many bytes a notice has; it has to be one that PostgreSQL takes."""
    size = _size(channel, payload)
    if not 0 < len(channel.encode()) <= _MAX_CHANNEL or "\0" in channel:
        raise ValueError(f"a channel has a name of 1 to {_MAX_CHANNEL} bytes, and not {channel!r}")
    if len(payload.encode()) > MAX_PAYLOAD or "\0" in payload:
        raise ValueError(
            f"PostgreSQL takes up to {MAX_PAYLOAD} bytes without a NUL as a payload, and not {payload[:80]!r}"
        )
    return size


def _size(channel: str, payload: str) -> int:
    return len(channel.encode()) + len(payload.encode())


def _tell(hearers: Sequence[Call]) -> None:
    for hear in [*hearers]:
        hear()
