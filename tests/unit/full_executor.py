"""An event loop whose own threads are all taken, as agents leave it whose plain functions hang."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager


@asynccontextmanager
async def full_executor() -> AsyncIterator[None]:
    """Take the threads of this loop's executor, and give whatever must not wait for one half a minute."""
    go_on, loop = threading.Event(), asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    taken = loop.run_in_executor(None, go_on.wait)
    try:
        async with asyncio.timeout(30):
            yield
    finally:
        go_on.set()
        await taken
