"""Which database an address means."""

from __future__ import annotations

from typing import Any

from trackside.app.storage._databases.backend import Backend, Synchronous
from trackside.app.storage._databases.sqlite.backend import SqliteBackend
from trackside.app.storage._databases.sqlite.connections import SqliteDatabase


def backend_at(url: Any, *, synchronous: Synchronous, busy_timeout: float) -> Backend:
    """The database at this address.

    Raises:
        DatabaseUrlError: it is no address of a database that can be used.
        StoreOptionError: an option has a value that does not fit.
    """
    if isinstance(url, str) and is_postgres(url):
        # Imported here: a program that stores in SQLite need not wait for it.
        from trackside.app.storage._databases.postgres.backend import PostgresBackend
        from trackside.app.storage._databases.postgres.connections import PostgresDatabase

        return PostgresBackend(PostgresDatabase.from_url(url, synchronous=synchronous, busy_timeout=busy_timeout))
    return SqliteBackend(SqliteDatabase.from_url(url, synchronous=synchronous, busy_timeout=busy_timeout))


def is_postgres(url: str) -> bool:
    """Whether this is meant as the address of a PostgreSQL database, whichever driver it was written for."""
    scheme = url.partition("://")[0].partition("+")[0]
    return scheme in {"postgres", "postgresql"}
