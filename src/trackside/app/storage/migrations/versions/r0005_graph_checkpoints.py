"""Checkpoints of graphs in tables of our own."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"

_Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the tables. What LangGraph's savers have left in theirs moves over when a thread is next used."""
    op.create_table(
        "graph_checkpoints",
        *_texts("thread_id", "namespace", "checkpoint_id"),
        sa.Column("parent_id", _Text),
        sa.Column("run_id", _Text),
        *_texts("refs", "encoding"),
        sa.Column("body", sa.LargeBinary, nullable=False),
        *_texts("metadata_encoding"),
        sa.Column("metadata", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("thread_id", "namespace", "checkpoint_id", name="pk_graph_checkpoints"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "graph_values",
        *_texts("thread_id", "namespace", "channel", "version", "encoding"),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("thread_id", "namespace", "channel", "version", name="pk_graph_values"),
    )
    op.create_table(
        "graph_writes",
        *_texts("thread_id", "namespace", "checkpoint_id", "task_id"),
        sa.Column("place", sa.Integer, nullable=False),
        *_texts("task_path", "channel", "encoding"),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("thread_id", "namespace", "checkpoint_id", "task_id", "place", name="pk_graph_writes"),
        sqlite_with_rowid=False,
    )


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, _Text, nullable=False) for name in names]
