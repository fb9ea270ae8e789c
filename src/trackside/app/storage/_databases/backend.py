"""What the store needs of a database, whichever it is; `sqlite.backend` and `postgres.backend` provide it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from sqlalchemy import Connection

from trackside.app.storage._databases.session import Session
from trackside.app.storage._databases.signals import CommitSignals

type Synchronous = Literal["FULL", "NORMAL"]
type Dialect = Literal["sqlite", "postgresql"]


class Reads(Protocol):
    """How a database is read, from the event loop in which this was made."""

    dialect: Dialect

    async def read[T](self, read: Callable[[Connection], T]) -> T:
        """What `read` finds; all its queries see the same moment.

        `read` may be called again if that moment, or the connection, did not last.

        Raises:
            StorageError: the database cannot be read.
        """
        ...

    async def rows(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The rows that one statement in the database's own SQL finds, for what is read so often that it matters.

        Raises:
            StorageError: the database cannot be read.
        """
        ...

    async def aclose(self) -> None:
        """Let running reads end, and let go of all connections. May be called again."""
        ...


class Backend(Protocol):
    """One database that is or will be a store. `str` of it is how messages name it, without a password."""

    @property
    def busy_timeout(self) -> float:
        """Seconds for which a write waits for others, and for which one that can be repeated is repeated."""
        ...

    def check_place(self, *, create: bool) -> None:
        """See that the database is there or (with `create`) can be made.

        Raises:
            StorageError: it is not; the message says what to do.
        """
        ...

    def check_writable(self) -> None:
        """See that this user may write there, as far as that can be told without writing.

        Raises:
            ReadOnlyDatabaseError: something keeps the user from it.
        """
        ...

    def look[T](self, read: Callable[[Connection], T]) -> T | None:
        """What `read` finds, at once and on a connection of its own; None if there is no database yet.

        Raises:
            StorageError: the database cannot be read.
        """
        ...

    def check_owner(self, connection: Connection) -> None:
        """See that what is in the database is ours, or nothing.

        Raises:
            ForeignDatabaseError: it is another program's.
        """
        ...

    def change(self, change: Callable[[Connection], Any], *, is_needed: Callable[[], bool]) -> None:
        """Let `change` change tables, in one transaction and while nobody else changes them.

        Another process that changes them may take long. While that keeps this one waiting, it asks now and then whether
        the change `is_needed` still, which may take its time, and returns if not.

        Raises:
            StorageError: the change failed, and changed nothing; or `is_needed` raised this.
        """
        ...

    def session(self) -> Session:
        """What the writer writes with."""
        ...

    @property
    def session_beside(self) -> Callable[[], Session] | None:
        """Makes what something else can write with at the same time; None where only one can write at a time."""
        ...

    def reads(self, *, standby: bool) -> Reads:
        """What readers read with. A `standby`, which has what is written a moment later, will do for a store that only
        reads.

        Raises:
            StorageError: this user may not read the database.
        """
        ...

    def signals(self, *, every: float) -> CommitSignals:
        """What tells that other processes have committed; where nobody tells it, it looks `every` so many seconds."""
        ...
