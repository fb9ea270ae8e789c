"""Agents that runs are started of: they echo, fail, ask, or wait at a gate; and what runs are asked for with."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import httpx

from trackside import RunContext

UNKNOWN = str(uuid.UUID(int=7))


async def echo(input: Any, run: RunContext) -> dict[str, Any]:
    return {"given": input, "attempt": run.attempt}


async def failing(input: Any) -> None:
    raise ValueError("it cannot be done")


async def asking(input: Any, run: RunContext) -> dict[str, Any]:
    return {"answered": run.interrupt({"question": "sure?"})}


class Gate:
    """An agent that runs until it is let go."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.open = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, input: Any, run: RunContext) -> dict[str, Any]:
        self.started.set()
        run.send({"begun": input})
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        run.send({"ended": input})
        return {"gate": "passed", "given": input}


def gate_agent(gate: Gate) -> Any:
    async def waits(input: Any, run: RunContext) -> dict[str, Any]:
        return await gate(input, run)

    return waits


async def new_thread(served: Any) -> str:
    return str((await served.app.store.threads_of(None).create()).thread_id)


async def raw(served: Any, method: str, path: str, **options: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=served.url) as http:
        return await http.request(method, path, **options)


async def parts_of(stream: Any) -> list[tuple[str, Any]]:
    return [(part.event, part.data) async for part in stream]
