"""Calls whose reply is lost, because they are cancelled on their way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from trackside.harness.errors import TracksideError


async def cancelled[T](call: Coroutine[Any, Any, T], turns: int, name: str) -> tuple[asyncio.Task[T], bool]:
    """Cancel a call after so many turns of the loop; returns its task, now ended, and whether it was still going on."""
    task = asyncio.create_task(call, name=name)
    for _ in range(turns):
        await asyncio.sleep(0)
    pending = task.cancel()
    await asyncio.wait({task})
    return task, pending


async def taken_again[T](turns: int, name: str, step: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Take a step, lose its reply after so many turns of the event loop, and take it again."""
    task, _ = await cancelled(step(), turns, name)
    if not task.cancelled():
        return task.result()
    try:
        return await step()
    except TracksideError as exc:
        raise AssertionError(f"{name}, taken again after {turns} turns, raised {type(exc).__name__}: {exc}") from exc
