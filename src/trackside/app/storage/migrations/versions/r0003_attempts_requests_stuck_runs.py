"""Since when a run is stuck."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"

_Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Add what is known of runs that do not stop."""
    op.add_column("active_runs", sa.Column("stuck_since", _Text))
