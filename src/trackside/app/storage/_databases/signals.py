"""Hints that something may have been committed elsewhere, for those who wait for what other processes do.

A hint is no news: it may come for nothing, and once for many commits. What there is to know is read from the log by
position. So a hint may be late, which costs time, and never has to carry anything, which could get lost.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Protocol, override

from trackside.app.storage._databases.telling import tell_each
from trackside.harness.threads import in_own_thread

logger = logging.getLogger("trackside.storage")

type Listener = Callable[[], object]


class CommitSignals(ABC):
    """Tells listeners of this process what others commit, and others what this process commits.

    Belongs to the event loop in which it is used first.
    """

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self._hints = 0
        self._heard: dict[Listener, int] = {}
        self._closed = False

    def listen(self, listener: Listener) -> None:
        """Have `listener` called on the loop after each commit of another process, until it stops listening.

        It is called soon if it listens for the first time, or missed a hint since it stopped; so what it reads then, and
        after each hint, is complete. Listening costs something: stop while nothing is waited for.
        """
        if self._closed:
            return
        self._listeners.add(listener)
        if self._heard.get(listener) != self._hints:
            asyncio.get_running_loop().call_soon(self._tell, listener)
        self._attend()

    def stop_listening(self, listener: Listener) -> None:
        """Stop calling this one. May be called again."""
        self._listeners.discard(listener)

    def forget(self, listener: Listener) -> None:
        """Stop calling this one, which will not listen again. May be called again."""
        self.stop_listening(listener)
        self._heard.pop(listener, None)

    @abstractmethod
    def announce(self) -> None:
        """Let other processes know that something was committed here. Does not wait; many calls make one signal."""

    @abstractmethod
    def _attend(self) -> None:
        """Somebody listens: see to it that there is something to hear."""

    def _hint(self) -> None:
        """Tell the listeners that something may have been committed elsewhere."""
        self._hints += 1
        for listener in [*self._listeners]:
            self._tell(listener)

    def _tell(self, listener: Listener) -> None:
        if listener in self._listeners:
            self._heard[listener] = self._hints
            tell_each([listener])

    async def aclose(self) -> None:
        """Announce what was to be announced, and let go of everything. May be called again."""
        self._closed = True
        self._listeners.clear()


class Mark(Protocol):
    """Something in a database that changes with each commit, and is cheap to look at. Used by one thread at a time."""

    def look(self) -> int:
        """What it is now; equal values say that nothing was committed in between.

        Raises:
            StorageError: it cannot be read.
        """
        ...

    def close(self) -> None:
        """Let go of what it is looked at with. May be called again; another look is possible."""
        ...


class PolledSignals(CommitSignals):
    """Looks at a mark every few hundredths of a second, in a thread, and only while somebody listens.

    Commits of this process change the mark as well, and are hinted at. Nobody needs to be told anything: those who wait
    in other processes look for themselves.
    """

    def __init__(self, mark: Mark, *, every: float) -> None:
        super().__init__()
        self._mark = mark
        self._every = every
        self._seen: int | None = None
        self._looking: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="trackside-signals")
        self.looks = 0
        """How often the mark was looked at."""

    @override
    def announce(self) -> None:
        pass

    @override
    def _attend(self) -> None:
        if self._looking is None or self._looking.done():
            # Not in the context of whoever happens to listen first: it looks for others, too (I21).
            self._looking = asyncio.create_task(self._keep_looking(), name="trackside-signals", context=Context())

    async def _keep_looking(self) -> None:
        loop = asyncio.get_running_loop()
        while self._listeners:
            await asyncio.sleep(self._every)
            changed = bool(self._listeners) and await loop.run_in_executor(self._thread, self._look)
            if changed:
                self._hint()

    def _look(self) -> bool:
        """Look at the mark, in the thread; whether it has changed since the last look, or cannot be read."""
        self.looks += 1
        before = self._seen
        try:
            self._seen = self._mark.look()
        except Exception:  # those who are told read for themselves, and so learn what is wrong
            logger.debug("the mark of commits cannot be read", exc_info=True)
            self._seen = None
            self._mark.close()
            return True
        return self._seen != before

    @override
    async def aclose(self) -> None:
        await super().aclose()
        if (looking := self._looking) is not None:
            looking.cancel()
            await asyncio.wait([looking])
        await in_own_thread(self._close)

    def _close(self) -> None:
        self._thread.shutdown()
        self._mark.close()
