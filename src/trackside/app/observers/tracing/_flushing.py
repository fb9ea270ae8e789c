"""Waits for what blocks, somewhere else than on the event loop, and not for ever."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Flushed", "SpanStats", "in_a_thread"]

logger = logging.getLogger("trackside.tracing")


@dataclass(frozen=True, slots=True)
class SpanStats:
    """What became of the spans: `ended == exported + failed + dropped + pending`, always."""

    ended: int
    exported: int
    failed: int
    """The collector did not take them, or nobody was there, in the time that one request has."""
    dropped: int
    """There was no room, or no time at the end."""
    pending: int


@dataclass(frozen=True, slots=True)
class Flushed:
    """What came of having all spans sent."""

    in_time: bool
    """Whether that was done in the time there was."""
    spans: SpanStats | None
    """What became of all spans so far; None where the user's tracer provider knows."""


async def in_a_thread(block: Callable[[], object], limit: float) -> bool:
    """Call something that blocks, and wait for at most so many seconds; whether it has come back.

    The thread is a daemon, for which a process that exits does not wait as it does for those of an executor.
    """
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def work() -> None:
        try:
            block()
        except Exception:  # the SDK's or an exporter's failure, which must not keep an app from closing
            logger.warning("spans could not be flushed", exc_info=True)
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=work, name="trackside-tracing-flush", daemon=True).start()
    try:
        async with asyncio.timeout(limit):
            await done.wait()
    except TimeoutError:
        return False
    return True
