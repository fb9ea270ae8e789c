"""What the writer needs of a database, whichever it is: one transaction at a time, in a thread of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from sqlalchemy import ClauseElement, Dialect, select, update
from sqlalchemy.sql.compiler import SQLCompiler

from trackside.app.storage import errors
from trackside.app.storage._rows.encoding import EventRow
from trackside.app.storage._rows.fold import RunRow, ThreadRow
from trackside.app.storage._rows.leases import LeaseClock
from trackside.app.storage._rows.queue import ActiveRun, Lane
from trackside.app.storage._rows.tables import POSITION, counters
from trackside.app.storage._rows.totals import Totals


class CollisionError(errors.StorageError):
    """Something that has to be unique is in {database} already, or something there refers to what does not exist: {why}."""


@dataclass(slots=True, kw_only=True)
class Changes:
    """What a transaction writes, by kind of row."""

    thread_states: Collection[Sequence[str | None]] = ()
    """What threads remember: id, values, what is paused, and since when."""
    graph_checkpoints: Collection[Sequence[Any]] = ()
    """Checkpoints of graphs; these three have the columns of `_rows.graph_checkpoint_tables`, each key once."""
    graph_values: Collection[Sequence[Any]] = ()
    graph_writes: Collection[Sequence[Any]] = ()
    threads: Collection[ThreadRow] = ()
    gone_threads: Collection[str] = ()
    """The ids of threads whose rows this transaction has deleted: one that is also among `threads` is made anew."""
    thread_labels: Collection[Sequence[str]] = ()
    """Labels of threads that had none, which are found by them from now on: key, value, id."""
    runs: Collection[RunRow] = ()
    inactive: Collection[str] = ()
    """The ids of runs that are not active any more."""
    active: Collection[ActiveRun] = ()
    totals: Totals | None = None
    events: Collection[EventRow] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which ready runs a worker would take; `run_ids` are those among which it looks, None: all.

    `schema` is the revision of the tables that it knows; from others it takes nothing.
    """

    owner: str
    pools: Sequence[str]
    agents: Sequence[str]
    version: str | None
    unfit: Sequence[str]
    run_ids: Sequence[str] | None
    limit: int
    schema: str


type GraphAccess = Literal["saves", "removes"]
"""What a transaction does to checkpoints of graphs: any number may save some at once, one alone may remove some."""


def graph_access(of_works: Iterable[GraphAccess | None]) -> GraphAccess | None:
    """What a transaction does to them if its works do this."""
    kinds = {*of_works}
    if "removes" in kinds:
        return "removes"
    return "saves" if "saves" in kinds else None


class Session(Protocol):
    """The connection that writes, used by one thread. Everything here but `close` happens inside a `transaction`.

    What is done for each event has statements of its own in each database's module, for whole batches. All else is a
    statement of SQLAlchemy's that `execute` takes.
    """

    def transaction(self, *, synced: bool = True, graph: GraphAccess | None = None) -> AbstractContextManager[None]:
        """One transaction; connects first if need be. Unless it is `synced`, a server that crashes at once may forget
        it, but only together with all that was committed after it.

        `graph` says beforehand what it does to checkpoints of graphs: one that removes some waits for those that save
        some, and the other way round, holding nothing that others wait for.

        Raises:
            CollisionError: something had to be unique, or to be there; nothing was written.
            StorageError: it could not be begun or committed; unless the connection was lost in the commit, nothing was
                written.
        """
        ...

    def leave_by(self, moment: float) -> None:
        """Do not wait past this moment of the monotonic clock for a database that does not answer; from any thread."""
        ...

    def execute(self, statement: ClauseElement) -> list[tuple[Any, ...]]:
        """Run a statement that has its values in it, and fetch its rows.

        Values go in and come out as the database has them: times and JSON are text.
        """
        ...

    def clock(self) -> LeaseClock:
        """The time by the clock that leases in this database are measured with."""
        ...

    def load(
        self, *, run_ids: Collection[str], thread_ids: Collection[str], queues: Collection[str]
    ) -> tuple[dict[str, RunRow], list[Lane]]:
        """What is stored of these runs and queues, as far as it decides what comes next.

        With these queues come those of each of the threads (`thread_ids`) that has one of the runs as an active one.
        Nobody else changes the runs, or the threads and their queues, as far as they have rows, until the end of the
        transaction.
        """
        ...

    def waiting(self, thread_id: str, *, after: int, limit: int) -> list[ActiveRun]:
        """Runs that wait for a thread, in their order, from after this ordinal on."""
        ...

    def take(self, wanted: Wanted) -> list[tuple[Any, ...]]:
        """Give ready runs to the worker that wants them, oldest first, as `_coordination.taking.Take` reads them.

        Those that others have locked at this moment are passed over. Nobody else changes anything of their threads,
        either, until the end of the transaction.
        """
        ...

    def event(self, event_id: str) -> EventRow | None:
        """The stored event with this id."""
        ...

    def next_ordinal(self) -> int:
        """A place behind all active runs."""
        ...

    def save(self, changes: Changes) -> None:
        """Write all of it, and give the events the next positions, in their `position`."""
        ...

    def note_graph_removal(self) -> None:
        """Count one more removal of checkpoints, which this transaction is going to do, as it has said.

        Until it ends nobody else saves any; those that are saved already can be read.
        """
        ...

    def graph_removals(self) -> int:
        """How many such removals there have been, as of when this transaction saved checkpoints."""
        ...

    def tables_with(self, column: str) -> set[str]:
        """The names of all tables, including others', that have a column of this name."""
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


def insert_in_place(session: Session, events: Iterable[EventRow], positions: Mapping[str, int]) -> None:
    """Store events at the positions of their ids, unless the log has got there already; all others come behind."""
    counter = counters.c.name == POSITION
    ((last,),) = session.execute(select(counters.c.value).where(counter).with_for_update())
    stretch: list[EventRow] = []
    for row in events:
        wanted = positions.get(row.event.event_id, 0)
        if wanted > last + 1:
            if stretch:
                session.save(Changes(events=stretch))
                stretch = []
            last = wanted - 1
            session.execute(update(counters).where(counter).values(value=last))
        stretch.append(row)
        last += 1
    session.save(Changes(events=stretch))
