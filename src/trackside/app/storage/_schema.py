"""Makes the tables of a database, or brings those of an older version up to date. Alembic does it, inside this package."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect, text

from trackside.app.storage import errors
from trackside.app.storage._reads import reads_of
from trackside.app.storage._sqlite import APPLICATION_ID, SqliteDatabase

REVISIONS: Final = ("0001", "0002")
"""All revisions of the schema, oldest first. Listed here so that opening a database does not have to load Alembic."""

_MIGRATIONS = Path(__file__).with_name("migrations")


def prepare(database: SqliteDatabase, *, create: bool) -> None:
    """See that the database is there, is ours, and has the tables of this version. Several processes may do it at once.

    Raises:
        StorageError: it is not, and cannot be made so; the message says what to do.
    """
    database.check_place(create=create)
    if (why := database.why_read_only()) is not None:
        raise errors.ReadOnlyDatabaseError(database=str(database), why=why)
    # To look, nobody has to wait until another process has written.
    if not database.path.exists() or _look(database) != REVISIONS[-1]:
        with database.translated():
            _bring_up_to_date(database)


def check(database: SqliteDatabase) -> None:
    """See that the database is there, is ours, and has the tables of this version; changes nothing.

    Raises:
        StorageError: it is not; the message says what to do.
    """
    database.check_place(create=False)
    found = _look(database)
    if found is None:  # an empty file, or somebody is about to make the first tables
        raise errors.DatabaseMissingError(database=str(database))
    if found != REVISIONS[-1]:
        raise errors.OlderDatabaseError(database=str(database), found=found, known=REVISIONS[-1])


def _look(database: SqliteDatabase) -> str | None:
    def look(connection: Connection) -> str | None:
        database.check_owner(connection)
        return _revision(connection, database)

    with closing(reads_of(database)) as reads:
        return reads.read(look)


def _bring_up_to_date(database: SqliteDatabase) -> None:
    engine = database.writer()
    try:
        with engine.begin() as connection:
            # Looked at again: another process may have done it while this one waited for the lock.
            if _revision(connection, database) != REVISIONS[-1]:
                _upgrade(connection)
    finally:
        engine.dispose()


def _revision(connection: Connection, database: SqliteDatabase) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    if found not in REVISIONS:
        raise errors.NewerDatabaseError(database=str(database), found=found, known=REVISIONS[-1])
    return str(found)


def _upgrade(connection: Connection) -> None:
    # Alembic takes longer to import than all the rest; most of the time the schema is as it should be.
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    command.upgrade(config, "head")
    connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
