"""Makes the tables of a database, or brings those of an older version up to date. Alembic does it, inside this package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, inspect, text

from trackside.app.storage import errors
from trackside.app.storage._backend import Backend

REVISIONS: Final = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009")
"""All revisions of the schema, oldest first. Listed here so that opening a database does not have to load Alembic."""

_MIGRATIONS = Path(__file__).with_name("migrations")


type OnStep = Callable[[int], object]
"""Called after each step of an upgrade, with how many have been taken."""


def prepare(backend: Backend, *, create: bool, on_step: OnStep | None = None) -> None:
    """See that the database is there, is ours, and has the tables of this version. Several processes may do it at once:
    one does, and the others wait for as long as that takes.

    Raises:
        StorageError: it is not, and cannot be made so; the message says what to do.
    """
    if could_prepare(backend, create=create) != REVISIONS[-1]:
        backend.change(
            lambda connection: _bring_up_to_date(connection, backend, on_step),
            is_needed=lambda: found_version(backend) != REVISIONS[-1],
        )


def could_prepare(backend: Backend, *, create: bool) -> str | None:
    """See that `prepare` could do its work, as far as that can be told without changing anything; the revision found.

    Raises:
        StorageError: it could not; the message says what to do.
    """
    backend.check_place(create=create)
    backend.check_writable()
    # To look, nobody has to wait until another process has written.
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
    """As `found_version`, but also of a revision that this version does not know.

    Raises:
        StorageError: the database is not ours, or cannot be read.
    """

    def look(connection: Connection) -> str | None:
        backend.check_owner(connection)
        return _revision(connection)

    return backend.look(look)


def _bring_up_to_date(connection: Connection, backend: Backend, on_step: OnStep | None) -> None:
    # Looked at again: another process may have done it while this one waited for the lock.
    if _known(_revision(connection), backend) != REVISIONS[-1]:
        try:
            _upgrade(connection, on_step)
        except msgspec.DecodeError as exc:  # a migration reads what an older version has written
            raise errors.DamagedDatabaseError(database=str(backend), why=f"it has JSON that is none: {exc}") from exc


def _known(found: str | None, backend: Backend) -> str | None:
    if found is not None and found not in REVISIONS:
        raise errors.NewerDatabaseError(database=str(backend), found=found, known=REVISIONS[-1])
    return found


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return str(connection.scalar(text("SELECT version_num FROM alembic_version")))


def _upgrade(connection: Connection, on_step: OnStep | None) -> None:
    # Alembic takes longer to import than all the rest; most of the time the schema is as it should be.
    from alembic import command
    from alembic.config import Config

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
