"""PostgreSQL as the store needs it: the tables, the session that writes, and the connections that read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, text

from trackside.app.storage._databases.backend import Dialect
from trackside.app.storage._databases.postgres.bus import PostgresBus
from trackside.app.storage._databases.postgres.connections import READERS, PostgresDatabase
from trackside.app.storage._databases.postgres.session import PostgresSession
from trackside.app.storage._databases.postgres.signals import PostgresSignals
from trackside.app.storage._databases.postgres.turns import Turns
from trackside.app.storage.errors import ConnectionLostError, DatabaseBusyError, ServerUnreachableError, StorageError
from trackside.harness.errors import ClosedError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_UPGRADE_LOCK: Final = int.from_bytes(b"Trackside"[:8])
"""A process that makes or changes tables holds this advisory lock of the database."""
_TURN_STEP: Final = 1_000  # milliseconds; a process that waits at the server hears of nothing else
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25  # seconds between two tries of a read that has no connection
_PARTING: Final = 2.0
"""Seconds that closing waits for reads that are under way: a server that is away answers none."""


class PostgresReads:
    """Reads on a few connections that cannot write.

    A read sees one moment. It waits in line until one of these connections is free, however many wait there before it, as
    long as reads succeed. If its connection is lost, it is called again on another one; a server that is away is waited
    for.
    """

    dialect: Dialect = "postgresql"

    def __init__(self, database: PostgresDatabase, *, standby: bool) -> None:
        self._database = database
        self._engine = database.reading(standby=standby)
        self._single = self._engine.execution_options(isolation_level="AUTOCOMMIT")  # the same connections
        self._turns = Turns(READERS, database.busy_timeout)
        self._outage: Callable[[], StorageError] | None = None
        """Makes the error of the last read, if the server was away for it."""
        self._closed = False
        self._under_way = 0
        self._at_rest = asyncio.Event()
        """Set as soon as nothing is read any more, once it is closed."""

    async def read[T](self, read: Callable[[Connection], T]) -> T:
        """What `read` finds.

        Raises:
            ReadersBusyError: no read on any of the connections succeeded for as long as one is waited for.
            ServerUnreachableError: the server did not come back in time.
            ClosedError: this was closed while it waited.
            StorageError: the database cannot be read.
        """
        return await self._patiently(lambda: _run(self._database, self._engine, read))

    async def rows(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The rows that one statement finds; as `read`, but without a transaction, which would take two round trips more."""
        return await self._patiently(lambda: _fetch(self._database, self._single, statement, values))

    async def _patiently[T](self, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self._under_way += 1
        try:
            return await self._repeated(read)
        finally:
            self._under_way -= 1
            if self._closed and not self._under_way:
                self._at_rest.set()

    async def _repeated[T](self, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        until: float | None = None
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._turns.take()
            except TimeoutError:
                raise self._why_late() from None
            succeeded = False
            try:
                found = await read()
            except (ConnectionLostError, ServerUnreachableError) as exc:
                self._outage = partial(type(exc), **exc.details)
                if until is None:  # not before: its wait in line is no outage, and a silent loss is noticed late
                    until = monotonic() + self._database.busy_timeout
                if monotonic() + pause > until:
                    raise
            except StorageError:
                self._outage = None
                raise
            else:
                self._outage, succeeded = None, True
                return found
            finally:
                self._turns.give_back(succeeded=succeeded)
            await asyncio.sleep(pause)
            if self._closed:  # a connection that was made now would be left behind
                raise ClosedError(what="store")
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _why_late(self) -> StorageError:
        """Why a read has not had its turn: the server is away, or something keeps the connections busy."""
        return self._database.readers_busy() if self._outage is None else self._outage()

    async def aclose(self) -> None:
        """Let running reads end, and let go of the connections. May be called again."""
        self._closed = True
        if self._under_way:  # a read that came back with a connection afterwards would leave it behind
            with suppress(TimeoutError):
                async with asyncio.timeout(_PARTING):
                    await self._at_rest.wait()
        self._turns.close(partial(ClosedError, what="store"))
        await self._engine.dispose()


class PostgresBackend:
    """A schema in a database on a server."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self.busy_timeout = database.busy_timeout

    def __str__(self) -> str:
        return str(self._database)

    def check_place(self, *, create: bool) -> None:
        """Check nothing: whoever runs the server makes databases; the first connection tells if this one is there."""

    def check_writable(self) -> None:
        """Check nothing: the server says what a user may do when it is tried."""

    def look[T](self, read: Callable[[Connection], T]) -> T:
        """What `read` finds, at once and on a connection of its own; not for a thread with a running loop."""

        async def look() -> T:
            engine = self._database.reading(standby=True)
            try:
                return await _run(self._database, engine, read)
            finally:
                await engine.dispose()

        return asyncio.run(look())

    def check_owner(self, connection: Connection) -> None:
        """See that the schema is ours, or empty."""
        self._database.check_owner(connection)

    def change(self, change: Callable[[Connection], Any], *, is_needed: Callable[[], bool]) -> None:
        """Let `change` change tables; others who want to change them wait for their turn."""
        while not asyncio.run(self._change(change)):
            if not is_needed():
                return

    async def _change(self, change: Callable[[Connection], Any]) -> bool:
        """Let tables be changed, unless another process keeps its turn for a while; returns whether they were."""
        has_turn = False

        def change_alone(connection: Connection) -> None:
            nonlocal has_turn
            connection.execute(text(f"SET LOCAL lock_timeout = {_TURN_STEP}"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _UPGRADE_LOCK})
            has_turn = True
            connection.execute(text(f"SET LOCAL lock_timeout = {max(1, round(self.busy_timeout * 1000))}"))
            change(connection)

        engine = self._database.changing()
        try:
            await _run(self._database, engine, change_alone, commit=True)
        except DatabaseBusyError:
            if has_turn:  # it is a table that somebody has locked
                raise
        finally:
            await engine.dispose()
        return has_turn

    def session(self) -> PostgresSession:
        """What the writer writes with."""
        return PostgresSession(self._database)

    @property
    def session_beside(self) -> Callable[[], PostgresSession]:
        """Makes what something else can write with at the same time."""
        return self.session

    def reads(self, *, standby: bool) -> PostgresReads:
        """What readers read with; unless it may be a `standby`, only from the server that takes writes."""
        return PostgresReads(self._database, standby=standby)

    def signals(self, *, every: float) -> PostgresSignals:
        """Hears of commits from the server; looks of its own are rare, however often `every` asks for them."""
        return PostgresSignals(PostgresBus(self._database))


async def _fetch(
    database: PostgresDatabase, engine: AsyncEngine, statement: str, values: Sequence[Any]
) -> list[tuple[Any, ...]]:
    """Fetch rows through the driver itself, at a third of the cost of going through SQLAlchemy."""
    connection = await _connected(database, engine)
    try:
        with database.translated():
            driver: Any = (await connection.get_raw_connection()).driver_connection
            try:
                return [tuple(row) for row in await driver.fetch(statement, *values)]
            finally:
                if driver.is_closed():  # which the pool does not notice, as only the driver was asked
                    await connection.invalidate()
    finally:
        with database.translated():
            await connection.close()


async def _run[T](
    database: PostgresDatabase, engine: AsyncEngine, function: Callable[[Connection], T], *, commit: bool = False
) -> T:
    """Call a function with a connection of the engine, in a transaction."""
    connection = await _connected(database, engine)
    try:
        with database.translated():
            found = await connection.run_sync(function)
            if commit:
                await connection.commit()
            return found
    finally:
        with database.translated():
            await connection.close()


async def _connected(database: PostgresDatabase, engine: AsyncEngine) -> AsyncConnection:
    try:
        return await engine.connect()
    except Exception as exc:
        if (error := database.unreachable(exc)) is None:
            raise
        raise error from exc
