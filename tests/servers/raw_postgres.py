"""Access to a PostgreSQL database without any of our code, for the checkers and the tests beside them."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import asyncpg


class Rows(list[tuple[Any, ...]]):
    """The rows of a statement, with the method names of a cursor of sqlite3."""

    def fetchall(self) -> list[tuple[Any, ...]]:
        return [*self]

    def fetchone(self) -> tuple[Any, ...] | None:
        return self[0] if self else None


GONE: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
"""The errors of a connection that was ended, or whose server was stopped."""


class RawConnection:
    """One connection without any of our code; each statement is its own transaction. Blocks; a loop may be running."""

    def __init__(self, url: str) -> None:
        self._thread = ThreadPoolExecutor(1, "raw-postgres")
        self._loop = asyncio.new_event_loop()
        try:
            self._connection = self._wait(lambda: asyncpg.connect(url))
        except BaseException:
            self._end()
            raise

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Rows:
        """Run one statement (or, without values, several) and fetch its rows."""
        if sql.lstrip()[:6].upper() in {"SELECT", "WITH", "SHOW"} or " RETURNING " in sql or values:
            return Rows(tuple(row) for row in self._wait(lambda: self._connection.fetch(sql, *values)))
        self._wait(lambda: self._connection.execute(sql))
        return Rows()

    def close(self) -> None:
        if not self._loop.is_closed():
            try:
                self._wait(lambda: self._connection.close(timeout=5))
            finally:
                self._end()

    def _end(self) -> None:
        self._thread.submit(self._loop.close).result()
        self._thread.shutdown()

    def _wait(self, call: Callable[[], Any]) -> Any:
        async def await_it() -> Any:
            return await call()

        return self._thread.submit(lambda: self._loop.run_until_complete(await_it())).result()
