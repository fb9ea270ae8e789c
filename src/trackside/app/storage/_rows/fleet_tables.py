"""The tables of what a fleet shares besides its runs and workers: duties, and what runs have said lately."""

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
    func,
)

from trackside.app.storage._rows.tables import PlainText, UtcTime, metadata

duties = Table(
    "duties",
    metadata,
    Column("name", PlainText, primary_key=True),
    Column("holder", PlainText, nullable=False),
    Column("clock", PlainText, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("since", UtcTime, nullable=False),
    Column("lease_seconds", Float),
)
"""What one process does for all: the one that holds the lease, which is like those of workers."""

FORGETTING: Final = "forgetting"
"""The duty that whoever asks others to forget threads has meanwhile; it is nothing of a fleet's."""

server_metadata: Final = MetaData(naming_convention=metadata.naming_convention)
"""Tables that only a database server has: where processes share an SQLite file, each run is executed by one of them."""

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
"""What runs have said lately. Unlogged: a server that crashes comes back without it, but writes it half as often."""
