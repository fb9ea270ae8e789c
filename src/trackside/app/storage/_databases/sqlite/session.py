"""SQLite: the statements of the writer, on the driver itself, for whole batches.

Beside a busy event loop the driver's `executemany` is thirty times slower than one statement with many rows: it lets go
of the GIL and has to win it back for each row. So a batch is written, and read, in a handful of statements of many
rows. They say OR ROLLBACK, which is what happens to the transaction anyway, because otherwise SQLite would keep a copy
of each page that they touch, to be able to undo half a statement.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any, Final

from sqlalchemy import ClauseElement, Connection, Table
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.exc import DBAPIError

from trackside.app.storage import errors
from trackside.app.storage._databases.batch_rows import (
    Step,
    active_of,
    batch_of,
    change_thread,
    event_row,
    lane_of,
    number_events,
    run_of,
    stored_event,
    times_of,
)
from trackside.app.storage._databases.session import Changes, CollisionError, GraphAccess, Wanted, compiled
from trackside.app.storage._databases.sqlite.connections import SqliteDatabase
from trackside.app.storage._databases.sqlite.wal import WriteAheadLog
from trackside.app.storage._rows.encoding import EventRow, json_of, json_text
from trackside.app.storage._rows.fold import RunRow
from trackside.app.storage._rows.graph_checkpoint_tables import (
    COUNT_GRAPH_REMOVAL,
    GRAPH_CHECKPOINT,
    GRAPH_VALUE,
    GRAPH_WRITE,
    ON_SAME_CHECKPOINT,
    ON_SAME_WRITE,
)
from trackside.app.storage._rows.leases import LeaseClock, machine_clock
from trackside.app.storage._rows.queue import ActiveRun, Lane
from trackside.app.storage._rows.tables import (
    EVENTS_AT_A_TIME,
    GRAPH_REMOVALS,
    POSITION,
    duration_totals,
    run_totals,
    usage_totals,
)

_MOST_ROWS = 64
_DIALECT = SQLiteDialect_pysqlite()


def _columns(table: str, names: str) -> str:
    return ", ".join(f"{table}.{name}" for name in names.split(", "))


class _Bulk:
    """A statement with a list of rows in it, `VALUES (?, …), (?, …)`, prepared for 1, 2, 4, 8 … rows."""

    def __init__(self, statement: str, columns: int) -> None:
        before, after = statement.split("VALUES *")
        row = f"({', '.join('?' * columns)})"
        sizes = [1 << power for power in range(_MOST_ROWS.bit_length())]
        self._sized = {size: f"{before}VALUES {', '.join([row] * size)}{after}" for size in sizes}

    def execute(self, driver: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> None:
        done = 0
        while left := len(rows) - done:
            size = min(_MOST_ROWS, 1 << (left.bit_length() - 1))
            driver.execute(self._sized[size], [*chain.from_iterable(rows[done : done + size])])
            done += size


def _adding_to(totals: Table) -> _Bulk:
    """Adds amounts to the rows of sums; makes those that are missing."""
    key = [column.name for column in totals.primary_key]
    names = [column.name for column in totals.columns]
    sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in names if name not in key)
    return _Bulk(
        f"INSERT INTO {totals.name} ({', '.join(names)}) VALUES * ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sums}",
        len(names),
    )


_ACTIVE: Final = (
    "run_id, thread_id, state, multitask, ordinal, holds, owner, due_at, cancel_requested, at_rest, "
    "portable, keeps_request, pool"
)

_GRAPH_REMOVALS: Final = f"SELECT coalesce(max(value), 0) FROM counters WHERE name = '{GRAPH_REMOVALS}'"

_LOAD_RUNS: Final = f"""
    SELECT json_group_array(json_array(
        r.run_id, r.thread_id, r.status, r.last_sequence, r.started_at, r.created_at, r.agent,
        CASE WHEN a.run_id IS NOT NULL THEN json_array({_columns("a", _ACTIVE)}) END
    )), ({_GRAPH_REMOVALS})
    FROM runs r LEFT JOIN active_runs a ON a.run_id = r.run_id
    WHERE r.run_id IN (SELECT value FROM json_each(?))"""

_LOAD_LANES: Final = f"""
    SELECT json_group_array(json_array(
        asked.value,
        (SELECT json_array(status, owner, ends, removed_at IS NOT NULL, CASE WHEN ends THEN (
            SELECT json_group_array(run_id) FROM active_runs WHERE thread_id = asked.value AND state = 'delayed'
         ) END, expires_at) FROM threads WHERE thread_id = asked.value),
        (SELECT json_array({_ACTIVE}) FROM active_runs WHERE thread_id = asked.value AND holds),
        (SELECT json_array({_ACTIVE}) FROM active_runs WHERE thread_id = asked.value AND state = 'pending' AND NOT holds
         ORDER BY ordinal LIMIT 1)
    ))
    FROM json_each(?) asked"""

_LOAD_WAITING: Final = f"""
    SELECT {_ACTIVE} FROM active_runs
    WHERE thread_id = ? AND state = 'pending' AND NOT holds AND ordinal > ? ORDER BY ordinal LIMIT ?"""


_LOAD_EVENT: Final = """
    SELECT position, event_id, event_type, run_id, thread_id, sequence, occurred_at, payload
    FROM events WHERE event_id = ?"""

_MAY_BE_TAKEN: Final = """
    a.owner IS NULL AND a.state = 'pending' AND a.holds = 1 AND a.portable AND a.cancel_requested IS NULL
    AND (a.version IS NULL OR a.version = ?4) AND a.run_id NOT IN (SELECT value FROM json_each(?3))
    AND (SELECT version_num FROM alembic_version) = ?5"""
# A thread whose first run was delayed may have been given a state meanwhile: nothing held it.
_TAKE: Final = f"""
    SELECT a.run_id, a.thread_id, a.multitask, a.due_at, t.status,
        t.last_run_id IS NULL AND t.created_at = r.created_at AND a.due_at IS NULL,
        r.agent, r.created_at, r.metadata, r.parent_run_id, r."trigger", r.attempt, r.retry_of, r.request
    FROM active_runs a JOIN runs r ON r.run_id = a.run_id JOIN threads t ON t.thread_id = a.thread_id
    WHERE {{among}} AND r.agent IN (SELECT value FROM json_each(?2)) AND {_MAY_BE_TAKEN} ORDER BY a.ordinal"""

_TAKE_THESE: Final = _TAKE.format(
    among="a.run_id IN (SELECT value FROM json_each(?6)) AND +a.pool IN (SELECT value FROM json_each(?1))"
)

# For each agent in each pool as many as are wanted in all, in the order of an index: what waits for other workers is
# not read. The runs themselves are looked at only where the agent is not noted.
_TAKE_FIRST: Final = (
    _TAKE.format(
        among=f"""a.ordinal IN (
        SELECT first.ordinal
        FROM json_each(?1) asked, (SELECT value FROM json_each(?2) UNION SELECT '') offered
        JOIN active_runs first ON first.ordinal IN (
            SELECT a.ordinal FROM active_runs a
            WHERE a.pool = asked.value AND a.agent = offered.value AND {_MAY_BE_TAKEN} AND (offered.value <> '' OR EXISTS (
                SELECT 1 FROM runs r WHERE r.run_id = a.run_id AND r.agent IN (SELECT value FROM json_each(?2))
            ))
            ORDER BY a.ordinal LIMIT ?6
        ))"""
    )
    + " LIMIT ?6"
)

_GIVE: Final = "UPDATE active_runs SET owner = ? WHERE run_id IN (SELECT value FROM json_each(?))"

_STARTED: Final = (
    'run_id, thread_id, agent, status, created_at, started_at, last_sequence, parent_run_id, "trigger", metadata, '
    "attempt, retry_of, request"
)
_ENDED: Final = (
    "ended_at, title, error, error_type, completion_data, total_input_tokens, total_output_tokens, llm_call_count, "
    "tool_call_count, message_count, duration_seconds, cost_usd, removed_at"
)

_ENTERED: Final = (
    "run_id, thread_id, state, multitask, holds, owner, due_at, cancel_requested, at_rest, portable, keeps_request, "
    "agent"
)

_THREAD: Final = "thread_id, status, title, last_run_id, updated_at, agent, first_agent"
_CHANGED: Final = """
    status = coalesce(new.status, threads.status),
    title = coalesce(new.title, threads.title),
    last_run_id = coalesce(new.last_run_id, threads.last_run_id),
    updated_at = max(new.updated_at, threads.updated_at),
    agent = coalesce(new.agent, threads.agent, new.first_agent)"""

_CHANGE_ACTIVE: Final = _Bulk(
    """
    WITH new (run_id, state, holds, owner, cancel_requested, at_rest) AS (VALUES *)
    UPDATE OR ROLLBACK active_runs SET
        state = new.state,
        holds = new.holds,
        owner = new.owner,
        cancel_requested = new.cancel_requested,
        at_rest = new.at_rest
    FROM new WHERE active_runs.run_id = new.run_id""",
    6,
)

_BULKS: Final[Mapping[Step, _Bulk]] = {
    Step.save_thread_states: _Bulk(
        """
        INSERT INTO thread_states (thread_id, remembered, paused, updated_at) VALUES *
        ON CONFLICT (thread_id) DO UPDATE SET
            remembered = excluded.remembered, paused = excluded.paused, updated_at = excluded.updated_at""",
        4,
    ),
    Step.save_graph_checkpoints: _Bulk(
        f"INSERT OR ROLLBACK INTO graph_checkpoints ({GRAPH_CHECKPOINT}) VALUES * {ON_SAME_CHECKPOINT}", 10
    ),
    Step.insert_graph_values: _Bulk(
        f"INSERT OR ROLLBACK INTO graph_values ({GRAPH_VALUE}) VALUES * ON CONFLICT DO NOTHING", 6
    ),
    Step.save_graph_writes: _Bulk(f"INSERT OR ROLLBACK INTO graph_writes ({GRAPH_WRITE}) VALUES * {ON_SAME_WRITE}", 9),
    Step.insert_threads: _Bulk(
        """
        INSERT INTO threads (
            thread_id, status, title, last_run_id, created_at, updated_at, agent, removed_at, owner, ends, metadata,
            expires_at, ttl_minutes
        ) VALUES *
        ON CONFLICT (thread_id) DO NOTHING""",
        13,
    ),
    Step.change_threads: _Bulk(
        f"""
        WITH new ({_THREAD}) AS (VALUES *)
        UPDATE OR ROLLBACK threads SET {_CHANGED}
        FROM new WHERE threads.thread_id = new.thread_id""",
        7,
    ),
    Step.remove_threads: _Bulk(
        f"""
        WITH new ({_THREAD}, removed_at) AS (VALUES *)
        UPDATE OR ROLLBACK threads SET {_CHANGED}, removed_at = new.removed_at
        FROM new WHERE threads.thread_id = new.thread_id""",
        8,
    ),
    Step.label_threads: _Bulk("INSERT OR ROLLBACK INTO thread_labels (key, value, thread_id) VALUES *", 3),
    Step.insert_runs: _Bulk(f"INSERT OR ROLLBACK INTO runs ({_STARTED}) VALUES *", 13),
    Step.insert_ended_runs: _Bulk(f"INSERT OR ROLLBACK INTO runs ({_STARTED}, {_ENDED}) VALUES *", 26),
    Step.begin_runs: _Bulk(
        """
        WITH new (run_id, status, started_at, last_sequence) AS (VALUES *)
        UPDATE OR ROLLBACK runs SET
            status = new.status, started_at = new.started_at, last_sequence = new.last_sequence
        FROM new WHERE runs.run_id = new.run_id""",
        4,
    ),
    Step.advance_runs: _Bulk(
        """
        WITH new (run_id, last_sequence) AS (VALUES *)
        UPDATE OR ROLLBACK runs SET last_sequence = new.last_sequence FROM new WHERE runs.run_id = new.run_id""",
        2,
    ),
    Step.end_runs: _Bulk(
        f"""
        WITH new (run_id, status, started_at, last_sequence, {_ENDED}) AS (VALUES *)
        UPDATE OR ROLLBACK runs SET
            status = new.status, started_at = new.started_at, last_sequence = new.last_sequence,
            {", ".join(f"{name} = new.{name}" for name in _ENDED.split(", "))}
        FROM new WHERE runs.run_id = new.run_id""",
        17,
    ),
    Step.insert_usage: _Bulk(
        """
        INSERT OR ROLLBACK INTO usage (
            run_id, kind, name, input_tokens, output_tokens, cache_read_tokens, reasoning_tokens, cost_usd
        ) VALUES *""",
        8,
    ),
    Step.insert_labels: _Bulk(
        "INSERT OR ROLLBACK INTO run_labels (key, value, created_at, run_id, thread_id, agent) VALUES *",
        6,
    ),
    Step.remove_active: _Bulk("DELETE FROM active_runs WHERE run_id IN (VALUES *)", 1),
    Step.release_active: _CHANGE_ACTIVE,
    Step.hold_active: _CHANGE_ACTIVE,
    Step.insert_active: _Bulk(f"INSERT OR ROLLBACK INTO active_runs ({_ENTERED}) VALUES *", 12),
    Step.insert_pooled: _Bulk(f"INSERT OR ROLLBACK INTO active_runs ({_ENTERED}, pool, version) VALUES *", 14),
    Step.insert_retries: _Bulk(
        f"INSERT OR ROLLBACK INTO active_runs ({_ENTERED}, pool, version, ordinal) VALUES *", 15
    ),
    Step.add_to_run_totals: _adding_to(run_totals),
    Step.add_to_duration_totals: _adding_to(duration_totals),
    Step.add_to_usage_totals: _adding_to(usage_totals),
}
_INSERT_EVENTS: Final = _Bulk(
    """
    INSERT OR ROLLBACK INTO events (event_id, run_id, thread_id, sequence, event_type, occurred_at, payload, position)
    VALUES *""",
    8,
)
_NOTE_TIMES: Final = _Bulk(
    """
    INSERT INTO event_times (part, latest, oldest_run, newest_run) VALUES *
    ON CONFLICT (part) DO UPDATE SET
        latest = max(latest, excluded.latest),
        oldest_run = min(oldest_run, excluded.oldest_run),
        newest_run = max(newest_run, excluded.newest_run)""",
    4,
)


class SqliteSession:
    """The connection that writes, used by one thread. Everything here but `close` happens inside a `transaction`."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._engine = database.writer()
        self._log = WriteAheadLog(database.file, busy_timeout=database.busy_timeout)
        self._connection: Connection | None = None
        self._path = database.place
        self._file: int | None = None
        """The inode of the file that was opened."""
        self._graph_removals: int | None = None

    @contextmanager
    def transaction(self, *, synced: bool = True, graph: GraphAccess | None = None) -> Generator[None]:
        """One transaction, beside which nobody else can write; connects first if need be. `synced` changes nothing.

        Raises:
            CollisionError: something had to be unique, or to be there; nothing was written.
            StorageError: it could not be begun or committed, or its file is not there any more; nothing was written.
        """
        try:
            driver = self._driver
            driver.execute("BEGIN IMMEDIATE")
            self._graph_removals = None
            try:
                yield
                self._check_file()
                driver.execute("COMMIT")
            except BaseException:
                driver.rollback()
                raise
            with suppress(sqlite3.Error):  # what was written is written
                self._log.keep_short(driver)
        except sqlite3.IntegrityError as exc:
            raise CollisionError(database=str(self._database), why=str(exc)) from exc
        except (sqlite3.Error, DBAPIError) as exc:
            self.close()  # whatever state the connection is in, the next transaction begins with a new one
            raise self._database.translate(exc) from exc

    def leave_by(self, moment: float) -> None:
        """Do nothing: a file is there or is not, at once, and nobody waits for a lock longer than `busy_timeout`."""

    def _check_file(self) -> None:
        """See that the file that was opened is still there: SQLite goes on with a deleted one, and everything is lost.

        Raises:
            DatabaseGoneError: it is not, or another one is in its place.
        """
        try:
            is_there = self._path.stat().st_ino == self._file
        except (FileNotFoundError, NotADirectoryError):
            is_there = False
        except OSError:  # nobody can say
            return
        if not is_there:
            raise errors.DatabaseGoneError(database=str(self._database))

    @property
    def _driver(self) -> sqlite3.Connection:
        if self._connection is None:
            if self._file is not None:
                self._check_file()  # or an empty one would be made in its place
            self._connection = self._engine.connect()
            self._file = self._path.stat().st_ino
        driver = self._connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        return driver

    def execute(self, statement: ClauseElement) -> list[tuple[Any, ...]]:
        """Run a statement that has its values in it, and fetch its rows, as the database has them."""
        return self._driver.execute(*compiled(statement, _DIALECT)).fetchall()

    def clock(self) -> LeaseClock:
        """The time by the clock that leases in this file are measured with: all who use it are on this machine."""
        return machine_clock()

    def load(
        self, *, run_ids: Collection[str], thread_ids: Collection[str], queues: Collection[str]
    ) -> tuple[dict[str, RunRow], list[Lane]]:
        """What is stored of these runs and queues. Nobody else changes anything during a transaction."""
        runs: dict[str, RunRow] = {}
        if run_ids:
            found, self._graph_removals = self._driver.execute(_LOAD_RUNS, (json_text([*run_ids]),)).fetchone()
            runs = {run_id: run_of(active, run_id, *facts) for run_id, *facts, active in json_of(found)}
        wanted = {*queues}
        for run in runs.values():
            if run.active is not None and run.thread_id in thread_ids:
                wanted.add(run.thread_id)
        return runs, self._lanes(wanted) if wanted else []

    def _lanes(self, thread_ids: Collection[str]) -> list[Lane]:
        (rows,) = self._driver.execute(_LOAD_LANES, (json_text([*thread_ids]),)).fetchone()
        return [lane_of(*row) for row in json_of(rows)]

    def waiting(self, thread_id: str, *, after: int, limit: int) -> list[ActiveRun]:
        """Runs that wait for a thread, in their order, from after this ordinal on."""
        return [active_of(*row) for row in self._driver.execute(_LOAD_WAITING, (thread_id, after, limit))]

    def take(self, wanted: Wanted) -> list[tuple[Any, ...]]:
        """Give ready runs to the worker that wants them."""
        lists = [json_text([*names]) for names in (wanted.pools, wanted.agents, wanted.unfit)]
        statement, among = (
            (_TAKE_FIRST, wanted.limit) if wanted.run_ids is None else (_TAKE_THESE, json_text([*wanted.run_ids]))
        )
        rows = self._driver.execute(statement, (*lists, wanted.version, wanted.schema, among)).fetchall()
        taken = json_text([run_id for run_id, *_ in rows])
        self._driver.execute(_GIVE, (wanted.owner, taken))
        return rows

    def event(self, event_id: str) -> EventRow | None:
        """The stored event with this id."""
        return next(map(stored_event, self._driver.execute(_LOAD_EVENT, (event_id,))), None)

    def next_ordinal(self) -> int:
        """A place behind all active runs."""
        (ordinal,) = self._driver.execute("SELECT coalesce(max(ordinal), 0) + 1 FROM active_runs").fetchone()
        return int(ordinal)

    def save(self, changes: Changes) -> None:
        """Write all of it."""
        driver = self._driver
        batch = batch_of(changes)
        # It is not known which of them have rows: those that have none get one, and then all are changed.
        batch[Step.change_threads], batch[Step.remove_threads] = [], []
        for thread in changes.threads:
            change_thread(batch, thread)
        for step, rows in batch.items():
            if rows:
                _BULKS[step].execute(driver, rows)
        if changes.events:
            self._insert_events(changes.events)

    def _insert_events(self, events: Collection[EventRow]) -> None:
        driver = self._driver
        driver.execute("UPDATE counters SET value = value + ? WHERE name = ?", (len(events), POSITION))
        (last,) = driver.execute("SELECT value FROM counters WHERE name = ?", (POSITION,)).fetchone()
        first = last - len(events) + 1
        number_events(events, first)
        _INSERT_EVENTS.execute(driver, [event_row(row) for row in events])
        times = times_of(events)
        parts = range(first // EVENTS_AT_A_TIME, last // EVENTS_AT_A_TIME + 1)
        _NOTE_TIMES.execute(driver, [(part, *times) for part in parts])

    def note_graph_removal(self) -> None:
        """Count one more removal of checkpoints, which this transaction is going to do."""
        self._driver.execute(COUNT_GRAPH_REMOVAL)
        self._graph_removals = None

    def graph_removals(self) -> int:
        """How many such removals there have been; when runs were loaded, the number came with them."""
        removals = self._graph_removals
        if removals is None:
            (removals,) = self._driver.execute(_GRAPH_REMOVALS).fetchone()
        return int(removals)

    def tables_with(self, column: str) -> set[str]:
        """The names of all tables, including others', that have a column of this name."""
        query = (
            "SELECT t.name FROM sqlite_master t JOIN pragma_table_info(t.name) c WHERE t.type = 'table' AND c.name = ?"
        )
        return {name for (name,) in self._driver.execute(query, (column,))}

    def close(self) -> None:
        """Let go of the connection; a later transaction makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
