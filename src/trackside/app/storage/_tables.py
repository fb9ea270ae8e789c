"""The tables, declared once. The migrations build the same; a test compares the two.

Times are text, `2026-01-31T09:30:00.123456Z`: exact to the microsecond, in order when sorted as text, and readable in
the sqlite3 shell. JSON is text too, so that every database gives back what it was given (I10).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
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
)

from trackside.app.storage._encoding import json_of, json_text, time_of, time_text
from trackside.harness.lifecycle import TERMINAL_EVENTS
from trackside.harness.types import Json

POSITION = "position"
"""The name of the counter that numbers events."""


class UtcTime(TypeDecorator[datetime]):
    """An aware UTC time, as text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        return None if value is None else time_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else time_of(value)


class JsonText(TypeDecorator[Json]):
    """A JSON value, as text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Json, dialect: Dialect) -> str | None:
        return None if value is None else json_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Json:
        return None if value is None else json_of(value)


# In SQLite a column is the row's own number, the cheapest key there is, only if it is declared as exactly INTEGER.
_LongInteger = BigInteger().with_variant(Integer, "sqlite")


def _reference(column: Column[str]) -> ForeignKey:
    # Checked at the commit: checked at once, SQLite would keep a second copy of each page that a bulk statement touches.
    return ForeignKey(column, deferrable=True, initially="DEFERRED")


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
    Column("thread_id", Text, primary_key=True),
    Column("status", Text, nullable=False),
    Column("title", Text),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("last_run_id", Text),
    Index(None, "updated_at", "thread_id"),
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("thread_id", Text, _reference(threads.c.thread_id), nullable=False),
    Column("agent", Text),
    Column("status", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("started_at", UtcTime),
    Column("ended_at", UtcTime),
    Column("last_sequence", _LongInteger, nullable=False),
    Column("title", Text),
    Column("error", Text),
    Column("error_type", Text),
    Column("parent_run_id", Text),
    Column("trigger", Text),
    Column("metadata", JsonText, nullable=False),
    Column("completion_data", JsonText),
    Column("total_input_tokens", _LongInteger, nullable=False, server_default="0"),
    Column("total_output_tokens", _LongInteger, nullable=False, server_default="0"),
    Column("llm_call_count", _LongInteger, nullable=False, server_default="0"),
    Column("tool_call_count", _LongInteger, nullable=False, server_default="0"),
    Column("message_count", _LongInteger, nullable=False, server_default="0"),
    Column("duration_seconds", Float),
    Column("cost_usd", Float),
    Index(None, "created_at", "run_id"),
    Index(None, "thread_id", "created_at", "run_id"),
    Index(None, "status", "created_at", "run_id"),
    Index(None, "agent", "created_at", "run_id"),
)

events = Table(
    "events",
    metadata,
    Column("position", _LongInteger, primary_key=True, autoincrement=False),
    Column("event_id", Text, nullable=False, unique=True),
    Column("run_id", Text, _reference(runs.c.run_id), nullable=False),
    Column("thread_id", Text, nullable=False),
    Column("sequence", _LongInteger, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("occurred_at", UtcTime, nullable=False),
    Column("payload", JsonText, nullable=False),
    # No index by thread: it would touch one more page for each event, which costs a quarter of the speed of appending.
    # A thread's events are found through its runs.
    UniqueConstraint("run_id", "sequence"),
)

_ends_a_run = events.c.event_type.in_(sorted(TERMINAL_EVENTS))
Index("uq_events_one_end", events.c.run_id, unique=True, sqlite_where=_ends_a_run, postgresql_where=_ends_a_run)  # I5

usage = Table(
    "usage",
    metadata,
    Column("run_id", Text, _reference(runs.c.run_id), primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("input_tokens", _LongInteger, nullable=False),
    Column("output_tokens", _LongInteger, nullable=False),
    Column("cache_read_tokens", _LongInteger, nullable=False),
    Column("reasoning_tokens", _LongInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Tokens of ended runs: of `kind` "model" or "caller", as their `completion_data` tells it."""

thread_states = Table(
    "thread_states",
    metadata,
    Column("thread_id", Text, primary_key=True),
    Column("remembered", JsonText, nullable=False),
    Column("paused", JsonText),
    Column("updated_at", UtcTime, nullable=False),
)

counters = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", _LongInteger, nullable=False),
    sqlite_with_rowid=False,
)
