"""Waits for blocking calls away from the event loop, and not for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from trackside.app.daemon_threads import DaemonThreads

__all__ = ["Flushed", "SpanStats", "in_a_thread"]

logger = logging.getLogger("trackside.tracing")

_THREADS: Final = DaemonThreads("trackside-tracing-flush")


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
    """Call something that blocks, and wait for at most this many seconds; returns whether it has come back."""

    def work() -> None:
        try:
            block()
        except Exception:  # the SDK or an exporter failed, which must not keep an app from closing
            logger.warning("spans could not be flushed", exc_info=True)

    job = asyncio.get_running_loop().run_in_executor(_THREADS, work)
    done, _ = await asyncio.wait((job,), timeout=limit)
    return bool(done)
