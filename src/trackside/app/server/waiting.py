"""Answers that come when a run has ended: its final state, in a body that says every few seconds that it is alive."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from trackside.app.server.failures import answer_of
from trackside.app.server.outlet import Departure
from trackside.app.server.responses import Receive, Reply, Scope, Send, encoded_headers, failure_reply
from trackside.harness.errors import TracksideError

logger = logging.getLogger("trackside.server")

AT_ONCE: Final = 0.25
"""Seconds within which the answer is sent as a whole, with the right status; later, the status is 200 in any case."""
_HEADERS: Final = (
    (b"content-type", b"application/json"),
    (b"x-accel-buffering", b"no"),  # else nginx keeps back what it compresses: the head, and all lines up to the end
)


@dataclass(slots=True, kw_only=True)
class WhenEnded:
    """The answer whose body `result` gives. The client learns soon where to ask again if it is cut off.

    `result` may be called twice; giving up waiting for it changes nothing.
    """

    result: Callable[[], Coroutine[Any, Any, bytes]]
    headers: Mapping[str, str] = field(default_factory=dict)
    heartbeat: float = 5.0
    at_once: float = AT_ONCE
    on_disconnect: Callable[[], Awaitable[object]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        soon = asyncio.timeout(self.at_once)
        try:
            async with soon:
                body = await self.result()
        except TimeoutError:
            if not soon.expired():
                raise
        except TracksideError as exc:
            await failure_reply(answer_of(exc))(scope, receive, send)
            return
        else:
            await Reply(body, headers=self.headers)(scope, receive, send)
            return
        headers = [*_HEADERS, *encoded_headers(self.headers)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._wait(receive, send)

    async def _wait(self, receive: Receive, send: Send) -> None:
        """Send a line now and then until there is the body, or the client has gone."""
        departure = Departure(receive)
        waiting: asyncio.Task[bytes] = asyncio.create_task(self.result(), name="trackside-wait")
        either = {waiting, departure.watching}
        try:
            while not waiting.done() and not departure.gone:
                await send({"type": "http.response.body", "body": b"\n", "more_body": True})
                await asyncio.wait(either, timeout=self.heartbeat, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                await send({"type": "http.response.body", "body": waiting.result(), "more_body": False})
            elif self.on_disconnect is not None:
                await self.on_disconnect()
        except TracksideError as exc:  # the answer is not whole, so the client asks again, and hears why
            logger.warning("an answer that waited for a run is cut off: %s", exc)
        finally:
            waiting.cancel()
            await asyncio.wait({waiting})
            await departure.aclose()
