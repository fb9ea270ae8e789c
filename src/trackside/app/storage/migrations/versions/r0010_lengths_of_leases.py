"""For how long leases were given, so that none lasts much longer where a clock is set back."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the columns; for leases that were given before, the length is not known."""
    for table in ("workers", "subscriptions", "duties"):
        op.add_column(table, sa.Column("lease_seconds", sa.Float))
