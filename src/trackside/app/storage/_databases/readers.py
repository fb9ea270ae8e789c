"""What a store is read with, on top of what reads the database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import batched
from typing import Any, Final

from sqlalchemy import Connection, Row, Select

from trackside.app.storage import errors
from trackside.app.storage._databases.backend import Dialect, Reads
from trackside.harness.errors import ClosedError
from trackside.harness.threads import in_own_thread

_OF_READS: Final[Mapping[type[errors.StorageError], type[errors.StorageError]]] = {
    errors.ConnectionLostError: errors.ReadLostError,
    errors.DatabaseBusyError: errors.ReadBlockedError,
    errors.StatementStoppedError: errors.ReadStoppedError,
    errors.TransactionConflictError: errors.ReadConflictError,
}
"""What these errors are called where nothing was to be written, so that nobody asks whether it was."""


def beside_the_loop[T](connection: Connection, work: Callable[[], T]) -> T:
    """The result of a function that a read needs, and that takes long without asking the database anything."""
    if connection.dialect.name == "sqlite":  # which is read in a thread
        return work()
    driver: Any = connection.connection.dbapi_connection
    found: T = driver.run_async(lambda _: in_own_thread(work))
    return found


_IDS_AT_ONCE: Final = 1_000
"""How many a statement asks for: PostgreSQL takes no more than some 32,000 values."""


def in_pieces[T](
    connection: Connection, ids: Iterable[str], find: Callable[[Connection, Sequence[str]], Mapping[str, T]]
) -> dict[str, T]:
    """What `find` finds of these, by their ids, however many there are."""
    found: dict[str, T] = {}
    for some in batched(ids, _IDS_AT_ONCE):
        found.update(find(connection, some))
    return found


class Readers:
    """Owns what reads. Belongs to the event loop in which it was made."""

    def __init__(self, reads: Reads, *, database: str) -> None:
        self._reads = reads
        self.database = database
        """How messages name what is read."""
        self.answered = 0
        """How many reads have succeeded."""
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
        self._check()
        return await self._answer(self._reads.read(read))

    async def rows(self, statement: Mapping[Dialect, str], *values: Any) -> list[tuple[Any, ...]]:
        """The rows that one statement, in each database's own SQL, finds; for what is read so often that it matters.

        Raises:
            ClosedError: the store is closed.
            StorageError: the database cannot be read.
        """
        self._check()
        return await self._answer(self._reads.rows(statement[self._reads.dialect], values))

    async def _answer[T](self, reading: Awaitable[T]) -> T:
        """What a read finds; failures are those of reads."""
        try:
            found = await reading
        except errors.StorageError as exc:
            if type(exc) not in _OF_READS:
                raise
            raise _OF_READS[type(exc)](**exc.details) from exc
        self.answered += 1
        return found

    def _check(self) -> None:
        if self._closed:
            raise ClosedError(what="store")
        if asyncio.get_running_loop() is not self._loop:
            raise errors.ForeignLoopError(database=self.database)

    async def aclose(self) -> None:
        """Let running reads end, and close the connections. May be called again."""
        self._closed = True
        await self._reads.aclose()
