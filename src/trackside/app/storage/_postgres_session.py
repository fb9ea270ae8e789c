"""PostgreSQL: the statements of the writer, for whole batches, on a connection and an event loop of the thread that writes.

A batch is written in a handful of statements that take their rows as arrays, `unnest($1::text[], …)`: each costs a round
trip, and is parsed and planned once. Several processes may write at once. Whoever changes a row holds its lock until the
commit, and all take their locks in one order: threads, runs, sums, and last the counter of positions, each sorted by key.
The counter is held shortest, and what has a position becomes visible in the order of positions (I2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import ClauseElement, Integer, Table
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from trackside.app.storage import errors
from trackside.app.storage._batch_rows import (
    RunChanges,
    active_of,
    changed_active,
    lane_of,
    new_active,
    number_events,
    run_of,
    stored_event,
)
from trackside.app.storage._encoding import EventRow, json_of
from trackside.app.storage._fold import RunRow, ThreadRow
from trackside.app.storage._leases import DATABASE_CLOCK, DATABASE_SECONDS, LeaseClock
from trackside.app.storage._postgres import PostgresDatabase, is_lost
from trackside.app.storage._queue import ActiveRun, Lane
from trackside.app.storage._session import CollisionError, compiled
from trackside.app.storage._tables import EVENTS_AT_A_TIME, POSITION, duration_totals, run_totals, usage_totals
from trackside.app.storage._totals import Totals
from trackside.harness.types import ThreadStatus

if TYPE_CHECKING:
    import asyncpg

_DIALECT = PGDialect_asyncpg()  # type: ignore[no-untyped-call]  # SQLAlchemy has no annotations there
_NOT_UNIQUE = "23505"


class _Bulk:
    """A statement that takes rows as one array for each column, in the place of `ROWS`."""

    def __init__(self, statement: str, *types: str) -> None:
        arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(types, 1))
        self.text = statement.replace("ROWS", f"unnest({arrays})")


def _adding_to(totals: Table) -> _Bulk:
    """Adds amounts to the rows of sums; makes those that are missing."""
    key = [column.name for column in totals.primary_key]
    names = [column.name for column in totals.columns]
    sums = ", ".join(f"{name} = {totals.name}.{name} + excluded.{name}" for name in names if name not in key)
    return _Bulk(
        f"INSERT INTO {totals.name} ({', '.join(names)}) SELECT * FROM ROWS"
        f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sums}",
        *["bigint" if isinstance(column.type, Integer) else "text" for column in totals.columns],
    )


_ACTIVE: Final = "run_id, thread_id, state, multitask, ordinal, holds, owner, due_at, cancel_requested, at_rest"

# NO KEY: who only refers to a row, as new events do to their run, is not kept out.
_LOCK_THREADS: Final = """
    SELECT FROM threads WHERE thread_id = ANY($1::text[]) ORDER BY thread_id FOR NO KEY UPDATE"""

_LOCK_RUNS: Final = """
    SELECT run_id, thread_id, status, last_sequence, started_at, created_at, agent FROM runs
    WHERE run_id = ANY($1::text[]) ORDER BY run_id FOR NO KEY UPDATE"""

# Not joined to the runs: of a joined row, what another had changed while this one waited for its lock would not be seen.
_LOAD_ACTIVE: Final = f"SELECT {_ACTIVE} FROM active_runs WHERE run_id = ANY($1::text[])"

_LOAD_LANES: Final = f"""
    SELECT
        thread_id,
        (SELECT status FROM threads t WHERE t.thread_id = asked.thread_id),
        (SELECT json_build_array({_ACTIVE})::text FROM active_runs a WHERE a.thread_id = asked.thread_id AND holds),
        (SELECT json_build_array({_ACTIVE})::text FROM active_runs a
         WHERE a.thread_id = asked.thread_id AND state = 'pending' AND NOT holds ORDER BY ordinal LIMIT 1)
    FROM unnest($1::text[]) AS asked (thread_id)"""

_LOAD_WAITING: Final = f"""
    SELECT {_ACTIVE} FROM active_runs
    WHERE thread_id = $1 AND state = 'pending' AND NOT holds AND ordinal > $2 ORDER BY ordinal LIMIT $3"""

_NEXT_ORDINAL: Final = "SELECT nextval(pg_get_serial_sequence('active_runs', 'ordinal'))"
_REMOVE_ACTIVE: Final = "DELETE FROM active_runs WHERE run_id = ANY($1::text[])"
_INSERT_ACTIVE: Final = _Bulk(
    """
    INSERT INTO active_runs (
        run_id, thread_id, state, multitask, holds, owner, due_at, cancel_requested, at_rest, request
    ) SELECT * FROM ROWS""",
    *["text"] * 4,
    "boolean",
    *["text"] * 5,
)
_CHANGE_ACTIVE: Final = _Bulk(
    """
    UPDATE active_runs SET
        state = new.state,
        holds = new.holds,
        owner = new.owner,
        cancel_requested = new.cancel_requested,
        at_rest = new.at_rest
    FROM ROWS AS new (run_id, state, holds, owner, cancel_requested, at_rest)
    WHERE active_runs.run_id = new.run_id""",
    *("text", "text", "boolean"),
    *["text"] * 3,
)

_LOAD_EVENT: Final = """
    SELECT position, event_id, event_type, run_id, thread_id, sequence, occurred_at, payload
    FROM events WHERE event_id = $1"""

# Waits for a process that makes the same thread at this moment.
_INSERT_THREADS: Final = _Bulk(
    """
    INSERT INTO threads (thread_id, status, created_at, updated_at)
    SELECT * FROM ROWS AS new (thread_id) ORDER BY thread_id
    ON CONFLICT (thread_id) DO NOTHING""",
    *["text"] * 4,
)
_UPDATE_THREADS: Final = _Bulk(
    """
    UPDATE threads SET
        status = coalesce(new.status, threads.status),
        title = coalesce(new.title, threads.title),
        last_run_id = coalesce(new.last_run_id, threads.last_run_id),
        updated_at = greatest(new.updated_at, threads.updated_at)
    FROM ROWS AS new (thread_id, status, title, last_run_id, updated_at) WHERE threads.thread_id = new.thread_id""",
    *["text"] * 5,
)
_INSERT_RUNS: Final = _Bulk(
    """
    INSERT INTO runs (
        run_id, thread_id, agent, status, created_at, started_at, last_sequence, parent_run_id, trigger, metadata
    ) SELECT * FROM ROWS AS new (run_id) ORDER BY run_id""",
    *["text"] * 6,
    "bigint",
    *["text"] * 3,
)
_BEGIN_RUNS: Final = _Bulk(
    """
    UPDATE runs SET status = new.status, started_at = new.started_at, last_sequence = new.last_sequence
    FROM ROWS AS new (run_id, status, started_at, last_sequence) WHERE runs.run_id = new.run_id""",
    *["text"] * 3,
    "bigint",
)
_ADVANCE_RUNS: Final = _Bulk(
    """
    UPDATE runs SET last_sequence = new.last_sequence
    FROM ROWS AS new (run_id, last_sequence) WHERE runs.run_id = new.run_id""",
    "text",
    "bigint",
)
_END_RUNS: Final = _Bulk(
    """
    UPDATE runs SET
        status = new.status,
        last_sequence = new.last_sequence,
        ended_at = new.ended_at,
        title = new.title,
        error = new.error,
        error_type = new.error_type,
        completion_data = new.completion_data,
        total_input_tokens = new.total_input_tokens,
        total_output_tokens = new.total_output_tokens,
        llm_call_count = new.llm_call_count,
        tool_call_count = new.tool_call_count,
        message_count = new.message_count,
        duration_seconds = new.duration_seconds,
        cost_usd = new.cost_usd
    FROM ROWS AS new (
        run_id, status, last_sequence, ended_at, title, error, error_type, completion_data, total_input_tokens,
        total_output_tokens, llm_call_count, tool_call_count, message_count, duration_seconds, cost_usd
    ) WHERE runs.run_id = new.run_id""",
    *("text", "text", "bigint"),
    *["text"] * 5,
    *["bigint"] * 5,
    *["double precision"] * 2,
)
_INSERT_USAGE: Final = _Bulk(
    """
    INSERT INTO usage (
        run_id, kind, name, input_tokens, output_tokens, cache_read_tokens, reasoning_tokens, cost_usd
    ) SELECT * FROM ROWS""",
    *["text"] * 3,
    *["bigint"] * 4,
    "double precision",
)
_INSERT_LABELS: Final = _Bulk(
    "INSERT INTO run_labels (key, value, created_at, run_id) SELECT * FROM ROWS",
    *["text"] * 4,
)
_ADD_TO_RUN_TOTALS: Final = _adding_to(run_totals)
_ADD_TO_DURATION_TOTALS: Final = _adding_to(duration_totals)
_ADD_TO_USAGE_TOTALS: Final = _adding_to(usage_totals)
# With the times in the same round trip: whoever has the counter holds up all the others.
_TAKE_POSITIONS: Final = f"""
    WITH taken AS (UPDATE counters SET value = value + $1 WHERE name = $2 RETURNING value)
    INSERT INTO event_times (part, latest)
    SELECT part, $3 FROM taken, generate_series((value - $1 + 1) / {EVENTS_AT_A_TIME}, value / {EVENTS_AT_A_TIME}) AS part
    ON CONFLICT (part) DO UPDATE SET latest = greatest(event_times.latest, excluded.latest)
    RETURNING (SELECT value FROM taken)"""
_INSERT_EVENTS: Final = _Bulk(
    """
    INSERT INTO events (position, event_id, run_id, thread_id, sequence, event_type, occurred_at, payload)
    SELECT * FROM ROWS""",
    "bigint",
    *["text"] * 3,
    "bigint",
    *["text"] * 3,
)
_SAVE_THREAD_STATES: Final = _Bulk(
    """
    INSERT INTO thread_states (thread_id, remembered, paused, updated_at)
    SELECT * FROM ROWS AS new (thread_id) ORDER BY thread_id
    ON CONFLICT (thread_id) DO UPDATE SET
        remembered = excluded.remembered, paused = excluded.paused, updated_at = excluded.updated_at""",
    *["text"] * 4,
)


class PostgresSession:
    """The connection that writes, used by one thread. Everything here but `close` happens inside a `transaction`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: asyncpg.Connection | None = None

    @contextmanager
    def transaction(self) -> Generator[None]:
        """One transaction, at READ COMMITTED: others write beside it, and wait where they meet; connects first if need be.

        Raises:
            CollisionError: something had to be unique; nothing was written.
            OutcomeUnknownError: the connection was lost in the commit.
            StorageError: it could not be begun or committed; nothing was written.
        """
        self._connect()
        try:
            self._wait(self._driver.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"))
            yield
        except BaseException as exc:
            self._roll_back()
            if (error := self._meaning(exc)) is None:
                raise
            raise error from exc
        self._commit()

    def execute(self, statement: ClauseElement) -> list[tuple[Any, ...]]:
        """Run a statement that has its values in it, and fetch its rows, as the database has them."""
        text, values = compiled(statement, _DIALECT)
        return self._fetch(text, *values)

    def clock(self) -> LeaseClock:
        """The time by the server's clock, which all who use it share."""
        ((seconds,),) = self.execute(DATABASE_SECONDS)
        return LeaseClock(DATABASE_CLOCK, seconds)

    def lock_threads(self, thread_ids: Collection[str]) -> None:
        """Keep others from changing these threads, as far as they have rows, and their queues."""
        self._fetch(_LOCK_THREADS, [*thread_ids])

    def runs(self, run_ids: Collection[str]) -> dict[str, RunRow]:
        """What is stored of these runs, as far as it decides about their next events; nobody else changes it meanwhile."""
        rows = self._fetch(_LOCK_RUNS, [*run_ids])
        if not rows:
            return {}
        active = {row[0]: row for row in self._fetch(_LOAD_ACTIVE, [row[0] for row in rows])}
        return {row[0]: run_of(active.get(row[0]), *row) for row in rows}

    def lanes(self, thread_ids: Collection[str]) -> list[Lane]:
        """The status of each of these threads, who holds it, and who is the first to wait."""
        return [
            lane_of(thread_id, status, holder and json_of(holder), waiting and json_of(waiting))
            for thread_id, status, holder, waiting in self._fetch(_LOAD_LANES, [*thread_ids])
        ]

    def waiting(self, thread_id: str, *, after: int, limit: int) -> list[ActiveRun]:
        """Runs that wait for a thread, first come first, from behind this ordinal on."""
        return [active_of(*row) for row in self._fetch(_LOAD_WAITING, thread_id, after, limit)]

    def event(self, event_id: str) -> EventRow | None:
        """The stored event with this id."""
        return next(map(stored_event, self._fetch(_LOAD_EVENT, event_id)), None)

    def save_threads(self, threads: Collection[ThreadRow]) -> None:
        """Make rows for threads that are new, and change what changes in others."""
        new = [
            (thread.thread_id, ThreadStatus.idle.value, thread.created_at, thread.updated_at)
            for thread in threads
            if thread.may_be_new
        ]
        self._write(_INSERT_THREADS, new)
        changed = [
            (row.thread_id, row.status and row.status.value, row.title, row.last_run_id, row.updated_at)
            for row in threads
        ]
        self._write(_UPDATE_THREADS, changed)

    def save_runs(self, runs: Iterable[RunRow]) -> None:
        """Make rows for runs that start, and change what changes in others."""
        changes = RunChanges.of(runs)
        self._write(_INSERT_RUNS, changes.started)
        self._write(_BEGIN_RUNS, changes.begun)
        self._write(_ADVANCE_RUNS, changes.advanced)
        self._write(_END_RUNS, changes.ended)
        self._write(_INSERT_USAGE, changes.used)
        self._write(_INSERT_LABELS, changes.labels)

    def next_ordinal(self) -> int:
        """A place behind all active runs."""
        ((ordinal,),) = self._fetch(_NEXT_ORDINAL)
        return int(ordinal)

    def save_active(self, removed: Collection[str], changed: Collection[ActiveRun]) -> None:
        """Delete the rows of runs that are not active any more; then make or change the rows of others."""
        if removed:
            self._fetch(_REMOVE_ACTIVE, [*removed])
        # Who gives a thread back first: that it has one holder is checked row by row.
        for holds in (False, True):
            self._write(_CHANGE_ACTIVE, [changed_active(run) for run in changed if run.ordinal and run.holds is holds])
        self._write(_INSERT_ACTIVE, [new_active(run) for run in changed if not run.ordinal])

    def add_to_totals(self, totals: Totals) -> None:
        """Add to the sums over runs. Who adds to the same sums waits for this transaction."""
        self._write(_ADD_TO_RUN_TOTALS, totals.run_rows())
        self._write(_ADD_TO_DURATION_TOTALS, totals.duration_rows())
        self._write(_ADD_TO_USAGE_TOTALS, totals.usage_rows())

    def insert_events(self, rows: Collection[EventRow]) -> None:
        """Give events the next positions and store them. All who append wait for each other from here to the commit."""
        latest = max([row.occurred_at for row in rows])
        ((last,), *_) = self._fetch(_TAKE_POSITIONS, len(rows), POSITION, latest)
        self._write(_INSERT_EVENTS, number_events(rows, last - len(rows) + 1))

    def save_thread_states(self, states: Collection[Sequence[str | None]]) -> None:
        """Store what threads remember: id, values, what is paused, and since when."""
        self._write(_SAVE_THREAD_STATES, states)

    def close(self) -> None:
        """Let go of the connection; a later transaction makes a new one."""
        connection, self._connection = self._connection, None
        if self._loop is None:
            return
        if connection is not None and not connection.is_closed():
            try:
                self._wait(connection.close(timeout=1))
            except Exception:  # noqa: BLE001  # the driver's: the server does not listen any more, and need not
                connection.terminate()
        self._wait(asyncio.sleep(0))  # what was cut off is let go of by the loop
        self._loop.close()
        self._loop = None

    @property
    def _driver(self) -> asyncpg.Connection:
        assert self._connection is not None
        return self._connection

    def _connect(self) -> None:
        if self._connection is not None and self._connection.is_closed():
            self._connection = None
        if self._connection is None:
            try:
                self._connection = self._wait(self._database.connect_writer())
            except Exception as exc:
                if (error := self._database.unreachable(exc)) is None:
                    raise
                raise error from exc

    def _commit(self) -> None:
        try:
            done = self._wait(self._driver.execute("COMMIT"))
        except BaseException as exc:
            self._roll_back()
            if is_lost(exc):
                raise errors.OutcomeUnknownError(
                    database=str(self._database), why=str(exc) or type(exc).__name__
                ) from exc
            if (error := self._meaning(exc)) is None:
                raise
            raise error from exc
        if done != "COMMIT":  # an error before was swallowed, and the server has rolled back
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
        if getattr(exc, "sqlstate", None) == _NOT_UNIQUE:
            return CollisionError(database=str(self._database), why=str(exc))
        return self._database.translate(exc)

    def _fetch(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._wait(self._driver.fetch(statement, *values))]

    def _write(self, bulk: _Bulk, rows: Collection[Sequence[Any]]) -> None:
        if rows:
            self._wait(self._driver.execute(bulk.text, *map(list, zip(*rows, strict=True))))

    def _wait[T](self, doing: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(doing)
