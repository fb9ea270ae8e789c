"""How messages of a thread's runs come in: passed on in their order, large ones read by their number.

A new listener hears what is kept first, and what comes meanwhile waits for it. After a gap, which is an outage or more
than there is room for, a listener begins like that again: with what is kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from trackside.app.storage.errors import StorageError
from trackside.app.storage.live_parts import LiveParts, ToldMessage, told
from trackside.harness.errors import ClosedError

logger = logging.getLogger("trackside.engine")

_WAITING: Final = 4_096  # messages that wait for one that is being read
_WAITING_BYTES: Final = 8 * 1_048_576
_READ_AT_ONCE: Final = 16
_PAUSE: Final = 0.5  # seconds before what could not be read is tried again


@dataclass(slots=True)
class Counters:
    """What all ears of a process share."""

    reading: asyncio.Semaphore
    """Limits how many read what is kept: the connections for that are everybody's."""
    heard: int = 0


class TopicListening:
    """A listener that hears a run, or a thread, until it is closed."""

    def __init__(
        self, parts: LiveParts, thread: str, run: str | None, hear: Callable[[bytes], object], counters: Counters
    ) -> None:
        self._parts = parts
        self._thread = thread
        self._run = run
        self._hear = hear
        self._counters = counters
        self._catching_up: asyncio.Task[None] | None = None
        self._behind: deque[ToldMessage] = deque()
        self._bytes = 0
        self._again = False
        self._last: dict[str, int] = {}
        """The number of the last message of each run that was read; notices of these messages may still come."""
        self._caught_up = asyncio.Event()
        self._closed = False
        self.on_close: Callable[[TopicListening], object] = lambda _: None

    @property
    def caught_up(self) -> asyncio.Event:
        """Set when all that was kept when it began has been heard."""
        return self._caught_up

    def catch_up(self) -> None:
        """Hear what is kept, then what has come meanwhile."""
        if self._closed:
            return
        self._again = True
        if self._catching_up is None:
            self._catching_up = asyncio.create_task(self._keep_catching_up(), name="trackside-catch-up")

    def take(self, message: ToldMessage) -> None:
        """Take a message that was just said."""
        if self._closed or message.message is None or (self._run is not None and message.run != self._run):
            return
        if self._catching_up is None:
            if message.number > self._last.get(message.run, 0):
                self._hear(message.message)
            return
        self._behind.append(message)
        self._bytes += len(message.message)
        if len(self._behind) > _WAITING or self._bytes > _WAITING_BYTES:
            self._again = True  # they are kept, and are read then
            self._forget_behind()

    async def _keep_catching_up(self) -> None:
        try:
            while self._again:
                self._again = False
                try:
                    await self._read_kept()
                except StorageError as exc:
                    logger.debug("what was said cannot be read: %s", exc)
                    self._again = True
                    await asyncio.sleep(_PAUSE)
                    continue
                if not self._again:
                    self._take_behind()
        except ClosedError:
            pass  # of the store; nothing more comes
        finally:
            self._catching_up = None
        self._caught_up.set()

    async def _read_kept(self) -> None:
        """Pass on what is kept."""
        self._last = {}
        after = 0
        async with self._counters.reading:
            while page := await self._parts.page(thread=self._thread, run=self._run, after=after):
                for number, run, message in page:
                    if self._closed:
                        return
                    self._last[run] = after = number
                    self._hear(message or b"")

    def _take_behind(self) -> None:
        behind = [*self._behind]
        self._forget_behind()
        for number, run, message in behind:
            if number > self._last.get(run, 0) and not self._closed:
                self._hear(message or b"")

    def _forget_behind(self) -> None:
        self._behind.clear()
        self._bytes = 0

    def close(self) -> None:
        """Hear no more. May be called again."""
        if not self._closed:
            self._closed = True
            self._forget_behind()
            if self._catching_up is not None:
                self._catching_up.cancel()
            self.on_close(self)

    async def aclose(self) -> None:
        """Close it, and wait until what it was doing has ended."""
        catching_up = self._catching_up
        self.close()
        if catching_up is not None:
            await asyncio.wait([catching_up])


class ThreadEar:
    """Hears what is said on one thread, for all in this process who listen to it or to one of its runs."""

    def __init__(
        self, parts: LiveParts, thread: str, counters: Counters, on_unused: Callable[[ThreadEar], object]
    ) -> None:
        self.thread = thread
        self._parts = parts
        self._counters = counters
        self._on_unused = on_unused
        self._listenings: list[TopicListening] = []
        self._hears = False
        self._come: deque[ToldMessage] = deque()
        self._bytes = 0
        self._resolving: asyncio.Task[None] | None = None

    def add(self, listening: TopicListening) -> None:
        """Have a listener hear until it is closed."""
        listening.on_close = self._remove
        self._listenings.append(listening)
        if len(self._listenings) == 1:
            self._parts.listen(self.thread, self._hear, on_gap=self._begin)
        elif self._hears:
            listening.catch_up()

    def _remove(self, listening: TopicListening) -> None:
        self._listenings.remove(listening)
        if not self._listenings:
            self._parts.unlisten(self.thread, self._hear)
            self._forget()
            if self._resolving is not None:
                self._resolving.cancel()
            self._on_unused(self)

    def _begin(self) -> None:
        """Begin to hear: from now on what is said comes in, and what was said before is read."""
        self._hears = True
        self._forget()
        for listening in [*self._listenings]:
            listening.catch_up()

    def _hear(self, payload: str) -> None:
        if (message := told(payload)) is None:
            return
        self._counters.heard += 1
        if self._resolving is None and message.message is not None:
            self._give(message)
            return
        self._come.append(message)
        self._bytes += len(message.message or b"")
        if len(self._come) > _WAITING or self._bytes > _WAITING_BYTES:
            self._begin()  # they are kept, and are read from there
        elif self._resolving is None:
            self._resolving = asyncio.create_task(self._resolve(), name="trackside-live-large")

    async def _resolve(self) -> None:
        """Read the messages that were told only by their number, and pass on all that has come in its order."""
        try:
            while self._come:
                await self._give_first()
        except ClosedError:
            pass  # of the store; nothing more comes
        finally:
            self._resolving = None

    async def _give_first(self) -> None:
        first = [message for message, _ in zip(self._come, range(_READ_AT_ONCE), strict=False)]
        numbers = [message.number for message in first if message.message is None]
        try:
            found = {message.number: message for message in await self._parts.some(numbers)} if numbers else {}
        except StorageError as exc:
            logger.debug("what was said cannot be read: %s", exc)
            await asyncio.sleep(_PAUSE)
            self._begin()
            return
        for message in first:
            if not self._come or self._come[0] is not message:
                return  # there was a gap meanwhile
            self._come.popleft()
            self._bytes -= len(message.message or b"")
            self._give(found.get(message.number, message))

    def _give(self, message: ToldMessage) -> None:
        for listening in [*self._listenings]:
            listening.take(message)

    def _forget(self) -> None:
        self._come.clear()
        self._bytes = 0

    async def aclose(self) -> None:
        """Close all listeners."""
        resolving = self._resolving
        for listening in [*self._listenings]:
            await listening.aclose()
        if resolving is not None:
            await asyncio.wait([resolving])
