"""Threads, runs, events, usage, thread states, counters."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

_Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
_LongInteger = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_ENDS_A_RUN = sa.text("event_type IN ('run_cancelled', 'run_completed', 'run_failed')")


def _reference(column: str, other: str, *, name: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [other], name=name, deferrable=True, initially="DEFERRED")


def upgrade() -> None:
    """Make the first tables."""
    _make_threads()
    _make_runs()
    _make_events()
    _make_usage()
    _make_thread_states()
    _make_counters()


def _make_threads() -> None:
    op.create_table(
        "threads",
        sa.Column("thread_id", _Text, nullable=False),
        sa.Column("status", _Text, nullable=False),
        sa.Column("title", _Text),
        sa.Column("created_at", _Text, nullable=False),
        sa.Column("updated_at", _Text, nullable=False),
        sa.Column("last_run_id", _Text),
        sa.PrimaryKeyConstraint("thread_id", name="pk_threads"),
    )
    op.create_index("ix_threads_updated_at_thread_id", "threads", ["updated_at", "thread_id"])


def _make_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("run_id", _Text, nullable=False),
        sa.Column("thread_id", _Text, nullable=False),
        sa.Column("agent", _Text),
        sa.Column("status", _Text, nullable=False),
        sa.Column("created_at", _Text, nullable=False),
        sa.Column("started_at", _Text),
        sa.Column("ended_at", _Text),
        sa.Column("last_sequence", _LongInteger, nullable=False),
        sa.Column("title", _Text),
        sa.Column("error", _Text),
        sa.Column("error_type", _Text),
        sa.Column("parent_run_id", _Text),
        sa.Column("trigger", _Text),
        sa.Column("metadata", _Text, nullable=False),
        sa.Column("completion_data", _Text),
        sa.Column("total_input_tokens", _LongInteger, nullable=False, server_default="0"),
        sa.Column("total_output_tokens", _LongInteger, nullable=False, server_default="0"),
        sa.Column("llm_call_count", _LongInteger, nullable=False, server_default="0"),
        sa.Column("tool_call_count", _LongInteger, nullable=False, server_default="0"),
        sa.Column("message_count", _LongInteger, nullable=False, server_default="0"),
        sa.Column("duration_seconds", sa.Float),
        sa.Column("cost_usd", sa.Float),
        sa.PrimaryKeyConstraint("run_id", name="pk_runs"),
        _reference("thread_id", "threads.thread_id", name="fk_runs_thread_id"),
    )
    for columns in (
        ["created_at", "run_id"],
        ["thread_id", "created_at", "run_id"],
        ["status", "created_at", "run_id"],
        ["agent", "created_at", "run_id"],
    ):
        op.create_index(f"ix_runs_{'_'.join(columns)}", "runs", columns)


def _make_events() -> None:
    op.create_table(
        "events",
        sa.Column("position", _LongInteger, nullable=False, autoincrement=False),
        sa.Column("event_id", _Text, nullable=False),
        sa.Column("run_id", _Text, nullable=False),
        sa.Column("thread_id", _Text, nullable=False),
        sa.Column("sequence", _LongInteger, nullable=False),
        sa.Column("event_type", _Text, nullable=False),
        sa.Column("occurred_at", _Text, nullable=False),
        sa.Column("payload", _Text, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_events"),
        sa.UniqueConstraint("run_id", "sequence", name="uq_events_run_id_sequence"),
        sa.UniqueConstraint("event_id", name="uq_events_event_id"),
        _reference("run_id", "runs.run_id", name="fk_events_run_id"),
    )
    op.create_index(
        "uq_events_one_end",
        "events",
        ["run_id"],
        unique=True,
        sqlite_where=_ENDS_A_RUN,
        postgresql_where=_ENDS_A_RUN,
    )


def _make_usage() -> None:
    op.create_table(
        "usage",
        sa.Column("run_id", _Text, nullable=False),
        sa.Column("kind", _Text, nullable=False),
        sa.Column("name", _Text, nullable=False),
        sa.Column("input_tokens", _LongInteger, nullable=False),
        sa.Column("output_tokens", _LongInteger, nullable=False),
        sa.Column("cache_read_tokens", _LongInteger, nullable=False),
        sa.Column("reasoning_tokens", _LongInteger, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "kind", "name", name="pk_usage"),
        _reference("run_id", "runs.run_id", name="fk_usage_run_id"),
        sqlite_with_rowid=False,
    )


def _make_thread_states() -> None:
    op.create_table(
        "thread_states",
        sa.Column("thread_id", _Text, nullable=False),
        sa.Column("remembered", _Text, nullable=False),
        sa.Column("paused", _Text),
        sa.Column("updated_at", _Text, nullable=False),
        sa.PrimaryKeyConstraint("thread_id", name="pk_thread_states"),
    )


def _make_counters() -> None:
    counters = op.create_table(
        "counters",
        sa.Column("name", _Text, nullable=False),
        sa.Column("value", _LongInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_counters"),
        sqlite_with_rowid=False,
    )
    op.bulk_insert(counters, [{"name": "position", "value": 0}])
