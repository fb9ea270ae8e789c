"""What the writer needs of a database, whichever it is: one transaction at a time, in a thread of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from sqlalchemy import ClauseElement, Dialect
from sqlalchemy.sql.compiler import SQLCompiler

from trackside.app.storage import errors
from trackside.app.storage._encoding import EventRow
from trackside.app.storage._fold import RunRow, ThreadRow
from trackside.app.storage._leases import LeaseClock
from trackside.app.storage._queue import ActiveRun, Lane
from trackside.app.storage._totals import Totals


class CollisionError(errors.StorageError):
    """Something is in {database} already that has to be unique: {why}."""


class Session(Protocol):
    """The connection that writes, used by one thread. Everything here but `close` happens inside a `transaction`.

    What is done for each event has statements of its own in each database's module, for whole batches. All else is a
    statement of SQLAlchemy's that `execute` takes.
    """

    def transaction(self) -> AbstractContextManager[None]:
        """One transaction; connects first if need be.

        Raises:
            CollisionError: something had to be unique; nothing was written.
            StorageError: it could not be begun or committed; unless the connection was lost in the commit, nothing was
                written.
        """
        ...

    def execute(self, statement: ClauseElement) -> list[tuple[Any, ...]]:
        """Run a statement that has its values in it, and fetch its rows.

        Values go in and come out as the database has them: times and JSON are text.
        """
        ...

    def clock(self) -> LeaseClock:
        """The time by the clock that leases in this database are measured with."""
        ...

    def lock_threads(self, thread_ids: Collection[str]) -> None:
        """Keep others from changing these threads, as far as they have rows, and their queues."""
        ...

    def runs(self, run_ids: Collection[str]) -> dict[str, RunRow]:
        """What is stored of these runs, as far as it decides about their next events; nobody else changes it meanwhile."""
        ...

    def lanes(self, thread_ids: Collection[str]) -> list[Lane]:
        """The status of each of these threads, who holds it, and who is the first to wait."""
        ...

    def waiting(self, thread_id: str, *, after: int, limit: int) -> list[ActiveRun]:
        """Runs that wait for a thread, first come first, from behind this ordinal on."""
        ...

    def event(self, event_id: str) -> EventRow | None:
        """The stored event with this id."""
        ...

    def save_threads(self, threads: Collection[ThreadRow]) -> None:
        """Make rows for threads that are new, and change what changes in others."""
        ...

    def save_runs(self, runs: Iterable[RunRow]) -> None:
        """Make rows for runs that start, and change what changes in others."""
        ...

    def next_ordinal(self) -> int:
        """A place behind all active runs."""
        ...

    def save_active(self, removed: Collection[str], changed: Collection[ActiveRun]) -> None:
        """Delete the rows of runs that are not active any more; then make or change the rows of others."""
        ...

    def add_to_totals(self, totals: Totals) -> None:
        """Add to the sums over runs."""
        ...

    def insert_events(self, rows: Collection[EventRow]) -> None:
        """Give events the next positions, in their `position`, and store them."""
        ...

    def save_thread_states(self, states: Collection[Sequence[str | None]]) -> None:
        """Store what threads remember: id, values, what is paused, and since when."""
        ...

    def close(self) -> None:
        """Let go of the connection; a later transaction makes a new one."""
        ...


def compiled(statement: ClauseElement, dialect: Dialect) -> tuple[str, list[Any]]:
    """The text of a statement, and its values in the order of their places. No type converts them."""
    made = statement.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
    assert isinstance(made, SQLCompiler)
    values = made.params
    return str(made), [values[name] for name in made.positiontup or ()]
