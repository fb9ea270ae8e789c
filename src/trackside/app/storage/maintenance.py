"""Looks after a database as a whole: which version its tables have, and whether everything in it is as it should be.

These functions block: they are for commands, and for threads of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection, text

from trackside.app.storage._checks import Finding, contents, tables
from trackside.app.storage._databases.backend import Backend
from trackside.app.storage._databases.backends import backend_at
from trackside.app.storage._databases.sqlite.backend import SqliteBackend
from trackside.app.storage._schema import (
    REVISIONS,
    OnStep,
    could_prepare,
    found_version,
    prepare,
    stated_version,
)
from trackside.app.storage.errors import CompactedByServerError, DatabaseMissingError

BUSY_TIMEOUT = 5.0
"""How many seconds an upgrade waits for others who write."""

SAMPLE = 1_000
"""How many runs, the newest, `check_database` compares with their events unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaVersion:
    """The revision of a database's tables (None: there are none yet), and that of this version of Trackside."""

    found: str | None
    known: str

    @property
    def is_newer(self) -> bool:
        """Whether a newer Trackside made the tables."""
        return self.found is not None and self.found not in REVISIONS

    @property
    def steps(self) -> int:
        """How many steps an upgrade takes, for tables that are not newer; creating them is one step."""
        return 1 if self.found is None else len(REVISIONS) - REVISIONS.index(self.found) - 1


def _backend_there(url: str) -> Backend:
    """The database at an address, which has to be there."""
    backend = backend_at(url, synchronous="FULL", busy_timeout=BUSY_TIMEOUT)
    backend.check_place(create=False)
    return backend


def no_version() -> SchemaVersion:
    """The version of a database that is not there yet."""
    return SchemaVersion(found=None, known=REVISIONS[-1])


def schema_version(url: str) -> SchemaVersion:
    """The version of a database's tables, even if it is not known here. Changes nothing.

    Raises:
        StorageError: the database is not there, or cannot be read.
    """
    return SchemaVersion(found=stated_version(_backend_there(url)), known=REVISIONS[-1])


def upgradable_version(url: str) -> SchemaVersion:
    """The version of the tables that an upgrade would find. Changes nothing.

    Raises:
        NewerDatabaseError: a newer Trackside made them, so that there is no upgrade.
        StorageError: the database is not there, or cannot be read.
    """
    return SchemaVersion(found=found_version(_backend_there(url)), known=REVISIONS[-1])


def held_events(url: str) -> int:
    """The position of the last event in tables of any version: about how many events an upgrade has to keep.

    Raises:
        StorageError: the database is not there, has no tables yet, or cannot be read.
    """
    backend = _backend_there(url)

    def look(connection: Connection) -> int:
        return int(connection.scalar(text("SELECT max(position) FROM events")) or 0)

    return backend.look(look) or 0


def check_usable(url: str) -> None:
    """Check that a database could be opened, or created if it is missing, as far as can be told without changing
    anything.

    Raises:
        StorageError: it could not; the message says what to do.
    """
    could_prepare(backend_at(url, synchronous="FULL", busy_timeout=BUSY_TIMEOUT), create=True)


def upgrade_database(url: str, *, on_step: OnStep | None = None) -> SchemaVersion:
    """Create the tables, or bring them up to date, in one transaction; returns the version that they had.

    Several processes may do this at once: one does it, and the others find it done. `on_step` is called for each step.

    Raises:
        NewerDatabaseError: a newer Trackside made them.
        StorageError: it could not be done, and nothing has changed.
    """
    backend = backend_at(url, synchronous="FULL", busy_timeout=BUSY_TIMEOUT)
    backend.check_place(create=True)
    version = SchemaVersion(found=found_version(backend), known=REVISIONS[-1])
    prepare(backend, create=True, on_step=on_step)
    return version


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """How many bytes a database took on the disk before it was compacted, and how many it takes now."""

    bytes_before: int
    bytes_after: int


def compact_database(url: str) -> Compacted:
    """Give the space of removed runs back to the disk; returns how much the database took there, and takes.

    The file is written anew. For that, as much space as it takes in the end has to be free beside it, and as much once
    more where SQLite has temporary files (the folder in `SQLITE_TMPDIR` or `TMPDIR`, else /var/tmp). Nobody else can
    write meanwhile. This is seldom worth it: new runs reuse the room of those that were removed.

    Raises:
        CompactedByServerError: the database is on a server.
        CompactBlockedError: others read it all the time; the disk gets the space back once they stop.
        DatabaseBusyError: somebody else is writing.
        DatabaseFullError: there is too little space.
        StorageError: it could not be done, and nothing has changed.
    """
    backend = backend_at(url, synchronous="FULL", busy_timeout=BUSY_TIMEOUT)
    if not isinstance(backend, SqliteBackend):
        raise CompactedByServerError(database=str(backend))
    prepare(backend, create=False)
    before = backend.size()
    backend.compact()
    return Compacted(bytes_before=before, bytes_after=backend.size())


def check_database(url: str, *, sample: int | None = SAMPLE) -> list[Finding]:
    """Check a database: returns what is wrong with it; an empty list if nothing is. Changes nothing, and sees one
    moment.

    Args:
        url: as for `Store.open`.
        sample: how many runs, the newest first, are compared with their events; None: all.

    Raises:
        NewerDatabaseError: a newer Trackside made its tables.
        StorageError: the database is not there, or cannot be read.
    """
    backend = _backend_there(url)
    found, known = found_version(backend), REVISIONS[-1]
    if found is None:
        raise DatabaseMissingError(database=str(backend))
    if found != known:
        what = f"they are of version {found}, and this Trackside works with {known}"
        return [Finding("tables", f"{what}: `trackside db upgrade` brings them up to date")]
    return backend.look(partial(_find, sample=sample)) or []


def _find(connection: Connection, *, sample: int | None) -> list[Finding]:
    return [*_all(connection, sample)]


def _all(connection: Connection, sample: int | None) -> Iterator[Finding]:
    wrong = [*tables(connection)]
    yield from wrong
    if not wrong:  # the checks below take the tables to be as declared
        yield from contents(connection, sample)
