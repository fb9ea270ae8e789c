"""Databases with our tables and nothing in them."""

from __future__ import annotations

import asyncio

from postgres_server import Rows, RunningServer

from trackside.app.storage import Store


def make_tables(url: str) -> None:
    async def make() -> None:
        async with Store.open(url):
            pass

    asyncio.run(make())


class EmptiedDatabase:
    """A PostgreSQL database that is made once, and put back to what it was then: faster than to make another one."""

    def __init__(self, server: RunningServer, name: str) -> None:
        self._server = server
        self._name = name
        self.url = server.url(name)
        tables = [row[0] for row in self._execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        self._execute("CREATE SCHEMA fresh")
        for table in tables:
            self._execute(f"CREATE TABLE fresh.{table} AS TABLE public.{table}")
        filled = [table for table in tables if self._execute(f"SELECT 1 FROM {table} LIMIT 1")]
        self._reset = [f"TRUNCATE {', '.join(tables)} RESTART IDENTITY CASCADE"]
        self._reset += [f"INSERT INTO {table} SELECT * FROM fresh.{table}" for table in filled]

    def empty(self) -> None:
        self._execute("; ".join(self._reset))

    def _execute(self, sql: str) -> Rows:
        return self._server.execute(sql, database=self._name)
