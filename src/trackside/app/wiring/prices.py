"""The list of what calls of models cost, read beside everything else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from trackside.app.pricing import GenaiPrices
from trackside.harness.timelimit import settled


@asynccontextmanager
async def read_beside(prices: GenaiPrices) -> AsyncGenerator[None]:
    """Have a price list read in a thread, so that the first call of a model does not stop the event loop for it."""
    reading = asyncio.create_task(asyncio.to_thread(prices.load), name="trackside-prices")
    try:
        yield
    finally:
        await settled(reading)
