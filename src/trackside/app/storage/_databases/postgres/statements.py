"""PostgreSQL: the statements of the writer. What a transaction writes is one statement, made of the steps that have rows.

Each step takes its rows as an array for each column, `unnest($1::text[], …)`, and is a part, a CTE that changes something.
PostgreSQL would do the parts at any time, in any order. So each one begins by counting the rows of the one before it
(`AFTER`), which has to be done by then: locks are taken in the order of the steps. All parts see the database as it was
before the statement, which is why none may touch rows of another. Last comes the counter of positions, the one row that
everybody needs: its holder keeps the others waiting for the events and the commit, and for nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from sqlalchemy import Integer, Table

from trackside.app.storage._databases.batch_rows import Step
from trackside.app.storage._rows.graph_checkpoint_tables import (
    GRAPH_CHECKPOINT,
    GRAPH_VALUE,
    GRAPH_WRITE,
    ON_SAME_CHECKPOINT,
    ON_SAME_WRITE,
)
from trackside.app.storage._rows.tables import (
    EVENTS_AT_A_TIME,
    GRAPH_REMOVALS,
    POSITION,
    duration_totals,
    run_totals,
    usage_totals,
)

_ACTIVE: Final = (
    "run_id, thread_id, state, multitask, ordinal, holds, owner, due_at, cancel_requested, at_rest, "
    "portable, keeps_request, pool"
)

# NO KEY: does not keep out what only refers to a row, as new events do to their run.
LOCK: Final = """
    WITH locked AS MATERIALIZED (
        SELECT thread_id FROM threads WHERE thread_id = ANY($1::text[]) ORDER BY thread_id FOR NO KEY UPDATE
    ), found AS MATERIALIZED (
        SELECT run_id, thread_id, status, last_sequence, started_at, created_at, agent FROM runs
        WHERE run_id = ANY($2::text[]) AND (SELECT count(*) FROM locked) >= 0 ORDER BY run_id FOR NO KEY UPDATE
    )
    SELECT NULL, thread_id, NULL, NULL, NULL, NULL, NULL, NULL FROM locked
    UNION ALL
    SELECT run_id, thread_id, status, last_sequence, started_at, created_at, agent,
        EXISTS (SELECT FROM active_runs a WHERE a.run_id = found.run_id)
    FROM found"""
"""Locks threads, then runs. Tells whether a run was active when the wait for the locks began: if not, it is not now."""

# Not a part of the above, which would not see what another transaction had changed while it waited for the locks.
LOAD_QUEUES: Final = f"""
    SELECT json_build_array(
        (SELECT coalesce(json_agg(json_build_array({_ACTIVE})), '[]') FROM active_runs WHERE run_id = ANY($1::text[])),
        (SELECT coalesce(json_agg(json_build_array(
            thread_id,
            (SELECT json_build_array(status, owner, ends, removed_at IS NOT NULL, CASE WHEN ends THEN (
                SELECT json_agg(run_id) FROM active_runs a WHERE a.thread_id = asked.thread_id AND state = 'delayed'
             ) END, expires_at) FROM threads t WHERE t.thread_id = asked.thread_id),
            (SELECT json_build_array({_ACTIVE}) FROM active_runs a WHERE a.thread_id = asked.thread_id AND holds),
            (SELECT json_build_array({_ACTIVE}) FROM active_runs a
             WHERE a.thread_id = asked.thread_id AND state = 'pending' AND NOT holds ORDER BY ordinal LIMIT 1)
        )), '[]') FROM unnest($2::text[]) AS asked (thread_id))
    )::text"""
"""Active runs; and for threads what decides who may use them, which run holds them, and which is the first to wait."""

LOAD_WAITING: Final = f"""
    SELECT {_ACTIVE} FROM active_runs
    WHERE thread_id = $1 AND state = 'pending' AND NOT holds AND ordinal > $2 ORDER BY ordinal LIMIT $3"""

LOAD_EVENT: Final = """
    SELECT position, event_id, event_type, run_id, thread_id, sequence, occurred_at, payload
    FROM events WHERE event_id = $1"""

_MAY_BE_TAKEN: Final = """
    a.owner IS NULL AND a.state = 'pending' AND a.holds AND a.portable AND a.cancel_requested IS NULL
    AND (a.version IS NULL OR a.version = $3::text) AND r.agent = ANY($2::text[]) AND a.run_id <> ALL($4::text[])
    AND (SELECT version_num FROM alembic_version) = $5::text"""
# A thread whose first run was delayed may have been given a state meanwhile: nothing held it.
_OF_PICKED: Final = """
    a.run_id, a.ordinal, t.status, t.last_run_id IS NULL AND t.created_at = r.created_at AND a.due_at IS NULL AS is_new"""
_TAKE: Final = """
    WITH picked AS MATERIALIZED ({picked}), taken AS (
        UPDATE active_runs a SET owner = $1 FROM picked WHERE a.run_id = picked.run_id
        RETURNING a.run_id, a.ordinal, a.thread_id, a.multitask, a.due_at, picked.status, picked.is_new
    )
    SELECT taken.run_id, taken.thread_id, multitask, due_at, taken.status, is_new,
        agent, created_at, metadata, parent_run_id, trigger, attempt, retry_of, request
    FROM taken JOIN runs ON runs.run_id = taken.run_id ORDER BY ordinal"""
# A run is passed over if it or its thread is locked by another at this moment: so nobody waits here, and the order in
# which locks are taken does not matter.
_FROM: Final = "active_runs a JOIN runs r ON r.run_id = a.run_id JOIN threads t ON t.thread_id = a.thread_id"
_LOCKED: Final = "FOR NO KEY UPDATE OF a, t SKIP LOCKED"

TAKE_THESE: Final = _TAKE.format(
    picked=f"""
        SELECT {_OF_PICKED} FROM {_FROM}
        WHERE a.run_id = ANY($7::text[]) AND a.pool = ANY($6::text[]) AND {_MAY_BE_TAKEN} {_LOCKED}"""
)
"""Gives runs to a worker ($1), as far as they are ready and for workers like it: the hot path of a fleet."""

# Agent by agent, pool by pool: what is ready of each stands in the order of an index, and what waits for other workers
# is not read. Where the agent is not noted, the run says it. Giving both as ranges, and sorting by them, leaves no
# other index in that order: by the key of the table, everything claimed would be read first, as it came first.
TAKE_FIRST: Final = _TAKE.format(
    picked=f"""
        SELECT first.* FROM unnest($6::text[]) AS asked (pool)
        CROSS JOIN unnest($2::text[] || ''::text) AS offered (agent) CROSS JOIN LATERAL (
            SELECT {_OF_PICKED} FROM {_FROM}
            WHERE a.pool >= asked.pool AND a.pool <= asked.pool
                AND a.agent >= offered.agent AND a.agent <= offered.agent AND {_MAY_BE_TAKEN}
            ORDER BY a.pool, a.agent, a.ordinal LIMIT $7::bigint {_LOCKED}
        ) AS first ORDER BY first.ordinal LIMIT $7::bigint"""
)
"""The same, for the runs that came first."""

NEXT_ORDINAL: Final = "SELECT nextval(pg_get_serial_sequence('active_runs', 'ordinal'))"

TABLES_WITH: Final = """
    SELECT table_name::text FROM information_schema.columns
    WHERE column_name = $1 AND table_schema = ANY(current_schemas(false))"""


class _Bulk:
    """A part that takes its rows in the place of `ROWS`; `types` are those of the columns."""

    def __init__(self, statement: str, *types: str) -> None:
        self._statement = statement
        self._types = types

    def part(self, first: int, after: str) -> tuple[str, int]:
        """The part with parameters from this number on, and the number behind its last one."""
        arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(self._types, first))
        statement = self._statement.replace("ROWS", f"unnest({arrays})").replace("AFTER", after)
        return statement, first + len(self._types)


def _adding_to(totals: Table) -> _Bulk:
    """Adds amounts to the rows of sums; makes those that are missing. Others that add to the same sums wait."""
    key = [column.name for column in totals.primary_key]
    names = [column.name for column in totals.columns]
    sums = ", ".join(f"{name} = {totals.name}.{name} + excluded.{name}" for name in names if name not in key)
    return _Bulk(
        f"INSERT INTO {totals.name} ({', '.join(names)}) SELECT * FROM ROWS WHERE AFTER"
        f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sums}",
        *["bigint" if isinstance(column.type, Integer) else "text" for column in totals.columns],
    )


_STARTED: Final = (
    "run_id, thread_id, agent, status, created_at, started_at, last_sequence, parent_run_id, trigger, metadata, "
    "attempt, retry_of, request"
)
_STARTED_TYPES: Final = (*["text"] * 6, "bigint", *["text"] * 3, "bigint", *["text"] * 2)
_ENDED: Final = (
    "ended_at, title, error, error_type, completion_data, total_input_tokens, total_output_tokens, llm_call_count, "
    "tool_call_count, message_count, duration_seconds, cost_usd, removed_at"
)
_ENDED_TYPES: Final = (*["text"] * 5, *["bigint"] * 5, *["double precision"] * 2, "text")

_ENTERED: Final = (
    "run_id, thread_id, state, multitask, holds, owner, due_at, cancel_requested, at_rest, portable, keeps_request, "
    "agent"
)
_ENTERED_TYPES: Final = (*["text"] * 4, "boolean", *["text"] * 4, *["boolean"] * 2, "text")

_THREAD: Final = "thread_id, status, title, last_run_id, updated_at, agent, first_agent"
_CHANGED: Final = """
    status = coalesce(new.status, threads.status),
    title = coalesce(new.title, threads.title),
    last_run_id = coalesce(new.last_run_id, threads.last_run_id),
    updated_at = greatest(new.updated_at, threads.updated_at),
    agent = coalesce(new.agent, threads.agent, new.first_agent)"""

_CHANGE_ACTIVE: Final = _Bulk(
    """
    UPDATE active_runs SET
        state = new.state,
        holds = new.holds,
        owner = new.owner,
        cancel_requested = new.cancel_requested,
        at_rest = new.at_rest
    FROM ROWS AS new (run_id, state, holds, owner, cancel_requested, at_rest)
    WHERE active_runs.run_id = new.run_id AND AFTER""",
    *("text", "text", "boolean"),
    *["text"] * 3,
)

_BULKS: Final[Mapping[Step, _Bulk]] = {
    Step.save_thread_states: _Bulk(
        """
        INSERT INTO thread_states (thread_id, remembered, paused, updated_at)
        SELECT * FROM ROWS AS new (thread_id) WHERE AFTER ORDER BY thread_id
        ON CONFLICT (thread_id) DO UPDATE SET
            remembered = excluded.remembered, paused = excluded.paused, updated_at = excluded.updated_at""",
        *["text"] * 4,
    ),
    Step.save_graph_checkpoints: _Bulk(
        f"""
        INSERT INTO graph_checkpoints ({GRAPH_CHECKPOINT})
        SELECT * FROM ROWS AS new ({GRAPH_CHECKPOINT}) WHERE AFTER ORDER BY thread_id, namespace, checkpoint_id
        {ON_SAME_CHECKPOINT}""",
        *["text"] * 7,
        *("bytea", "text", "bytea"),
    ),
    Step.insert_graph_values: _Bulk(
        f"""
        INSERT INTO graph_values ({GRAPH_VALUE})
        SELECT * FROM ROWS AS new ({GRAPH_VALUE}) WHERE AFTER ORDER BY thread_id, namespace, channel, version
        ON CONFLICT DO NOTHING""",
        *["text"] * 5,
        "bytea",
    ),
    Step.save_graph_writes: _Bulk(
        f"""
        INSERT INTO graph_writes ({GRAPH_WRITE})
        SELECT * FROM ROWS AS new ({GRAPH_WRITE}) WHERE AFTER
        ORDER BY thread_id, namespace, checkpoint_id, task_id, place
        {ON_SAME_WRITE}""",
        *["text"] * 4,
        *("integer", "text", "text", "text", "bytea"),
    ),
    Step.insert_threads: _Bulk(
        """
        INSERT INTO threads (
            thread_id, status, title, last_run_id, created_at, updated_at, agent, removed_at, owner, ends, metadata,
            expires_at, ttl_minutes
        ) SELECT * FROM ROWS AS new (thread_id) WHERE AFTER ORDER BY thread_id""",
        *["text"] * 9,
        "boolean",
        *["text"] * 2,
        "double precision",
    ),
    Step.change_threads: _Bulk(
        f"""
        UPDATE threads SET {_CHANGED}
        FROM ROWS AS new ({_THREAD}) WHERE threads.thread_id = new.thread_id AND AFTER""",
        *["text"] * 7,
    ),
    Step.remove_threads: _Bulk(
        f"""
        UPDATE threads SET {_CHANGED}, removed_at = new.removed_at
        FROM ROWS AS new ({_THREAD}, removed_at) WHERE threads.thread_id = new.thread_id AND AFTER""",
        *["text"] * 8,
    ),
    Step.label_threads: _Bulk(
        "INSERT INTO thread_labels (key, value, thread_id) SELECT * FROM ROWS WHERE AFTER",
        *["text"] * 3,
    ),
    Step.insert_runs: _Bulk(
        f"INSERT INTO runs ({_STARTED}) SELECT * FROM ROWS AS new (run_id) WHERE AFTER ORDER BY run_id",
        *_STARTED_TYPES,
    ),
    Step.insert_ended_runs: _Bulk(
        f"INSERT INTO runs ({_STARTED}, {_ENDED}) SELECT * FROM ROWS AS new (run_id) WHERE AFTER ORDER BY run_id",
        *_STARTED_TYPES,
        *_ENDED_TYPES,
    ),
    Step.begin_runs: _Bulk(
        """
        UPDATE runs SET status = new.status, started_at = new.started_at, last_sequence = new.last_sequence
        FROM ROWS AS new (run_id, status, started_at, last_sequence) WHERE runs.run_id = new.run_id AND AFTER""",
        *["text"] * 3,
        "bigint",
    ),
    Step.advance_runs: _Bulk(
        """
        UPDATE runs SET last_sequence = new.last_sequence
        FROM ROWS AS new (run_id, last_sequence) WHERE runs.run_id = new.run_id AND AFTER""",
        "text",
        "bigint",
    ),
    Step.end_runs: _Bulk(
        f"""
        UPDATE runs SET
            status = new.status, started_at = new.started_at, last_sequence = new.last_sequence,
            {", ".join(f"{name} = new.{name}" for name in _ENDED.split(", "))}
        FROM ROWS AS new (run_id, status, started_at, last_sequence, {_ENDED})
        WHERE runs.run_id = new.run_id AND AFTER""",
        *["text"] * 3,
        "bigint",
        *_ENDED_TYPES,
    ),
    Step.insert_usage: _Bulk(
        """
        INSERT INTO usage (
            run_id, kind, name, input_tokens, output_tokens, cache_read_tokens, reasoning_tokens, cost_usd
        ) SELECT * FROM ROWS WHERE AFTER""",
        *["text"] * 3,
        *["bigint"] * 4,
        "double precision",
    ),
    Step.insert_labels: _Bulk(
        "INSERT INTO run_labels (key, value, created_at, run_id, thread_id, agent) SELECT * FROM ROWS WHERE AFTER",
        *["text"] * 6,
    ),
    Step.remove_active: _Bulk(
        "DELETE FROM active_runs USING ROWS AS old (run_id) WHERE active_runs.run_id = old.run_id AND AFTER",
        "text",
    ),
    Step.release_active: _CHANGE_ACTIVE,
    Step.hold_active: _CHANGE_ACTIVE,
    Step.insert_active: _Bulk(f"INSERT INTO active_runs ({_ENTERED}) SELECT * FROM ROWS WHERE AFTER", *_ENTERED_TYPES),
    Step.insert_retries: _Bulk(
        f"INSERT INTO active_runs ({_ENTERED}, pool, version, ordinal) SELECT * FROM ROWS WHERE AFTER",
        *_ENTERED_TYPES,
        *("text", "text", "bigint"),
    ),
    Step.insert_pooled: _Bulk(
        f"INSERT INTO active_runs ({_ENTERED}, pool, version) SELECT * FROM ROWS WHERE AFTER",
        *_ENTERED_TYPES,
        *("text", "text"),
    ),
    Step.add_to_run_totals: _adding_to(run_totals),
    Step.add_to_duration_totals: _adding_to(duration_totals),
    Step.add_to_usage_totals: _adding_to(usage_totals),
}

_EVENT: Final = "event_id, run_id, thread_id, sequence, event_type, occurred_at, payload"
_EVENT_TYPES: Final = (*["text"] * 3, "bigint", *["text"] * 3)

_GRAPH_REMOVALS: Final = f"coalesce((SELECT value FROM counters WHERE name = '{GRAPH_REMOVALS}'), 0)"


@lru_cache(maxsize=1024)
def writing(steps: tuple[Step, ...], *, events: bool) -> str:
    """One statement for these steps, in this order, and behind them for events, if there are any.

    Its parameters are the columns of the rows of each step; then the times of the events, and their columns. It gives the
    position of the last event; and, with checkpoints among the steps, how many removals of checkpoints there have been.
    """
    removals = f", {_GRAPH_REMOVALS}" if Step.save_graph_checkpoints in steps else ""
    parts: list[str] = []
    after = "true"
    number = 1
    for step in steps:
        statement, number = _BULKS[step].part(number, after)
        parts.append(f"{step} AS ({statement} RETURNING true)")
        after = f"(SELECT count(*) FROM {step}) >= 0"
    if not events:
        return f"WITH {', '.join(parts)} SELECT 0{removals} WHERE {after}"
    parts.extend(_event_parts(number, after))
    return f"WITH {', '.join(parts)} SELECT value{removals} FROM taken"


def _event_parts(first: int, after: str) -> list[str]:
    latest, oldest, newest, *columns = (f"${number}" for number in range(first, first + 3 + len(_EVENT_TYPES)))
    arrays = ", ".join(f"{column}::{kind}[]" for column, kind in zip(columns, _EVENT_TYPES, strict=True))
    count = f"cardinality({columns[0]}::text[])"
    return [
        f"taken AS (UPDATE counters SET value = value + {count} WHERE name = '{POSITION}' AND {after} RETURNING value)",
        f"""dated AS (
            INSERT INTO event_times (part, latest, oldest_run, newest_run)
            SELECT part, {latest}::text, {oldest}::text, {newest}::text
            FROM taken, generate_series((value - {count} + 1) / {EVENTS_AT_A_TIME}, value / {EVENTS_AT_A_TIME}) AS part
            ON CONFLICT (part) DO UPDATE SET
                latest = greatest(event_times.latest, excluded.latest),
                oldest_run = least(event_times.oldest_run, excluded.oldest_run),
                newest_run = greatest(event_times.newest_run, excluded.newest_run))""",
        f"""stored AS (
            INSERT INTO events (position, {_EVENT})
            SELECT taken.value - {count} + new.ordinality, {_EVENT}
            FROM taken, unnest({arrays}) WITH ORDINALITY AS new ({_EVENT}))""",
    ]
