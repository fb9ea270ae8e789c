"""Savers that make runs of tests meet."""

import asyncio
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver


class ShownToTwo(InMemorySaver):
    """Shows what it holds to two readers at the same time, once it is told that two will come."""

    def __init__(self) -> None:
        super().__init__()
        self.two: asyncio.Barrier | None = None

    async def aget_tuple(self, config: Any) -> Any:
        found = await super().aget_tuple(config)
        if self.two is not None:
            await self.two.wait()
            self.two = None
        return found
