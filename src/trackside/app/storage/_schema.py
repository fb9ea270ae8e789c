"""Makes the tables of a database, or has Alembic bring those of an older version up to date, inside this package.

Tables that do not exist yet are made as they are declared. That takes a sixth of what it takes to make those of the
first version and migrate them, and needs no Alembic, which takes longer to import than all the rest. Both ways come to
the same tables.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any, Final

import msgspec
from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, String, Table, insert, inspect, text
from sqlalchemy.schema import CreateIndex, CreateTable

import trackside.app.storage._rows.client_tables
import trackside.app.storage._rows.graph_checkpoint_tables  # noqa: F401  # adds its tables to `metadata`, too
from trackside.app.storage import errors
from trackside.app.storage._databases.backend import Backend
from trackside.app.storage._rows.fleet_tables import server_metadata
from trackside.app.storage._rows.tables import POSITION, TOKEN, counters, metadata

logger = logging.getLogger("trackside.storage.upgrade")

REVISIONS: Final = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010")
"""All revisions of the schema, oldest first. Listed here so that opening a database does not have to load Alembic."""

_revision: Final = Table(  # as Alembic makes it, and reads it when the tables are to be changed
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
_IS_OURS: Final = text("""
    SELECT count(*) = 4 FROM pg_class beside JOIN pg_class version ON version.relnamespace = beside.relnamespace
    WHERE version.oid = to_regclass('alembic_version') AND beside.relname IN ('counters', 'events', 'runs', 'threads')""")
"""Whether the version table that PostgreSQL finds is in one schema with tables of ours."""
_MIGRATIONS = Path(__file__).with_name("migrations")
_PATIENCE: Final = 600.0  # seconds; bringing a large database up to date takes minutes
_PAUSE: Final = 0.05  # seconds; databases themselves wait, too, unless they were told not to


type OnStep = Callable[[int], object]
"""Called after each step of an upgrade, with how many have been taken."""


async def make_ready(backend: Backend, *, create: bool, read_only: bool) -> None:
    """Run `prepare`, or `check` if `read_only`, beside the event loop. A cancelled caller leaves no thread waiting.

    Raises:
        StorageError: as they do.
    """
    if read_only:
        await asyncio.to_thread(check, backend)
        return
    given_up = Event()
    try:
        await asyncio.to_thread(prepare, backend, create=create, given_up=given_up)
    finally:
        given_up.set()


def prepare(
    backend: Backend,
    *,
    create: bool,
    on_step: OnStep | None = None,
    patience: float = _PATIENCE,
    given_up: Event | None = None,
) -> None:
    """See that the database is there, is ours, and has the tables of this version. Several processes may do this at
    once: one does the work, and the others wait for it, for `patience` seconds at most or until `given_up` is set.

    Raises:
        DatabaseBusyError: another process has it locked for longer.
        StorageError: it is not, and cannot be made so; the message says what to do.
    """
    if could_prepare(backend, create=create) != REVISIONS[-1]:
        wait = _Wait(backend, patience, Event() if given_up is None else given_up)
        backend.change(
            lambda connection: _bring_up_to_date(connection, backend, on_step),
            is_needed=wait.is_needed,
        )


class _Wait:
    """The wait for another process that has the database locked, perhaps to upgrade its tables: nobody can tell that
    before the upgrade is done.
    """

    def __init__(self, backend: Backend, patience: float, given_up: Event) -> None:
        self._backend = backend
        self._patience = patience
        self._given_up = given_up
        self._began = monotonic()
        self._is_said = False

    def is_needed(self) -> bool:
        """Whether this process has to try again, a moment later.

        Raises:
            DatabaseBusyError: it has waited long enough.
            StorageError: the database cannot be read.
        """
        with suppress(errors.DatabaseBusyError):  # a process that closes a file locks it for a moment, for readers, too
            if found_version(self._backend) == REVISIONS[-1]:
                return False
        waited = monotonic() - self._began
        if not self._is_said and waited >= self._backend.busy_timeout:
            self._is_said = True
            said = "Another process has %s locked, perhaps to upgrade its tables: waiting for it, %g s at most."
            logger.warning(said, self._backend, self._patience)
        if waited >= self._patience or self._given_up.wait(_PAUSE):
            raise errors.DatabaseBusyError(database=str(self._backend), seconds=round(waited, 1))
        return True


def could_prepare(backend: Backend, *, create: bool) -> str | None:
    """See that `prepare` could do its work, as far as that can be told without changing anything; the revision found.

    Raises:
        StorageError: it could not; the message says what to do.
    """
    backend.check_place(create=create)
    backend.check_writable()
    # Looking does not have to wait until another process has written.
    found = found_version(backend)
    if found is None and not create:
        raise errors.DatabaseMissingError(database=str(backend))
    return found


def check(backend: Backend) -> None:
    """See that the database is there, is ours, and has the tables of this version; changes nothing.

    Raises:
        StorageError: it is not; the message says what to do.
    """
    backend.check_place(create=False)
    found = found_version(backend)
    if found is None:  # an empty file, or somebody is about to make the first tables
        raise errors.DatabaseMissingError(database=str(backend))
    if found != REVISIONS[-1]:
        raise errors.OlderDatabaseError(database=str(backend), found=found, known=REVISIONS[-1])


def found_version(backend: Backend) -> str | None:
    """The revision of the tables that are there; None if there are none yet.

    Raises:
        NewerDatabaseError: it is one that this version does not know.
        StorageError: the database is not ours, or cannot be read.
    """
    return _known(stated_version(backend), backend)


def stated_version(backend: Backend) -> str | None:
    """The same as `found_version`, but for a revision that this version does not know, too.

    Raises:
        StorageError: the database is not ours, or cannot be read.
    """

    def look(connection: Connection) -> str | None:
        backend.check_owner(connection)
        return revision_of(connection)

    return backend.look(look)


def _bring_up_to_date(connection: Connection, backend: Backend, on_step: OnStep | None) -> None:
    # Looked at again: another process may have done it while this one waited for the lock.
    found = _known(revision_of(connection), backend)
    if found is None:
        _make(connection)
        if on_step is not None:
            on_step(1)
    elif found != REVISIONS[-1]:
        try:
            _upgrade(connection, on_step)
        except msgspec.DecodeError as exc:  # a migration reads what an older version has written
            raise errors.DamagedDatabaseError(database=str(backend), why=f"it has invalid JSON: {exc}") from exc


def _known(found: str | None, backend: Backend) -> str | None:
    if found is not None and found not in REVISIONS:
        raise errors.NewerDatabaseError(database=str(backend), found=found, known=REVISIONS[-1])
    return found


def revision_of(connection: Connection) -> str | None:
    """Which revision of the schema the tables have; None if there are none. On PostgreSQL they may be anywhere on the search
    path, and so may the version table of another program that uses Alembic.
    """
    if connection.dialect.name == "sqlite":
        is_there = inspect(connection).has_table(_revision.name)
    else:
        is_there = connection.scalar(_IS_OURS)
    if not is_there:
        return None
    return str(connection.scalar(text("SELECT version_num FROM alembic_version")))


def _make(connection: Connection) -> None:
    """Make the tables of this version where there are none; indexes in one order, as SQLite may choose by it."""
    of_servers = [] if connection.dialect.name == "sqlite" else server_metadata.sorted_tables
    for table in (*metadata.sorted_tables, *of_servers, _revision):
        connection.execute(CreateTable(table))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            connection.execute(CreateIndex(index))
    connection.execute(insert(counters), [{"name": name, "value": 0} for name in (POSITION, TOKEN)])
    connection.execute(insert(_revision).values(version_num=REVISIONS[-1]))


def _upgrade(connection: Connection, on_step: OnStep | None) -> None:
    from alembic import command
    from alembic.config import Config

    if connection.dialect.name == "postgresql":
        # No step may leave a reference to check at the end: a table with such a reference cannot be changed further.
        connection.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
    done = 0

    def applied(**_: Any) -> None:
        nonlocal done
        done += 1
        if on_step is not None:
            on_step(done)

    config = Config(attributes={"connection": connection, "on_version_apply": applied})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    command.upgrade(config, "head")
