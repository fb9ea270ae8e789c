"""Pools and versions of runs that any worker may take; what workers are; duties; what runs say, for other processes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"

_Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Add them with defaults, so that rows that older processes still write say what is true of those processes."""
    op.add_column("active_runs", sa.Column("pool", _Text, nullable=False, server_default="default"))
    op.add_column("active_runs", sa.Column("version", _Text))
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    is_nobodys = "owner IS NULL AND state = 'pending' AND holds" + (" = 1" if is_sqlite else "")
    _index_where("ix_active_runs_ready", ["pool", "ordinal"], is_nobodys)
    _index_where("ix_active_runs_to_promote", ["due_at"], "owner IS NULL AND state = 'delayed'")
    for name, default in (("kind", "inline"), ("pools", "[]"), ("agents", "[]")):
        op.add_column("workers", sa.Column(name, _Text, nullable=False, server_default=default))
    for name in ("capacity", "running"):
        op.add_column("workers", sa.Column(name, sa.Integer, nullable=False, server_default="0"))
    op.add_column("workers", sa.Column("draining", sa.Boolean, nullable=False, server_default="0"))
    for name in ("version", "address", "isolated_in", "release"):
        op.add_column("workers", sa.Column(name, _Text))
    op.create_table(
        "duties",
        sa.Column("name", _Text, nullable=False),
        sa.Column("holder", _Text, nullable=False),
        sa.Column("clock", _Text, nullable=False),
        sa.Column("lease_until", sa.Float, nullable=False),
        sa.Column("since", _Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_duties"),
    )
    if not is_sqlite:
        _live_parts()


def _live_parts() -> None:
    op.create_table(
        "live_parts",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("grp", sa.Text, nullable=False),
        sa.Column("message", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("id", name="pk_live_parts"),
        prefixes=["UNLOGGED"],
    )
    op.create_index("ix_live_parts_topic_id", "live_parts", ["topic", "id"])
    op.create_index("ix_live_parts_grp_id", "live_parts", ["grp", "id"])
    op.create_index("ix_live_parts_at", "live_parts", ["at"])


def _index_where(name: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, "active_runs", columns, sqlite_where=where, postgresql_where=where)
