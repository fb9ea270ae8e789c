"""Engines on NATS in one process, as many as a test wants, and what tests wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

from nats.aio.client import Client

from trackside.app.engine.nats import NatsOptions, open_nats
from trackside.app.engine.nats._engine import NatsEngine
from trackside.app.engine.ports import Offer, Offers


class Open(Protocol):
    """Opens an engine that is closed with the test; it is connected (unless `away`) when this returns."""

    async def __call__(self, url: str, *, away: bool = False, **options: Any) -> NatsEngine: ...


async def until(condition: Callable[[], object], *, seconds: float = 30) -> None:
    """Wait for something that has no event of its own."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def soon(offers: Offers) -> Offer:
    """The next offer."""
    async with asyncio.timeout(30):
        return await offers.next()


async def taken(client: Client) -> None:
    """Wait until NATS has all that a client was given: twice, as the client's ping may overtake what it still holds."""
    for _ in range(2):
        await client.flush()


def ignore(_: str) -> None:
    """Does nothing: for a worker whom nobody stops."""


@asynccontextmanager
async def opening() -> AsyncGenerator[Open]:
    """Close the engines that were opened."""
    async with AsyncExitStack() as stack:

        async def open_one(url: str, *, away: bool = False, **options: Any) -> NatsEngine:
            engine = await stack.enter_async_context(open_nats(NatsOptions(url=url, **options)))
            if not away:
                await until(lambda: engine.status().connected and engine.live._speaks)
            return engine

        yield open_one
