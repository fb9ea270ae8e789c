"""An index that finds deleted threads apart from those that went with their runs and whose results linger."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Put first in the index what tells them apart."""
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    where = sa.text("removed_at IS NOT NULL AND " + ("forgotten = 0" if is_sqlite else "NOT forgotten"))
    op.drop_index("ix_threads_to_forget", "threads")
    op.create_index(
        "ix_threads_to_forget",
        "threads",
        ["ends", "removed_at", "thread_id"],
        sqlite_where=where,
        postgresql_where=where,
    )
