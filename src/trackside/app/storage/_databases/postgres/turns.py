"""Turns at the connections that read: a few are used at once, and everybody else waits in line."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final

from trackside.harness.errors import TracksideError

_LOOKS: Final = 4
"""How often who waits looks, within its patience, whether the loop stood still."""


class Turns:
    """Places at something that only `count` callers use at once; the others wait, first come first served.

    A long line is no failure: as long as those who have places succeed, everybody gets one. But if nobody succeeds for
    `patience` seconds, those who have waited that long give up: what holds the places leads to nothing. Time in which the
    event loop stood still does not count.
    """

    def __init__(self, count: int, patience: float) -> None:
        self._free = count
        self._patience = patience
        self._succeeded_at = -inf
        """When somebody last succeeded, by the event loop's clock."""
        self._line: deque[asyncio.Future[None]] = deque()
        """Those who wait. Some may have given up. It is empty while a place is free."""
        self._refusal: Callable[[], TracksideError] | None = None

    async def take(self) -> None:
        """Take a place; whoever does has to `give_back` it.

        Raises:
            TimeoutError: nobody succeeded for `patience` seconds.
            TracksideError: it is closed.
        """
        self._check()
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            await self._wait(turn)
            self._check()  # it may have been closed when the place had just been given
        except BaseException:
            if turn.done() and not turn.cancelled():  # the place was given at the same moment
                self.give_back(succeeded=False)
            turn.cancel()
            raise

    async def _wait(self, turn: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        since = loop.time()
        while not turn.done():
            seconds = max(since, self._succeeded_at) + self._patience - loop.time()
            if seconds <= 0:
                raise TimeoutError
            due = loop.time() + min(seconds, self._patience / _LOOKS)
            await asyncio.wait((turn,), timeout=due - loop.time())
            if (late := loop.time() - due) > self._patience / _LOOKS:
                # The loop stood still, and nobody could succeed: what they waited for may have come, and is seen only now.
                since = min(loop.time(), max(since, self._succeeded_at) + late)

    def give_back(self, *, succeeded: bool) -> None:
        """Give a place back; the first in line gets it."""
        if succeeded:
            self._succeeded_at = asyncio.get_running_loop().time()
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def close(self, refusal: Callable[[], TracksideError]) -> None:
        """Let nobody have a place any more, not even those who wait: they are told this."""
        self._refusal = refusal
        while self._line:
            self._line.popleft().cancel()

    def _check(self) -> None:
        if self._refusal is not None:
            raise self._refusal()
