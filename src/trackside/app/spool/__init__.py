"""Keeps on this machine's disk what a log could not take, until it can. Imports the harness alone: it needs no database."""

from trackside.app.spool.errors import SpoolError, SpoolFullError
from trackside.app.spool.spool import (
    DAMAGED_FILE,
    REFUSED_FILE,
    DeliveryReport,
    EventLog,
    Spool,
    SpoolStats,
    is_refusal,
)

__all__ = [
    "DAMAGED_FILE",
    "REFUSED_FILE",
    "DeliveryReport",
    "EventLog",
    "Spool",
    "SpoolError",
    "SpoolFullError",
    "SpoolStats",
    "is_refusal",
]
