"""The tables, declared once. The migrations build the same; a test compares the two.

Times are text, `2026-01-31T09:30:00.123456Z`: exact to the microsecond, in order when sorted as text, and readable in
the sqlite3 shell. JSON is text too, so that every database gives back what it was given (I10).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    and_,
)
from sqlalchemy.dialects import postgresql

from trackside.app.storage._rows.encoding import json_of, json_text, time_of, time_text
from trackside.harness.lifecycle import TERMINAL_EVENTS
from trackside.harness.types import Json, LifecycleEventType

POSITION = "position"
"""The name of the counter that numbers events."""

TOKEN = "token"  # noqa: S105  # a counter
"""The name of the counter that numbers consumers, those of all subscriptions."""

GRAPH_REMOVALS = "graph_removals"
"""The name of the counter of transactions that removed checkpoints a run may go on from; the first one creates it."""

# Sorted by code point everywhere: under the collation of a language, ids with a common prefix are not adjacent.
PlainText = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


class UtcTime(TypeDecorator[datetime]):
    """An aware UTC time, as text."""

    impl = PlainText
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        return None if value is None else time_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else time_of(value)


class JsonText(TypeDecorator[Json]):
    """A JSON value, as text."""

    impl = PlainText
    cache_ok = True

    def process_bind_param(self, value: Json, dialect: Dialect) -> str | None:
        return None if value is None else json_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Json:
        return None if value is None else json_of(value)


# In SQLite a column is the row's own number, the cheapest key there is, only if it is declared as exactly INTEGER.
_LongInteger = BigInteger().with_variant(Integer, "sqlite")


def _reference(column: Column[Any]) -> ForeignKey:
    # Checked at the commit: checked at once, SQLite would keep a second copy of each page that a bulk statement touches.
    return ForeignKey(column, deferrable=True, initially="DEFERRED")


def partial_index(name: str, *columns: Column[Any], where: ColumnElement[bool], unique: bool = False) -> None:
    """Add an index of those rows of a table for which a condition holds."""
    Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

threads = Table(
    "threads",
    metadata,
    Column("thread_id", PlainText, primary_key=True),
    Column("status", PlainText, nullable=False),
    Column("title", PlainText),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("last_run_id", PlainText),
    Column("agent", PlainText),
    Column("owner", PlainText),
    Column("metadata", JsonText),
    Column("expires_at", UtcTime),
    Column("removed_at", UtcTime),
    Column("ttl_minutes", Float),
    Column("ends", Boolean, nullable=False, server_default="0"),
    Column("forgotten", Boolean, nullable=False, server_default="0"),
)
"""Conversations. One with `removed_at` is gone for clients; it is `forgotten` when what it remembered has gone, too.

A thread that `ends` goes with the end of its last run, and its runs stay in the log. The runs of other removed threads
go as soon as nobody needs them.
"""

# Runs on threads of their own leave as many removed threads as there are runs: a search for others must not meet them.
# There is no index of all: threads are merged, status by status. The agent is there to be read from the index.
_is_there = threads.c.removed_at.is_(None)
_is_removed = threads.c.removed_at.is_not(None)
partial_index(
    "ix_threads_status", threads.c.status, threads.c.updated_at, threads.c.thread_id, threads.c.agent, where=_is_there
)
partial_index("ix_threads_removed", threads.c.status, threads.c.updated_at, threads.c.thread_id, where=_is_removed)
partial_index(
    "ix_threads_owner",
    threads.c.owner,
    threads.c.removed_at,
    threads.c.updated_at,
    threads.c.thread_id,
    where=threads.c.owner.is_not(None),
)
_expires = and_(threads.c.expires_at.is_not(None), threads.c.removed_at.is_(None))
partial_index("ix_threads_expires_at", threads.c.expires_at, where=_expires)
_is_to_be_forgotten = and_(threads.c.removed_at.is_not(None), ~threads.c.forgotten)
partial_index(
    "ix_threads_to_forget", threads.c.ends, threads.c.removed_at, threads.c.thread_id, where=_is_to_be_forgotten
)
_is_to_be_deleted = and_(threads.c.removed_at.is_not(None), ~threads.c.ends)
partial_index("ix_threads_to_delete", threads.c.thread_id, where=_is_to_be_deleted)

thread_labels = Table(
    "thread_labels",
    metadata,
    Column("key", PlainText, primary_key=True),
    Column("value", PlainText, primary_key=True),
    Column("thread_id", PlainText, _reference(threads.c.thread_id), primary_key=True),
    Index(None, "thread_id"),
    sqlite_with_rowid=False,
)
"""Plain values in the metadata of threads, as JSON text, so that threads are found by them."""

runs = Table(
    "runs",
    metadata,
    Column("run_id", PlainText, primary_key=True),
    Column("thread_id", PlainText, _reference(threads.c.thread_id), nullable=False),
    Column("agent", PlainText),
    Column("status", PlainText, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("started_at", UtcTime),
    Column("ended_at", UtcTime),
    Column("last_sequence", _LongInteger, nullable=False),
    Column("title", PlainText),
    Column("error", PlainText),
    Column("error_type", PlainText),
    Column("parent_run_id", PlainText),
    Column("trigger", PlainText),
    Column("metadata", JsonText, nullable=False),
    Column("completion_data", JsonText),
    Column("total_input_tokens", _LongInteger, nullable=False, server_default="0"),
    Column("total_output_tokens", _LongInteger, nullable=False, server_default="0"),
    Column("llm_call_count", _LongInteger, nullable=False, server_default="0"),
    Column("tool_call_count", _LongInteger, nullable=False, server_default="0"),
    Column("message_count", _LongInteger, nullable=False, server_default="0"),
    Column("duration_seconds", Float),
    Column("cost_usd", Float),
    Column("attempt", _LongInteger, nullable=False, server_default="1"),
    Column("retry_of", PlainText),
    Column("request", JsonText),
    Column("removed_at", UtcTime),
    # Columns after the id are there to be read from the index. They never change, or only with the status.
    Index("ix_runs_thread", "thread_id", "created_at", "run_id", "agent"),
    Index("ix_runs_status", "status", "created_at", "run_id", "removed_at"),
    Index("ix_runs_agent", "agent", "status", "created_at", "run_id", "thread_id", "removed_at"),
)

_is_retry = runs.c.retry_of.is_not(None)
partial_index("ix_runs_retry_of", runs.c.retry_of, where=_is_retry)

_is_child = runs.c.parent_run_id.is_not(None)
partial_index("ix_runs_parent", runs.c.parent_run_id, runs.c.created_at, runs.c.run_id, where=_is_child)

events = Table(
    "events",
    metadata,
    Column("position", _LongInteger, primary_key=True, autoincrement=False),
    Column("event_id", PlainText, nullable=False, unique=True),
    Column("run_id", PlainText, _reference(runs.c.run_id), nullable=False),
    Column("thread_id", PlainText, nullable=False),
    Column("sequence", _LongInteger, nullable=False),
    Column("event_type", PlainText, nullable=False),
    Column("occurred_at", UtcTime, nullable=False),
    Column("payload", JsonText, nullable=False),
    # No index by thread: it would touch one more page for each event, which costs a quarter of the speed of appending.
    # A thread's events are found through its runs.
    UniqueConstraint("run_id", "sequence"),
)

RARE_EVENTS = frozenset({LifecycleEventType.RUN_FAILED, LifecycleEventType.RUN_CANCELLED})
"""Types of events that are looked for among millions of others; of the other types, each run has at least one."""

_is_rare = events.c.event_type.in_(sorted(RARE_EVENTS))
partial_index("ix_events_rare", events.c.event_type, events.c.position, where=_is_rare)

_ends_a_run = events.c.event_type.in_(sorted(TERMINAL_EVENTS))
partial_index("uq_events_one_end", events.c.run_id, where=_ends_a_run, unique=True)  # I5

EVENTS_AT_A_TIME = 4_096
"""How many positions share a row of `event_times`."""

event_times = Table(
    "event_times",
    metadata,
    Column("part", _LongInteger, primary_key=True, autoincrement=False),
    Column("latest", UtcTime, nullable=False),
    Column("oldest_run", UtcTime, nullable=False),
    Column("newest_run", UtcTime, nullable=False),
)
"""No event of this part of the log occurred later, and none is of a run created before the oldest or after the newest.

So events since a time are found without reading all events before it, and events of some runs through the few of these
runs that can have any in a part.
"""

usage = Table(
    "usage",
    metadata,
    Column("run_id", PlainText, _reference(runs.c.run_id), primary_key=True),
    Column("kind", PlainText, primary_key=True),
    Column("name", PlainText, primary_key=True),
    Column("input_tokens", _LongInteger, nullable=False),
    Column("output_tokens", _LongInteger, nullable=False),
    Column("cache_read_tokens", _LongInteger, nullable=False),
    Column("reasoning_tokens", _LongInteger, nullable=False),
    Column("cost_usd", Float),
    sqlite_with_rowid=False,
)
"""Tokens and cost of ended runs: of `kind` "model" or "caller", as their `completion_data` tells it."""

thread_states = Table(
    "thread_states",
    metadata,
    Column("thread_id", PlainText, primary_key=True),
    Column("remembered", JsonText, nullable=False),
    Column("paused", JsonText),
    Column("updated_at", UtcTime, nullable=False),
)

counters = Table(
    "counters",
    metadata,
    Column("name", PlainText, primary_key=True),
    Column("value", _LongInteger, nullable=False),
    sqlite_with_rowid=False,
)

workers = Table(
    "workers",
    metadata,
    Column("worker_id", PlainText, primary_key=True),
    Column("name", PlainText, nullable=False),
    Column("process", PlainText),
    Column("started_at", UtcTime, nullable=False),
    Column("clock", PlainText, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("kind", PlainText, nullable=False, server_default="inline"),
    Column("pools", JsonText, nullable=False, server_default="[]"),
    Column("agents", JsonText, nullable=False, server_default="[]"),
    Column("capacity", Integer, nullable=False, server_default="0"),
    Column("running", Integer, nullable=False, server_default="0"),
    Column("draining", Boolean, nullable=False, server_default="0"),
    Column("version", PlainText),
    Column("address", PlainText),
    Column("isolated_in", PlainText),
    Column("release", PlainText),
    Column("lease_seconds", Float),
)
"""Processes that look after runs. A worker whose lease has ended is dead, and its runs are anybody's to end or take.

`lease_until` is in seconds of `clock`, see `_rows.leases`. `kind` is `fleet.Kind`.
"""

active_runs = Table(
    "active_runs",
    metadata,
    Column("ordinal", _LongInteger, primary_key=True),
    Column("run_id", PlainText, _reference(runs.c.run_id), nullable=False, unique=True),
    Column("thread_id", PlainText, nullable=False),
    Column("state", PlainText, nullable=False),
    Column("holds", Boolean, nullable=False),
    Column("owner", PlainText),
    Column("due_at", UtcTime),
    Column("multitask", PlainText, nullable=False),
    Column("cancel_requested", PlainText),
    Column("at_rest", PlainText),
    Column("stuck_since", UtcTime),
    Column("portable", Boolean, nullable=False, server_default="0"),
    Column("keeps_request", Boolean, nullable=False, server_default="1"),
    Column("pool", PlainText, nullable=False, server_default="default"),
    Column("version", PlainText),
    Column("agent", PlainText, nullable=False, server_default=""),
    Index(None, "owner"),
)
"""Runs from their admission to their release, in the order in which they wait. Small, however long the log is.

A `portable` run can be executed by another process than the one that let it in: its request names its agent. A run that
does not keep its request forgets it when it ends. For runs that are nobody's, `pool`, `agent` and `version` (of the
agents; None: any) say who may take them. Where `agent` is empty, only the run itself names its agent.
"""

_holds_thread = active_runs.c.holds
_waits = active_runs.c.state == "pending"
partial_index("uq_active_runs_one_holder", active_runs.c.thread_id, where=_holds_thread, unique=True)
partial_index("ix_active_runs_queue", active_runs.c.thread_id, active_runs.c.ordinal, where=_waits)
_is_delayed = active_runs.c.state == "delayed"
partial_index("ix_active_runs_delayed", active_runs.c.thread_id, where=_is_delayed)
partial_index("ix_active_runs_due_at", active_runs.c.due_at, where=active_runs.c.due_at.is_not(None))

_is_nobodys = active_runs.c.owner.is_(None)
_is_ready = and_(_is_nobodys, _waits, _holds_thread)
_is_to_promote = and_(_is_nobodys, _is_delayed)
partial_index("ix_active_runs_ready", active_runs.c.pool, active_runs.c.ordinal, where=_is_ready)
# A worker finds runs of its agents without reading past those of others. The version is there to be read.
partial_index(
    "ix_active_runs_offered",
    active_runs.c.pool,
    active_runs.c.agent,
    active_runs.c.ordinal,
    active_runs.c.version,
    where=_is_ready,
)
partial_index("ix_active_runs_to_promote", active_runs.c.due_at, where=_is_to_promote)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("key", PlainText, primary_key=True),
    Column("body", PlainText, nullable=False),
    Column("run_id", PlainText, _reference(runs.c.run_id), nullable=False),
    Index(None, "run_id"),
)
"""The names that callers gave their requests: the same key means the same run, as long as the run is there."""

run_labels = Table(
    "run_labels",
    metadata,
    Column("key", PlainText, primary_key=True),
    Column("value", PlainText, primary_key=True),
    Column("created_at", UtcTime, primary_key=True),
    Column("run_id", PlainText, _reference(runs.c.run_id), primary_key=True),
    Column("thread_id", PlainText, nullable=False),
    Column("agent", PlainText),
    Index(None, "run_id"),
    sqlite_with_rowid=False,
)
"""Plain values in the metadata of runs, as JSON text, so that runs are found by them; and what never changes of a run."""

run_totals = Table(
    "run_totals",
    metadata,
    Column("seconds", Integer, primary_key=True),
    Column("start", _LongInteger, primary_key=True),
    Column("agent", PlainText, primary_key=True),
    Column("status", PlainText, primary_key=True),
    Column("runs", _LongInteger, nullable=False),
    Column("total_input_tokens", _LongInteger, nullable=False),
    Column("total_output_tokens", _LongInteger, nullable=False),
    Column("llm_call_count", _LongInteger, nullable=False),
    Column("tool_call_count", _LongInteger, nullable=False),
    Column("message_count", _LongInteger, nullable=False),
    Column("priced_runs", _LongInteger, nullable=False),
    Column("cost_nanousd", _LongInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Sums over the ended runs created in a minute, an hour or a day: number `start` from 1970, and `seconds` long."""

duration_totals = Table(
    "duration_totals",
    metadata,
    Column("seconds", Integer, primary_key=True),
    Column("start", _LongInteger, primary_key=True),
    Column("agent", PlainText, primary_key=True),
    Column("status", PlainText, primary_key=True),
    Column("bin", Integer, primary_key=True),
    Column("runs", _LongInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""How many of these runs took how long; a bin is a few percent wide."""

usage_totals = Table(
    "usage_totals",
    metadata,
    Column("seconds", Integer, primary_key=True),
    Column("start", _LongInteger, primary_key=True),
    Column("agent", PlainText, primary_key=True),
    Column("status", PlainText, primary_key=True),
    Column("kind", PlainText, primary_key=True),
    Column("name", PlainText, primary_key=True),
    Column("runs", _LongInteger, nullable=False),
    Column("input_tokens", _LongInteger, nullable=False),
    Column("output_tokens", _LongInteger, nullable=False),
    Column("cache_read_tokens", _LongInteger, nullable=False),
    Column("reasoning_tokens", _LongInteger, nullable=False),
    Column("priced_runs", _LongInteger, nullable=False),
    Column("cost_nanousd", _LongInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""What these runs used: sums of `usage`."""

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("name", PlainText, primary_key=True),
    Column("filter", JsonText, nullable=False),
    Column("cursor", _LongInteger, nullable=False),
    Column("on_failure", PlainText, nullable=False),
    Column("state", PlainText, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("consumer", PlainText),
    Column("clock", PlainText),
    Column("lease_until", Float),
    Column("token", _LongInteger, nullable=False),
    Column("failures", _LongInteger, nullable=False),
    Column("last_error", PlainText),
    Column("last_error_at", UtcTime),
    Column("lease_seconds", Float),
)
"""Observers that are fed from the log. All events up to `cursor` are handled or parked (I25); `token` counts consumers."""

parked_events = Table(
    "parked_events",
    metadata,
    Column("subscription", PlainText, _reference(subscriptions.c.name), primary_key=True),
    Column("position", _LongInteger, _reference(events.c.position), primary_key=True),
    Column("state", PlainText, nullable=False),
    Column("attempts", _LongInteger, nullable=False),
    Column("error", PlainText, nullable=False),
    Column("parked_at", UtcTime, nullable=False),
    Index(None, "position"),
)
"""Events that a subscription could not handle, and went past (I28)."""

_shall_be_retried = parked_events.c.state == "retry"
partial_index("ix_parked_events_retry", parked_events.c.subscription, parked_events.c.position, where=_shall_be_retried)
