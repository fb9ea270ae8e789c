"""Live observers, for operators: whether they keep up."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct

from trackside.app.server.authorizing import OPERATION
from trackside.app.server.principal import Permission
from trackside.app.server.routing import Call, Routes

routes = Routes("Observers")


class ObserverInfo(Struct, frozen=True, kw_only=True):
    """What became of the events that an observer was given: `delivered + failed + dropped + pending` is all of them."""

    name: str
    delivered: int
    failed: int
    """It raised, or took longer than it may."""
    dropped: int
    """It was too far behind to get them."""
    pending: int
    oldest_at: datetime | None
    """When the event happened that waits in front; null if none does."""


@routes.get("/observers", Permission.admin, about=OPERATION, answers={200: list[ObserverInfo]})
async def list_observers(call: Call[None, None]) -> Any:
    """List the live observers of this process, by name, and how they are doing. Durable ones are subscriptions."""
    return [
        ObserverInfo(
            name=name,
            delivered=stats.delivered,
            failed=stats.failed,
            dropped=sum(stats.dropped.values()),
            pending=stats.pending,
            oldest_at=stats.oldest_at,
        )
        for name, stats in sorted(call.parts.vitals.observers().items())
    ]
