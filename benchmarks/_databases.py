"""A new database for each piece of work: a file, or one on a PostgreSQL server of our own."""

import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Protocol, Self

from trackside.app.storage import Store

sys.path.append(str(Path(__file__).parents[1] / "tests" / "servers"))
from postgres_server import PostgresServer


class Databases(Protocol):
    """Where databases come from; `name` is what they are of."""

    name: str

    def new(self, *, with_tables: bool) -> AbstractAsyncContextManager[str]:
        """The address of a database that is there as long as the context, empty or with the store's tables."""
        ...

    def cpu_ns(self) -> int:
        """The CPU time until now of the processes of its server."""
        ...


class SqliteFiles:
    """Files in folders of their own."""

    name = "SQLite"

    @asynccontextmanager
    async def new(self, *, with_tables: bool) -> AsyncGenerator[str]:
        with tempfile.TemporaryDirectory() as folder:
            url = f"sqlite:///{folder}/log.db"
            if with_tables:
                async with Store.open(url):
                    pass
            yield url

    def cpu_ns(self) -> int:
        return 0


class PostgresDatabases:
    """Databases on a server that flushes what it commits to the disk, and runs as long as the context."""

    name = "PostgreSQL"

    def __init__(self) -> None:
        self._server = PostgresServer()
        self._numbers = count()
        self._template: str | None = None

    @asynccontextmanager
    async def new(self, *, with_tables: bool) -> AsyncGenerator[str]:
        name = f"bench_{next(self._numbers)}"
        url = self._server.create_database(name, template=await self._tables() if with_tables else None)
        yield url
        self._server.drop_database(name)

    def cpu_ns(self) -> int:
        main = int((self._server.data / "postmaster.pid").read_text().split()[0])
        processes = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        return sum(int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) for process in processes)

    async def _tables(self) -> str:
        if self._template is None:
            self._template = "bench_tables"
            async with Store.open(self._server.create_database(self._template)):
                pass
        return self._template

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
