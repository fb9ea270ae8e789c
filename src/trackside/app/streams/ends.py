"""How runs have ended, as the log tells those who did not hear it from the process that executed the run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol

from trackside.harness.errors import TracksideError

logger = logging.getLogger("trackside.stream")

_ASK_AGAIN: Final = 1.0
"""Seconds after which a log that could not be asked is asked again."""


class ToldEnd(NamedTuple):
    """How a run has ended, as the log has it. `at` is when, in milliseconds since 1970."""

    run_id: str
    says: Mapping[str, Any]
    at: int
    started: bool


class EndLog(Protocol):
    """What mirrors ask the log."""

    async def end_of(self, run_id: str) -> ToldEnd | None:
        """How a run has ended, as soon as it has; None if the log is closed before."""
        ...

    async def place(self) -> int:
        """Where the log ends now."""
        ...

    def ends_on(self, thread_id: str, *, after: int) -> AsyncIterator[ToldEnd]:
        """How the runs of a thread end, from behind this place on."""
        ...

    async def thread_made_at(self, thread_id: str) -> datetime | None:
        """When the thread was made that has this id now; None if there is none."""
        ...

    async def runs_on(self, thread_id: str, run_ids: set[str]) -> set[str]:
        """Those of these runs that are of the thread that has this id now, and not of one that had it before."""
        ...


async def answered[T](ask: Callable[[], Awaitable[T]]) -> T:
    """What the log says, as soon as it can be asked."""
    while True:
        try:
            return await ask()
        except TracksideError as exc:
            logger.debug("the log is asked again in a moment: %s", exc)
            await asyncio.sleep(_ASK_AGAIN)
