"""The tables of what clients keep here besides runs and threads: items, crons, API keys."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, Index, Table

from trackside.app.storage._rows.tables import JsonText, PlainText, UtcTime, metadata, partial_index

items = Table(
    "items",
    metadata,
    Column("namespace", PlainText, primary_key=True),
    Column("key", PlainText, primary_key=True),
    Column("value", JsonText, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime),
    Column("ttl_minutes", Float),
    # All that decides which items are found, so that no others are read: values may be long.
    Index("ix_items_newest", "namespace", "updated_at", "key", "expires_at"),
)
"""What agents keep beyond their threads. A namespace is its labels, none of which has a dot, with one after each.

So all that begin with the same labels are adjacent.
"""

partial_index("ix_items_expires_at", items.c.expires_at, where=items.c.expires_at.is_not(None))

crons = Table(
    "crons",
    metadata,
    Column("cron_id", PlainText, primary_key=True),
    Column("agent", PlainText, nullable=False),
    Column("thread_id", PlainText),
    Column("schedule", PlainText, nullable=False),
    Column("timezone", PlainText),
    Column("end_time", UtcTime),
    Column("enabled", Boolean, nullable=False),
    Column("disabled_because", PlainText),
    Column("on_run_completed", PlainText),
    Column("payload", JsonText, nullable=False),
    Column("metadata", JsonText, nullable=False),
    Column("owner", PlainText),
    Column("next_run_at", UtcTime),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
)
"""Runs that are to be started again and again. `next_run_at` is when the next one is due; None: never again."""

partial_index("ix_crons_next_run_at", crons.c.next_run_at, where=crons.c.next_run_at.is_not(None))

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", PlainText, primary_key=True),
    Column("name", PlainText, nullable=False),
    Column("digest", PlainText, nullable=False, unique=True),
    Column("owner", PlainText, nullable=False),
    Column("permissions", JsonText, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime),
    Column("revoked_at", UtcTime),
)
"""Keys with which clients say who they are; of a key itself, only a digest is kept."""
