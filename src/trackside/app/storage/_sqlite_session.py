"""SQLite: the statements of the writer, on the driver itself, for whole batches.

Beside a busy event loop the driver's `executemany` is thirty times slower than one statement with many rows: it lets go
of the GIL and has to win it back for each row. So a batch is written, and read, in a handful of statements of many rows.
They say OR ROLLBACK, which is what happens to the transaction anyway, because else SQLite would keep a copy of each page
that they touch, to be able to undo half a statement.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Collection, Generator, Iterable, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Final

from sqlalchemy import ClauseElement, Connection, Table
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.exc import DBAPIError

from trackside.app.storage._encoding import EventRow, json_of, json_text, time_of
from trackside.app.storage._fold import RunRow, StoredFacts, ThreadRow
from trackside.app.storage._leases import LeaseClock, machine_clock
from trackside.app.storage._queue import ActiveRun, Lane, Standing
from trackside.app.storage._session import CollisionError, compiled
from trackside.app.storage._sqlite import SqliteDatabase
from trackside.app.storage._tables import EVENTS_AT_A_TIME, POSITION, duration_totals, run_totals, usage_totals
from trackside.app.storage._totals import Totals
from trackside.harness.lifecycle import RunFold
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import CancelAction, LifecycleEventType, RunStatus, ThreadStatus

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


_ACTIVE: Final = "run_id, thread_id, state, multitask, ordinal, holds, owner, due_at, cancel_requested, at_rest"

_LOAD_RUNS: Final = f"""
    SELECT json_group_array(json_array(
        r.run_id, r.thread_id, r.status, r.last_sequence, r.started_at, r.created_at, r.agent,
        CASE WHEN a.run_id IS NOT NULL THEN json_array({_columns("a", _ACTIVE)}) END
    ))
    FROM runs r LEFT JOIN active_runs a ON a.run_id = r.run_id
    WHERE r.run_id IN (SELECT value FROM json_each(?))"""

_LOAD_LANES: Final = f"""
    SELECT json_group_array(json_array(
        asked.value,
        (SELECT status FROM threads WHERE thread_id = asked.value),
        (SELECT json_array({_ACTIVE}) FROM active_runs WHERE thread_id = asked.value AND holds),
        (SELECT json_array({_ACTIVE}) FROM active_runs WHERE thread_id = asked.value AND state = 'pending' AND NOT holds
         ORDER BY ordinal LIMIT 1)
    ))
    FROM json_each(?) asked"""

_LOAD_WAITING: Final = f"""
    SELECT {_ACTIVE} FROM active_runs
    WHERE thread_id = ? AND state = 'pending' AND NOT holds AND ordinal > ? ORDER BY ordinal LIMIT ?"""

_REMOVE_ACTIVE: Final = "DELETE FROM active_runs WHERE run_id IN (SELECT value FROM json_each(?))"
_INSERT_ACTIVE: Final = _Bulk(
    """
    INSERT OR ROLLBACK INTO active_runs (
        run_id, thread_id, state, multitask, holds, owner, due_at, cancel_requested, at_rest, request
    ) VALUES *""",
    10,
)
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

_LOAD_EVENT: Final = """
    SELECT position, event_id, event_type, run_id, thread_id, sequence, occurred_at, payload
    FROM events WHERE event_id = ?"""

_INSERT_THREADS: Final = _Bulk(
    """INSERT INTO threads (thread_id, status, created_at, updated_at) VALUES * ON CONFLICT (thread_id) DO NOTHING""",
    4,
)
_UPDATE_THREADS: Final = _Bulk(
    """
    WITH new (thread_id, status, title, last_run_id, updated_at) AS (VALUES *)
    UPDATE OR ROLLBACK threads SET
        status = coalesce(new.status, threads.status),
        title = coalesce(new.title, threads.title),
        last_run_id = coalesce(new.last_run_id, threads.last_run_id),
        updated_at = max(new.updated_at, threads.updated_at)
    FROM new WHERE threads.thread_id = new.thread_id""",
    5,
)
_INSERT_RUNS: Final = _Bulk(
    """
    INSERT OR ROLLBACK INTO runs (
        run_id, thread_id, agent, status, created_at, started_at, last_sequence, parent_run_id, "trigger", metadata
    ) VALUES *""",
    10,
)
_BEGIN_RUNS: Final = _Bulk(
    """
    WITH new (run_id, status, started_at, last_sequence) AS (VALUES *)
    UPDATE OR ROLLBACK runs SET
        status = new.status, started_at = new.started_at, last_sequence = new.last_sequence
    FROM new WHERE runs.run_id = new.run_id""",
    4,
)
_ADVANCE_RUNS: Final = _Bulk(
    """
    WITH new (run_id, last_sequence) AS (VALUES *)
    UPDATE OR ROLLBACK runs SET last_sequence = new.last_sequence FROM new WHERE runs.run_id = new.run_id""",
    2,
)
_END_RUNS: Final = _Bulk(
    """
    WITH new (
        run_id, status, last_sequence, ended_at, title, error, error_type, completion_data, total_input_tokens,
        total_output_tokens, llm_call_count, tool_call_count, message_count, duration_seconds, cost_usd
    ) AS (VALUES *)
    UPDATE OR ROLLBACK runs SET
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
    FROM new WHERE runs.run_id = new.run_id""",
    15,
)
_INSERT_USAGE: Final = _Bulk(
    """
    INSERT OR ROLLBACK INTO usage (
        run_id, kind, name, input_tokens, output_tokens, cache_read_tokens, reasoning_tokens, cost_usd
    ) VALUES *""",
    8,
)
_INSERT_LABELS: Final = _Bulk(
    "INSERT OR ROLLBACK INTO run_labels (key, value, created_at, run_id) VALUES *",
    4,
)
_ADD_TO_RUN_TOTALS: Final = _adding_to(run_totals)
_ADD_TO_DURATION_TOTALS: Final = _adding_to(duration_totals)
_ADD_TO_USAGE_TOTALS: Final = _adding_to(usage_totals)
_INSERT_EVENTS: Final = _Bulk(
    """
    INSERT OR ROLLBACK INTO events (position, event_id, run_id, thread_id, sequence, event_type, occurred_at, payload)
    VALUES *""",
    8,
)
_NOTE_TIMES: Final = _Bulk(
    """
    INSERT INTO event_times (part, latest) VALUES *
    ON CONFLICT (part) DO UPDATE SET latest = max(latest, excluded.latest)""",
    2,
)
_SAVE_THREAD_STATES: Final = _Bulk(
    """
    INSERT INTO thread_states (thread_id, remembered, paused, updated_at) VALUES *
    ON CONFLICT (thread_id) DO UPDATE SET
        remembered = excluded.remembered, paused = excluded.paused, updated_at = excluded.updated_at""",
    4,
)


class SqliteSession:
    """The connection that writes, used by one thread. Everything here but `close` happens inside a `transaction`."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._engine = database.writer()
        self._connection: Connection | None = None

    @contextmanager
    def transaction(self) -> Generator[None]:
        """One transaction that nobody else can write beside; connects first if need be.

        Raises:
            CollisionError: something had to be unique; nothing was written.
            StorageError: it could not be begun or committed; nothing was written.
        """
        try:
            driver = self._driver
            driver.execute("BEGIN IMMEDIATE")
            try:
                yield
                driver.execute("COMMIT")
            except BaseException:
                driver.rollback()
                raise
        except sqlite3.IntegrityError as exc:
            raise CollisionError(database=str(self._database), why=str(exc)) from exc
        except (sqlite3.Error, DBAPIError) as exc:
            self.close()  # whatever state the connection is in, the next transaction begins with a new one
            raise self._database.translate(exc) from exc

    @property
    def _driver(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        driver = self._connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        return driver

    def execute(self, statement: ClauseElement) -> list[tuple[Any, ...]]:
        """Run a statement that has its values in it, and fetch its rows, as the database has them."""
        return self._driver.execute(*compiled(statement, _DIALECT)).fetchall()

    def clock(self) -> LeaseClock:
        """The time by the clock that leases in this file are measured with: all who use it are on this machine."""
        return machine_clock()

    def runs(self, run_ids: Collection[str]) -> dict[str, RunRow]:
        """What is stored of these runs, as far as it decides about their next events."""
        (rows,) = self._driver.execute(_LOAD_RUNS, (json_text([*run_ids]),)).fetchone()
        return {row[0]: _run_of(*row) for row in json_of(rows)}

    def lock_threads(self, thread_ids: Collection[str]) -> None:
        """Nobody else changes anything in the length of a transaction."""

    def lanes(self, thread_ids: Collection[str]) -> list[Lane]:
        """The status of each of these threads, who holds it, and who is the first to wait."""
        (rows,) = self._driver.execute(_LOAD_LANES, (json_text([*thread_ids]),)).fetchone()
        return [_lane_of(*row) for row in json_of(rows)]

    def waiting(self, thread_id: str, *, after: int, limit: int) -> list[ActiveRun]:
        """Runs that wait for a thread, first come first, from behind this ordinal on."""
        return [_active_of(*row) for row in self._driver.execute(_LOAD_WAITING, (thread_id, after, limit))]

    def event(self, event_id: str) -> EventRow | None:
        """The stored event with this id."""
        found = self._driver.execute(_LOAD_EVENT, (event_id,)).fetchone()
        if found is None:
            return None
        position, event_id, event_type, run_id, thread_id, sequence, occurred_at, payload = found
        event = RunLifecycleEvent(
            event_id,
            LifecycleEventType(event_type),
            run_id,
            thread_id,
            sequence,
            time_of(occurred_at),
            json_of(payload),
        )
        return EventRow(event, occurred_at, payload, position)

    def save_threads(self, threads: Collection[ThreadRow]) -> None:
        """Make rows for threads that are new, and change what changes in others."""
        new = [
            (thread.thread_id, ThreadStatus.idle.value, thread.created_at, thread.updated_at)
            for thread in threads
            if thread.may_be_new
        ]
        _INSERT_THREADS.execute(self._driver, new)
        changed = [
            (row.thread_id, row.status and row.status.value, row.title, row.last_run_id, row.updated_at)
            for row in threads
        ]
        _UPDATE_THREADS.execute(self._driver, changed)

    def save_runs(self, runs: Iterable[RunRow]) -> None:
        """Make rows for runs that start, and change what changes in others."""
        started: list[Sequence[Any]] = []
        begun: list[Sequence[Any]] = []
        advanced: list[Sequence[Any]] = []
        ended: list[Sequence[Any]] = []
        used: list[Sequence[Any]] = []
        labels: list[Sequence[Any]] = []
        for run in runs:
            if (start := run.start) is not None:
                started.append(_started(run))
                labels.extend((*label, start.created_at, run.fold.run_id) for label in start.labels)
            elif run.begins:
                begun.append((run.fold.run_id, run.fold.status.value, run.started_at, run.fold.sequence))
            if run.end is not None:
                ended.append(_ended(run))
                used.extend((run.fold.run_id, *usage) for usage in run.end.usage)
            elif run.start is None and not run.begins:
                advanced.append((run.fold.run_id, run.fold.sequence))
        for statement, rows in (
            (_INSERT_RUNS, started),
            (_BEGIN_RUNS, begun),
            (_ADVANCE_RUNS, advanced),
            (_END_RUNS, ended),
            (_INSERT_USAGE, used),
            (_INSERT_LABELS, labels),
        ):
            statement.execute(self._driver, rows)

    def next_ordinal(self) -> int:
        """A place behind all active runs."""
        (ordinal,) = self._driver.execute("SELECT coalesce(max(ordinal), 0) + 1 FROM active_runs").fetchone()
        return int(ordinal)

    def save_active(self, removed: Collection[str], changed: Collection[ActiveRun]) -> None:
        """Delete the rows of runs that are not active any more; then make or change the rows of others."""
        driver = self._driver
        if removed:
            driver.execute(_REMOVE_ACTIVE, (json_text([*removed]),))
        _CHANGE_ACTIVE.execute(driver, [_changed_active(run) for run in changed if run.ordinal])
        _INSERT_ACTIVE.execute(driver, [_new_active(run) for run in changed if not run.ordinal])

    def add_to_totals(self, totals: Totals) -> None:
        """Add to the sums over runs."""
        driver = self._driver
        _ADD_TO_RUN_TOTALS.execute(driver, totals.run_rows())
        _ADD_TO_DURATION_TOTALS.execute(driver, totals.duration_rows())
        _ADD_TO_USAGE_TOTALS.execute(driver, totals.usage_rows())

    def insert_events(self, rows: Collection[EventRow]) -> None:
        """Give events the next positions and store them."""
        driver = self._driver
        driver.execute("UPDATE counters SET value = value + ? WHERE name = ?", (len(rows), POSITION))
        (last,) = driver.execute("SELECT value FROM counters WHERE name = ?", (POSITION,)).fetchone()
        values: list[Sequence[Any]] = []
        for position, row in enumerate(rows, last - len(rows) + 1):
            row.position = position
            event = row.event
            values.append(
                (
                    position,
                    event.event_id,
                    event.run_id,
                    event.thread_id,
                    event.sequence,
                    event.event_type.value,
                    row.occurred_at,
                    row.payload,
                )
            )
        _INSERT_EVENTS.execute(driver, values)
        latest = max([row.occurred_at for row in rows])
        parts = range((last - len(rows) + 1) // EVENTS_AT_A_TIME, last // EVENTS_AT_A_TIME + 1)
        _NOTE_TIMES.execute(driver, [(part, latest) for part in parts])

    def save_thread_states(self, states: Collection[Sequence[str | None]]) -> None:
        """Store what threads remember: id, values, what is paused, and since when."""
        _SAVE_THREAD_STATES.execute(self._driver, [*states])

    def close(self) -> None:
        """Let go of the connection; a later transaction makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _run_of(
    run_id: str,
    thread_id: str,
    status: str,
    sequence: int,
    started_at: str | None,
    created_at: str,
    agent: str | None,
    active: Sequence[Any] | None,
) -> RunRow:
    return RunRow(
        fold=RunFold(run_id, RunStatus(status), sequence),
        thread_id=thread_id,
        stored=StoredFacts(created_at=created_at, agent=agent),
        started_at=started_at,
        active=None if active is None else _active_of(*active),
    )


def _lane_of(thread_id: str, status: str | None, holder: Sequence[Any] | None, waiting: Sequence[Any] | None) -> Lane:
    return Lane(
        thread_id=thread_id,
        status=None if status is None else ThreadStatus(status),
        holder=None if holder is None else _active_of(*holder),
        waiting=deque(() if waiting is None else (_active_of(*waiting),)),
        complete=waiting is None,
    )


def _active_of(
    run_id: str,
    thread_id: str,
    state: str,
    multitask: str,
    ordinal: int,
    holds: int,
    owner: str | None,
    due_at: str | None,
    cancel_requested: str | None,
    at_rest: str | None,
) -> ActiveRun:
    return ActiveRun(
        run_id=run_id,
        thread_id=thread_id,
        state=Standing(state),
        multitask=multitask,
        ordinal=ordinal,
        holds=bool(holds),
        owner=owner,
        due_at=due_at,
        cancel_requested=None if cancel_requested is None else CancelAction(cancel_requested),
        at_rest=None if at_rest is None else ThreadStatus(at_rest),
    )


def _changed_active(run: ActiveRun) -> Sequence[Any]:
    return run.run_id, run.state.value, run.holds, run.owner, run.cancel_requested, run.at_rest


def _new_active(run: ActiveRun) -> Sequence[Any]:
    return (
        run.run_id,
        run.thread_id,
        run.state.value,
        run.multitask,
        run.holds,
        run.owner,
        run.due_at,
        run.cancel_requested,
        run.at_rest,
        run.request,
    )


def _started(run: RunRow) -> Sequence[Any]:
    start = run.start
    assert start is not None
    return (
        run.fold.run_id,
        run.thread_id,
        start.agent,
        run.fold.status.value,
        start.created_at,
        run.started_at,
        run.fold.sequence,
        start.parent_run_id,
        start.trigger,
        start.metadata,
    )


def _ended(run: RunRow) -> Sequence[Any]:
    end = run.end
    assert end is not None
    return (
        run.fold.run_id,
        run.fold.status.value,
        run.fold.sequence,
        end.ended_at,
        end.title,
        end.error,
        end.error_type,
        end.completion_data,
        end.total_input_tokens,
        end.total_output_tokens,
        end.llm_call_count,
        end.tool_call_count,
        end.message_count,
        end.duration_seconds,
        end.cost_usd,
    )
