"""Ends the streams of a client who is not let in any more: his key was revoked, or his token has expired."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from trackside.app.server.auth.authenticator import Authenticator
from trackside.app.server.failures import HttpError
from trackside.app.server.responses import Answer, Receive, Scope, Send
from trackside.harness.errors import TracksideError

logger = logging.getLogger("trackside.server")

_REFUSED: Final = frozenset({401, 403})
_EVENT_ENDS: Final = b"\r\n\r\n"


class RevocableStream:
    """A stream that ends when its client is not let in any more; asked as often as a connection says that it is alive.

    That costs what a request does: what is known of keys and tokens is held in memory. A stream that is over before costs a
    timer. Whether somebody is let in is not found out while the database is away, or the identity provider; the stream goes
    on until it is.

    Args:
        stream: what is sent.
        authenticator: who knew the client when he came.
        seconds: between two questions.
    """

    def __init__(self, stream: Answer, authenticator: Authenticator, *, seconds: float) -> None:
        self._stream = stream
        self._authenticator = authenticator
        self._seconds = seconds
        self._why = ""
        self._deadline = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, but no more of it once the client is not let in; then the last that it says is why."""
        outlet = _Watched(send)
        self._ask_later(scope)
        try:
            async with self._deadline:
                await self._stream(scope, receive, outlet)
        except TimeoutError:
            if not self._why:
                raise
            logger.info("a stream was ended: %s", self._why)
            await outlet.end(self._why)
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._asking is not None:
                self._asking.cancel()
                await asyncio.wait((self._asking,))

    def _ask_later(self, scope: Scope) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._ask, scope)

    def _ask(self, scope: Scope) -> None:
        self._timer = None
        self._asking = asyncio.create_task(self._look(scope), name="trackside-still-let-in")

    async def _look(self, scope: Scope) -> None:
        try:
            await self._authenticator(scope)
        except HttpError as exc:
            if exc.details["status"] in _REFUSED:
                self._why = exc.details["detail"]
                self._deadline.reschedule(asyncio.get_running_loop().time())
                return
        except TracksideError as exc:
            logger.debug("whether a client is still let in cannot be found out: %s", exc)
        self._ask_later(scope)


class _Watched:
    """A client's `send` that knows whether what was sent last ends an event, so that something can come after it."""

    __slots__ = ("_is_between", "_is_over", "_send")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._is_between = self._is_over = False

    async def __call__(self, message: Scope) -> None:
        if message["type"] == "http.response.body":
            self._is_between = message.get("body", b"").endswith(_EVENT_ENDS)
            self._is_over = not message.get("more_body", False)
        else:
            self._is_between = True
        await self._send(message)

    async def end(self, why: str) -> None:
        """Say why nothing more comes. In the middle of an event it is cut off instead: half of it would be none."""
        if self._is_between and not self._is_over:
            said = " ".join(why.split()).encode("utf-8", "replace")
            await self._send({"type": "http.response.body", "body": b": %b%b" % (said, _EVENT_ENDS)})
