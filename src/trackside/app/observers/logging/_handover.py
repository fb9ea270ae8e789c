"""Hands things to a thread that may be slow, without ever waiting for it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from trackside.app.daemon_threads import DaemonThreads
from trackside.harness.errors import ClosedError
from trackside.harness.foreign.failures import line_of

logger = logging.getLogger("trackside.observer")

_BATCH = 256

_WAITS = DaemonThreads("trackside-log-waits")
"""Not the event loop's own threads: agents may fill these, and hold up who waits."""

_PATIENCE = 1.0
"""Seconds that a caller waits for room; if there is none by then, nobody waits until there is progress again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineStats:
    """What became of all lines so far: `accepted == delivered + failed + dropped + pending`."""

    accepted: int
    delivered: int
    failed: int
    """Those that could not be written."""
    dropped: int
    """Those for which there was no room."""
    pending: int


class Handover[T]:
    """A bounded queue and the daemon thread that empties it.

    Args:
        take: takes several things, in the thread. What it raises goes to the program's log, once until it works again.
        close: called last, in the thread.
        missing: makes what to give `take` in place of this many dropped things.
        capacity: how many things may wait.
        name: the name of the thread.
    """

    def __init__(
        self,
        take: Callable[[Sequence[T]], None],
        close: Callable[[], None],
        missing: Callable[[int], T],
        *,
        capacity: int,
        name: str,
    ) -> None:
        self._take = take
        self._close = close
        self._missing = missing
        self._capacity = capacity
        self._name = name
        self._waiters: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()
        self._closing = False
        self._start_over()

    def _start_over(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._queue: SimpleQueue[T | threading.Event | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._gave_up = False
        self._is_failing = False
        self._accepted = self._delivered = self._failed = self._dropped = self._unsaid = 0

    def stats(self) -> LineStats:
        """What became of all things so far. May be called from any thread."""
        with self._lock:
            settled = self._delivered + self._failed + self._dropped
            return LineStats(
                accepted=self._accepted,
                delivered=self._delivered,
                failed=self._failed,
                dropped=self._dropped,
                pending=self._accepted - settled,
            )

    def offer(self, thing: T) -> None:
        """Hand a thing over, or drop and count it if there is no room; never wait. May be called from any thread.

        Raises:
            ClosedError: the handover has been closed.
        """
        if self._closing:
            raise ClosedError(what=self._name)
        if self._pid != os.getpid():
            self._start_over()  # I24: the parent process writes what waits
        with self._lock:
            self._accepted += 1
            if self._queue.qsize() >= self._capacity:
                self._dropped += 1
                self._unsaid += 1
                return
            self._queue.put(thing)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether anything offered now would be dropped."""
        return self._queue.qsize() >= self._capacity

    async def wait_for_room(self) -> None:
        """Wait a little until something can be offered, unless others have waited in vain."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE
        while self.is_full and not (self._gave_up or self._closing):
            future: asyncio.Future[None] = loop.create_future()
            self._waiters.append((loop, future))
            await asyncio.wait((future,), timeout=deadline - loop.time())
            self._gave_up = loop.time() >= deadline

    async def flush(self, timeout: float) -> LineStats:
        """Wait, for at most this many seconds, until everything offered before is taken."""
        if self._thread is not None and not self._closing:
            reached = threading.Event()
            self._queue.put(reached)
            await asyncio.get_running_loop().run_in_executor(_WAITS, reached.wait, timeout)
        return self.stats()

    async def aclose(self, timeout: float) -> None:
        """Accept nothing more, and wait, for at most this many seconds, until all is taken. May be called again.

        Anything that hangs even then is left behind, in a thread that does not keep the program from ending.
        """
        if not self._closing:
            self._closing = True
            self._queue.put(None)
        if self._thread is not None and self._pid == os.getpid():
            await asyncio.get_running_loop().run_in_executor(_WAITS, self._ended.wait, timeout)

    def _run(self) -> None:
        queue, is_last = self._queue, False
        while not is_last:
            things: list[T] = []
            reached: list[threading.Event] = []
            thing = queue.get()
            with suppress(Empty):
                while True:
                    if thing is None:
                        is_last = True
                        break
                    if isinstance(thing, threading.Event):
                        reached.append(thing)
                    else:
                        things.append(thing)
                    if len(things) == _BATCH:
                        break
                    thing = queue.get_nowait()
            self._hand_over(things)
            for flush in reached:
                flush.set()
        with suppress(OSError):
            self._close()
        self._ended.set()

    def _hand_over(self, things: list[T]) -> None:
        with self._lock:
            missing, self._unsaid = self._unsaid, 0
        told = [*things, self._missing(missing)] if missing else things
        try:
            if told:
                self._take(told)
        except Exception as exc:  # noqa: BLE001  # the file or the program's own logging failed: reported, and counted
            if not self._is_failing:
                logger.warning("%s could not write: %s", self._name, line_of(exc))
            self._is_failing = True
        else:
            self._is_failing = False
        with self._lock:
            if self._is_failing:
                self._failed += len(things)
                self._unsaid += missing
            else:
                self._delivered += len(things)
        self._gave_up = False
        while self._waiters:
            loop, future = self._waiters.popleft()
            with suppress(RuntimeError):  # that loop has ended
                loop.call_soon_threadsafe(_let_go, future)


def _let_go(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
