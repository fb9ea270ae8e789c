"""Servers beside the app: real ones, each in a process that ends with this one, whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from kept_server import KeptServer


@asynccontextmanager
async def running[S: KeptServer](make: Callable[[], S]) -> AsyncGenerator[S]:
    """A server that `make` starts and waits for; it is stopped at the end, even if nobody awaits its start any more."""
    starting = asyncio.create_task(asyncio.to_thread(make), name="demo: server")
    try:
        server = await asyncio.shield(starting)
    except asyncio.CancelledError:
        (await starting).close()
        raise
    try:
        yield server
    finally:
        await asyncio.to_thread(server.close)
