"""Where reads run: in a few threads, so that neither the writer nor the loop waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import Connection, Row, Select

from trackside.app.storage import errors
from trackside.app.storage._reads import Reads
from trackside.app.storage._sqlite import READERS
from trackside.harness.errors import ClosedError


class Readers:
    """Owns the threads that read, and what they read with. Belongs to the event loop in which it was made."""

    def __init__(self, reads: Reads, *, database: str) -> None:
        self._reads = reads
        self._database = database
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="trackside-reader")
        self._loop = asyncio.get_running_loop()
        self._closed = False

    async def all[T](self, query: Select[Any], make: Callable[[Row[Any]], T]) -> list[T]:
        """Every row of the query, as `make` makes it."""
        return await self.run(lambda connection: [make(row) for row in connection.execute(query)])

    async def first[T](self, query: Select[Any], make: Callable[[Row[Any]], T]) -> T | None:
        """The first row of the query, as `make` makes it; None if there is none."""
        found = await self.all(query.limit(1), make)
        return found[0] if found else None

    async def run[T](self, read: Callable[[Connection], T]) -> T:
        """What `read` finds; all its queries see the same moment.

        Raises:
            ClosedError: the store is closed.
            StorageError: the database cannot be read.
        """
        if self._closed:
            raise ClosedError(what="store")
        if asyncio.get_running_loop() is not self._loop:
            raise errors.ForeignLoopError(database=self._database)
        return await self._loop.run_in_executor(self._threads, self._reads.read, read)

    async def aclose(self) -> None:
        """Let running reads end, and close the connections. May be called again."""
        self._closed = True
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._threads.shutdown()
        self._reads.close()
