"""Owners, metadata and removal of threads; what agents keep beyond them; crons; API keys."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"

_Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the columns and tables, and say which agent threads had last, and which runs were rolled back."""
    for name in ("agent", "owner", "metadata", "expires_at", "removed_at"):
        op.add_column("threads", sa.Column(name, _Text))
    op.add_column("threads", sa.Column("ttl_minutes", sa.Float))
    for name in ("ends", "forgotten"):
        op.add_column("threads", sa.Column(name, sa.Boolean, nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("removed_at", _Text))
    _threads_indexes()
    _index_where("ix_active_runs_delayed", "active_runs", ["thread_id"], "state = 'delayed'")
    _fill()
    _thread_labels()
    _items()
    _crons()
    _api_keys()


def _fill() -> None:
    newest = (
        "SELECT agent FROM runs WHERE runs.thread_id = threads.thread_id ORDER BY created_at DESC, run_id DESC LIMIT 1"
    )
    op.execute(f"UPDATE threads SET agent = ({newest})")
    # As the JSON text is in the log; inside a string, the quotes would be escaped.
    says = """event_type = 'run_cancelled' AND payload LIKE '%"cancel_mode"_"rollback"%'"""
    op.execute(f"UPDATE runs SET removed_at = ended_at WHERE run_id IN (SELECT run_id FROM events WHERE {says})")


def _threads_indexes() -> None:
    op.drop_index("ix_threads_status_updated_at_thread_id", "threads")
    page = ["status", "updated_at", "thread_id"]
    _index_where("ix_threads_status", "threads", [*page, "agent"], "removed_at IS NULL")
    _index_where("ix_threads_removed", "threads", page, "removed_at IS NOT NULL")
    _index_some("ix_threads_owner", "threads", ["owner", "removed_at", "updated_at", "thread_id"])
    _index_where("ix_threads_expires_at", "threads", ["expires_at"], "expires_at IS NOT NULL AND removed_at IS NULL")
    is_gone = "removed_at IS NOT NULL AND " + ("{} = 0" if op.get_bind().dialect.name == "sqlite" else "NOT {}")
    _index_where("ix_threads_to_forget", "threads", ["removed_at", "thread_id"], is_gone.format("forgotten"))
    _index_where("ix_threads_to_delete", "threads", ["thread_id"], is_gone.format("ends"))


def _index_some(name: str, table: str, columns: list[str]) -> None:
    _index_where(name, table, columns, f"{columns[0]} IS NOT NULL")


def _index_where(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def _thread_labels() -> None:
    op.create_table(
        "thread_labels",
        sa.Column("key", _Text, nullable=False),
        sa.Column("value", _Text, nullable=False),
        sa.Column("thread_id", _Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["thread_id"],
            ["threads.thread_id"],
            name="fk_thread_labels_thread_id",
            deferrable=True,
            initially="DEFERRED",
        ),
        sa.PrimaryKeyConstraint("key", "value", "thread_id", name="pk_thread_labels"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_thread_labels_thread_id", "thread_labels", ["thread_id"])


def _items() -> None:
    op.create_table(
        "items",
        sa.Column("namespace", _Text, nullable=False),
        sa.Column("key", _Text, nullable=False),
        sa.Column("value", _Text, nullable=False),
        sa.Column("created_at", _Text, nullable=False),
        sa.Column("updated_at", _Text, nullable=False),
        sa.Column("expires_at", _Text),
        sa.Column("ttl_minutes", sa.Float),
        sa.PrimaryKeyConstraint("namespace", "key", name="pk_items"),
    )
    op.create_index("ix_items_newest", "items", ["namespace", "updated_at", "key", "expires_at"])
    _index_some("ix_items_expires_at", "items", ["expires_at"])


def _crons() -> None:
    op.create_table(
        "crons",
        sa.Column("cron_id", _Text, nullable=False),
        sa.Column("agent", _Text, nullable=False),
        sa.Column("thread_id", _Text),
        sa.Column("schedule", _Text, nullable=False),
        sa.Column("timezone", _Text),
        sa.Column("end_time", _Text),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("disabled_because", _Text),
        sa.Column("on_run_completed", _Text),
        sa.Column("payload", _Text, nullable=False),
        sa.Column("metadata", _Text, nullable=False),
        sa.Column("owner", _Text),
        sa.Column("next_run_at", _Text),
        sa.Column("created_at", _Text, nullable=False),
        sa.Column("updated_at", _Text, nullable=False),
        sa.PrimaryKeyConstraint("cron_id", name="pk_crons"),
    )
    _index_some("ix_crons_next_run_at", "crons", ["next_run_at"])


def _api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", _Text, nullable=False),
        sa.Column("name", _Text, nullable=False),
        sa.Column("digest", _Text, nullable=False),
        sa.Column("owner", _Text, nullable=False),
        sa.Column("permissions", _Text, nullable=False),
        sa.Column("created_at", _Text, nullable=False),
        sa.Column("expires_at", _Text),
        sa.Column("revoked_at", _Text),
        sa.PrimaryKeyConstraint("key_id", name="pk_api_keys"),
        sa.UniqueConstraint("digest", name="uq_api_keys_digest"),
    )
