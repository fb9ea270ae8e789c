"""The client of a stream: what is sent to it, whether it takes that, and whether it is still there.

A client that takes nothing at all for a while is disconnected: its stream is cut off, and it comes back with the id of
what it had. Streams are also cut off when the server stops: after a proper end a client would not come back, or only to
a run that has not ended meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from trackside.app.server.front import END_MEANS_OVER
from trackside.app.server.responses import Receive, Scope, Send, encoded_headers

logger = logging.getLogger("trackside.server")

HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)
HEARTBEAT: Final = b": heartbeat\r\n\r\n"
CLOSES: Final = b": the server closes this stream; the run may go on\r\n\r\n"
_AT_ONCE: Final = 262_144
"""Bytes of one `send`: what waits for a slow client besides what the system buffers."""
PORTION: Final = 2 * _AT_ONCE
"""About how much of a ring is taken for one client before it is sent, in the sizes that the ring counts, which count
the data twice. So what the client has not taken stays where all readers share it.
"""


class SlowReaderError(Exception):
    """The client has taken nothing for too long."""


class Outlet:
    """Where the events of one client go. While it `is_open`, it sees that the client takes them and hears something.

    One timer for each client does both, and none for each event: a run may say thousands of them to a thousand clients.

    Args:
        scope: of the request.
        send: of the request.
        patience: seconds for which a client may take nothing.
        heartbeat: about how many seconds after it last heard something a client hears that the connection is alive.
    """

    __slots__ = (
        "_begun",
        "_heartbeat",
        "_is_slow",
        "_last",
        "_lasts",
        "_loop",
        "_nudge",
        "_patience",
        "_send",
        "_task",
        "_timer",
    )

    def __init__(self, scope: Scope, send: Send, *, patience: float, heartbeat: float) -> None:
        scope[END_MEANS_OVER] = True
        self._send = send
        self._patience = patience
        self._heartbeat = heartbeat
        self._loop = asyncio.get_running_loop()
        self._begun: float | None = None
        self._last = self._loop.time()
        self._is_slow = False
        self._nudge: Callable[[], object] = _nothing
        self._lasts: Callable[[], object] | None = None
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def is_open(self, nudge: Callable[[], object], *, lasts: Callable[[], object] | None = None) -> Generator[None]:
        """Look after the client within the block; calls `nudge` when the client has been told nothing for a while, and
        `lasts` once the client has stayed that long.
        """
        self._nudge, self._lasts = nudge, lasts
        self._look_later()
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()

    async def begin(self, headers: Mapping[str, str]) -> None:
        """Send status and headers."""
        await self._send(
            {"type": "http.response.start", "status": 200, "headers": [*HEADERS, *encoded_headers(headers)]}
        )

    async def write(self, pieces: Sequence[bytes], *, last: bool = False) -> None:
        """Send what is there, in portions that a connection can take; `last` if there is no more, here or elsewhere.

        Raises:
            SlowReaderError: the client does not take it.
        """
        left = sum(map(len, pieces))
        try:
            for body in [b"".join(pieces)] if left <= _AT_ONCE else _bodies(pieces):
                left -= len(body)
                self._last = self._begun = self._loop.time()
                await self._send({"type": "http.response.body", "body": body, "more_body": not last or left > 0})
        except asyncio.CancelledError:
            if not self._is_slow or self._task is None:
                raise
            self._task.uncancel()
            raise SlowReaderError from None
        self._begun = None

    def _look_later(self) -> None:
        self._timer = self._loop.call_later(min(self._heartbeat, self._patience), self._look)

    def _look(self) -> None:
        self._look_later()
        if self._lasts is not None:
            self._lasts()
            self._lasts = None
        now = self._loop.time()
        if self._begun is None:
            if now - self._last >= self._heartbeat / 2:
                self._nudge()
        elif now - self._begun >= self._patience and self._task is not None and not self._is_slow:
            self._is_slow = True
            logger.warning("a client that follows a stream took nothing for %g s and was disconnected", self._patience)
            self._task.cancel()


def _bodies(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces one after another, joined up to what one `send` takes, so that nothing holds all of them joined."""
    some: list[bytes] = []
    size = 0
    for piece in pieces:
        if size + len(piece) > _AT_ONCE and some:
            yield b"".join(some)
            some, size = [], 0
        if len(piece) > _AT_ONCE:
            yield from (piece[start : start + _AT_ONCE] for start in range(0, len(piece), _AT_ONCE))
        else:
            some.append(piece)
            size += len(piece)
    if some:
        yield b"".join(some)


def _nothing() -> None:
    """Do nothing: nobody waits, or not yet."""


class Departure:
    """Notices that a client has gone, and tells whoever waits for something else."""

    __slots__ = ("_on_gone", "gone", "watching")

    def __init__(self, receive: Receive, on_gone: Callable[[], object] = _nothing) -> None:
        self.gone = False
        self._on_gone = on_gone
        loop = asyncio.get_running_loop()
        self.watching = asyncio.Task(self._watch(receive), loop=loop, name="trackside-client", eager_start=True)
        """Ends when the client has gone."""

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self._on_gone()

    async def aclose(self) -> None:
        """Watch no more."""
        if not self.watching.done():
            self.watching.cancel()
            await asyncio.wait((self.watching,))
