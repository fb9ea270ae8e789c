"""What the tests of `BufferedObserver` do with a buffer: make events, let it go on, find its task, check its accounts."""

import asyncio
from typing import Any

from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.observing.buffered import BufferStats
from trackside.testing import make_event


def events(count: int, **fields: Any) -> list[RunLifecycleEvent]:
    return [make_event(sequence=number, **fields) for number in range(1, count + 1)]


async def turns(count: int = 20) -> None:
    """Let everybody else go on for a while."""
    for _ in range(count):
        await asyncio.sleep(0)


def assert_adds_up(stats: BufferStats) -> None:
    assert stats.accepted == stats.delivered + stats.failed + sum(stats.dropped.values()) + stats.pending


def consumer_of(name: str) -> asyncio.Task[Any]:
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == f"trackside-buffer-{name}")
    return task
