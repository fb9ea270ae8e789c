"""PostgreSQL: how connections to it are made, and what its errors mean.

The driver is asyncpg, which is imported when the first connection is made: a store in SQLite does not need it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlencode

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from trackside.app.storage import errors
from trackside.app.storage._databases.old_checkpoints import tables_of_others
from trackside.app.storage._databases.postgres.files import check_certificates
from trackside.app.storage._databases.postgres.url import PostgresAddress
from trackside.app.storage._rows.encoding import UndecodableError, undecodable
from trackside.harness.threads import in_own_thread

if TYPE_CHECKING:
    import asyncpg
    from sqlalchemy.ext.asyncio import AsyncEngine

READERS: Final = 4
OLDEST_SERVER: Final = 120_000  # 12; the version as the server numbers it

_DURABLE = ("FULL", "NORMAL")
_LOCK_PAUSE = 0.05  # seconds
_PARTING = 1.0  # seconds that a server has to answer when a connection is closed
_IDLE_IN_TRANSACTION = 60  # seconds; a session of ours thinks for milliseconds, unless its process was stopped
# A writer that was stopped or cut off in a transaction keeps others from writing. It may idle there for this part of the
# time for which they wait for a lock, and for this many seconds in any case, since it may just not have had its turn.
_WRITER_IDLES, _LEAST_IDLE = 0.8, 2.0

# Seconds without an answer after which the other side is believed to be gone: a network that loses everything tells
# nobody of that. An idle connection is first probed after `_IDLE`, then every `_PROBE_EVERY`, and given up after
# `_PROBES` probes.
_SILENT = 8
_IDLE, _PROBE_EVERY, _PROBES = 4, 2, 2
# A connection keeps its plans: making one anew costs more than executing it. They may be from when the tables were
# empty and not worth an index; and joining with few rows means looking each of them up.
_WRITERS_PLANS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
_OURS = frozenset({"alembic_version", "counters", "events", "runs", "threads"})

# Classes and codes of https://www.postgresql.org/docs/current/errcodes-appendix.html
_LOCK_TIMEOUT, _NO_DATABASE = "55P03", "3D000"
_MEANINGS: Final[Mapping[str, type[errors.StorageError]]] = {
    "25006": errors.ReadOnlyDatabaseError,
    "28": errors.AccessRefusedError,
    "40": errors.TransactionConflictError,
    "42501": errors.RightMissingError,
    "53100": errors.DatabaseFullError,
    "53300": errors.TooManyConnectionsError,
    "57014": errors.StatementStoppedError,
    "58": errors.DatabaseIOError,
    "XX001": errors.DamagedDatabaseError,
    "XX002": errors.DamagedDatabaseError,
}
_LOST = frozenset({"08", "57P01", "57P02", "57P03", "57P05", "25P03", "25P04"})

# Not set while connecting: with `target_session_attrs=read-write` the driver takes that for the server's own setting.
WRITES: Final = "SET default_transaction_read_only = off"
_READS: Final = "SET default_transaction_read_only = on"
# Not always "on": a server that also waits for its replicas goes on doing so.
_WAITS: Final = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)

_SERVER = text("SELECT current_setting('server_version_num'), current_setting('server_encoding')")
_TABLES = text("""
    SELECT c.relname FROM pg_class c
    WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
    AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY c.relname""")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresDatabase:
    """One database on a server, and in it the first schema of the search path.

    `busy_timeout` is how many seconds a statement waits for a lock, or a read for a connection.
    """

    address: PostgresAddress
    synchronous: str = "FULL"
    busy_timeout: float = 5.0

    @classmethod
    def from_url(cls, url: str, *, synchronous: str = "FULL", busy_timeout: float = 5.0) -> Self:
        """The database at this address.

        Raises:
            DatabaseUrlError: the address is not one of a PostgreSQL database.
            StoreOptionError: an option has a value that does not fit.
        """
        if synchronous not in _DURABLE:
            why = f"with PostgreSQL it is one of {', '.join(_DURABLE)}"
            raise errors.StoreOptionError(option="synchronous", value=synchronous, why=why)
        if type(busy_timeout) not in {int, float} or not 0 < busy_timeout <= 3600:
            why = "with PostgreSQL it is a number of seconds above 0, up to 3600"
            raise errors.StoreOptionError(option="busy_timeout", value=busy_timeout, why=why)
        address = PostgresAddress.from_url(url).in_place()
        return cls(address=address, synchronous=synchronous, busy_timeout=busy_timeout)

    def __str__(self) -> str:
        return str(self.address)

    async def connect(self, **settings: str) -> asyncpg.Connection:
        """Make a connection; `settings` are for its session.

        Raises:
            DriverMissingError: asyncpg is not installed.
            ConnectionSetupError: a service or a file that the address names is not there.
            OSError, asyncpg.PostgresError, asyncpg.InterfaceError: see `translate`.
        """
        driver = load_driver()
        place = await in_own_thread(self._look_up)  # which reads files
        connection: asyncpg.Connection = await driver.connect(
            f"postgresql://?{urlencode(place.driver)}",
            host=[*place.hosts] or None,
            port=[*place.ports] or None,
            user=place.user,
            password=place.password,
            database=place.database,
            timeout=place.connect_timeout,
            target_session_attrs=place.target,
            server_settings={**self._settings, **settings, **dict(place.server)},
        )
        _notice_silence(connection._transport.get_extra_info("socket"))  # noqa: SLF001  # the driver has no other way
        return connection

    def _look_up(self) -> PostgresAddress:
        """The address with what it leaves to a service and to variables; the files that it names are there."""
        address = self.address.resolved()
        check_certificates(dict(address.driver), database=str(self))
        return address

    @property
    def _settings(self) -> Mapping[str, str]:
        return {
            "application_name": "trackside",
            "TimeZone": "UTC",
            "lock_timeout": f"{max(1, round(self.busy_timeout * 1000))}ms",
            "idle_in_transaction_session_timeout": f"{_IDLE_IN_TRANSACTION}s",
            "jit": "off",  # compiling takes longer than any statement of ours runs
            "tcp_user_timeout": f"{_SILENT}s",
            "tcp_keepalives_idle": f"{_IDLE}s",
            "tcp_keepalives_interval": f"{_PROBE_EVERY}s",
            "tcp_keepalives_count": f"{_PROBES}",
        }

    async def connect_writer(self) -> asyncpg.Connection:
        """A connection whose commits survive what `synchronous` says, and which does not idle in a transaction for long."""
        idle = min(max(_LEAST_IDLE, _WRITER_IDLES * self.busy_timeout), _IDLE_IN_TRANSACTION)
        return await self._connect_durably(idle_in_transaction_session_timeout=f"{round(idle * 1000)}ms")

    async def _connect_durably(self, **settings: str) -> asyncpg.Connection:
        first = f"{WRITES}; {_WAITS}"
        if self.synchronous == "NORMAL":
            settings["synchronous_commit"], first = "off", WRITES
        connection = await self.connect(**_WRITERS_PLANS, **settings)
        await _execute_first(connection, first)
        return connection

    async def connect_primary(self, **settings: str) -> asyncpg.Connection:
        """As `connect`, but not to a standby. After a failover an address may lead to one for a moment, and a process
        that stayed connected to it would not see what is written from then on.

        Raises:
            ConnectionError: the server is a standby.
        """
        connection = await self.connect(**settings)
        try:
            await _execute_first(connection, f"BEGIN READ WRITE; ROLLBACK; {WRITES}")
        except load_driver().FeatureNotSupportedError as exc:
            raise ConnectionError("it is a standby, which takes no writes") from exc
        return connection

    async def connect_reader(self, *, standby: bool) -> asyncpg.Connection:
        """A connection that only reads, if need be from a `standby`; a transaction of it sees one moment."""
        connect = self.connect if standby else self.connect_primary
        connection = await connect(default_transaction_isolation="repeatable read")
        await _execute_first(connection, _READS)
        return connection

    def reading(self, *, standby: bool) -> AsyncEngine:
        """An engine for a few connections that only read, if need be from a `standby`, on the running loop."""
        load_driver()
        from sqlalchemy.ext.asyncio import create_async_engine  # which fails without greenlet

        engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=partial(self.connect_reader, standby=standby),
            pool_size=READERS,
            max_overflow=0,
            pool_timeout=self.busy_timeout,
        )
        # Before SQLAlchemy closes it: that waits for the server, however long it takes.
        event.listen(engine.sync_engine, "close", lambda connection, _: connection.run_async(let_go))
        return engine

    def changing(self) -> AsyncEngine:
        """An engine for one connection that changes tables, on the running loop.

        It sees what others have changed while it waited for its turn, whatever the database has for its transactions.
        """
        load_driver()
        from sqlalchemy.ext.asyncio import create_async_engine  # which fails without greenlet
        from sqlalchemy.pool import NullPool

        connect = partial(self._connect_durably, default_transaction_isolation="read committed")
        return create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)

    @asynccontextmanager
    async def locked(self, lock: int) -> AsyncGenerator[None]:
        """Hold an advisory lock of the database, on a connection of its own."""
        with self.translated():
            connection = await self.connect()
        try:
            with self.translated():
                # Asked again and again: a statement that waits has a snapshot, and a CREATE INDEX CONCURRENTLY of the
                # lock's holder would wait for that snapshot to end.
                while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", lock):  # noqa: ASYNC110  # see above
                    await asyncio.sleep(_LOCK_PAUSE)
            yield
        finally:
            connection.terminate()  # which gives the lock back

    def check_owner(self, connection: Connection) -> None:
        """See that the server is new enough, the database takes every text, and the schema is ours, or empty except for
        what LangGraph's savers have left.

        Raises:
            ServerTooOldError: it is older than what is used here.
            UnfitEncodingError: the database is not UTF8.
            NoSchemaError: there is no such schema.
            ForeignDatabaseError: it has tables of another program.
        """
        number, encoding = connection.execute(_SERVER).one()
        if (version := int(number)) < OLDEST_SERVER:
            raise errors.ServerTooOldError(
                database=str(self), found=f"{version // 10_000}", needed=f"{OLDEST_SERVER // 10_000}"
            )
        if encoding != "UTF8":
            raise errors.UnfitEncodingError(database=str(self), found=encoding)
        if connection.scalar(text("SELECT current_schema()")) is None:
            raise errors.NoSchemaError(database=str(self))
        tables = connection.execute(_TABLES).scalars().all()
        if not _OURS.issubset(tables) and (others := tables_of_others(connection, tables)):
            raise errors.ForeignDatabaseError(database=str(self), why=f"it has tables such as {others[0]!r}")

    @contextmanager
    def translated(self) -> Generator[None]:
        """Turns the driver's and SQLAlchemy's exceptions into ours."""
        try:
            yield
        except Exception as exc:
            if (error := self.translate(exc)) is None:
                raise
            raise error from exc

    def translate(self, exc: BaseException) -> errors.StorageError | None:
        """What an exception of the driver or of SQLAlchemy means; None if it is neither."""
        database = str(self)
        if isinstance(exc, UndecodableError):
            return undecodable(database, exc)
        if isinstance(exc, PoolTimeoutError):
            return self.readers_busy()
        original = _original(exc)
        if original is None:
            return None
        why, code = _reason(original), _code_of(original)
        if isinstance(original, load_driver().ClientConfigurationError):
            return errors.ConnectionSetupError(database=database, why=why)
        if code == _LOCK_TIMEOUT:
            return errors.DatabaseBusyError(database=database, seconds=self.busy_timeout)
        if code == _NO_DATABASE:
            return errors.NoSuchDatabaseError(database=database, name=self.address.database or self.address.user)
        if is_lost(original):
            return errors.ConnectionLostError(database=database, why=why)
        meaning = _MEANINGS.get(code) or _MEANINGS.get(code[:2], errors.StorageError)
        return meaning(database=database, why=why)

    def readers_busy(self) -> errors.ReadersBusyError:
        """What a read raises that found no connection to read with."""
        return errors.ReadersBusyError(database=str(self), count=READERS, seconds=self.busy_timeout)

    def unreachable(self, exc: BaseException) -> errors.StorageError | None:
        """What an exception that came while connecting means; None if it is not the driver's."""
        error = self.translate(exc)
        if isinstance(error, errors.ConnectionLostError):
            return errors.ServerUnreachableError(database=str(self), why=error.details["why"])
        return error


async def _execute_first(connection: asyncpg.Connection, statement: str) -> None:
    """Execute a statement on a connection that was just made, and let go of it if that fails."""
    try:
        await connection.execute(statement)
    except BaseException:
        connection.terminate()
        raise


async def let_go(connection: asyncpg.Connection) -> None:
    """Close a connection, whether the server answers or not."""
    try:
        await connection.close(timeout=_PARTING)
    except Exception:  # noqa: BLE001  # the driver's: the server does not listen any more, and need not
        connection.terminate()


def _notice_silence(connected: socket.socket) -> None:
    """Make this machine notice when the server is gone; the server's settings do the same over there."""
    if connected.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_USER_TIMEOUT": _SILENT * 1000,
        "TCP_KEEPIDLE": _IDLE,
        "TCP_KEEPINTVL": _PROBE_EVERY,
        "TCP_KEEPCNT": _PROBES,
    }
    for name, value in options.items():
        if (option := getattr(socket, name, None)) is not None:  # not every system has it
            connected.setsockopt(socket.IPPROTO_TCP, option, value)


def load_driver() -> Any:
    """The driver.

    Raises:
        DriverMissingError: it, or what SQLAlchemy needs to go with it, is not installed.
    """
    for package in ("asyncpg", "greenlet"):
        try:
            __import__(package)
        except ImportError as exc:
            raise errors.DriverMissingError(package=package) from exc
    import asyncpg

    return asyncpg


def is_lost(exc: BaseException) -> bool:
    """Whether an exception means that there is no connection any more, or none was made."""
    original = _original(exc)
    code = "" if original is None else _code_of(original)
    return isinstance(original, OSError) or code in _LOST or code[:2] in _LOST


def _original(exc: BaseException) -> BaseException | None:
    """The driver's own exception; None if it is neither the driver's nor a connection's."""
    import asyncpg

    if isinstance(exc, DBAPIError) and exc.orig is not None:
        exc = exc.orig.__cause__ or exc.orig
    driven = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, asyncio.TimeoutError)
    return exc if isinstance(exc, driven) else None


def _code_of(original: BaseException) -> str:
    import asyncpg

    if isinstance(original, asyncpg.InternalClientError):
        return "08006"  # the connection broke in the middle of something, and the driver does not know in the middle of what
    if isinstance(original, asyncpg.InterfaceError):
        return "08006" if "clos" in str(original) else ""  # the driver has no code for a connection that is closed
    return getattr(original, "sqlstate", None) or ""


def _reason(original: BaseException) -> str:
    if isinstance(original, TimeoutError) and not str(original):
        return "it does not answer"
    return str(original) or type(original).__name__
