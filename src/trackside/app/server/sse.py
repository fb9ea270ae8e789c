"""Server-sent events for one client: written as they come, one `send` for all that is there, and nothing is kept for him.

What a client has not taken is in the ring that all readers share, and if that overtakes him, he is told so (`gap`). One
that takes nothing at all for a while is let go: his stream is cut off, and he comes back with the id of what he had.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from trackside.app.server.outcomes import RunEnd, event_frame
from trackside.app.server.responses import Receive, Scope, Send, encoded_headers
from trackside.app.streams import Frame, Reader, StreamHub

logger = logging.getLogger("trackside.server")

HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
HEARTBEAT: Final = b": heartbeat\r\n\r\n"
CLOSES: Final = b": the server closes this stream; the run may go on\r\n\r\n"
_AT_ONCE: Final = 262_144
"""Bytes of one `send`: what a client that reads slowly has waiting for him besides what the system buffers."""


class SlowReaderError(Exception):
    """The client has taken nothing for too long."""


class Outlet:
    """Where the events of one client go. While it `is_open` it sees that the client takes them, and that it hears something.

    One timer for each client does both, and none for each event: a run may say thousands of them to a thousand clients.

    Args:
        send: of the request.
        streams: who counts the clients that were let go.
        patience: seconds that a client may take nothing.
        heartbeat: about so many seconds after it was told something it is told that the connection lives.
    """

    __slots__ = (
        "_begun",
        "_heartbeat",
        "_is_slow",
        "_last",
        "_loop",
        "_nudge",
        "_patience",
        "_send",
        "_streams",
        "_task",
        "_timer",
    )

    def __init__(self, send: Send, streams: StreamHub, *, patience: float, heartbeat: float) -> None:
        self._send = send
        self._streams = streams
        self._patience = patience
        self._heartbeat = heartbeat
        self._loop = asyncio.get_running_loop()
        self._begun: float | None = None
        self._last = self._loop.time()
        self._is_slow = False
        self._nudge: Callable[[], object] = _nothing
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def is_open(self, nudge: Callable[[], object]) -> Generator[None]:
        """Look after the client; `nudge` is called when it has been told nothing for a while."""
        self._nudge = nudge
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
        """Send what is there, in pieces that a connection can take.

        Raises:
            SlowReaderError: the client does not take it.
        """
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._begun = self._loop.time()
        try:
            while len(body) > _AT_ONCE:
                await self._send({"type": "http.response.body", "body": body[:_AT_ONCE], "more_body": True})
                body = body[_AT_ONCE:]
                self._begun = self._loop.time()
            await self._send({"type": "http.response.body", "body": body, "more_body": not last})
        except asyncio.CancelledError:
            if not self._is_slow or self._task is None:
                raise
            self._task.uncancel()
            raise SlowReaderError from None
        self._last, self._begun = self._begun, None

    def _look_later(self) -> None:
        self._timer = self._loop.call_later(min(self._heartbeat, self._patience), self._look)

    def _look(self) -> None:
        self._look_later()
        now = self._loop.time()
        if self._begun is None:
            if now - self._last >= self._heartbeat / 2:
                self._nudge()
        elif now - self._begun >= self._patience and self._task is not None and not self._is_slow:
            self._is_slow = True
            self._streams.dropped_readers += 1
            logger.warning("a client that follows a stream took nothing for %g s and was let go", self._patience)
            self._task.cancel()


def _nothing() -> None:
    """Nobody waits yet."""


class Departure:
    """Notices that a client has gone, and tells whoever waits for something else."""

    __slots__ = ("_on_gone", "_task", "gone")

    def __init__(self, receive: Receive, on_gone: Callable[[], object]) -> None:
        self.gone = False
        self._on_gone = on_gone
        loop = asyncio.get_running_loop()
        self._task = asyncio.Task(self._watch(receive), loop=loop, name="trackside-client", eager_start=True)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self._on_gone()

    async def aclose(self) -> None:
        """Watch no more."""
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,))


@dataclass(slots=True, kw_only=True)
class RunEvents:
    """The answer that streams a run, from where its reader is.

    `first` is what it says before anything else. `ended` finds out how the run has ended where that is not known here, if
    need be by waiting for it.
    """

    run_id: str
    reader: Reader
    streams: StreamHub
    ended: Callable[[], Awaitable[RunEnd | None]]
    modes: Collection[str] | None = None
    """Which parts are wanted; None: all that the run was asked to say."""
    namespaces: Collection[str] | None = None
    """Of which agents inside; `""` is the one that runs. None: of all."""
    resumable: bool = False
    """Whether parts have ids, also if the run does not say so."""
    first: Sequence[bytes] = ()
    heartbeat: float = 5.0
    patience: float = 30.0
    headers: Mapping[str, str] = field(default_factory=dict)
    on_disconnect: Callable[[], Awaitable[object]] | None = None
    """Called if the client goes before the run has ended."""
    _departure: Departure | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outlet = Outlet(send, self.streams, patience=self.patience, heartbeat=self.heartbeat)
        await outlet.begin(self.headers)
        if self.on_disconnect is not None:
            self._departure = Departure(receive, self.reader.rouse)
        try:
            with outlet.is_open(self.reader.nudge):
                await self._write(outlet, receive)
        except SlowReaderError:
            if self.on_disconnect is not None:
                await self.on_disconnect()
        finally:
            if self._departure is not None:
                await self._departure.aclose()

    async def _write(self, outlet: Outlet, receive: Receive) -> None:
        """Write all that comes, to the end, or until the client has gone."""
        reader = self.reader
        pending = [*self.first]
        while not self._is_gone:
            if (gap := reader.gap()) is not None:
                pending.append(event_frame("gap", {"first": gap.first, "last": gap.last}))
            if frames := reader.take():
                pending += self._wanted(frames)
                continue
            if reader.is_over:
                await self._write_end(outlet, pending)
                return
            if pending:
                await outlet.write(pending)
                pending = []
                continue
            if not await reader.wait() and not self._is_gone:
                pending.append(HEARTBEAT)
                # Only now: most streams are over sooner, and who has gone by then has missed nothing.
                self._departure = self._departure or Departure(receive, reader.rouse)
        if self.on_disconnect is not None:
            await self.on_disconnect()

    @property
    def _is_gone(self) -> bool:
        return self._departure is not None and self._departure.gone

    def _wanted(self, frames: Sequence[Frame]) -> list[bytes]:
        reader = self.reader
        modes = self.modes if self.modes is not None else reader.modes
        namespaces = self.namespaces
        wanted = [
            frame
            for frame in frames
            if (modes is None or frame.mode in modes)
            and (namespaces is None or "|".join(frame.namespace) in namespaces)
        ]
        if self.resumable or reader.resumable:
            return [frame.resumable_sse for frame in wanted]
        return [frame.sse for frame in wanted]

    async def _write_end(self, outlet: Outlet, pending: list[bytes]) -> None:
        """Say how the run has ended; where that is not known here, wait until it is."""
        stands = self.reader.standing
        if stands.end is not None:
            end: RunEnd | None = RunEnd.said(stands.end)
        elif stands.closing:
            end = None
        else:
            end = await self._end_elsewhere(outlet, pending)
            pending = []
        pending.append(CLOSES if end is None else end.frame(self.run_id))
        await outlet.write(pending, last=True)

    async def _end_elsewhere(self, outlet: Outlet, pending: list[bytes]) -> RunEnd | None:
        if pending:
            await outlet.write(pending)
        finding: asyncio.Task[Any] = asyncio.create_task(_found(self.ended), name=f"trackside-end-{self.run_id}")
        try:
            while not self._is_gone:
                done, _ = await asyncio.wait((finding,), timeout=self.heartbeat)
                if done:
                    return finding.result()  # type: ignore[no-any-return]  # a task of the same
                await outlet.write([HEARTBEAT])
            return None
        finally:
            finding.cancel()
            await asyncio.wait((finding,))


async def _found(ended: Callable[[], Awaitable[RunEnd | None]]) -> RunEnd | None:
    return await ended()
