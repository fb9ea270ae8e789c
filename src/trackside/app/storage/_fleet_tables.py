"""The tables of what a fleet shares beside its runs and workers: duties, and what runs have said lately. And the indexes by
which runs that are nobody's are found.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Float,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    and_,
    func,
)

from trackside.app.storage._tables import PlainText, UtcTime, active_runs, metadata

_is_nobodys = active_runs.c.owner.is_(None)
_is_ready = and_(_is_nobodys, active_runs.c.state == "pending", active_runs.c.holds)
_is_to_promote = and_(_is_nobodys, active_runs.c.state == "delayed")
Index(
    "ix_active_runs_ready",
    active_runs.c.pool,
    active_runs.c.ordinal,
    sqlite_where=_is_ready,
    postgresql_where=_is_ready,
)
# A worker finds those of its agents without reading past the others'. The version is there to be looked at.
Index(
    "ix_active_runs_offered",
    active_runs.c.pool,
    active_runs.c.agent,
    active_runs.c.ordinal,
    active_runs.c.version,
    sqlite_where=_is_ready,
    postgresql_where=_is_ready,
)
Index("ix_active_runs_to_promote", active_runs.c.due_at, sqlite_where=_is_to_promote, postgresql_where=_is_to_promote)

duties = Table(
    "duties",
    metadata,
    Column("name", PlainText, primary_key=True),
    Column("holder", PlainText, nullable=False),
    Column("clock", PlainText, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("since", UtcTime, nullable=False),
)
"""What one process does for all: whoever holds the lease, which is as those of workers."""

server_metadata: Final = MetaData(naming_convention=metadata.naming_convention)
"""Tables that only a database server has: of who shares an SQLite file, one process executes each run."""

live_parts = Table(
    "live_parts",
    server_metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("topic", Text, nullable=False),
    Column("grp", Text, nullable=False),
    Column("message", LargeBinary, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index(None, "topic", "id"),
    Index(None, "grp", "id"),
    Index(None, "at"),
    prefixes=["UNLOGGED"],
)
"""What runs have said lately: a server that crashes comes back with none of it, and writes it half as often."""
