"""Runs that wait for a worker are found by their agent, and a page of runs by indexes alone."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"

_Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the agent of runs that wait, which rows that older processes still write leave empty, and change indexes."""
    op.add_column("active_runs", sa.Column("agent", _Text, nullable=False, server_default=""))
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    is_ready = sa.text("owner IS NULL AND state = 'pending' AND holds" + (" = 1" if is_sqlite else ""))
    op.create_index(
        "ix_active_runs_offered",
        "active_runs",
        ["pool", "agent", "ordinal", "version"],
        sqlite_where=is_ready,
        postgresql_where=is_ready,
    )
    op.execute("""
        UPDATE active_runs SET agent =
            coalesce((SELECT runs.agent FROM runs WHERE runs.run_id = active_runs.run_id), '')""")
    op.drop_index("ix_runs_status_created_at_run_id", "runs")
    op.drop_index("ix_runs_agent", "runs")
    op.create_index("ix_runs_status", "runs", ["status", "created_at", "run_id", "removed_at"])
    of_agent = ["agent", "status", "created_at", "run_id", "thread_id", "removed_at"]
    op.create_index("ix_runs_agent", "runs", of_agent)
