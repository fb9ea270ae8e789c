"""What the log says of a thread, in words."""

from __future__ import annotations

from typing import Any

from trackside.app.storage import Store


async def told(store: Store, thread_id: str) -> list[str]:
    """The events of a thread, each with its status, kind of error and way of being cancelled, if it has them."""
    events = await store.events(thread_id=thread_id)
    return [" ".join([e.event.event_type.value, *_details(e.event.payload)]) for e in events]


def _details(payload: Any) -> list[str]:
    return [str(payload[key]) for key in ("status", "error_type", "cancel_mode") if key in payload]
