"""An event as JSON for others: the same bytes whenever it is written, and wherever it was read (I26)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from trackside.harness.observer import RunLifecycleEvent

__all__ = ["EventData", "data_of", "encode"]


class EventData(msgspec.Struct, frozen=True):
    """An event, whole. The order of the fields is that of the JSON."""

    event_id: str
    event_type: str
    run_id: str
    thread_id: str
    sequence: int
    occurred_at: datetime
    payload: Mapping[str, Any]


encode: Callable[[Any], bytes] = msgspec.json.Encoder(order="deterministic").encode
"""Encodes an `EventData`, or something with one in it, as JSON. Keys of payloads are sorted, so equal events have equal
bytes.
"""


def data_of(event: RunLifecycleEvent, payload: Mapping[str, Any] | None = None) -> EventData:
    """What an event says as `EventData`; with another payload if there is one."""
    return EventData(
        event.event_id,
        event.event_type.value,
        event.run_id,
        event.thread_id,
        event.sequence,
        event.occurred_at,
        event.payload if payload is None else payload,
    )
