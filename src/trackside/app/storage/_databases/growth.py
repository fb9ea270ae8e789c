"""Where the log ends, for those who only want to know that it has grown: nothing of it is read for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, select

from trackside.app.storage import errors
from trackside.app.storage._databases.readers import Readers
from trackside.app.storage._databases.signals import CommitSignals
from trackside.app.storage._rows.tables import POSITION, counters
from trackside.harness.errors import ClosedError, TracksideError

logger = logging.getLogger("trackside.storage")

_FIRST_PAUSE: Final = 0.1  # seconds before a database that is away is asked again
_LONGEST_PAUSE: Final = 2.0


_ASK_FOR_END: Final = select(counters.c.value).where(counters.c.name == POSITION)

LOG_END: Final = _ASK_FOR_END.scalar_subquery()
"""What `log_end` gives, inside another query."""


def log_end(connection: Connection) -> int:
    """The last position that was given to an event, whether or not the event is still in the log."""
    end: int = connection.execute(_ASK_FOR_END).scalar_one()
    return end


class LogGrowth:
    """Wakes those who wait for the log to grow, whoever writes there. Belongs to the store's event loop.

    Args:
        readers: what the end is read with.
        signals: hints at what other processes commit.
        note_outage: hears of each failure to read; raises those that do not pass.
        note_return: hears that reading works.
    """

    def __init__(
        self,
        readers: Readers,
        signals: CommitSignals,
        note_outage: Callable[[errors.StorageError], object],
        note_return: Callable[[], object],
    ) -> None:
        self._readers = readers
        self._signals = signals
        self._note_outage = note_outage
        self._note_return = note_return
        self._end = 0
        self._times_shorter = 0
        self._waiting: set[asyncio.Future[None]] = set()
        self._behind = False
        self._reader: asyncio.Task[None] | None = None
        self._closed = False

    def reach(self, position: int) -> None:
        """Note that this process has committed up to this position."""
        if position > self._end:
            self._end = position
            self._wake()

    def turn_back(self, end: int) -> None:
        """Note that the log has lost what came after this position: those who wait look anew."""
        self._end = end
        self._times_shorter += 1
        self._wake()

    async def beyond(self, position: int) -> int:
        """Where the log ends, as soon as that is past this position, or before its former end: then it has lost events.

        Raises:
            ClosedError: the store is closed.
            StorageError: the log cannot be read, and not because the database is away.
        """
        times_shorter = self._times_shorter
        while self._end <= position and times_shorter == self._times_shorter:
            if self._closed:
                raise ClosedError(what="store")
            grown: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(grown)
            self._signals.listen(self._look)  # which reads the end now, if something was missed
            try:
                await grown
            finally:
                self._waiting.discard(grown)
                if not self._waiting:
                    self._signals.stop_listening(self._look)
        return self._end

    async def aclose(self) -> None:
        """Let nobody wait any longer. May be called again."""
        self._closed = True
        self._wake()
        if (reader := self._reader) is not None:
            reader.cancel()
            await asyncio.wait([reader])

    def _look(self) -> None:
        self._behind = True
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read(), name="trackside-growth")

    async def _read(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while self._behind and self._waiting:
                self._behind = False
                known = self._end
                try:
                    end = await self._readers.run(log_end)
                except errors.StorageError as exc:
                    self._note_outage(exc)
                    self._behind = True
                    await asyncio.sleep(pause)
                    pause = min(_LONGEST_PAUSE, 2 * pause)
                else:
                    self._note_return()
                    pause = _FIRST_PAUSE
                    if end < known:
                        self.turn_back(end)
                    else:
                        self.reach(end)
        except TracksideError as exc:
            self._wake(exc)
        except Exception as exc:  # whatever it is, those who wait must hear of it
            logger.exception("whether the log has grown cannot be found out")
            self._wake(errors.StorageError(database=self._readers.database, why=f"{type(exc).__name__}: {exc}"))

    def _wake(self, failure: TracksideError | None = None) -> None:
        for grown in [*self._waiting]:
            if grown.done():
                continue
            if failure is None:
                grown.set_result(None)
            else:
                grown.set_exception(failure)
