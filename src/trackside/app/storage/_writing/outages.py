"""How long what a run has to write waits for a database that is away.

A database that fails over, or is locked, is back within minutes, and that does not make what the run has done wrong.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

from trackside.app.storage import errors
from trackside.app.storage._writing.writer import NoWriter, Writer
from trackside.harness.context import current_run

logger = logging.getLogger("trackside.storage")

AWAY: Final = (
    errors.ConnectionLostError,
    errors.DatabaseBusyError,
    errors.OutcomeUnknownError,
    errors.ServerUnreachableError,
    errors.TooManyConnectionsError,
)
"""Errors that pass by themselves, mostly within minutes."""
LONGEST_OUTAGE: Final = 300.0
"""How many seconds the database is waited for."""
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 1.0


class Outage:
    """A time in which the database is away: how long it is waited for, with growing pauses.

    Args:
        writer: the store's.
        is_hurried: tells whether not to wait for it, which may change meanwhile.
    """

    def __init__(self, writer: Writer | NoWriter, is_hurried: Callable[[], bool]) -> None:
        self._writer = writer
        self._is_hurried = is_hurried
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + LONGEST_OUTAGE
        self._pause = _FIRST_PAUSE

    @property
    def is_over(self) -> bool:
        """Whether to wait no longer: it lasts too long, whoever waits is hurried, or the process leaves."""
        return self._is_hurried() or self._loop.time() >= self._until or monotonic() >= self._writer.leaves_at

    async def pause(self) -> None:
        """Wait before the next try."""
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


def has_to_stop() -> Callable[[], bool]:
    """A function that tells whether the calling code's run was asked to stop; code of no run never waits."""
    run = current_run()
    return lambda: run is None or run.cancelled


async def patiently[T](writer: Writer | NoWriter, write: Callable[[], Awaitable[T]], what: str) -> T:
    """Have something written for the run that the calling code belongs to, even if the database is away for a while.

    Args:
        writer: the store's.
        write: has it written; called as often as it takes.
        what: what is written, for the log.

    Raises:
        StorageError: it could not be written, and that does not pass by itself, or was waited for long enough.
    """
    outage = Outage(writer, has_to_stop())
    is_said = False
    while True:
        try:
            return await write()
        except AWAY as exc:
            if outage.is_over:
                raise
            if not is_said:
                logger.warning("%s is tried again until the database is there: %s", what, exc)
                is_said = True
            await outage.pause()
