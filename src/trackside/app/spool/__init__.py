"""Keeps on this machine's disk what a log could not take, until it can. Imports the harness alone: it needs no database."""

from trackside.app.spool.errors import SpoolError, SpoolFullError
from trackside.app.spool.spool import DeliveryReport, EventLog, Spool, SpoolStats, is_refusal

__all__ = ["DeliveryReport", "EventLog", "Spool", "SpoolError", "SpoolFullError", "SpoolStats", "is_refusal"]
