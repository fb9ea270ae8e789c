"""A worker's first look: with it, and otherwise once in a third of its lease, it ends what others have left behind."""

from __future__ import annotations

import asyncio

from trackside.app.storage.coordinator import StoredCoordinator


def first_look(coordinator: StoredCoordinator) -> asyncio.Event:
    """An event that is set when this worker, to which no manager is attached yet, has looked for the first time.

    One that has not may end the runs of a worker that a test takes for dead meanwhile, though another should do that.
    """
    upkeep, has_looked = coordinator._upkeep, asyncio.Event()
    look = upkeep.look

    async def look_and_say() -> None:
        await look()
        has_looked.set()

    upkeep.look = look_and_say  # type: ignore[method-assign]
    return has_looked
