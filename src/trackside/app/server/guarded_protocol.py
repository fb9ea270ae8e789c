"""HTTP/1.1 as uvicorn speaks it, with bounds that neither it nor httptools has: on the size of a request's head, on
what comes behind its body, and on the time that it takes. A request that offers another protocol also keeps its body.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, override

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from trackside.app.server.reading import BODY_TIME, BodyTime
from trackside.app.server.responses import Failure, Receive, Scope, Send, failure
from trackside.app.server.whole_writes import WholeWrites
from trackside.harness.payload import json_bytes

logger = logging.getLogger("trackside.server")

MOST_HEAD_BYTES: Final = 65_536
MOST_HEADERS: Final = 100
MOST_URL_BYTES: Final = 16_384
HEAD_SECONDS: Final = 20.0
"""How long the head of a request may take, and how long a connected client may say nothing."""
WHOLE_SECONDS: Final = 90.0
"""How long a whole request may take; longer than the reader of its body waits, since that can tell the client why.
Where a guest reads the body, how long nothing of it may come.
"""

_TOO_LONG_URL: Final = (414, f"the URL is longer than {MOST_URL_BYTES:,} bytes")
_NO_PROXY: Final = (501, "this is not a proxy: CONNECT leads nowhere")  # what comes behind a CONNECT is no request
_TOO_LARGE_HEAD: Final = (431, f"the headers are larger than {MOST_HEAD_BYTES:,} bytes")
_TOO_MANY_HEADERS: Final = (431, f"there are more than {MOST_HEADERS} headers")


class GuardedProtocol(HttpToolsProtocol):
    """One connection.

    A request that comes whole, as nearly all do, costs no timer. Any other has a time within which it must be whole,
    however often a piece of it comes; while a guest reads its body, it is enough that pieces of the body come.

    A request that offers a protocol other than WebSockets, as `Upgrade: h2c` does, is answered over HTTP/1.1. httptools
    takes its body for that protocol, so its head is read again without the offer.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._in_head = False
        self._is_whole = True
        self._is_read_again = False
        self._head_bytes = 0
        self._has_moved = False
        self._bytes_beside = 0
        self._has_waited = False
        self._body_time = BodyTime()
        self._came_at = 0.0
        self._deadline: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self.transport = WholeWrites(transport, self.loop)  # type: ignore[assignment]  # stands for it
        self._wait_for_the_rest()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        self._has_moved = False
        self._unset_keepalive_if_required()
        left: bytes | memoryview | None = data
        try:
            while left is not None:
                left = self._left_by_parser(left)
        except HttpParserError:
            self._refuse(400, "this is not an HTTP request that can be understood")
        if self.transport.is_closing() or self._is_whole:
            return
        if self._in_head:
            self._head_bytes += len(data)
            if (why := self._why_not()) is not None:
                self._refuse(*why)
                return
        elif not self._has_moved:  # extensions of a chunk, or trailers, which nobody here asks for
            self._bytes_beside += len(data)
            if self._bytes_beside > MOST_HEAD_BYTES:
                self.transport.close()  # there may be an answer already; a second one would answer nothing
                return
        if self._deadline is None:
            self._wait_for_the_rest()

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._is_whole, self._head_bytes = True, False, 0
        self._is_read_again = False

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else it is a trailer, and not a header of the request that is being answered
            super().on_header(name, value)

    @override
    def on_body(self, body: bytes) -> None:
        self._has_moved, self._bytes_beside = True, 0
        self._came_at = self.loop.time()
        super().on_body(body)

    @override
    def on_headers_complete(self) -> None:
        leads_elsewhere = self.parser.should_upgrade() and not self._should_upgrade()
        if leads_elsewhere and self.parser.get_method() != b"CONNECT":
            self._is_read_again = True
            return
        self._in_head = False
        self._has_moved, self._bytes_beside = True, 0
        self._came_at = self.loop.time()
        self.scope[BODY_TIME] = self._body_time = BodyTime()  # type: ignore[typeddict-unknown-key]
        why = _NO_PROXY if leads_elsewhere else self._why_not()
        app = self.app
        if why is not None:
            self.app = _Refusal(*why)
        try:
            super().on_headers_complete()
        finally:
            self.app = app

    @override
    def on_message_complete(self) -> None:
        if self._is_read_again:
            return
        super().on_message_complete()
        self._is_whole = True
        self._wait_no_more()

    @override
    def handle_websocket_upgrade(self) -> None:
        super().handle_websocket_upgrade()
        socket = self.transport.get_protocol()
        if not getattr(socket, "handshake_initiated", True):  # it answers nothing, and fails when it is closed
            self.connections.discard(socket)
            self.connections.add(self)
            self.transport.set_protocol(self)
            self._refuse(400, "this does not begin a WebSocket that can be understood")

    @override
    def _should_upgrade(self) -> bool:
        return self.parser.get_method() == b"GET" and super()._should_upgrade()  # RFC 6455, 4.1: it has to be GET

    def _left_by_parser(self, data: bytes | memoryview) -> memoryview | None:
        """Parse this; returns what must still be parsed, behind a head that is read again; None if nothing must."""
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as exc:
            if self._is_read_again:
                self._read_head_again()
                return memoryview(data)[exc.args[0] :]
            if self._should_upgrade():
                self.handle_websocket_upgrade()
        return None

    def _read_head_again(self) -> None:
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    def _why_not(self) -> tuple[int, str] | None:
        if len(self.url) > MOST_URL_BYTES:
            return _TOO_LONG_URL
        if len(self.headers) > MOST_HEADERS:
            return _TOO_MANY_HEADERS
        if self._head_bytes > MOST_HEAD_BYTES:
            return _TOO_LARGE_HEAD
        if not self._in_head:  # it may have come whole, in one larger piece
            size = sum([len(name) + len(value) for name, value in self.headers])
            return _TOO_LARGE_HEAD if size > MOST_HEAD_BYTES else None
        return None

    def _refuse(self, status: int, detail: str) -> None:
        """Say why, and close: what else comes can no longer be told apart from a request."""
        body = json_bytes(Failure(status, detail).problem)
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    def _wait_for_the_rest(self) -> None:
        self._has_waited = False
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._time_is_up)

    def _wait_no_more(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _time_is_up(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self._in_head:
            self._refuse(408, f"the headers have not come in {HEAD_SECONDS:g} seconds")
        elif not self._is_whole and not self._has_waited:
            self._has_waited = True
            self._deadline = self.loop.call_later(WHOLE_SECONDS - HEAD_SECONDS, self._time_is_up)
        elif not self._is_whole and (left := self._left_for_a_piece()) > 0:
            self._deadline = self.loop.call_later(left, self._time_is_up)
        else:  # it said nothing at all, or its body does not end
            self.transport.close()

    def _left_for_a_piece(self) -> float:
        """How long the next piece of a body that is read by piece may still take; 0 for others and behind an answer."""
        if not self._body_time.is_by_piece or self.cycle.response_complete:
            return 0.0
        if self.flow.read_paused:  # its reader takes no more of it for now
            return WHOLE_SECONDS
        return self._came_at + WHOLE_SECONDS - self.loop.time()


class _Refusal:
    """An ASGI app that says why a request is not answered, and closes the connection."""

    def __init__(self, status: int, detail: str) -> None:
        self._answer = failure(status, detail, {"Connection": "close"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(scope, receive, send)


class Outlived:
    """An ASGI app whose failures behind a whole answer, as of a background task, are for the log alone. At them uvicorn
    would close the connection, without a word to a client that may be sending or waiting for its next request there.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception:
            if scope["type"] != "http" or not send.__self__.response_complete:  # uvicorn's
                raise
            logger.exception("a request failed behind its answer")
