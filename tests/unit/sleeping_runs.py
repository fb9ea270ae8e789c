"""Managers whose agent sleeps for as long as it is told, on a virtual clock."""

import asyncio
from typing import Any

from trackside.harness import RunManager
from trackside.testing import VirtualClock

BUSY = "thread_status_updated busy"


async def sleeper(input: float | None) -> None:
    await asyncio.sleep(input or 0)


def manager_of(*observers: Any, **options: Any) -> RunManager:
    return RunManager({"sleeper": sleeper}, observers=list(observers), clock=VirtualClock(), **options)


def tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()}
