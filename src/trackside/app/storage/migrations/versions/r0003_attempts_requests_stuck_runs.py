"""Attempts; what was asked for, also of runs that have ended; since when a run is stuck."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"

_Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
_LongInteger = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Move what was asked for from the active runs to all runs, and add what is known of attempts and of stuck runs."""
    op.add_column("runs", sa.Column("attempt", _LongInteger, nullable=False, server_default="1"))
    op.add_column("runs", sa.Column("retry_of", _Text))
    op.add_column("runs", sa.Column("request", _Text))
    is_retry = sa.text("retry_of IS NOT NULL")
    op.create_index("ix_runs_retry_of", "runs", ["retry_of"], sqlite_where=is_retry, postgresql_where=is_retry)
    op.add_column("active_runs", sa.Column("stuck_since", _Text))
    op.add_column("active_runs", sa.Column("portable", sa.Boolean, nullable=False, server_default="0"))
    op.add_column("active_runs", sa.Column("keeps_request", sa.Boolean, nullable=False, server_default="1"))
    op.execute("""
        UPDATE runs SET request = (SELECT request FROM active_runs WHERE active_runs.run_id = runs.run_id)
        WHERE run_id IN (SELECT run_id FROM active_runs)""")
    op.execute("UPDATE active_runs SET portable = (request IS NOT NULL)")
    op.drop_column("active_runs", "request")
