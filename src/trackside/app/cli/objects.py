"""What was recorded as JSON objects, for programs: every field, times in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import Json, JsonObject

if TYPE_CHECKING:
    from trackside.app.storage import StoredEvent


def event_object(event: RunLifecycleEvent) -> JsonObject:
    """An event, with its fields in the order of the contract."""
    return {field.name: _plain(getattr(event, field.name)) for field in fields(event)}


def stored_event_object(stored: StoredEvent) -> JsonObject:
    """An event of the log, with its position first."""
    return {"position": stored.position, **event_object(stored.event)}


def record_object(record: Any) -> JsonObject:
    """A record of the store (a run, a thread, totals)."""
    return {field.name: _plain(getattr(record, field.name)) for field in fields(record)}


def _plain(value: Any) -> Json:
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return record_object(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
