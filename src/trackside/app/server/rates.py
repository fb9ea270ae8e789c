"""How often a client may ask, and how many streams it may follow at once."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from trackside.app.server.failures import HttpError

_CLIENTS: Final = 10_000
"""How many clients' requests are counted at once; those of the client that asked longest ago are forgotten first."""


class Rate:
    """At most so many requests of a client in a moving window, as `100/second`.

    The notation is that of the library `limits`. Its in-memory window is not used: that starts a thread for each 10 ms
    in which somebody asks, never forgets a client, and goes by a clock that is set now and then.

    Raises:
        ValueError: it is no rate.
    """

    def __init__(self, rate: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        import limits

        item = limits.parse(rate)
        self.amount: int = item.amount
        self.seconds: float = float(item.get_expiry())
        self._said = rate
        self._clock = clock
        self._asked: OrderedDict[str, deque[float]] = OrderedDict()

    def take(self, client: str) -> None:
        """Count a request.

        Raises:
            HttpError: it is one too many (429); the answer says when the next one will not be.
        """
        now = self._clock()
        asked = self._asked.get(client)
        if asked is None:
            asked = self._asked[client] = deque()
            if len(self._asked) > _CLIENTS:
                self._asked.popitem(last=False)
        else:
            self._asked.move_to_end(client)
        while asked and asked[0] <= now - self.seconds:
            asked.popleft()
        if len(asked) >= self.amount:
            wait = max(1, -int(-(asked[0] + self.seconds - now) // 1))
            raise HttpError(
                status=429,
                detail=f"more than {self._said}: ask again in {wait} s",
                headers={"Retry-After": str(wait)},
            )
        asked.append(now)


class OpenStreams:
    """Counts the streams that each client follows; it may have `most` at once, None: as many as it likes."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._open: dict[str, int] = {}

    def enter(self, client: str) -> None:
        """Begin one.

        Raises:
            HttpError: it is one too many (429).
        """
        followed = self._open.get(client, 0)
        if self._most is not None and followed >= self._most:
            why = f"{followed:,} streams are open already, which is as many as a client may have; end one"
            raise HttpError(status=429, detail=why, headers={"Retry-After": "1"})
        self._open[client] = followed + 1

    def leave(self, client: str) -> None:
        """End one."""
        left = self._open[client] - 1
        if left:
            self._open[client] = left
        else:
            del self._open[client]
