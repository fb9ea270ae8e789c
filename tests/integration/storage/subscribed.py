"""Subscriptions as tests look at them: the positions of what they gave, and leases whose time is up."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import update
from tests.integration.storage.writer_works import OnSession

from trackside.app.storage import Store, StoredEvent
from trackside.app.storage._rows.tables import subscriptions as table


async def end_leases(store: Store, **values: Any) -> None:
    """As if the time of all leases were up."""
    ended = update(table).values(**{"lease_until": 0.0} | values)
    await store._writer.write(OnSession(lambda session: session.execute(ended)))


def positions(found: Sequence[StoredEvent]) -> list[int]:
    return [stored.position for stored in found]
