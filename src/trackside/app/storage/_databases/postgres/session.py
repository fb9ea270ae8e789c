"""PostgreSQL: what the writer does, on a connection and an event loop of the thread that writes.

Each statement costs a round trip, so a transaction has four: it begins, locks and loads, writes, and commits; where runs
are active, their queues are loaded in a fifth. A commit waits for the disk only if something was written: PostgreSQL logs
locks, too, and would flush them. Several processes may write at once. A transaction that changes a row holds its lock
until the commit, and all take their locks in one order: threads, runs, sums, and last the counter of positions, each
sorted by key. What has a position becomes visible in the order of positions (I2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Generator, Mapping
from contextlib import contextmanager, suppress
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from sqlalchemy import ClauseElement, Select
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from trackside.app.storage import errors
from trackside.app.storage._databases.batch_rows import (
    active_of,
    batch_of,
    event_row,
    lane_of,
    number_events,
    run_of,
    stored_event,
    times_of,
)
from trackside.app.storage._databases.postgres.connections import PostgresDatabase, is_lost, let_go
from trackside.app.storage._databases.postgres.statements import (
    LOAD_EVENT,
    LOAD_QUEUES,
    LOAD_WAITING,
    LOCK,
    NEXT_ORDINAL,
    TABLES_WITH,
    TAKE_FIRST,
    TAKE_THESE,
    writing,
)
from trackside.app.storage._databases.session import Changes, CollisionError, GraphAccess, Wanted, compiled
from trackside.app.storage._rows.encoding import EventRow, json_of
from trackside.app.storage._rows.fold import RunRow
from trackside.app.storage._rows.graph_checkpoint_tables import COUNT_GRAPH_REMOVAL
from trackside.app.storage._rows.leases import DATABASE_CLOCK, DATABASE_SECONDS, LeaseClock
from trackside.app.storage._rows.queue import ActiveRun, Lane

if TYPE_CHECKING:
    import asyncpg

_DIALECT = PGDialect_asyncpg()  # type: ignore[no-untyped-call]  # SQLAlchemy has no annotations there
_NOT_UNIQUE = "23505"
_REFERS_TO_NOTHING = "23503"  # what another has written meanwhile refers to what was removed, or the other way round
_NOT_SUPPORTED = "0A000"  # of BEGIN: this server takes no writes while it recovers, as a standby always does
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_PLAN_ANEW = "SET LOCAL plan_cache_mode = auto"
# An advisory lock: a lock of the table of checkpoints would wait for whoever vacuums the table.
_GRAPHS = int.from_bytes(b"TrGraphs")
_LOCK_GRAPHS: Mapping[GraphAccess, str] = {
    "saves": f"SELECT pg_advisory_xact_lock_shared({_GRAPHS})",
    "removes": f"SELECT pg_advisory_xact_lock({_GRAPHS})",
}
"""Taken before all other locks, in the round trip that begins the transaction anyway."""
_COMMIT_UNSYNCED = "SET LOCAL synchronous_commit = off; COMMIT"
_LEAST_WAIT = 1.0  # seconds that a server has to answer, however great the hurry


class PostgresSession:
    """The connection that writes, used by one thread. Everything here but `close` happens inside a `transaction`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: asyncpg.Connection | None = None
        self._stored_threads: set[str] = set()
        self._must_flush = False
        self._plans_anew = False
        self._graph: GraphAccess | None = None
        self._graph_removals = 0
        self._leaves_at = inf
        self._asking: asyncio.Task[Any] | None = None
        """What the server is asked for."""
        self._asked_at = 0.0
        self._giving_up: asyncio.TimerHandle | None = None

    @contextmanager
    def transaction(self, *, synced: bool = True, graph: GraphAccess | None = None) -> Generator[None]:
        """One transaction, at READ COMMITTED: others write beside it, and wait where they meet; connects first if need be.

        Raises:
            CollisionError: something had to be unique, or to be there; nothing was written.
            OutcomeUnknownError: the connection was lost in the commit, or given up.
            StorageError: it could not be begun or committed; nothing was written.
        """
        # What was committed on a connection that is lost may be found by this one before it is safe.
        self._must_flush = self._connect()
        self._plans_anew = False
        self._stored_threads.clear()
        self._graph = graph
        begun = False
        try:
            self._wait(self._driver.execute(_BEGIN if graph is None else f"{_BEGIN}; {_LOCK_GRAPHS[graph]}"))
            begun = True
            yield
        except BaseException as exc:
            if not begun and getattr(exc, "sqlstate", None) == _NOT_SUPPORTED:
                self._driver.terminate()  # it is a standby's; by now another connection may lead to the primary
                raise errors.ConnectionLostError(database=str(self._database), why=str(exc)) from exc
            self._roll_back()
            if (error := self._meaning(exc)) is None:
                raise
            raise error from exc
        self._commit("COMMIT" if synced and self._must_flush else _COMMIT_UNSYNCED)

    def leave_by(self, moment: float) -> None:
        """Do not wait past this moment of the monotonic clock for a server that does not answer; from any thread."""
        self._leaves_at = moment
        if (loop := self._loop) is not None:
            with suppress(RuntimeError):  # it is closed: nothing is waited for
                loop.call_soon_threadsafe(self._limit_wait)

    def execute(self, statement: ClauseElement) -> list[tuple[Any, ...]]:
        """Run a statement that has its values in it, and fetch its rows, as the database has them."""
        self._must_flush = self._must_flush or not isinstance(statement, Select)
        text, values = compiled(statement, _DIALECT)
        if values and not self._plans_anew:  # these may say that a part of a table has an index of its own
            self._wait(self._driver.execute(_PLAN_ANEW))
            self._plans_anew = True
        return self._fetch(text, *values)

    def clock(self) -> LeaseClock:
        """The time by the server's clock, which all who use it share."""
        ((seconds,),) = self.execute(DATABASE_SECONDS)
        return LeaseClock(DATABASE_CLOCK, seconds)

    def load(
        self, *, run_ids: Collection[str], thread_ids: Collection[str], queues: Collection[str]
    ) -> tuple[dict[str, RunRow], list[Lane]]:
        """What is stored of these runs and queues; nobody else changes them meanwhile."""
        runs: list[tuple[Any, ...]] = []
        if thread_ids or run_ids:
            for run_id, thread_id, *facts, is_active in self._fetch(LOCK, [*thread_ids], [*run_ids]):
                if run_id is None:
                    self._stored_threads.add(thread_id)
                else:
                    runs.append((is_active, run_id, thread_id, *facts))
        active_ids = [run_id for is_active, run_id, *_ in runs if is_active]
        wanted = {
            *queues,
            *(thread_id for is_active, _, thread_id, *_ in runs if is_active and thread_id in thread_ids),
        }
        # A thread without a row has no queue. If another transaction makes one meanwhile, making it again stops this.
        new = {thread_id for thread_id in wanted if thread_id in thread_ids and thread_id not in self._stored_threads}
        active, lanes = self._queues(active_ids, wanted - new) if active_ids or wanted > new else ({}, [])
        lanes.extend(lane_of(thread_id, None, None, None) for thread_id in new)
        return {run_id: run_of(active.get(run_id), run_id, *facts) for _, run_id, *facts in runs}, lanes

    def _queues(self, run_ids: Collection[str], thread_ids: Collection[str]) -> tuple[dict[str, Any], list[Lane]]:
        ((found,),) = self._fetch(LOAD_QUEUES, [*run_ids], [*thread_ids])
        active, lanes = json_of(found)
        return {row[0]: row for row in active}, [lane_of(*lane) for lane in lanes]

    def waiting(self, thread_id: str, *, after: int, limit: int) -> list[ActiveRun]:
        """Runs that wait for a thread, in their order, from after this ordinal on."""
        return [active_of(*row) for row in self._fetch(LOAD_WAITING, thread_id, after, limit)]

    def take(self, wanted: Wanted) -> list[tuple[Any, ...]]:
        """Give ready runs to the worker that wants them; those that others have locked just now are passed over."""
        self._must_flush = True
        asked = (wanted.owner, [*wanted.agents], wanted.version, [*wanted.unfit], wanted.schema, [*wanted.pools])
        if wanted.run_ids is None:
            return self._fetch(TAKE_FIRST, *asked, wanted.limit)
        return self._fetch(TAKE_THESE, *asked, [*wanted.run_ids])

    def event(self, event_id: str) -> EventRow | None:
        """The stored event with this id."""
        return next(map(stored_event, self._fetch(LOAD_EVENT, event_id)), None)

    def next_ordinal(self) -> int:
        """A place behind all active runs."""
        ((ordinal,),) = self._fetch(NEXT_ORDINAL)
        return int(ordinal)

    def save(self, changes: Changes) -> None:
        """Write all of it. All that append wait for each other, from when positions are given until the commit."""
        batch = batch_of(changes, stored_threads=self._stored_threads.difference(changes.gone_threads))
        steps = tuple([step for step, rows in batch.items() if rows])
        events = changes.events
        if not (steps or events):
            return
        self._must_flush = True
        values: list[Any] = [[*column] for step in steps for column in zip(*batch[step], strict=True)]
        if events:
            values.extend(times_of(events))
            *columns, _ = zip(*map(event_row, events), strict=True)  # the statement gives the positions
            values.extend([*column] for column in columns)
        ((last, *removals),) = self._fetch(writing(steps, events=bool(events)), *values)
        if removals:
            assert self._graph is not None  # else the count may be old by the commit
            (self._graph_removals,) = removals
        number_events(events, last - len(events) + 1)

    def note_graph_removal(self) -> None:
        """Count one more removal of checkpoints, which this transaction is going to do.

        A transaction that saves some waits for the end of this one before it looks at any row, and sees the removal.
        """
        assert self._graph == "removes"
        self._must_flush = True
        self._fetch(COUNT_GRAPH_REMOVAL)

    def graph_removals(self) -> int:
        """How many such removals there have been, as of when this transaction saved checkpoints."""
        return self._graph_removals

    def tables_with(self, column: str) -> set[str]:
        """The names of all tables, including others', that have a column of this name."""
        return {name for (name,) in self._fetch(TABLES_WITH, column)}

    def close(self) -> None:
        """Let go of the connection; a later transaction makes a new one."""
        connection, self._connection = self._connection, None
        if self._loop is None:
            return
        if connection is not None:
            self._loop.run_until_complete(let_go(connection))
        self._loop.run_until_complete(asyncio.sleep(0))  # the loop lets go of what was cut off
        self._loop.close()
        self._loop = None

    @property
    def _driver(self) -> asyncpg.Connection:
        assert self._connection is not None
        return self._connection

    def _connect(self) -> bool:
        """Connect if need be; returns whether a new connection had to be made."""
        if self._connection is not None and not self._connection.is_closed():
            return False
        self._connection = None
        try:
            self._connection = self._wait(self._database.connect_writer())
        except Exception as exc:
            if (error := self._database.unreachable(exc)) is None:
                raise
            raise error from exc
        return True

    def _commit(self, statement: str) -> None:
        try:
            done = self._wait(self._driver.execute(statement))
        except BaseException as exc:
            self._roll_back()
            if is_lost(exc):
                raise errors.OutcomeUnknownError(
                    database=str(self._database), why=str(exc) or type(exc).__name__
                ) from exc
            if (error := self._meaning(exc)) is None:
                raise
            raise error from exc
        if done != "COMMIT":  # an earlier error was swallowed, and the server has rolled back
            raise errors.StorageError(database=str(self._database), why="a statement of the transaction had failed")

    def _roll_back(self) -> None:
        """Leave a connection on which a transaction can begin, or none."""
        connection = self._driver
        if not connection.is_closed():
            try:
                self._wait(connection.execute("ROLLBACK"))
            except Exception:  # noqa: BLE001  # the driver's; what led here is what the caller hears of
                connection.terminate()
        if connection.is_closed():
            self._connection = None

    def _meaning(self, exc: BaseException) -> errors.StorageError | None:
        if getattr(exc, "sqlstate", None) in {_NOT_UNIQUE, _REFERS_TO_NOTHING}:
            return CollisionError(database=str(self._database), why=str(exc))
        return self._database.translate(exc)

    def _fetch(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._wait(self._driver.fetch(statement, *values))]

    def _wait[T](self, doing: Coroutine[Any, Any, T]) -> T:
        """Wait for what the driver does and return its result, however long that takes, unless the process leaves.

        Raises:
            TimeoutError: the server did not answer in the time that was left; there is no connection any more.
        """
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        asking = self._loop.create_task(doing)
        self._asking, self._asked_at = asking, monotonic()
        if self._leaves_at < inf:
            self._limit_wait()
        try:
            return self._loop.run_until_complete(asking)
        except asyncio.CancelledError:
            raise TimeoutError("it does not answer") from None
        finally:
            self._asking = None
            if self._giving_up is not None:
                self._giving_up.cancel()

    def _limit_wait(self) -> None:
        """Arrange for the wait to be given up when the process leaves."""
        if self._loop is None or self._asking is None:
            return
        if self._giving_up is not None:
            self._giving_up.cancel()
        self._giving_up = self._loop.call_at(max(self._leaves_at, self._asked_at + _LEAST_WAIT), self._give_up)

    def _give_up(self) -> None:
        assert self._asking is not None
        if self._connection is not None:
            # Not only cancelled: the driver has the server break that off, and a COMMIT that is broken off while it
            # waits for a standby is done, but not safe.
            self._connection.terminate()
        self._asking.cancel()
