"""An index that finds the runs that a run has started."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add an index of the runs that another one has started, in the order of listings."""
    is_child = sa.text("parent_run_id IS NOT NULL")
    columns = ["parent_run_id", "created_at", "run_id"]
    op.create_index("ix_runs_parent", "runs", columns, sqlite_where=is_child, postgresql_where=is_child)
