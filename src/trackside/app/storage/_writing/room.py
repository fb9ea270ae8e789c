"""Places in a queue that is bounded by count and by bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from trackside.harness.errors import TracksideError


class Room:
    """The places in a bounded queue; whoever finds none waits, first come first served.

    Something larger than all the room there is may enter alone.
    """

    def __init__(self, count: int, size: int) -> None:
        self._free_count = count
        self._free_size = size
        self._all_free = (count, size)
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def enter(self, size: int) -> bool:
        """Take a place if there is one and nobody waits."""
        if self._waiting or not self._has_room(size):
            return False
        self._take(size)
        return True

    async def wait(self, size: int) -> None:
        """Take a place when it is this caller's turn. When cancelled, none is taken."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._admit()  # it may have been this one that held up the others
            elif turn.exception() is None:
                self.leave([size])  # the place was given and the cancel came at the same moment
            raise

    def enlarge(self, size: int) -> bool:
        """Take this much more at a place that is taken already, if there is room and nobody waits."""
        if self._waiting or self._free_size < size:
            return False
        self._free_size -= size
        return True

    def leave(self, sizes: Sequence[int]) -> None:
        """Give places back."""
        self._free_count += len(sizes)
        self._free_size += sum(sizes)
        self._admit()

    def refuse_waiting(self, error: Callable[[], TracksideError]) -> None:
        """Tell all who wait that there will be no place for them."""
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(error())

    def _admit(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.done():
                if not self._has_room(size):
                    return
                self._take(size)
                turn.set_result(None)
            self._waiting.popleft()

    def _has_room(self, size: int) -> bool:
        fits = self._free_count > 0 and self._free_size >= size
        return fits or (self._free_count, self._free_size) == self._all_free

    def _take(self, size: int) -> None:
        self._free_count -= 1
        self._free_size -= size
