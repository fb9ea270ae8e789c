"""Workers and active runs, idempotency keys, labels, totals, subscriptions; the cost of each model and caller; indexes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from trackside.app.storage.migrations.fill_0002 import fill

revision = "0002"
down_revision = "0001"

_Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
_LongInteger = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _reference(column: str, other: str, *, name: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [other], name=name, deferrable=True, initially="DEFERRED")


def upgrade() -> None:
    """Make the tables of what is admitted, summed up and subscribed to; label and sum up the runs that are there."""
    op.add_column("usage", sa.Column("cost_usd", sa.Float))
    _make_workers()
    _make_active_runs()
    _make_idempotency_keys()
    _make_run_labels()
    _make_totals()
    _make_subscriptions()
    _make_counters()
    _change_indexes()
    _make_event_times()
    fill(op.get_bind())


def _make_workers() -> None:
    op.create_table(
        "workers",
        sa.Column("worker_id", _Text, nullable=False),
        sa.Column("name", _Text, nullable=False),
        sa.Column("process", _Text),
        sa.Column("started_at", _Text, nullable=False),
        sa.Column("clock", _Text, nullable=False),
        sa.Column("lease_until", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("worker_id", name="pk_workers"),
    )


def _make_active_runs() -> None:
    op.create_table(
        "active_runs",
        sa.Column("ordinal", _LongInteger, nullable=False),
        sa.Column("run_id", _Text, nullable=False),
        sa.Column("thread_id", _Text, nullable=False),
        sa.Column("state", _Text, nullable=False),
        sa.Column("holds", sa.Boolean, nullable=False),
        sa.Column("owner", _Text),
        sa.Column("due_at", _Text),
        sa.Column("multitask", _Text, nullable=False),
        sa.Column("cancel_requested", _Text),
        sa.Column("at_rest", _Text),
        sa.Column("request", _Text),
        sa.PrimaryKeyConstraint("ordinal", name="pk_active_runs"),
        sa.UniqueConstraint("run_id", name="uq_active_runs_run_id"),
        _reference("run_id", "runs.run_id", name="fk_active_runs_run_id"),
    )
    op.create_index("ix_active_runs_owner", "active_runs", ["owner"])
    for name, columns, unique, where in (
        ("uq_active_runs_one_holder", ["thread_id"], True, "holds"),
        ("ix_active_runs_queue", ["thread_id", "ordinal"], False, "state = 'pending'"),
        ("ix_active_runs_due_at", ["due_at"], False, "due_at IS NOT NULL"),
    ):
        op.create_index(
            name,
            "active_runs",
            columns,
            unique=unique,
            sqlite_where=sa.text(where),
            postgresql_where=sa.text(where),
        )


def _make_idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("key", _Text, nullable=False),
        sa.Column("body", _Text, nullable=False),
        sa.Column("run_id", _Text, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_idempotency_keys"),
        _reference("run_id", "runs.run_id", name="fk_idempotency_keys_run_id"),
    )
    op.create_index("ix_idempotency_keys_run_id", "idempotency_keys", ["run_id"])


def _make_run_labels() -> None:
    op.create_table(
        "run_labels",
        sa.Column("key", _Text, nullable=False),
        sa.Column("value", _Text, nullable=False),
        sa.Column("created_at", _Text, nullable=False),
        sa.Column("run_id", _Text, nullable=False),
        sa.Column("thread_id", _Text, nullable=False),
        sa.Column("agent", _Text),
        sa.PrimaryKeyConstraint("key", "value", "created_at", "run_id", name="pk_run_labels"),
        _reference("run_id", "runs.run_id", name="fk_run_labels_run_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_run_labels_run_id", "run_labels", ["run_id"])


def _make_totals() -> None:
    of_runs = ("total_input_tokens", "total_output_tokens", "llm_call_count", "tool_call_count", "message_count")
    of_usage = ("input_tokens", "output_tokens", "cache_read_tokens", "reasoning_tokens")
    cost = ("priced_runs", "cost_nanousd")
    _make_totals_table("run_totals", (), ("runs", *of_runs, *cost))
    _make_totals_table("duration_totals", ("bin",), ("runs",))
    _make_totals_table("usage_totals", ("kind", "name"), ("runs", *of_usage, *cost))


def _make_totals_table(name: str, keys: tuple[str, ...], sums: tuple[str, ...]) -> None:
    op.create_table(
        name,
        sa.Column("seconds", sa.Integer, nullable=False),
        sa.Column("start", _LongInteger, nullable=False),
        sa.Column("agent", _Text, nullable=False),
        sa.Column("status", _Text, nullable=False),
        *(sa.Column(key, sa.Integer if key == "bin" else _Text, nullable=False) for key in keys),
        *(sa.Column(column, _LongInteger, nullable=False) for column in sums),
        sa.PrimaryKeyConstraint("seconds", "start", "agent", "status", *keys, name=f"pk_{name}"),
        sqlite_with_rowid=False,
    )


def _make_subscriptions() -> None:
    op.create_table(
        "subscriptions",
        sa.Column("name", _Text, nullable=False),
        sa.Column("filter", _Text, nullable=False),
        sa.Column("cursor", _LongInteger, nullable=False),
        sa.Column("on_failure", _Text, nullable=False),
        sa.Column("state", _Text, nullable=False),
        sa.Column("created_at", _Text, nullable=False),
        sa.Column("updated_at", _Text, nullable=False),
        sa.Column("consumer", _Text),
        sa.Column("clock", _Text),
        sa.Column("lease_until", sa.Float),
        sa.Column("token", _LongInteger, nullable=False),
        sa.Column("failures", _LongInteger, nullable=False),
        sa.Column("last_error", _Text),
        sa.Column("last_error_at", _Text),
        sa.PrimaryKeyConstraint("name", name="pk_subscriptions"),
    )
    op.create_table(
        "parked_events",
        sa.Column("subscription", _Text, nullable=False),
        sa.Column("position", _LongInteger, nullable=False),
        sa.Column("state", _Text, nullable=False),
        sa.Column("attempts", _LongInteger, nullable=False),
        sa.Column("error", _Text, nullable=False),
        sa.Column("parked_at", _Text, nullable=False),
        sa.PrimaryKeyConstraint("subscription", "position", name="pk_parked_events"),
        _reference("subscription", "subscriptions.name", name="fk_parked_events_subscription"),
        _reference("position", "events.position", name="fk_parked_events_position"),
    )
    op.create_index("ix_parked_events_position", "parked_events", ["position"])
    retry = sa.text("state = 'retry'")
    op.create_index(
        "ix_parked_events_retry",
        "parked_events",
        ["subscription", "position"],
        sqlite_where=retry,
        postgresql_where=retry,
    )


def _make_event_times() -> None:
    op.create_table(
        "event_times",
        sa.Column("part", _LongInteger, nullable=False, autoincrement=False),
        sa.Column("latest", _Text, nullable=False),
        sa.Column("oldest_run", _Text, nullable=False),
        sa.Column("newest_run", _Text, nullable=False),
        sa.PrimaryKeyConstraint("part", name="pk_event_times"),
    )
    op.execute("""
        INSERT INTO event_times (part, latest, oldest_run, newest_run)
        SELECT position / 4096, max(occurred_at), min(created_at), max(created_at)
        FROM events JOIN runs ON runs.run_id = events.run_id GROUP BY position / 4096""")


def _change_indexes() -> None:
    """Find records by agent and status together, and rare events; the time alone is what all statuses together give."""
    op.drop_index("ix_threads_updated_at_thread_id", "threads")
    op.drop_index("ix_runs_created_at_run_id", "runs")
    op.drop_index("ix_runs_agent_created_at_run_id", "runs")
    op.drop_index("ix_runs_thread_id_created_at_run_id", "runs")
    op.create_index("ix_threads_status_updated_at_thread_id", "threads", ["status", "updated_at", "thread_id"])
    op.create_index("ix_runs_thread", "runs", ["thread_id", "created_at", "run_id", "agent"])
    op.create_index("ix_runs_agent", "runs", ["agent", "status", "created_at", "run_id", "thread_id"])
    is_rare = sa.text("event_type IN ('run_cancelled', 'run_failed')")
    op.create_index(
        "ix_events_rare", "events", ["event_type", "position"], sqlite_where=is_rare, postgresql_where=is_rare
    )


def _make_counters() -> None:
    counters = sa.table("counters", sa.column("name"), sa.column("value"))
    op.bulk_insert(counters, [{"name": "token", "value": 0}, {"name": "removals", "value": 0}])
