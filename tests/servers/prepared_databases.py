"""Databases with our tables and nothing in them, also as older versions made them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from alembic import command
from alembic.config import Config
from postgres_server import RunningServer
from raw_postgres import GONE, RawConnection
from sqlalchemy import Connection

from trackside.app.storage import Store, _schema
from trackside.app.storage._databases.backends import backend_at

_SPENT_PAGES = 64  # of a table, above which removing its rows one by one would leave more behind than it saves

# What a database is apart from its rows: whoever changes it, or has it analyse its tables, has spoilt it for others.
_SHAPE = """
SELECT (
WITH ours AS (SELECT oid, nspname, nspacl FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'),
    relations AS (SELECT c.* FROM pg_class c JOIN ours ON ours.oid = relnamespace)
SELECT md5(concat_ws('|',
    (SELECT string_agg(ours::text, ',' ORDER BY oid) FROM ours),
    (SELECT string_agg((oid, relname, relowner, relacl, reloptions)::text, ',' ORDER BY oid) FROM relations),
    (SELECT string_agg((attrelid, attname, atttypid, attnotnull, atthasdef, attacl)::text, ',' ORDER BY attrelid, attnum)
     FROM pg_attribute JOIN relations ON relations.oid = attrelid),
    (SELECT string_agg((indexrelid, indisvalid)::text, ',' ORDER BY indexrelid)
     FROM pg_index JOIN relations ON relations.oid = indrelid),
    (SELECT string_agg((k.oid, conname, convalidated)::text, ',' ORDER BY k.oid)
     FROM pg_constraint k JOIN ours ON ours.oid = connamespace),
    (SELECT string_agg((oid, tgname, tgenabled)::text, ',' ORDER BY oid) FROM pg_trigger),
    (SELECT string_agg((p.oid, prosrc)::text, ',' ORDER BY p.oid) FROM pg_proc p JOIN ours ON ours.oid = pronamespace),
    (SELECT string_agg((datconnlimit, datallowconn, datacl)::text, ',') FROM pg_database WHERE datname = current_database()),
    (SELECT string_agg(setconfig::text, ',' ORDER BY setrole) FROM pg_db_role_setting
     JOIN pg_database d ON d.oid = setdatabase WHERE datname = current_database()),
    (SELECT count(*)::text FROM pg_statistic JOIN relations ON relations.oid = starelid))))
"""
_ALONE = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def make_tables(url: str) -> None:
    async def make() -> None:
        async with Store.open(url):
            pass

    asyncio.run(make())


def make_old_tables(url: str, revision: str, fill: Callable[[Connection], object] = lambda _: None) -> None:
    """Make the tables of a version, step by step from those of the first, and put something there."""

    def make(connection: Connection) -> None:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(_schema._MIGRATIONS))
        config.set_main_option("path_separator", "os")
        command.upgrade(config, revision)
        fill(connection)

    backend = backend_at(url, synchronous="NORMAL", busy_timeout=5.0)
    backend.check_place(create=True)
    backend.change(make, is_needed=lambda: True)


class EmptiedDatabase:
    """A PostgreSQL database that is made once, and reset to its first state: a hundredth of what another one costs."""

    def __init__(self, server: RunningServer, name: str) -> None:
        self._server = server
        self._name = name
        self.url = server.url(name)
        self._make()

    def empty(self) -> None:
        """Throw out whoever is still in it, and remove what they put there; remake it if they did more than that."""
        inside = self._alone_inside()
        if inside.execute(_SHAPE) == self._shape:
            large = [row[0] for row in inside.execute(self._which_are_large)]
            inside.execute("; ".join([*(f"TRUNCATE {table} CASCADE" for table in large), *self._reset]))
        else:
            self.close()
            self._server.drop_database(self._name)
            self._make()

    def close(self) -> None:
        """Close our connection to it."""
        with suppress(*GONE):
            self._inside.close()

    def _alone_inside(self) -> RawConnection:
        """The only connection to it now; it is kept, as it knows the tables that a new one would have to look up."""
        try:
            self._inside.execute(_ALONE)
        except GONE:  # a test has ended it along with its own
            self.close()
            self._inside = self._server.connect(self._name)
            self._inside.execute(_ALONE)
        return self._inside

    def _make(self) -> None:
        make_tables(self._server.create_database(self._name))
        self._inside = self._server.connect(self._name)
        self._keep_what_is_there(self._inside)

    def _keep_what_is_there(self, database: RawConnection) -> None:
        tables = [row[0] for row in database.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        sequences = database.execute("SELECT sequencename FROM pg_sequences WHERE schemaname = 'public'")
        database.execute("CREATE SCHEMA fresh")
        for table in tables:
            database.execute(f"CREATE TABLE fresh.{table} AS TABLE public.{table}")
        filled = [table for table in tables if database.execute(f"SELECT 1 FROM {table} LIMIT 1")]
        self._which_are_large = (
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
            f" AND pg_table_size(oid) > {_SPENT_PAGES} * 8192"
        )
        self._reset = [f"DELETE FROM {table}" for table in tables]
        self._reset += [f"ALTER SEQUENCE {row[0]} RESTART" for row in sequences]
        self._reset += [f"INSERT INTO {table} SELECT * FROM fresh.{table}" for table in filled]
        self._shape = database.execute(_SHAPE)
