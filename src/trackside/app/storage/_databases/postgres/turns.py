"""Turns at the connections that read: a few are used at once, and everybody else waits in line."""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf

from trackside.harness.errors import TracksideError


class Turns:
    """Places at something that only `count` callers use at once; the others wait, first come first served.

    A long line is no failure: as long as places become free, everybody gets one. But if none becomes free for `patience`
    seconds, those who have waited that long give up: whatever holds the places does not come to an end.
    """

    def __init__(self, count: int, patience: float) -> None:
        self._free = count
        self._patience = patience
        self._moved_at = -inf
        """When a place last became free, by the event loop's clock."""
        self._line: deque[asyncio.Future[None]] = deque()
        """Those who wait. Some may have given up. It is empty while a place is free."""

    async def take(self) -> None:
        """Take a place; whoever does has to `give_back` it.

        Raises:
            TimeoutError: no place became free for `patience` seconds.
            TracksideError: what was said to `refuse_waiting`.
        """
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            await self._wait(turn)
        except BaseException:
            if turn.done() and turn.exception() is None:
                self.give_back()  # the place was given at the same moment
            turn.cancel()
            raise
        turn.result()

    async def _wait(self, turn: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        since = loop.time()
        while not turn.done():
            seconds = max(since, self._moved_at) + self._patience - loop.time()
            if seconds <= 0:
                raise TimeoutError
            await asyncio.wait((turn,), timeout=seconds)

    def give_back(self) -> None:
        """Give a place back; the first in line gets it."""
        self._moved_at = asyncio.get_running_loop().time()
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def refuse_waiting(self, error: TracksideError) -> None:
        """Tell all who wait that there will be no place for them."""
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_exception(error)
