"""Runs of managers that record in a store: of an agent that ends at once, and of one that waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.harness import ObserverBinding, RunManager, RunSpec
from trackside.harness.context import RunContext


async def say(input: Any) -> dict[str, Any]:
    return {"said": input}


class Gate:
    """An agent that waits until it is let go on."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.reached = asyncio.Event()

    async def __call__(self, input: Any, run: RunContext) -> dict[str, Any]:
        self.reached.set()
        await self.opened.wait()
        return {}


@asynccontextmanager
async def managing(store: Store, *, max_running: int = 256, **agents: Any) -> AsyncIterator[RunManager]:
    """A manager whose runs are recorded in the store."""
    observer = ObserverBinding(StorageObserver(store), required=True)
    coordinator, states = store.coordinator(), store.thread_states()
    async with RunManager(
        {"say": say, **agents},
        observers=[observer],
        coordinator=coordinator,
        states=states,
        max_running=max_running,
    ) as manager:
        yield manager


async def ended(manager: RunManager, **spec: Any) -> Any:
    """A run, to its end."""
    handle = await manager.start(RunSpec("say", "hello", **spec))
    return await handle.result()
