"""Ends what a client follows or waits for once it is not let in any more: its key was revoked, or its token expired."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from trackside.app.server.auth.authenticator import Authenticator
from trackside.app.server.failures import HttpError, answer_of
from trackside.app.server.responses import Answer, Receive, Scope, Send, failure_reply
from trackside.harness.errors import TracksideError

logger = logging.getLogger("trackside.server")

_REFUSED: Final = frozenset({401, 403})
_EVENT_ENDS: Final = b"\r\n\r\n"
_EVENTS: Final = b"text/event-stream"


class RevocableAnswer:
    """An answer that takes long, and ends when its client is no longer let in; it asks about that as often as a
    connection says that it is alive.

    Asking costs what a request does: what is known of keys and tokens is held in memory. An answer that is over before
    the first question costs a timer. While the database or the identity provider is away, nobody can tell whether the
    client is let in; the answer goes on until that is known.

    Args:
        answer: what is sent: events, or the result of a run that has to end first.
        authenticator: what let the client in at first.
        seconds: between two questions.
    """

    def __init__(self, answer: Answer, authenticator: Authenticator, *, seconds: float) -> None:
        self._answer = answer
        self._authenticator = authenticator
        self._seconds = seconds
        self._refusal: HttpError | None = None
        self._deadline = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, but no more of it once the client is not let in; a stream then says why, as its last words,
        and what was to happen when the client goes happens.
        """
        outlet = _Watched(send)
        self._ask_later(scope)
        try:
            async with self._deadline:
                await self._answer(scope, receive, outlet)
        except TimeoutError:
            if self._refusal is None:
                raise
            said = answer_of(self._refusal)
            logger.info("%s was ended: %s", "a stream" if outlet.is_stream else "an answer", said.detail)
            if (on_disconnect := getattr(self._answer, "on_disconnect", None)) is not None:
                await on_disconnect()
            if outlet.has_begun:
                await outlet.end(said.detail)
            else:
                await failure_reply(said)(scope, receive, send)
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
                self._refusal = exc
                self._deadline.reschedule(asyncio.get_running_loop().time())
                return
        except TracksideError as exc:
            logger.debug("whether a client may still be let in cannot be found out: %s", exc)
        self._ask_later(scope)


class _Watched:
    """A client's `send` that knows whether what it sent last ends an event, so that something can come after it."""

    __slots__ = ("_is_between", "_is_over", "_send", "has_begun", "is_stream")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._is_between = self._is_over = False
        self.has_begun = self.is_stream = False

    async def __call__(self, message: Scope) -> None:
        if message["type"] == "http.response.body":
            self._is_between = message.get("body", b"").endswith(_EVENT_ENDS)
            self._is_over = not message.get("more_body", False)
        else:
            self.has_begun = True
            kinds = [value for name, value in message.get("headers", ()) if name == b"content-type"]
            self.is_stream = self._is_between = any(kind.startswith(_EVENTS) for kind in kinds)
        await self._send(message)

    async def end(self, why: str) -> None:
        """Say why nothing more comes. An answer that is no stream is cut off instead, and so is a stream in the middle
        of an event: half an event is none.
        """
        if self.is_stream and self._is_between and not self._is_over:
            said = " ".join(why.split()).encode("utf-8", "replace")
            await self._send({"type": "http.response.body", "body": b": %b%b" % (said, _EVENT_ENDS)})
