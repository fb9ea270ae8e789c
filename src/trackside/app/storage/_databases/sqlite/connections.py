"""SQLite: where the file is, how connections to it are made, and what its errors mean.

One connection writes (WAL, `BEGIN IMMEDIATE`, `synchronous=FULL`: a commit that was answered survives a power cut);
others read, and cannot write. While anybody has the file open, SQLite keeps two more beside it: `…-wal` has what was
committed last, `…-shm` says who reads what. The last to close it puts everything into the one file again.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Literal, Self
from urllib.parse import quote

from sqlalchemy import Connection, Engine, NullPool, QueuePool, create_engine, event
from sqlalchemy.exc import DBAPIError

from trackside.app.masking import without_password
from trackside.app.paths import is_folder, is_there
from trackside.app.storage import errors
from trackside.app.storage._databases.old_checkpoints import tables_of_others
from trackside.app.storage._databases.sqlite.forks import NotedConnection, was_open_at_fork
from trackside.app.storage._databases.sqlite.wal import BEGUN_ANEW
from trackside.app.storage._rows.encoding import UndecodableError, is_plain_text, undecodable

type Synchronous = Literal["FULL", "NORMAL"]

APPLICATION_ID = int.from_bytes(b"Trck")
"""Stands in the header of our files, so that nobody takes another program's file for ours, or ours for another's."""

OLDEST_SQLITE = (3, 35, 0)  # RETURNING, DROP COLUMN, MATERIALIZED

READERS = 4
_BUSY_PAUSE = 0.01  # seconds
_FILE_MODE = 0o600  # prompts, answers and errors of all runs are in it
_CACHED_STATEMENTS = 256  # the bulk statements exist in several sizes each
_SYNCHRONOUS = ("FULL", "NORMAL")


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteDatabase:
    """One database file. `busy_timeout` is how many seconds a write waits for another process.

    A relative `path` begins in `folder`: the one in which the process works now, and perhaps not for long.
    """

    path: Path
    synchronous: Synchronous = "FULL"
    busy_timeout: float = 5.0
    folder: Path = Path()

    def __post_init__(self) -> None:
        if not self.path.is_absolute():
            object.__setattr__(self, "folder", self.folder.absolute())

    @classmethod
    def from_url(cls, url: str, *, synchronous: Synchronous = "FULL", busy_timeout: float = 5.0) -> Self:
        """The database at this address.

        Raises:
            DatabaseUrlError: the address is not one of a file.
            StoreOptionError: an option has a value that does not fit.
        """
        if synchronous not in _SYNCHRONOUS:
            why = f"it is one of {', '.join(_SYNCHRONOUS)}"
            raise errors.StoreOptionError(option="synchronous", value=synchronous, why=why)
        if type(busy_timeout) not in {int, float} or not 0 <= busy_timeout <= 3600:
            why = "it is a number of seconds from 0 to 3600"
            raise errors.StoreOptionError(option="busy_timeout", value=busy_timeout, why=why)
        return cls(path=_path_in(url), synchronous=synchronous, busy_timeout=busy_timeout)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def place(self) -> Path:
        """Where the file, or a link to it, is, wherever the process works by now."""
        return self.folder / self.path

    @property
    def file(self) -> Path:
        """Where the file itself is, wherever links lead: SQLite keeps its other files beside that."""
        return Path(os.path.realpath(self.place))

    def check_place(self, *, create: bool) -> None:
        """See that the file is there, or (with `create`) can be made.

        Raises:
            StorageError: its folder is missing, it is a folder itself, or (unless `create`) it is missing.
        """
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            needed = ".".join(map(str, OLDEST_SQLITE))
            raise errors.SqliteTooOldError(database=str(self), found=sqlite3.sqlite_version, needed=needed)
        try:
            self._check_file(create=create)
        except PermissionError as exc:
            raise self.unreadable(f"this user may not enter its folder ({exc.strerror})") from exc
        except OSError as exc:  # the file's name is longer than any may be, or goes round in circles
            raise errors.DatabaseUrlError(url=f"sqlite:///{self}", why=exc.strerror) from exc

    def _check_file(self, *, create: bool) -> None:
        if not is_folder(self.place.parent):
            raise errors.FolderMissingError(database=str(self), folder=str(self.path.parent))
        if is_folder(self.place):
            raise errors.NotADatabaseError(database=str(self), why="it is a folder")
        if not is_there(self.place) and not create:
            raise errors.DatabaseMissingError(database=str(self))

    def why_read_only(self) -> str | None:
        """What keeps this user from writing there; None if nothing does."""
        folder = self.file.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            return f"the folder {folder} is read-only"  # and SQLite has to make two more files in it
        if self.place.exists() and not os.access(self.place, os.R_OK | os.W_OK):
            return "the file is read-only"
        return None

    def check_owner(self, connection: Connection) -> None:
        """See that the file is ours, or empty except for what LangGraph's savers have left.

        Raises:
            ForeignDatabaseError: it is a database of another program.
        """
        application_id = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
        tables = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
        if application_id not in {0, APPLICATION_ID}:
            raise errors.ForeignDatabaseError(database=str(self), why=f"its application id is {application_id:#x}")
        if application_id == 0 and (others := tables_of_others(connection, tables)):
            raise errors.ForeignDatabaseError(database=str(self), why=f"it has tables such as {others[0]!r}")

    def writer(self) -> Engine:
        """An engine for one connection; its transactions keep all other writers out."""
        engine = create_engine("sqlite://", creator=self._connect_writer, poolclass=NullPool)
        event.listen(engine, "begin", _begin_immediate)
        return engine

    def readers(self) -> Engine:
        """An engine for a few connections that only read; a transaction of theirs sees one moment."""
        engine = create_engine(
            "sqlite://",
            creator=self.connect_reader,
            poolclass=QueuePool,
            pool_size=READERS,
            max_overflow=0,
        )
        event.listen(engine, "begin", _begin_read)
        return engine

    def guests(self, *, locking: bool) -> Engine:
        """An engine for connections that make no file, for users who may only read.

        With `locking` they see what is in `…-wal` and keep to the locks in `…-shm`, which both have to be there. Without
        it they see the one file alone, and torn if somebody writes to it.
        """
        options = "mode=ro&readonly_shm=1" if locking else "mode=ro&immutable=1"
        engine = create_engine("sqlite://", creator=lambda: self._connect(options), poolclass=NullPool)
        event.listen(engine, "begin", _begin_read)
        return engine

    def _connect_writer(self) -> sqlite3.Connection:
        self._make_private()
        connection = self._connect("mode=rwc")
        try:
            self._log_ahead(connection)
            connection.execute(f"PRAGMA journal_size_limit = {BEGUN_ANEW}")
            connection.execute(f"PRAGMA synchronous = {self.synchronous}")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA secure_delete = ON")  # what is removed is overwritten, however SQLite was built
        except BaseException:
            connection.close()
            raise
        return connection

    def _make_private(self) -> None:
        """Make the file, if it is not there, for this user alone. SQLite gives the files beside it the same mode."""
        with suppress(OSError):  # it is there; or it cannot be made, which SQLite says better
            os.close(os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE))

    def _log_ahead(self, connection: sqlite3.Connection) -> None:
        """Switch to WAL. SQLite does not wait for that while another process does the same, so we do."""
        until = monotonic() + self.busy_timeout
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as exc:
                if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or monotonic() >= until:
                    raise
            sleep(_BUSY_PAUSE)

    def connect_reader(self) -> sqlite3.Connection:
        """A connection that only reads, and begins no transaction of its own accord."""
        # Not mode=ro: such a connection, when it is the last, cannot tidy up what it leaves open.
        connection = self._connect("mode=rw")
        try:
            connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self, options: str) -> sqlite3.Connection:
        if was_open_at_fork(self.place):
            raise errors.ForkedDatabaseError(database=str(self))
        return NotedConnection(
            self.place,
            f"file:{quote(os.fsencode(self.place))}?{options}",
            uri=True,
            timeout=self.busy_timeout,
            isolation_level=None,  # transactions are begun by us, not guessed by the driver
            check_same_thread=False,  # each connection is used by one thread at a time
            cached_statements=_CACHED_STATEMENTS,
        )

    @contextmanager
    def translated(self) -> Generator[None]:
        """Turns the driver's and SQLAlchemy's exceptions into ours."""
        try:
            yield
        except (sqlite3.Error, DBAPIError) as exc:
            raise self.translate(exc) from exc
        except UndecodableError as exc:
            raise undecodable(str(self), exc) from exc

    def unreadable(self, why: str) -> errors.UnreadableDatabaseError:
        """The error for a user who may not even read."""
        return errors.UnreadableDatabaseError(database=str(self), name=self.file.name, why=why)

    def translate(self, exc: sqlite3.Error | DBAPIError) -> errors.StorageError:
        """What a driver's exception means."""
        original = exc.orig if isinstance(exc, DBAPIError) else exc
        code = getattr(original, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        database, why = str(self), str(original)
        if code == sqlite3.SQLITE_IOERR_SHMSIZE:  # a full disk, on which not even the index of the journal can be made
            return errors.DatabaseFullError(database=database, why=why)
        match code & 0xFF:  # the low byte is the kind; the rest says more about it
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return errors.DatabaseBusyError(database=database, seconds=self.busy_timeout)
            case sqlite3.SQLITE_FULL:
                return errors.DatabaseFullError(database=database, why=why)
            case sqlite3.SQLITE_IOERR:
                return errors.DatabaseIOError(database=database, why=why)
            case sqlite3.SQLITE_CANTOPEN if self._may_be_opened:
                return errors.DatabaseNotOpenedError(database=database, why=why)
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
                return errors.ReadOnlyDatabaseError(database=database, why=why)
            case sqlite3.SQLITE_NOTADB:
                return errors.NotADatabaseError(database=database, why=why)
            case sqlite3.SQLITE_CORRUPT:
                return errors.DamagedDatabaseError(database=database, why=why)
            case _:
                return errors.StorageError(database=database, why=why)

    @property
    def _may_be_opened(self) -> bool:
        """Whether the user may read and write the database's files, as far as they are there."""
        file = self.file
        beside = [file.with_name(file.name + ending) for ending in ("-wal", "-shm")]
        files = [file, *(path for path in beside if path.exists())]
        return file.is_file() and all(os.access(path, os.R_OK | os.W_OK) for path in [*files, file.parent])


def _begin_immediate(connection: Connection) -> None:
    # If deferred, two writers both read first, and then one of them can never write.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_read(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _path_in(url: Any) -> Path:
    if not isinstance(url, str):
        raise errors.DatabaseUrlError(url=url, why="it is not a text")
    shown = without_password(url)
    scheme, separator, path = url.partition("://")
    if not separator:
        raise errors.DatabaseUrlError(url=shown, why="it has no sqlite:// in front")
    if scheme != "sqlite":
        raise errors.DatabaseUrlError(url=shown, why="a store is an SQLite file or a PostgreSQL database")
    if path in {"", "/", "/:memory:"}:
        raise errors.DatabaseUrlError(
            url=shown, why="a database in memory belongs to one connection, and a store needs several"
        )
    if not path.startswith("/"):
        raise errors.DatabaseUrlError(url=shown, why="after sqlite:// comes a host, of which a file has none")
    if "?" in path or not is_plain_text(path):
        raise errors.DatabaseUrlError(url=shown, why="options, NUL and half characters have no place in it")
    return Path(path.removeprefix("/"))
